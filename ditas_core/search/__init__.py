"""Grid search of the smoothing strength."""

from .alpha import (
    CandidateDone,
    Fitting,
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
    "Fitting",
    "GroupLoss",
    "LayerDone",
    "SearchEvent",
    "SearchJournal",
    "SearchSpec",
    "plain_recipe",
    "search",
    "search_group",
]
