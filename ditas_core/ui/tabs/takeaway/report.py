"""A report in one HTML file: figures, pictures and code inside it, no request to anywhere."""

from __future__ import annotations

import base64
import html
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from .... import __version__
from ....figures import channel_maps, loss_curves, metric_bars, overview_pair
from ....specs import BIT_PRESETS, summarize
from .gather import Taken
from .pictures import estimates, settings_line, spoken
from .snippet import snippet

PACKAGES = ("torch", "diffusers", "safetensors", "gradio", "plotly", "numpy")
STYLE = (Path(__file__).parents[2] / "page" / "static" / "report.css").read_text(encoding="utf-8")
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
DRAW = """
for (const place of document.querySelectorAll("[data-plot]")) {
  const spec = JSON.parse(document.getElementById(place.dataset.plot).textContent);
  Plotly.newPlot(place, spec.data, spec.layout, {responsive: true, displaylogo: false});
}
const fit = (width) => document.querySelectorAll("[data-plot]").forEach((place) =>
  Plotly.relayout(place, width ? {width, autosize: false} : {width: null, autosize: true}));
addEventListener("beforeprint", () => fit(680));
addEventListener("afterprint", () => fit(0));
"""

RUNS = {
    "simulated": "Simulated quantization: values are rounded to the integer grid and computed in "
    "floating point; no speed is claimed.",
    "integer": "Quantized layers multiplied their codes as integers.",
}


def text(value: object) -> str:
    return html.escape(str(value))


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], caption: str, kind: str = ""
) -> str:
    """A table; all its texts are escaped."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{text(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table class="{kind}">'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def plot(figure: go.Figure, name: str, caption: str) -> str:
    """A figure as data, drawn when the report opens."""
    data = str(figure.to_json()).replace("<", "\\u003c")
    height = int(figure.layout.height or 400)
    return (
        f'<figure><div data-plot="{name}" role="group" aria-label="{text(caption)}" '
        f'style="min-height:{height}px"></div><figcaption>{text(caption)}</figcaption></figure>'
        f'<script type="application/json" id="{name}">{data}</script>'
    )


def picture(data: bytes, alt: str, caption: str) -> str:
    code = base64.b64encode(data).decode()
    return (
        f'<figure><img src="data:image/png;base64,{code}" alt="{text(alt)}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def settings_section(taken: Taken) -> str:
    source, calibration = taken.source, taken.calibration
    rows: list[tuple[str, object]] = [
        ("checkpoint", source.name),
        ("source", source.place),
        ("licence", source.licence or "unknown"),
        ("fingerprint (sha256 of the weights)", source.fingerprint or "not loaded"),
    ]
    if taken.choice.model.injected:
        rows.append(
            (
                "injected outliers",
                f"×{taken.choice.model.strength:g} in {taken.channels} channels per layer, "
                "function-preserving",
            )
        )
    rows += [
        ("bits", f"{taken.choice.bits}" + (" (preset)" if str(taken.choice.bits) in BIT_PRESETS
                                            else " (custom)")),
        ("convention", taken.choice.convention),
        ("recipe", taken.name),
        (
            "calibration",
            f"{calibration.samples} images, {calibration.sampling.steps} steps, guidance "
            f"{calibration.sampling.guidance_scale:g}, seed {calibration.seed}",
        ),
    ]  # fmt: skip
    return "<h2>Settings</h2>" + table(
        ("what", "value"), rows, "Everything that was chosen", "settings"
    )


def recipe_section(taken: Taken) -> str:
    """The recipe in words and layer by layer."""
    if taken.recipe is None:
        return f"<h2>Recipe</h2><p>{text(taken.name)} has not been searched at these settings.</p>"
    ranks = {}
    if taken.atlas is not None:
        found = taken.atlas.ranking(taken.alphas, taken.measure, taken.half)
        ranks = {row.layer: (f"{row.strength:.3g}", f"{row.smoothed:.3g}") for row in found}
    names = sorted(taken.recipe.layers, key=list(ranks).index) if ranks else taken.recipe.layers
    rows = []
    for name in names:
        layer = taken.recipe.layers[name]
        alpha = "identity" if layer.alpha is None else f"{layer.alpha:g}"
        rows.append(
            (name, *ranks.get(name, ("", "")), alpha, layer.bits, layer.low_rank.rank or "none")
        )
    header = ("layer", f"strength ({taken.measure})", "after smoothing", "α", "bits", "rank")
    return (
        f"<h2>Recipe: {text(taken.name)}</h2><p>{text(summarize(taken.recipe))}</p>"
        "<details open><summary>All layers, strongest outliers first</summary>"
        + table(header, rows, "Every layer's settings")
        + "</details>"
    )


def outlier_section(taken: Taken) -> str:
    """The whole model, and one layer before and after."""
    atlas = taken.atlas
    if atlas is None:
        return "<h2>Outliers</h2><p>Not measured.</p>"
    before, after = (
        atlas.overview(None, taken.measure, taken.half),
        atlas.overview(taken.alphas, taken.measure, taken.half),
    )
    overview = overview_pair(
        before.numpy(), after.numpy(), list(atlas.groups), atlas.timesteps, taken.measure
    )
    group, alpha = atlas.groups[taken.layer], taken.alphas.get(taken.layer)
    maps = channel_maps(group.map().numpy(), group.smoothed(alpha).map().numpy(), atlas.timesteps)
    how = "no smoothing (identity)" if alpha is None else f"α = {alpha:g}"
    return (
        "<h2>Outliers</h2>"
        + plot(overview, "overview", "Outlier strength of every layer and timestep, before and "
               f"after smoothing ({taken.measure}).")
        + plot(maps, "layer", f"Layer {taken.layer} ({group.title}): largest |X| of every channel "
               f"in units of the median channel, before and after smoothing, {how}.")
    )  # fmt: skip


def search_section(taken: Taken) -> str:
    if not taken.curves:
        return ""
    curves = [(c.group, c.grid, c.losses, c.identity) for c in taken.curves]
    return "<h2>Search</h2>" + plot(
        loss_curves(curves),
        "curves",
        "Output error of every layer over the migration strength α, against no smoothing.",
    )


def comparison_section(taken: Taken, sheet: bytes | None) -> str:
    result = taken.result
    if result is None or sheet is None:
        return "<h2>Comparison</h2><p>No comparison was made at these settings.</p>"
    found = estimates(result)
    bars = metric_bars(
        {
            metric: {name: (each.mean, each.low, each.high) for name, each in rows.items()}
            for metric, rows in found.items()
        },
        dict.fromkeys(found, "higher"),
    )
    rows = [
        (
            name,
            *(spoken(each[name], 3 if metric == "SSIM" else 2) for metric, each in found.items()),
        )
        for name in result.variants
    ]
    what = f"{', '.join(result.variants)} beside full precision; {', '.join(result.labels)}"
    note = f"mean ± half of the 95 % interval, n = {len(result.labels)}"
    return (
        "<h2>Comparison</h2>"
        + picture(sheet, f"Contact sheet: {what}", settings_line(result))
        + plot(bars, "metrics", f"Closeness to full precision, {note}.")
        + table(("recipe", *found), rows, f"Metrics: {note}")
    )


def versions() -> str:
    found = [f"ditas_core {__version__}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join([*found, f"Python {platform.python_version()}"])


def report_html(taken: Taken, sheet: bytes | None, link: str = "") -> str:
    """The whole file, about 5 MB: plotly.js is in it."""
    title = f"DiTAS report: {taken.choice.title}"
    address = f"<p>On the page: <code>{text(link)}</code></p>" if link else ""
    body = "".join(
        [
            f"<h1>{text(taken.choice.title)}</h1>",
            '<p class="lead">How this diffusion transformer is quantized, what it costs, and how '
            f"to repeat it. {RUNS[taken.choice.runs_as]}</p>",
            settings_section(taken),
            comparison_section(taken, sheet),
            outlier_section(taken),
            search_section(taken),
            recipe_section(taken),
            "<h2>How to reproduce it</h2><p>Run this in the project's folder; it prints the "
            f'metrics above.</p><pre tabindex="0"><code>{text(snippet(taken))}</code></pre>',
            address,
            f"<h2>Versions</h2><p>{text(versions())}</p>",
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main><script>{get_plotlyjs()}</script><script>{DRAW}</script>"
        "</body></html>\n"
    )
