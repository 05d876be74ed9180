"""Weight files and folders of them: what they hold is checked before a parser reads it."""

from .folders import check_inside, joined_headers, read_json, weight_files
from .headers import Headers
from .weights import iterate_weights

__all__ = [
    "Headers",
    "check_inside",
    "iterate_weights",
    "joined_headers",
    "read_json",
    "weight_files",
]
