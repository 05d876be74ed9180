"""The same noise through two transformers."""

from .paired import (
    Comparison,
    Switching,
    Trajectory,
    TrajectoryProgress,
    compare,
    run_trajectory,
    switching,
)
from .preserved import Preserved, preserved
from .sensitivity import measured_sensitivity

__all__ = [
    "Comparison",
    "Preserved",
    "Switching",
    "Trajectory",
    "TrajectoryProgress",
    "compare",
    "measured_sensitivity",
    "preserved",
    "run_trajectory",
    "switching",
]
