"""The same noise through two transformers."""

from .paired import (
    Comparison,
    Trajectory,
    TrajectoryProgress,
    compare,
    run_trajectory,
)

__all__ = ["Comparison", "Trajectory", "TrajectoryProgress", "compare", "run_trajectory"]
