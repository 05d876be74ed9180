"""The numbers as CSV: one table per file, a header line, UTF-8."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from .gather import Taken

IDENTITY = "identity"
RISKY = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the start of a formula."""


def cell(value: object) -> object:
    """Texts that a spreadsheet would run get an apostrophe; numbers keep six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and value.startswith(RISKY):
        return "'" + value
    return value


def as_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    memory = io.StringIO()
    writer = csv.writer(memory, lineterminator="\n")
    writer.writerow([cell(name) for name in header])
    writer.writerows([cell(value) for value in row] for row in rows)
    return memory.getvalue()


def alpha_cell(alpha: float | None) -> str | float:
    return IDENTITY if alpha is None else alpha


def layers_csv(taken: Taken) -> str:
    """Every layer: outlier strength before and after, the loudest channel, the recipe."""
    header = ["layer", "measure", "half", "strength_before", "strength_after", "loudest_channel",
              "at_timestep", "alpha", "weight_bits", "activation_bits", "rank"]  # fmt: skip
    if taken.atlas is None:
        return ""
    rows = []
    for rank in taken.atlas.ranking(taken.alphas, taken.measure, taken.half):
        row: list[object] = [rank.layer, taken.measure, taken.half, rank.strength, rank.smoothed]
        row += [rank.channel, rank.timestep, alpha_cell(rank.alpha)]
        layer = None if taken.recipe is None else taken.recipe.layers.get(rank.layer)
        if layer is None:
            row += ["", "", ""]
        else:
            row += [layer.bits.weight, layer.bits.activation, layer.low_rank.rank]
        rows.append(row)
    return as_csv(header, rows)


def curves_csv(taken: Taken) -> str:
    """The search: loss over the output's energy, for every layer and alpha.

    ``fit`` says how a candidate's branch was fitted: "quick" on the way through the grid,
    "final" as conversion does it, of which the choice is made.
    """
    header = ["layer", "alpha", "loss_over_energy", "fit", "chosen"]
    rows: list[list[object]] = []
    for layer in taken.curves:
        energy = max(layer.energy, 1e-30)
        fits: list[tuple[str, float | None, float]] = [("quick", None, layer.identity)]
        fits += [
            ("quick", alpha, loss) for alpha, loss in zip(layer.grid, layer.losses, strict=True)
        ]
        fits += [("final", alpha, loss) for alpha, loss in layer.refined]
        kind = fits[-1][0]
        rows += [
            [layer.group, alpha_cell(alpha), loss / energy, fit,
             int(fit == kind and alpha == layer.alpha)]
            for fit, alpha, loss in fits
        ]  # fmt: skip
    return as_csv(header, rows) if rows else ""


def metrics_csv(taken: Taken) -> str:
    """The comparison: one line per variant and sample."""
    result = taken.result
    if result is None:
        return ""
    metrics = list(next(iter(result.metrics.values()), {}))
    first = result.settings.get("seed")
    rows: list[list[object]] = []
    for variant, values in result.metrics.items():
        for index, label in enumerate(result.labels):
            seed = "" if first is None else first + index
            rows.append(
                [variant, index + 1, label, seed, *(values[metric][index] for metric in metrics)]
            )
    return as_csv(["variant", "sample", "class", "seed", *metrics], rows)
