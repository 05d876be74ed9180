"""What one server gives at most: time, places, memory, disk, request size. The operator's settings.

Each has an environment variable; what is not set has the default below.

DITAS_JOB_SECONDS   longest job; what is found until then is kept; 0 = no limit.
                    Default: 300 on a Space (SPACE_ID is set), 3600 elsewhere
DITAS_PLACES        jobs in the line, the running one included (8)
DITAS_CACHE_MB      checkpoints, calibrations and results in memory (8192, at least 320)
DITAS_DISK_MB       files made for downloads and pictures, without the takeaway's own (300)
DITAS_BODY_KB       largest request (1024)
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

SPACE_VARIABLE = "SPACE_ID"
PUBLIC_JOB_S, OWN_JOB_S = 300.0, 3600.0
PLACES = 8
LEAST_CACHE_MB = 320
"""What the demo checkpoint takes while it is loaded."""


class LimitError(ValueError):
    """A setting that cannot be used."""


@dataclass(frozen=True)
class Limits:
    """The settings, in seconds and bytes. ``job_s`` 0 = no limit.

    public  whether anybody may come: on a Space
    """

    job_s: float = OWN_JOB_S
    places: int = PLACES
    cache_bytes: int = 8 * 2**30
    disk_bytes: int = 300 * 2**20
    body_bytes: int = 2**20
    public: bool = False


def number(environment: Mapping[str, str], name: str, usual: float, low: float) -> float:
    """A variable's number.

    Raises:
        LimitError: not a finite number of at least ``low``.
    """
    text = environment.get(name, "").strip()
    if not text:
        return usual
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < low:
        raise LimitError(f"{name}: expected a number of at least {low:g}, got {text[:40]!r}")
    return value


def read_limits(environment: Mapping[str, str] | None = None) -> Limits:
    """The operator's settings.

    Raises:
        LimitError: a variable that is not a number, or too small.
    """
    found = os.environ if environment is None else environment
    usual = PUBLIC_JOB_S if found.get(SPACE_VARIABLE) else OWN_JOB_S
    return Limits(
        job_s=number(found, "DITAS_JOB_SECONDS", usual, 0),
        places=int(number(found, "DITAS_PLACES", PLACES, 1)),
        cache_bytes=int(number(found, "DITAS_CACHE_MB", 8192, LEAST_CACHE_MB) * 2**20),
        disk_bytes=int(number(found, "DITAS_DISK_MB", 300, 1) * 2**20),
        body_bytes=int(number(found, "DITAS_BODY_KB", 1024, 16) * 2**10),
        public=bool(found.get(SPACE_VARIABLE)),
    )
