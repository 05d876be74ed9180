"""Metrics of paired results; the outlier atlas; what work costs before it starts."""

from .atlas_file import AtlasError
from .chance import guessing_probability
from .channel import ChannelRecord, channel_record, furthest_factor
from .cost import Cost, Plan, device_memory, estimate, measure_speed
from .drawing_cost import DrawingCost, Throughput, drawing_cost, measure_throughput
from .known import SHAPES, known_autoencoder, known_model, known_transformer
from .metrics import Interval, interval, psnr_db, sqnr_db, ssim, visible_differences
from .outliers import GroupOutliers, LayerRank, OutlierAtlas, outlier_atlas, rescaled_calibration
from .pairs import holm, paired_probability, t_probability
from .ranks import Correlation, correlations, spearman
from .shape import ModelShape, decoding, shape_of, transformer_flops
from .strength import Half, Measure, loudest_channels

__all__ = [
    "SHAPES",
    "AtlasError",
    "ChannelRecord",
    "Correlation",
    "Cost",
    "DrawingCost",
    "GroupOutliers",
    "Half",
    "Interval",
    "LayerRank",
    "Measure",
    "ModelShape",
    "OutlierAtlas",
    "Plan",
    "Throughput",
    "channel_record",
    "correlations",
    "decoding",
    "device_memory",
    "drawing_cost",
    "estimate",
    "furthest_factor",
    "guessing_probability",
    "holm",
    "interval",
    "known_autoencoder",
    "known_model",
    "known_transformer",
    "loudest_channels",
    "measure_speed",
    "measure_throughput",
    "outlier_atlas",
    "paired_probability",
    "psnr_db",
    "rescaled_calibration",
    "shape_of",
    "spearman",
    "sqnr_db",
    "ssim",
    "t_probability",
    "transformer_flops",
    "visible_differences",
]
