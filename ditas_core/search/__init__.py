"""Grid search of the smoothing strength; what groups suffer at which bits, and which to give."""

from .allocation import BudgetError, allocate, mixed_recipe
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
from .lab import AlphaLab, Grid, Histogram, LabView
from .loss import GroupLoss
from .sensitivity import SensitivityProgress, sensitivity
from .sensitivity_map import SensitivityMap

__all__ = [
    "AlphaLab",
    "BudgetError",
    "CandidateDone",
    "Fitting",
    "Grid",
    "GroupLoss",
    "Histogram",
    "LabView",
    "LayerDone",
    "SearchEvent",
    "SearchJournal",
    "SearchSpec",
    "SensitivityMap",
    "SensitivityProgress",
    "allocate",
    "mixed_recipe",
    "plain_recipe",
    "search",
    "search_group",
    "sensitivity",
]
