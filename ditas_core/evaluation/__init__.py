"""Metrics of paired results; what work costs before it starts."""

from .chance import guessing_probability
from .cost import Cost, Plan, estimate, measure_speed
from .metrics import Interval, interval, psnr_db, sqnr_db, ssim, visible_differences
from .shape import ModelShape, TextShape, forward_flops, transformer_flops

__all__ = [
    "Cost",
    "Interval",
    "ModelShape",
    "Plan",
    "TextShape",
    "estimate",
    "forward_flops",
    "guessing_probability",
    "interval",
    "measure_speed",
    "psnr_db",
    "sqnr_db",
    "ssim",
    "transformer_flops",
    "visible_differences",
]
