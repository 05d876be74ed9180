"""A static site that draws in the visitor's browser: models by bits and method, code, runtime."""

from .build import FORMAT, STATIC, Made, Settings, check_site, make_site
from .offers import Offer, offers_of
from .runtime import VERSION, RuntimeMissing, fetch_runtime

__all__ = [
    "FORMAT",
    "STATIC",
    "VERSION",
    "Made",
    "Offer",
    "RuntimeMissing",
    "Settings",
    "check_site",
    "fetch_runtime",
    "make_site",
    "offers_of",
]
