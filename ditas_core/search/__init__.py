"""Grid search of the smoothing strength."""

from .alpha import (
    CandidateDone,
    GroupLoss,
    LayerDone,
    SearchEvent,
    SearchSpec,
    plain_recipe,
    search,
    search_group,
)

__all__ = [
    "CandidateDone",
    "GroupLoss",
    "LayerDone",
    "SearchEvent",
    "SearchSpec",
    "plain_recipe",
    "search",
    "search_group",
]
