"""How many stored tokens the search needs, as a table and a figure.

    python -m ditas_core bench tokens --out token-study

Every token of every step is kept once. For each number K of tokens per layer and
step, drawn at random a few times, each layer's alpha is chosen on K tokens and its
loss on *all* tokens is compared with the smallest loss on all tokens.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch

from ditas_core.calibration import Calibration, GroupStatistics, calibrate
from ditas_core.checkpoints import Checkpoint, load_checkpoint
from ditas_core.cli.parsing import number
from ditas_core.cli.progress import bar
from ditas_core.models import SmoothingGroup
from ditas_core.search import LayerDone, SearchSpec, search_group
from ditas_core.specs import BitWidths, CalibrationSpec, SamplingSpec, SpecError
from ditas_core.writing import write_text

from .machine import DEMO, describe

SIZES = (1, 2, 4, 8, 16, 24, 48)
WITHIN = 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="?", default=str(DEMO))
    parser.add_argument("--steps", type=number(int, 1, 1000), default=50)
    parser.add_argument("--samples", type=number(int, 1, 256), default=2)
    parser.add_argument("--draws", type=number(int, 1, 100), default=1)
    parser.add_argument("--settings", default="integer:W8A8,integer:W4A8,released:W4A8")
    parser.add_argument(
        "--groups", type=number(int, 0, 1000), default=0, help="only every n-th layer; 0 is all"
    )
    parser.add_argument("--out", type=Path, help="folder for table.md, study.json and the figure")


def drawn(statistics: GroupStatistics, kept: int, seed: int) -> GroupStatistics:
    """``kept`` random tokens of every step."""
    generator = torch.Generator().manual_seed(seed)
    steps, total, _ = statistics.tokens.shape
    rows = torch.stack([torch.randperm(total, generator=generator)[:kept] for _ in range(steps)])
    picked = torch.stack([tokens[r] for tokens, r in zip(statistics.tokens, rows, strict=True)])
    return replace(statistics, tokens=picked)


def curve(
    checkpoint: Checkpoint,
    group: SmoothingGroup,
    calibration: Calibration,
    statistics: GroupStatistics,
    spec: SearchSpec,
) -> LayerDone:
    only = replace(calibration, groups={group.name: statistics})
    return search_group(checkpoint, group, only, spec)


def losses_of(done: LayerDone) -> list[float]:
    """The identity's loss, then the grid's."""
    return [done.identity, *done.losses]


def run(args: argparse.Namespace) -> dict[str, Any]:
    settings = [tuple(text.split(":")) for text in args.settings.split(",")]
    if any(len(pair) != 2 for pair in settings):
        raise SpecError(f"settings: expected CONVENTION:BITS,..., got {args.settings!r}")
    checkpoint = load_checkpoint(args.checkpoint)
    everything = args.samples * 2 * checkpoint.image_tokens
    spec = CalibrationSpec(SamplingSpec(steps=args.steps), samples=args.samples, tokens=everything)
    passes = args.steps * -(-args.samples // spec.batch)
    with bar("calibrating", passes) as progress:
        calibration = calibrate(checkpoint, spec, progress=lambda _: progress.update(1))
    groups = checkpoint.groups[:: args.groups or 1]
    sizes = [size for size in SIZES if size < everything]
    excess: dict[str, dict[int, list[float]]] = {}
    with bar("token study", len(settings) * len(groups)) as progress:
        for convention, bits in settings:
            search_spec = SearchSpec(BitWidths.parse(bits), convention, "search")
            found: dict[int, list[float]] = {size: [] for size in sizes}
            for group in groups:
                statistics = calibration.groups[group.name]
                full = losses_of(curve(checkpoint, group, calibration, statistics, search_spec))
                for size in sizes:
                    for seed in range(args.draws):
                        few = drawn(statistics, size, seed)
                        losses = losses_of(curve(checkpoint, group, calibration, few, search_spec))
                        chosen = losses.index(min(losses))
                        found[size].append(full[chosen] / min(full) - 1)
                progress.update(1)
            excess[f"{convention} {bits}"] = found
    report = {
        "checkpoint": checkpoint.name,
        "steps": args.steps,
        "samples": args.samples,
        "tokens_of_a_step": everything,
        "layers": len(groups),
        "draws": args.draws,
        "within_1_percent": {
            name: {str(k): share(values) for k, values in found.items()}
            for name, found in excess.items()
        },
        "worst_excess_percent": {
            name: {str(k): round(100 * max(values), 2) for k, values in found.items()}
            for name, found in excess.items()
        },
        "default_tokens": CalibrationSpec().tokens,
        "machine": describe(),
    }
    if args.out is not None:
        write_text(args.out / "table.md", "\n".join(table(report)) + "\n")
        write_text(args.out / "study.json", json.dumps(report, indent=1) + "\n")
        draw(report, args.out)
    return report


def share(excess: list[float]) -> float:
    """Part of the layers (times draws) whose choice is within 1 % of the optimum."""
    return round(sum(x <= WITHIN for x in excess) / len(excess), 4)


def table(report: dict[str, Any]) -> list[str]:
    """Markdown: share of layers within 1 % (largest excess)."""
    names = list(report["within_1_percent"])
    rows = ["| tokens per layer and step | " + " | ".join(names) + " |"]
    rows.append("|---|" + "---|" * len(names))
    for size in next(iter(report["within_1_percent"].values())):
        cells = [
            f"{100 * report['within_1_percent'][n][size]:.0f} % "
            f"({report['worst_excess_percent'][n][size]:g} %)"
            for n in names
        ]
        rows.append(f"| {size} | " + " | ".join(cells) + " |")
    return rows


def lines(report: dict[str, Any]) -> list[str]:
    total = report["tokens_of_a_step"]
    head = (
        f"layers whose alpha, chosen on K of {total} tokens a step, loses at most 1 % "
        "on all tokens (in brackets: the largest loss)"
    )
    return [head, *table(report)]


def draw(report: dict[str, Any], folder: Path) -> None:
    """figure.png, drawn by a browser; where there is none figure.html, which draws itself."""
    figure = go.Figure()
    symbols = ("circle", "square", "diamond", "triangle-up", "x")
    colours = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
    for i, (name, found) in enumerate(report["within_1_percent"].items()):
        figure.add_scatter(
            x=[int(k) for k in found],
            y=[100 * v for v in found.values()],
            name=name,
            mode="lines+markers",
            line={"color": colours[i % 5]},
            marker={"symbol": symbols[i % 5], "size": 9},
        )
    sizes = [int(k) for k in next(iter(report["within_1_percent"].values()))]
    ends = math.log10(sizes[0]) - 0.05, math.log10(sizes[-1]) + 0.05
    figure.add_hline(y=95, line_dash="dot", line_color="#666")
    figure.add_scatter(
        x=[report["default_tokens"]] * 2,
        y=[0, 103],
        mode="lines",
        line={"dash": "dash", "color": "#666"},
        name="the default",
    )
    figure.update_xaxes(
        type="log", title="tokens kept per layer and step", tickvals=sizes, range=ends
    )
    lowest = min(min(found.values()) for found in report["within_1_percent"].values())
    figure.update_yaxes(
        title="layers within 1 % of the optimum, %", range=[max(0, 100 * lowest - 8), 103]
    )
    figure.update_layout(
        template="plotly_white",
        width=760,
        height=440,
        font_size=14,
        margin={"l": 70, "r": 20, "t": 20, "b": 60},
        legend={"x": 0.98, "y": 0.04, "xanchor": "right", "yanchor": "bottom"},
    )
    html = figure.to_html(include_plotlyjs=True)
    write_text(folder / "figure.html", html)
    try:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium")
            page = browser.new_page(viewport={"width": 780, "height": 460})
            page.goto((folder / "figure.html").resolve().as_uri())
            page.wait_for_selector(".plot-container .scatterlayer")
            page.screenshot(path=str(folder / "figure.png"))
            browser.close()
        (folder / "figure.html").unlink()
    except Exception:  # no browser: the HTML is the figure
        return
