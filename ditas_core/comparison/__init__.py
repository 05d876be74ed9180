"""The same noise through two transformers."""

from .paired import (
    Comparison,
    Switching,
    Trajectory,
    TrajectoryProgress,
    compare,
    iterate_trajectory,
    run_trajectory,
    switching,
)
from .preserved import Preserved, preserved
from .sensitivity import iterate_measured_sensitivity, measured_sensitivity

__all__ = [
    "Comparison",
    "Preserved",
    "Switching",
    "Trajectory",
    "TrajectoryProgress",
    "compare",
    "iterate_measured_sensitivity",
    "iterate_trajectory",
    "measured_sensitivity",
    "preserved",
    "run_trajectory",
    "switching",
]
