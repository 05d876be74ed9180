"""One trajectory -> the Calibration artifact."""

from .calibration import (
    CONDITIONAL,
    UNCONDITIONAL,
    Calibration,
    CalibrationError,
    GroupStatistics,
)
from .recorder import CalibrationProgress, calibrate, record_inputs

__all__ = [
    "CONDITIONAL",
    "UNCONDITIONAL",
    "Calibration",
    "CalibrationError",
    "CalibrationProgress",
    "GroupStatistics",
    "calibrate",
    "record_inputs",
]
