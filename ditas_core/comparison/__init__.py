"""The same noise through two transformers."""

from .paired import (
    Comparison,
    Trajectory,
    TrajectoryProgress,
    compare,
    run_trajectory,
    switching,
)
from .sensitivity import measured_sensitivity

__all__ = [
    "Comparison",
    "Trajectory",
    "TrajectoryProgress",
    "compare",
    "measured_sensitivity",
    "run_trajectory",
    "switching",
]
