"""Grid search of the smoothing strength; what groups suffer at which bits, and which to give."""

from .allocation import BudgetError, allocate
from .alpha import (
    CandidateDone,
    Fitting,
    LayerDone,
    SearchSpec,
    iterate_group_search,
    search_group,
)
from .frontier import Allocation, frontier, largest_uniform, priced, uniform_allocations
from .group_sizes import GROUP_SIZES, iterate_budget_search, with_group_sizes
from .journal import SearchJournal
from .lab import AlphaLab, Grid, Histogram, LabView
from .layer_bits import BitsProgress, layer_bits_range, layer_bits_steps, widths_around
from .loss import GroupLoss
from .objective import check_objective
from .predicted import (
    PredictedError,
    predicted_error,
    predicted_errors,
    predicted_loss,
    relative,
)
from .recipes import (
    SearchEvent,
    Searching,
    iterate_search,
    partial_recipe,
    plain_recipe,
    search,
    unsearched_recipe,
)
from .sensitivity import Cells, SensitivityProgress, iterate_sensitivity, sensitivity
from .sensitivity_map import SensitivityMap
from .totals import (
    SearchTotals,
    bits_per_weight,
    change_db,
    counted_bits,
    mean_error,
    relative_error,
    search_totals,
)
from .weighted import at_width, weighted

__all__ = [
    "GROUP_SIZES",
    "Allocation",
    "AlphaLab",
    "BitsProgress",
    "BudgetError",
    "CandidateDone",
    "Cells",
    "Fitting",
    "Grid",
    "GroupLoss",
    "Histogram",
    "LabView",
    "LayerDone",
    "PredictedError",
    "SearchEvent",
    "SearchJournal",
    "SearchSpec",
    "SearchTotals",
    "Searching",
    "SensitivityMap",
    "SensitivityProgress",
    "allocate",
    "at_width",
    "bits_per_weight",
    "change_db",
    "check_objective",
    "counted_bits",
    "frontier",
    "iterate_budget_search",
    "iterate_group_search",
    "iterate_search",
    "iterate_sensitivity",
    "largest_uniform",
    "layer_bits_range",
    "layer_bits_steps",
    "mean_error",
    "partial_recipe",
    "plain_recipe",
    "predicted_error",
    "predicted_errors",
    "predicted_loss",
    "priced",
    "relative",
    "relative_error",
    "search",
    "search_group",
    "search_totals",
    "sensitivity",
    "uniform_allocations",
    "unsearched_recipe",
    "weighted",
    "widths_around",
    "with_group_sizes",
]
