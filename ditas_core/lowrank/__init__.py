"""Training-free low-rank decomposition."""

from .branch import LowRankFit, best_rank, fit_low_rank, second_moment_root

__all__ = ["LowRankFit", "best_rank", "fit_low_rank", "second_moment_root"]
