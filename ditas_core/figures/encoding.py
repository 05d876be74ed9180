"""Arrays for the browser: pooled to what a screen shows, one byte per colour, short numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Codes = NDArray[np.uint8]
MAX_COLUMNS = 512
MAX_ROWS = 64
MAX_CELLS = 32_000
"""Of all panels of one figure: a byte of colour and four of hover text each, in base64 < 300 kB."""
LEVELS = 255
TINY = 1e-6
TICKS = tuple(m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5))


class LogRange(NamedTuple):
    """Positive values from ``low`` to ``high`` on a log scale of 256 colours."""

    low: float
    high: float

    def positions(self, values: Array) -> Array:
        """0 at ``low``, 255 at ``high``; clipped."""
        logs = np.log10(np.clip(values, self.low, self.high) / self.low)
        return logs / math.log10(self.high / self.low) * LEVELS

    def encode(self, values: Array) -> Codes:
        """Any shape -> the same in bytes, an eighth of float64."""
        return np.round(self.positions(values)).astype(np.uint8)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values inside the range, at most ``most``."""
        inside = [t for t in TICKS if self.low <= t * 1.0001 and t <= self.high * 1.0001]
        if len(inside) > most:
            inside = [t for t in inside if round(math.log10(t), 6).is_integer()]
        inside = inside[:: max(1, math.ceil(len(inside) / most))]
        return inside or [self.low, self.high]


def shared_range(*arrays: Array, floor_quantile: float = 0.0) -> LogRange:
    """One range for all panels: a low quantile to the largest value of them."""
    values = np.concatenate([np.ravel(array) for array in arrays])
    values = values[np.isfinite(values)]
    if not values.size:
        return LogRange(1.0, 10.0)
    high = float(values.max())
    low = max(float(np.quantile(values, floor_quantile)), high * 1e-6, TINY)
    return LogRange(low, max(high, low * 1.01))


def pool_channels(values: Array, limit: int = MAX_COLUMNS) -> tuple[Array, int]:
    """Maximum over neighbouring channels until at most ``limit`` columns are left.

    (T, C) -> (T, ceil(C / width)) and width: a screen has no more columns, and a
    thinned heatmap would lose exactly the outliers.
    """
    steps, channels = values.shape
    width = max(1, math.ceil(channels / max(1, limit)))
    padding = -channels % width
    padded = np.pad(values, ((0, 0), (0, padding)), mode="edge")
    return padded.reshape(steps, -1, width).max(-1), width


def pool_steps(values: Array, limit: int = MAX_ROWS) -> tuple[Array, int]:
    """Maximum over neighbouring rows until at most ``limit`` are left; and their number each."""
    pooled, width = pool_channels(values.T, limit)
    return pooled.T, width


def rounded(values: Array) -> NDArray[np.float32]:
    """float32 with three significant digits, for the hover text."""
    magnitude = 10 ** (np.floor(np.log10(np.maximum(np.abs(values), TINY))) - 2)
    return (np.round(values / magnitude) * magnitude).astype(np.float32)


def short(value: float) -> str:
    """A number as one says it: 0.05, 3, 1200."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", "\u202f")


def numbers(values: Array, digits: int = 4) -> list[float | None]:
    """A JSON list with few digits; None where there is no number, which leaves a gap."""
    flat = np.asarray(values, dtype=np.float64)
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in flat]
