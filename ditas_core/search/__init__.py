"""Grid search of the smoothing strength."""

from .alpha import (
    CandidateDone,
    LayerDone,
    SearchEvent,
    SearchSpec,
    plain_recipe,
    search,
    search_group,
)
from .journal import SearchJournal
from .loss import GroupLoss

__all__ = [
    "CandidateDone",
    "GroupLoss",
    "LayerDone",
    "SearchEvent",
    "SearchJournal",
    "SearchSpec",
    "plain_recipe",
    "search",
    "search_group",
]
