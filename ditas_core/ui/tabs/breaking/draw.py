"""What "Where it breaks" shows: pictures, tables and figures from its notes and maps."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from ....evaluation import Interval
from ....figures import (
    empty_figure,
    layer_bars,
    parting_curves,
    relative_db,
    sensitivity_map,
    size_error_curve,
    step_curve,
)
from ....search import Allocation, SensitivityMap, largest_uniform, uniform_allocations
from ....specs import FULL_PRECISION_BITS, BitWidths, width_title
from ...page.pictures import picture, picture_rows
from .budget_job import WIDTHS
from .trials import LayerSweep, Mixed, Notes, StepSweep, Trial

OVERLAID = 3
MISLED = (
    " The map added up each layer’s own error, which does not know what the rest of the model "
    "makes of it: try the map that is weighed by what reaches the latents."
)


def decibels(value: Interval) -> str:
    """``24.1 ± 1.2 dB``; an interval of one or two samples would say nothing."""
    spread = f" ± {value.half_width:.1f}" if value.n > 2 else ""
    return f"{value.mean:.1f}{spread} dB"


def percent(share: float) -> str:
    """A share as a percentage with two digits that count."""
    value = 100 * share
    if value == 0:
        return "0 %"
    digits = 0 if value >= 10 else 1 if value >= 1 else 2 if value >= 0.1 else 3
    return f"{value:.{digits}f} %"


def empty(text: str) -> str:
    return f'<p class="empty">{html.escape(text)}</p>'


def table(name: str, caption: str, heads: Sequence[str], rows: str, look: str = "") -> str:
    """A table that scrolls inside its frame where the screen is narrow; captions are text."""
    cells = "".join(f'<th scope="col">{h}</th>' if h else "<td></td>" for h in heads)
    return (
        f'<p class="break-caption">{html.escape(caption)}</p>'
        f'<div class="break-scroll" tabindex="0" role="region" aria-label="{name}">'
        f'<table class="break-table {look}" aria-label="{name}">'
        f"<thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


# first half: partly quantized runs


def trial_pictures(notes: Notes) -> str:
    """Full precision and the newest experiment side by side, or the sweep over steps."""
    if notes.shown == "steps" and notes.steps is not None and notes.steps.trials:
        return step_pictures(notes.steps)
    if not notes.trials:
        return empty("Choose a part of the model and press “Quantize it”.")
    trial = notes.trials[0]
    pairs = []
    for label, full, part in zip(trial.labels, trial.reference, trial.images, strict=True):
        pairs.append(
            '<div class="break-pair">'
            + picture(full, f"{label}, full precision", "full precision")
            + picture(part, f"{label}, {trial.what} quantized", trial.what)
            + "</div>"
        )
    title = (
        f"<b>{html.escape(trial.what)}</b> · latent SQNR {decibels(trial.sqnr)}, "
        f"PSNR {decibels(trial.psnr)} (n = {trial.sqnr.n}) · "
        f"{html.escape(trial.about)} · {html.escape(trial.settings)}"
    )
    return f'<p class="break-caption">{title}</p><div class="break-pairs">{"".join(pairs)}</div>'


def step_pictures(sweep: StepSweep) -> str:
    """One row per sample: full precision, then every start so far."""
    found = dict(sorted(sweep.trials.items()))
    first = next(iter(found.values()))
    rows = []
    for index, label in enumerate(first.labels):
        cells = [picture(first.reference[index], f"{label}, full precision", "full precision")]
        for start, trial in found.items():
            text = f"{label}, quantized from step {start + 1} on"
            cells.append(picture(trial.images[index], text, f"from {start + 1}"))
        rows.append(f'<div class="break-strip">{"".join(cells)}</div>')
    title = f"quantized from step k on, {sweep.steps} steps · {html.escape(first.about)}"
    return f'<p class="break-caption">{title}</p>{"".join(rows)}'


def part_figure(notes: Notes, dark: bool) -> go.Figure:
    """Whatever the newest experiment is about: layers, starts, or one run's divergence."""
    if notes.shown == "layers" and notes.layers is not None:
        return sweep_figure(notes.layers, dark)
    if notes.shown == "steps" and notes.steps is not None and notes.steps.trials:
        firsts = [first + 1 for first in notes.steps.trials]
        means = [trial.sqnr.mean for trial in notes.steps.trials.values()]
        count = next(iter(notes.steps.trials.values())).sqnr.n
        title = f"Closeness by first quantized step (n = {count})"
        return step_curve(firsts, means, notes.steps.steps, title, dark=dark)
    if not notes.trials:
        return empty_figure("Nothing quantized yet", 340, dark=dark)
    newest = notes.trials[0]
    series: dict[str, list[float]] = {}
    for trial in notes.trials:
        if trial.timesteps == newest.timesteps and len(series) < OVERLAID:
            series.setdefault(trial.what, trial.divergence)
    return parting_curves(newest.timesteps, series, newest.first_step, dark=dark)


def sweep_figure(sweep: LayerSweep, dark: bool) -> go.Figure:
    known, total = len(sweep.sqnr), len(sweep.layers)
    title = f"Error of every layer alone ({known} of {total})"
    return layer_bars(sweep.layers, sweep.sqnr, title, dark=dark)


def history_table(trials: Sequence[Trial]) -> str:
    """The experiments of this visit, newest first."""
    if not trials:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{html.escape(t.what)}</th><td>{decibels(t.sqnr)}</td>'
        f"<td>{decibels(t.psnr)}</td><td>{t.sqnr.n}</td>"
        f'<td class="wide">{html.escape(t.about)}<br>{html.escape(t.settings)}</td></tr>'
        for t in trials
    )
    caption = "Experiments of this visit: mean of n samples, ± 95 % interval from n = 3 on"
    heads = ("quantized", "latent SQNR", "PSNR", "n", "model and run")
    return table("experiments of this visit", caption, heads, rows)


# second half: sensitivity and budgets


def map_figure(
    layers: Sequence[str],
    cells: Mapping[tuple[str, int], float],
    chosen: Mapping[str, BitWidths] | None,
    dark: bool,
) -> go.Figure:
    """Every known cell; W16 has a row for layers left alone, but no error."""
    if not cells or not layers:
        return empty_figure("Press “Map the layers”", 300, dark=dark)
    widths = [*WIDTHS]
    if chosen and any(bits.weight_bits == FULL_PRECISION_BITS for bits in chosen.values()):
        widths.append(FULL_PRECISION_BITS)
    errors = np.array([[cells.get((layer, w), np.nan) for w in widths] for layer in layers])
    dots = None if not chosen else [chosen[layer].weight_bits for layer in layers]
    return sensitivity_map(relative_db(errors, 1.0), layers, widths, dots, dark=dark)


def cell_table(
    layer: str,
    cells: Mapping[tuple[str, int], float],
    measured: bool,
    width: int | None = None,
) -> str:
    """One layer's numbers at every width; ``width`` is the one that was asked for."""
    known = {w: cells[layer, w] for w in WIDTHS if (layer, w) in cells}
    if not known:
        return empty("This layer has not been mapped yet.")
    what = "of the final latents" if measured else "of its own output"
    db = relative_db(list(known.values()), 1.0)
    looks = [' class="picked"' if w == width else "" for w in known]
    both = list(zip(looks, known.values(), db, strict=True))
    shares = "".join(f"<td{look}>{percent(error)}</td>" for look, error, _ in both)
    levels = "".join(f"<td{look}>{value:.1f} dB</td>" for look, _, value in both)
    caption = f"Rounding {layer} alone: error, share {what}"
    body = f'<tr><th scope="row">error</th>{shares}</tr><tr><th scope="row">in dB</th>{levels}</tr>'
    return table("errors of one layer", caption, ("weights", *(f"{w} bits" for w in known)), body)


def cost(each: Allocation) -> str:
    return f"{each.bits_per_weight:.2f} bits per weight, {each.megabytes:.2f} MB"


def budget_line(found: SensitivityMap, chosen: Allocation, budget: float) -> str:
    """Mixed against the largest single width within the budget, as three cards."""
    bits = largest_uniform(found, budget)
    same = uniform_allocations(found)[bits]
    about = "error in the final latents" if found.measured else "predicted error of its output"
    low = min(b.weight_bits for b in chosen.bits.values())
    high = max(b.weight_bits for b in chosen.bits.values())
    line = (
        f"{chosen.bits_per_weight:.2f} bits per weight: a layer’s {about} {percent(chosen.error)} "
        f"against {percent(same.error)} for {bits} everywhere ({same.bits_per_weight:.2f} bits "
        "per weight)"
    )
    cards = (
        (f"{percent(same.error)} <i>→</i> {percent(chosen.error)}",
         f"a layer’s {about}, mean over {len(found.groups)} layers: {bits} everywhere, then mixed"),
        (f"{chosen.megabytes:.2f} MB",
         f"{chosen.bits_per_weight:.2f} bits per weight with scales and branches; "
         f"{bits} everywhere takes {same.megabytes:.2f} MB ({same.bits_per_weight:.2f})"),
        (f"{low} to {high} bits", "in the layers' weights; activations "
         f"{width_title(bits.activation)} everywhere"),
    )  # fmt: skip
    body = "".join(f'<div class="stat"><b>{n}</b><span>{t}</span></div>' for n, t in cards)
    said = f'<p class="break-caption" role="status"><b>{line}</b></p>'
    return f'{said}<div class="break-cards">{body}</div>'


def curve_figure(
    found: SensitivityMap, points: Sequence[Allocation], chosen: Allocation, dark: bool
) -> go.Figure:
    """The best at every budget, the choice, and single widths beside it."""
    every = [*points, chosen]
    errors = relative_db([each.error for each in every], 1.0)
    uniform = uniform_allocations(found)
    levels = relative_db([each.error for each in uniform.values()], 1.0)
    sizes = [each.megabytes for each in every]
    figure = size_error_curve(
        sizes,
        [float(v) for v in errors],
        [f"{each.bits_per_weight:.2f} bits per weight" for each in every],
        len(every) - 1,
        [
            (str(bits), each.megabytes, float(level))
            for (bits, each), level in zip(uniform.items(), levels, strict=True)
        ],
        dark=dark,
    )
    room = 0.14 * (max(sizes) - min(sizes))  # for the labels of the outermost widths
    return figure.update_xaxes(range=[min(sizes) - room, max(sizes) + room])


def bits_table(
    chosen: Allocation, uniform: BitWidths, cells: Mapping[tuple[str, int], float]
) -> str:
    """Blocks by parts: the bits of every layer, more or fewer than the single width has."""
    blocks: dict[str, dict[str, str]] = {}
    for name, bits in chosen.bits.items():
        block, _, kind = name.partition(".")
        more = bits.weight_bits - uniform.weight_bits
        look = "more" if more > 0 else "fewer" if more < 0 else "same"
        mark = {"more": "▲", "fewer": "▼", "same": ""}[look]
        word = {"more": "more than", "fewer": "fewer than", "same": "as"}[look]
        error = percent(cells.get((name, bits.weight_bits), 0.0))
        blocks.setdefault(block, {})[kind] = (
            f'<td class="{look}"><b>{bits.weight_bits}</b> <span aria-hidden="true">{mark}</span>'
            f'<span class="unseen">bits, {word} {uniform.weight_bits}</span> '
            f"<small>{error}</small></td>"
        )
    kinds = dict.fromkeys(kind for row in blocks.values() for kind in row)
    rows = "".join(
        f'<tr><th scope="row">block {block}</th>'
        + "".join(row.get(kind, "<td></td>") for kind in kinds)
        + "</tr>"
        for block, row in blocks.items()
    )
    caption = f"Weight bits of every layer, its error there; ▲ more, ▼ fewer than {uniform}"
    return table("bits of every layer", caption, ("", *kinds), rows, "break-bits")


def mixed_pictures(found: Mixed | None) -> str:
    """Three rows from the same noise, and their numbers."""
    if found is None:
        return ""
    both = ((found.uniform, found.uniform_cost), (found.mixed, found.mixed_cost))
    first = found.uniform
    rows = [("full precision", "32 bits", list(first.reference))]
    rows += [(t.what, f"{decibels(t.sqnr)}", list(t.images)) for t, _ in both]
    body = "".join(
        f'<tr><th scope="row">{html.escape(t.what)}</th><td>{decibels(t.sqnr)}</td>'
        f"<td>{decibels(t.psnr)}</td><td>{cost(c)}</td><td>{percent(c.error)}</td></tr>"
        for t, c in both
    )
    caption = f"Mean ± 95 % interval of n = {first.sqnr.n}, {first.settings}, {first.about}"
    heads = ("", "latent SQNR", "PSNR", "size", "error in the map")
    numbers = table("mixed against one width", caption, heads, body)
    mean = found.gain.mean
    spread = f" ± {found.gain.half_width:.1f} dB (95 %)" if found.gain.n > 2 else " dB"
    unsure = found.gain.n > 2 and abs(mean) <= found.gain.half_width
    gain = (
        f'<p class="break-caption"><b>Mixed against one width, sample by sample: {mean:+.1f}'
        f"{spread}</b>, n = {found.gain.n}."
        + (" The interval holds 0: these samples do not decide it." if unsure else "")
        + (MISLED if found.own_output and mean < 0 else "")
        + "</p>"
    )
    sheet = picture_rows(rows, first.labels, "one width against mixed bits")
    return f'{gain}<div class="break-sheet">{sheet}</div>{numbers}'
