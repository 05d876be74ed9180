"""One trajectory -> the Calibration artifact."""

from .calibration import (
    CONDITIONAL,
    UNCONDITIONAL,
    Calibration,
    CalibrationError,
    GroupStatistics,
)
from .draw import TokenDraw
from .exchange import exchange_steps
from .influence import Influence, InfluenceProgress, iterate_influence, measure_influence
from .journal import CalibrationJournal, remove_journals
from .memory import MemoryNeed, memory_need, memory_of, tokens_for_budget
from .reach import Reach, iterate_reach, measure_reach
from .recorder import StepRecorder, StepStatistics, StepTable, record_inputs
from .together import check_channels, check_groups, check_together
from .trajectory import (
    Begun,
    CalibrationProgress,
    Exchange,
    Shard,
    calibrate,
    iterate_calibration,
    shard_of,
)

__all__ = [
    "CONDITIONAL",
    "UNCONDITIONAL",
    "Begun",
    "Calibration",
    "CalibrationError",
    "CalibrationJournal",
    "CalibrationProgress",
    "Exchange",
    "GroupStatistics",
    "Influence",
    "InfluenceProgress",
    "MemoryNeed",
    "Reach",
    "Shard",
    "StepRecorder",
    "StepStatistics",
    "StepTable",
    "TokenDraw",
    "calibrate",
    "check_channels",
    "check_groups",
    "check_together",
    "exchange_steps",
    "iterate_calibration",
    "iterate_influence",
    "iterate_reach",
    "measure_influence",
    "measure_reach",
    "memory_need",
    "memory_of",
    "record_inputs",
    "remove_journals",
    "shard_of",
    "tokens_for_budget",
]
