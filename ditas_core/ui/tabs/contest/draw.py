"""What the contest shows: the front, a table that sorts, what is said of two contenders."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from ....contest import Contest, Row
from ....evaluation import Interval
from ....figures import contest_front, empty_figure
from ...page.picking import Pick
from ...page.pictures import picture_rows
from ...serving.errors import refuse, status
from ...stored.results import REFERENCE, SQNR, Result
from .job import recipe_name

PLOT = "contest-front"
"""Element id of the figure."""
HEADERS = (
    "contender", "bits", "latent SQNR, dB", "± 95 %", "PSNR, dB", "SSIM", "features",
    "to convert, s", "more operations, %", "verdict",
)  # fmt: skip
KINDS = ("str", *("number",) * (len(HEADERS) - 2), "str")
EMPTY_PAIR = '<p class="empty">Choose two contenders, in the lists or by clicks on the chart.</p>'
SAME = 1e-6
"""Two places on the chart."""


def front(contest: Contest | None, chosen: Sequence[str], dark: bool) -> go.Figure:
    if contest is None:
        return empty_figure("No contest yet: run one below", 470, dark=dark)
    budget = contest.settings.get("budget")
    return contest_front(
        contest.standings(chosen),
        budget=budget if isinstance(budget, int | float) else None,
        dark=dark,
    )


def picked(contest: Contest, pick: Pick) -> str:
    """The contender that was clicked.

    Raises:
        gr.Error: none of the chart's marks.
    """
    if isinstance(pick.x, int | float) and isinstance(pick.y, int | float):
        x, y = float(pick.x), float(pick.y)
        for row in contest.rows:
            if abs(row.effective_bits - x) < SAME and abs(row.quality - y) < SAME:
                return row.label
    raise refuse("click: expected a mark of the chart")


def verdict(contest: Contest, row: Row) -> str:
    """A few words."""
    words = ["front"] if row.label in contest.front else []
    if row.label == contest.leaders[0]:
        words.append("closest")
    elif row.label in contest.leaders:
        words.append("tied with the closest")
    return ", ".join([*words, *([row.outside] if row.outside else [])])


def table(contest: Contest | None) -> list[list[Any]]:
    """A row per contender, the closest first; headers sort it otherwise."""
    if contest is None:
        return []
    return [
        [
            row.label,
            round(row.effective_bits, 3),
            round(row.quality, 2),
            half(row.mean("latent_sqnr_db")),
            *(mean(row, name, digits) for name, digits in MEANS),
            round(row.conversion_s, 1),
            round(100 * row.extra_operations, 1),
            verdict(contest, row),
        ]
        for row in contest.standing
    ]


MEANS = (("psnr_db", 2), ("ssim", 4), ("feature_distance", 4))


def mean(row: Row, name: str, digits: int) -> float | None:
    return round(row.mean(name).mean, digits) if name in row.samples else None


def half(found: Interval) -> float | None:
    return round(found.half_width, 2) if found.n > 1 else None


def caption(contest: Contest | None) -> str:
    """What is on view, and who is ahead."""
    if contest is None:
        return status("No contest is shipped for this checkpoint: run one below.", "warn")
    first, tied = contest.standing[0], contest.leaders[1:]
    n = len(first.samples["latent_sqnr_db"])
    text = f"{len(contest.rows)} contenders, n = {n}: {first.label} is closest"
    if tied:
        text += f", and {len(tied)} {'are' if len(tied) > 1 else 'is'} not told apart from it"
    text += f". On the front: {', '.join(contest.front)}."
    if contest.left_out:
        text += f" Left out: {', '.join(name for name, _ in contest.left_out)}."
    return status(text, "done")


def pair_line(contest: Contest | None, labels: Sequence[str]) -> str:
    """What the test says of the two that are chosen."""
    if contest is None or len(set(labels)) < 2:
        return status("Choose two contenders to see whether they are told apart.")
    pair = contest.pair(labels[0], labels[1])
    found = pair.difference
    if found.n < 2:
        text = f"{pair.first} is {found.mean:.1f} dB closer than {pair.second}; n = 1, no test"
        return status(f"{text}.", "warn")
    bits = contest.row(pair.first).effective_bits - contest.row(pair.second).effective_bits
    text = f"{pair.first} is {found.mean:.2f} ± {found.half_width:.2f} dB closer than {pair.second}"
    text += f", with {abs(bits):.2f} bits {'more' if bits > 0 else 'less'}: "
    text += "a tie" if pair.tie else "told apart"
    return status(
        f"{text} (p = {pair.probability:.2g} after correction for all pairs).",
        "warn" if pair.tie else "done",
    )


def drawn(result: Result | None) -> str:
    """The pictures of both, beside full precision."""
    if result is None:
        return EMPTY_PAIR
    rows = []
    for name in (REFERENCE, *result.variants):
        values = result.metrics.get(name, {}).get(SQNR)
        note = "" if values is None else f"latent SQNR {sum(values) / len(values):.1f} dB"
        rows.append((name, note, list(result.images[name])))
    return picture_rows(rows, result.labels, "Both contenders and full precision")


def names(contest: Contest | None) -> list[str]:
    return [] if contest is None else [row.label for row in contest.standing]


def two_of(contest: Contest | None, wanted: Sequence[Any]) -> tuple[str | None, str | None]:
    """What was chosen where the contest has it; else the two ends of its front."""
    if contest is None:
        return None, None
    known = names(contest)
    ends = (contest.front[-1], contest.front[0] if len(contest.front) > 1 else known[-1])
    found = [
        name if isinstance(name, str) and name in known else end
        for name, end in zip(wanted, ends, strict=True)
    ]
    return found[0], found[1]


def title_line(labels: Iterable[str]) -> str:
    """What has been drawn."""
    kept = " and ".join(f"“{recipe_name(html.escape(label))}”" for label in labels)
    return f"Drawn. {kept} stand in Compare, in Blind test and among the bar's recipes."
