"""The shipped results as one page that needs no server: what the explorer shows, standing still.

Everything is inside the file: pictures as data, charts as SVG, switches by the style sheet.
There is no script. Every number carries the path of the shipped value it was taken from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ...evaluation import LayerRank, OutlierAtlas
from ...figures import ROLES, Line, chart_key, line_chart, relative_db, role
from ...search import LayerDone
from ..page.heat import heat
from ..tabs.takeaway.pictures import LATENT, estimates, settings_line
from ..tabs.takeaway.report import text
from .ladder import Ladder, Rung
from .results import DITAS, PLAIN, REFERENCE, Result, Shipped
from .story_parts import (
    chart,
    details,
    listing,
    number,
    prose,
    row,
    section,
    spread,
    strip,
    switch,
)

STYLES = Path(__file__).parents[1] / "page" / "static"
SHOWN = 6
STORY = (
    "A diffusion transformer draws by multiplying huge tables of numbers. Storing them in 4 bits "
    "makes the model small, but a few channels shout, and rounding has to span the shout. DiTAS "
    "turns those channels down before rounding and turns the weights up in exchange. This is a "
    "real model."
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
DIGITS = {LATENT: 2, "PSNR, dB": 2, "SSIM": 4}


@dataclass(frozen=True)
class Tale:
    """What is told.

    bits     the preset that the first sections are about
    facts    about the checkpoint, for the last section
    """

    name: str
    bits: str
    shipped: Shipped
    ladder: Ladder
    facts: tuple[tuple[str, str], ...]

    @property
    def result(self) -> Result:
        return self.shipped.presets[self.bits].result

    @property
    def atlas(self) -> OutlierAtlas:
        return self.shipped.atlas

    @property
    def alphas(self) -> dict[str, float | None]:
        layers = self.shipped.presets[self.bits].recipe.layers
        return {name: layer.alpha for name, layer in layers.items()}

    @property
    def ranking(self) -> list[LayerRank]:
        return self.atlas.ranking(self.alphas)

    @property
    def worst(self) -> LayerRank:
        """The layer that smoothing calms most."""
        return max(self.ranking, key=lambda rank: rank.strength - rank.smoothed)


def said(alpha: float | None) -> str:
    return "identity" if alpha is None else f"{alpha:.2f}"


def mean_sqnr(tale: Tale, bits: str, variant: str) -> str:
    found = estimates(tale.shipped.presets[bits].result)[LATENT][variant]
    return number(found.mean, 1, f"{bits}/{variant}/{LATENT}/mean")


def numbers_section(tale: Tale) -> str:
    worst = tale.worst
    title = tale.atlas.groups[worst.layer].title
    cards = [
        (
            f"{number(worst.strength, 1, f'layer/{worst.layer}/strength')}× → "
            f"{number(worst.smoothed, 1, f'layer/{worst.layer}/smoothed')}×",
            f"loudest channel of {title} against its median one, before and after smoothing",
        )
    ]
    for bits in dict.fromkeys((tale.bits, list(tale.shipped.presets)[-1])):
        count = len(tale.shipped.presets[bits].result.labels)
        cards.append(
            (
                f"{mean_sqnr(tale, bits, PLAIN)} → {mean_sqnr(tale, bits, DITAS)} dB",
                f"{bits}: closeness to full precision (latent SQNR) with plain rounding and with "
                f"DiTAS, mean of {count} samples from the same noise",
            )
        )
    shown = "".join(f"<li><b>{big}</b><span>{text(small)}</span></li>" for big, small in cards)
    return f'<ul class="cards">{shown}</ul>'


def overview_section(tale: Tale) -> str:
    result, labels = tale.result, tale.result.labels[:SHOWN]
    rows = [row(REFERENCE, "32 bits", strip(result.images[REFERENCE][:SHOWN], labels, REFERENCE))]
    for variant in (PLAIN, DITAS):
        note = f"{text(tale.bits)}, {mean_sqnr(tale, tale.bits, variant)} dB"
        rows.append(row(variant, note, strip(result.images[variant][:SHOWN], labels, variant)))
    words = "The same noise, three ways to compute. Simulated quantization: values are rounded to "
    words += "the grid and multiplied in floating point; no speed is claimed."
    return section("overview", "What rounding does to pictures", *rows, prose(words))


def worst_section(tale: Tale) -> str:
    worst, atlas = tale.worst, tale.atlas
    group = atlas.groups[worst.layer]
    maps = heat(
        [
            (f"{group.title}, before smoothing", group.map().numpy()),
            (
                f"after smoothing, α = {said(worst.alpha)}",
                group.smoothed(worst.alpha).map().numpy(),
            ),
        ],
        atlas.timesteps,
        quantity="largest |X| ÷ median channel",
        unit="×",
    )
    words = (
        "A few input channels are far larger than the others, in the same places at every "
        "denoising step. A rounding grid has to span them. Dividing them by a factor that holds "
        "for the whole run, and multiplying the weights that read them by the same, changes "
        "nothing in the product and calms the channels."
    )
    return section("worst", "The layer where it hurts most", prose(words), maps)


def atlas_section(tale: Tale) -> str:
    atlas = tale.atlas
    before, after = atlas.overview(), atlas.overview(tale.alphas)
    maps = heat(
        [("before smoothing", before.numpy()), ("after smoothing", after.numpy())],
        atlas.timesteps,
        quantity="loudest channel ÷ median channel",
        unit="×",
        across="layer, from the first block to the last",
        columns=list(atlas.groups),
    )
    rows = [
        (
            text(atlas.groups[rank.layer].title),
            number(rank.strength, 2, f"layer/{rank.layer}/strength", "×"),
            number(rank.smoothed, 2, f"layer/{rank.layer}/smoothed", "×"),
            said(rank.alpha),
            str(rank.channel),
            str(rank.timestep),
        )
        for rank in tale.ranking
    ]
    header = ("layer", "strength", "after smoothing", "α", "loudest channel", "at timestep")
    table = listing(header, rows, "Every layer, strongest outliers first")
    return section(
        "atlas",
        "Every layer at every step",
        prose("How far the loudest channel stands above the median one, over the whole model."),
        maps,
        details(f"All {len(rows)} layers as a table", table),
    )


def alpha_line(layer: LayerDone, quiet: bool) -> Line:
    losses = relative_db(layer.losses, layer.identity).tolist()
    at = layer.grid.index(layer.best_on_grid)
    mark = (layer.grid[at], losses[at])
    look = ROLES["full precision" if quiet else "ditas"]
    return Line(layer.title, layer.grid, losses, look.colour, "solid", quiet, (mark,))


def alpha_section(tale: Tale) -> str:
    layers = tale.shipped.presets[tale.bits].layers
    one = max(layers, key=lambda layer: layer.gain_db)
    lines = [alpha_line(layer, layer is not one) for layer in layers]
    bold = lines[layers.index(one)]
    drawing = line_chart(
        lines,
        "migration strength α",
        "error, dB against no smoothing",
        f"Output error of {one.title} over α: {min(bold.y):.1f} dB against no smoothing at "
        f"α = {one.best_on_grid:g}; the other {len(lines) - 1} layers behind it.",
        zero="no smoothing",
    )
    words = (
        "α says how much of the burden moves from activations (0) to weights (1). Each layer has "
        "its own best place; below the line smoothing helps. The dots are the lowest points."
    )
    caption = (
        f"{tale.bits}, {tale.shipped.convention} convention. Thick: {one.title}, where the search "
        "gains most; thin: all other layers."
    )
    return section("alpha", "One slider per layer", prose(words), chart(drawing, "", caption))


def search_section(tale: Tale) -> str:
    layers = tale.shipped.presets[tale.bits].layers
    widest = max(max(layer.gain_db for layer in layers), 1e-9)
    bars, rows = [], []
    for layer in layers:
        gain = number(layer.gain_db, 2, f"search/{tale.bits}/{layer.group}/gain")
        share = max(0.0, layer.gain_db) / widest
        bars.append(
            f'<li><span>{text(layer.title)}</span><i style="--share: {share:.3f}"></i>'
            f"<b>{gain} dB</b></li>"
        )
        rows.append(
            (
                text(layer.title),
                said(layer.alpha),
                number(layer.before / layer.energy, 6, f"search/{tale.bits}/{layer.group}/before"),
                number(layer.best / layer.energy, 6, f"search/{tale.bits}/{layer.group}/best"),
                gain,
            )
        )
    header = ("layer", "α", "error without smoothing", "error of the choice", "gain, dB")
    words = (
        f"The grid search tries {len(layers[0].grid)} values of α and the identity for each of "
        f"{len(layers)} layers and keeps the best, with the low-rank branch that conversion fits. "
        "All of it is arithmetic on one recorded run. The gain is against no smoothing at all."
    )
    table = listing(header, rows, f"{tale.bits}: relative output error of every layer")
    return section(
        "search",
        "What the search finds",
        prose(words),
        f'<ol class="bars">{"".join(bars)}</ol>',
        details("The errors as a table", table),
    )


def preset_panel(tale: Tale, bits: str) -> str:
    result = tale.shipped.presets[bits].result
    found, labels = estimates(result), result.labels[:SHOWN]
    rows = [row(REFERENCE, "32 bits", strip(result.images[REFERENCE][:SHOWN], labels, REFERENCE))]
    table = []
    for variant in result.variants:
        note = f"{mean_sqnr(tale, bits, variant)} dB"
        rows.append(row(variant, note, strip(result.images[variant][:SHOWN], labels, variant)))
        table.append(
            (
                text(variant),
                *(
                    spread(each[variant], DIGITS[metric], f"{bits}/{variant}/{metric}")
                    for metric, each in found.items()
                ),
            )
        )
    caption = f"{bits}: mean ± half of the 95 % interval, n = {len(result.labels)}"
    return "".join(
        [*rows, listing(("recipe", *found), table, caption), prose(settings_line(result) + ".")]
    )


def ablation_section(tale: Tale) -> str:
    names = list(tale.shipped.presets)
    panels = [(bits, preset_panel(tale, bits)) for bits in names]
    words = "Plain rounding, a fixed strength, the grid search, and DiTAS with its branch, beside "
    words += "full precision from the same noise."
    return section(
        "ablation",
        "What each part is worth",
        prose(words),
        switch("bits", "Bits of weights (W) and activations (A)", panels, names.index(tale.bits)),
    )


def rung_panel(ladder: Ladder, rung: Rung) -> str:
    rows = [row(REFERENCE, "injected", strip(rung.images[REFERENCE], ladder.labels, REFERENCE))]
    for variant in ladder.recipes:
        mean = fmean(rung.sqnr[variant])
        note = f"{number(mean, 1, f'ladder/{rung.strength:g}/{variant}')} dB"
        rows.append(row(variant, note, strip(rung.images[variant], ladder.labels, variant)))
    moved = (
        f"Full precision stays the same: {number(rung.same.visible, 0, f'ladder/{rung.strength:g}/visible')} of "  # noqa: E501
        f"{number(rung.same.of, 0, f'ladder/{rung.strength:g}/of')} colour values change."
    )
    return "".join(rows) + f"<p>{moved}</p>"


def ladder_section(tale: Tale) -> str:
    ladder, known = tale.ladder, tale.ladder.settings
    strengths = [rung.strength for rung in ladder.rungs]
    lines = [
        Line(
            name,
            strengths,
            [fmean(rung.sqnr[name]) for rung in ladder.rungs],
            role(name).colour,
            role(name).dash,
            marks=tuple((r.strength, fmean(r.sqnr[name])) for r in ladder.rungs),
        )
        for name in ladder.recipes
    ]
    first, last = ladder.rungs[0], ladder.rungs[-1]
    drawing = line_chart(
        lines,
        "injected channels, times as large",
        "latent SQNR, dB",
        "; ".join(
            f"{name}: {fmean(first.sqnr[name]):.1f} dB at ×{first.strength:g}, "
            f"{fmean(last.sqnr[name]):.1f} dB at ×{last.strength:g}"
            for name in ladder.recipes
        ),
        log_x=True,
    )
    words = (
        f"{known['channels']} channels of every layer that can be rescaled exactly are made "
        "larger, and the weights that read them smaller by the same. The function does not "
        "change. Plain rounding falls apart, DiTAS repairs it."
    )
    caption = f"{known['bits']}, {known['convention']} convention, {known['steps']} steps, "
    caption += f"guidance {known['guidance']:g}, seed {known['seed']}, n = {len(ladder.labels)}"
    panels = [(f"×{rung.strength:g}", rung_panel(ladder, rung)) for rung in ladder.rungs]
    loud = min(range(len(strengths)), key=lambda at: abs(strengths[at] - 60))
    return section(
        "injector",
        "Louder outliers, same function",
        prose(words),
        chart(drawing, chart_key(lines), caption),
        switch("strength", "How many times louder", panels, loud),
    )


def about_section(tale: Tale) -> str:
    rows = [(text(name), text(value)) for name, value in tale.facts]
    words = (
        "The method is DiTAS (Dong & Zhang, WACV 2025, arXiv 2409.07756); this implementation is "
        "independent of theirs. The explorer that these results come from computes all of it "
        "live; this page shows what it ships."
    )
    return section("about", "What was measured", prose(words), listing(("what", "value"), rows, ""))


def story_html(tale: Tale) -> str:
    """The whole page."""
    style = (STYLES / "story.css").read_text(encoding="utf-8")
    body = "".join(
        [
            f'<header><h1>Why diffusion transformers are hard to quantize</h1><p class="lead">'
            f'{text(STORY)}</p><p><a href="./">Draw on your device</a>: the same model, '
            f"live.</p>{numbers_section(tale)}</header>",
            overview_section(tale),
            worst_section(tale),
            atlas_section(tale),
            alpha_section(tale),
            search_section(tale),
            ablation_section(tale),
            ladder_section(tale),
            about_section(tale),
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>DiTAS story: {text(tale.name)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
