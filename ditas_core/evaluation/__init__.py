"""Metrics of paired results."""

from .metrics import Interval, interval, psnr_db, sqnr_db, ssim

__all__ = ["Interval", "interval", "psnr_db", "sqnr_db", "ssim"]
