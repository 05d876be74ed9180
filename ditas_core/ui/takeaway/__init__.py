"""What a visitor takes along: tables, pictures, a report, and code that repeats it all."""

from .files import LARGE, SMALL, Files
from .gather import Taken, gather
from .report import report_html
from .snippet import snippet
from .store import Store, slug
from .tables import curves_csv, layers_csv, metrics_csv

__all__ = [
    "LARGE",
    "SMALL",
    "Files",
    "Store",
    "Taken",
    "curves_csv",
    "gather",
    "layers_csv",
    "metrics_csv",
    "report_html",
    "slug",
    "snippet",
]
