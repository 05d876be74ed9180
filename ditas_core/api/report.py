"""What was done to every layer, as a table."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..artifact import stored_bytes
from ..checkpoints import Checkpoint
from ..layers import effective_bits
from ..specs import Recipe

HEADINGS = ("layer", "bits", "alpha", "rank", "error", "SQNR, dB")


@dataclass(frozen=True)
class LayerRow:
    """One group of layers that share an input.

    alpha  strength of smoothing; None is the identity
    error  energy of the output's error over that of the output, on the calibration's tokens;
           None where nothing was measured
    """

    layer: str
    bits: str
    alpha: float | None
    rank: int
    error: float | None

    @property
    def sqnr_db(self) -> float | None:
        """-10 log10(error)."""
        if self.error is None:
            return None
        return -10 * math.log10(self.error) if self.error > 0 else math.inf

    def cells(self) -> tuple[str, ...]:
        alpha = "identity" if self.alpha is None else f"{self.alpha:.2f}"
        error = "-" if self.error is None else f"{self.error:.2e}"
        sqnr = "-" if self.sqnr_db is None else f"{self.sqnr_db:.1f}"
        return self.layer, self.bits, alpha, str(self.rank), error, sqnr


@dataclass(frozen=True)
class Report:
    """A table of the layers: bits, alpha, rank, error; HTML in a notebook.

    method          of the search, or the recipe's own name
    effective_bits  stored bits per weight of the quantized layers: codes, scales and branch
    bytes_before    of the whole transformer, as it was given
    bytes_after     of the same as ``save`` stores it
    seconds         of each step
    notes           what else there is to know, a sentence each

    >>> import ditas_core as ditas
    >>> _, report = ditas.quantize("assets/fluent-emoji-dit", "W4A8", method="smoothing",
    ...                            samples=1, steps=1, progress=False)
    >>> isinstance(report, ditas.Report), report.rows[0].layer, report.rows[0].alpha
    (True, 'block 0 · qkv', 0.5)
    >>> print(str(report).splitlines()[0])
    layer           bits  alpha  rank     error  SQNR, dB
    """

    model: str
    method: str
    convention: str
    rows: tuple[LayerRow, ...]
    effective_bits: float
    bytes_before: int
    bytes_after: int
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    recipe: Recipe | None = field(default=None, repr=False, compare=False)

    @property
    def total(self) -> str:
        """One line."""
        took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        return (
            f"{self.model}: {len(self.rows)} layers, {self.method}, {self.convention}, "
            f"{self.effective_bits:.2f} bits per weight, {self.bytes_before / 1e6:.1f} MB -> "
            f"{self.bytes_after / 1e6:.1f} MB; {took}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; without the recipe, which has its own ``to_json``."""
        return {
            "model": self.model,
            "method": self.method,
            "convention": self.convention,
            "effective_bits": self.effective_bits,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "seconds": dict(self.seconds),
            "notes": list(self.notes),
            "layers": [asdict(row) for row in self.rows],
        }

    def __str__(self) -> str:
        table = [HEADINGS, *(row.cells() for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
            for line in table
        ]
        return "\n".join([*lines, self.total, *self.notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def line(cells: tuple[str, ...], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        body = "".join(line(row.cells(), "td") for row in self.rows)
        below = "".join(f"<p>{html.escape(text)}</p>" for text in (self.total, *self.notes))
        head = f"<thead>{line(HEADINGS, 'th')}</thead>"
        return f"<table>{head}<tbody>{body}</tbody></table>{below}"


def make_report(
    checkpoint: Checkpoint,
    source: Any,
    quantized: Any,
    recipe: Recipe,
    errors: Mapping[str, float],
    seconds: Mapping[str, float],
    notes: tuple[str, ...],
) -> Report:
    """From a finished conversion of the transformer ``source``, as it was given.

    errors  relative, by group
    """
    rows = tuple(
        LayerRow(
            group.title,
            str(recipe.layers[group.name].bits),
            recipe.layers[group.name].alpha,
            quantized.get_submodule(group.layers[0]).up.shape[1],
            errors.get(group.name),
        )
        for group in checkpoint.groups
    )
    return Report(
        checkpoint.name,
        recipe.name,
        recipe.convention,
        rows,
        effective_bits(quantized),
        sum(value.nbytes for value in source.state_dict().values()),
        stored_bytes(quantized),
        seconds,
        notes,
        recipe,
    )
