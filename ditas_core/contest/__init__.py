"""Methods and number formats side by side at equal bits: who comes closer, and what it costs."""

from .contenders import Contender, ContestSpec, LeftOut, contenders, formats_of
from .journal import ContestJournal
from .outside import Peer, drawn_as, outside_row, read_outside, reference_run, write_outside
from .predict import predicted_seconds
from .run import ContestProgress, RowDone, iterate_contest, run_contest
from .table import MEASURES, Contest, Pair, Row, Standing, summary

__all__ = [
    "MEASURES",
    "Contender",
    "Contest",
    "ContestJournal",
    "ContestProgress",
    "ContestSpec",
    "LeftOut",
    "Pair",
    "Peer",
    "Row",
    "RowDone",
    "Standing",
    "contenders",
    "drawn_as",
    "formats_of",
    "iterate_contest",
    "outside_row",
    "predicted_seconds",
    "read_outside",
    "reference_run",
    "run_contest",
    "summary",
    "write_outside",
]
