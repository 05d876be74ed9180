"""The Search tab's rows, tiles, figures and files."""

from __future__ import annotations

import hashlib
import html
import re
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import plotly.graph_objects as go

from ....figures import empty_figure, loss_curves, search_map
from ....search import (
    LayerDone,
    bits_per_weight,
    change_db,
    mean_error,
    relative_error,
    search_totals,
)
from ....specs import LayerRecipe, Recipe, brief
from ....writing import write_text
from ...serving.errors import refuse
from ...serving.validate import is_plain
from ...stored.results import BUILT_IN, REFERENCE
from .predicting import Predictions

SEARCH_HEADERS = ["layer", "best α", "gain, dB", "error, % of output"]
WEIGHED = "weighed error, %"
"""The last of them where a search weighs the errors of steps."""
RECIPE_HEADERS = [
    "recipe", "method", "bits", "smoothed layers", "bits per weight", "predicted error, %",
]  # fmt: skip
MAP, CURVES = "map of all layers", "curves"
NOTHING = "Press “Start”:<br>each layer appears here<br>as it is found"
HEIGHT = 520
LONGEST_NAME, LONGEST_METHOD = 40, 60
KEPT_FILES = 64
LOCK = threading.Lock()
FOLDER = tempfile.TemporaryDirectory(prefix="ditas-recipes-")
UNKNOWN = "–"


def alpha_text(alpha: float | None) -> str:
    return "identity" if alpha is None else f"{alpha:.2f}"


def percent(error: float | None) -> str:
    """A relative error for people."""
    if error is None:
        return UNKNOWN
    return f"{100 * error:.3g}" if error < 0.1 else f"{100 * error:.1f}"


def signed(value: float, digits: int = 2) -> str:
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−")


def layer_rows(layers: Sequence[LayerDone]) -> list[list[Any]]:
    """As in SEARCH_HEADERS."""
    return [
        [
            layer.group,
            alpha_text(layer.alpha),
            round(layer.gain_db, 2),
            round(100 * relative_error(layer), 3),
        ]
        for layer in layers
    ]


def layer_table(layers: Sequence[LayerDone], objective: str) -> Any:
    """Rows with their headings."""
    last = SEARCH_HEADERS[-1] if objective == "output" else WEIGHED
    return gr.update(value={"headers": [*SEARCH_HEADERS[:-1], last], "data": layer_rows(layers)})


def by_gain(layers: Sequence[LayerDone]) -> list[LayerDone]:
    return sorted(layers, key=lambda layer: -layer.gain_db)


def search_figure(
    names: Sequence[str], layers: Sequence[LayerDone], kind: str, dark: bool
) -> go.Figure:
    """The search as far as it has come, as a map of all layers or as curves."""
    if not layers:
        return empty_figure(NOTHING, HEIGHT, dark=dark)
    if kind == CURVES:
        data = [(layer.group, layer.grid, layer.losses, layer.identity) for layer in layers]
        return loss_curves(data, len(names), dark=dark).update_layout(height=HEIGHT)
    by_name = {layer.group: layer for layer in layers}
    grid = layers[0].grid
    blank = [float("nan")] * len(grid)
    found = [by_name.get(name) for name in names]
    losses = [blank if layer is None else layer.losses for layer in found]
    identity = [1.0 if layer is None else layer.identity for layer in found]
    chosen = {name: layer.alpha for name, layer in by_name.items()}
    return search_map(
        names, grid, np.array(losses), np.array(identity), chosen=chosen, height=HEIGHT, dark=dark
    )


def tiles(pairs: Sequence[tuple[str, str]]) -> str:
    """Numbers with what they are; the texts are escaped."""
    cards = "".join(
        f'<div class="stat"><b>{html.escape(number)}</b><span>{html.escape(text)}</span></div>'
        for number, text in pairs
    )
    columns = "grid-template-columns:repeat(auto-fit,minmax(132px,1fr))"
    return f'<div class="stats" style="{columns}">{cards}</div>'


def totals_html(layers: Sequence[LayerDone], total: int, objective: str = "output") -> str:
    """The running total of a search."""
    sums = search_totals(layers)
    if not sums.layers:
        return tiles([(f"0 of {total}" if total else UNKNOWN, "layers found")])
    error = "error of the output" if objective == "output" else "error, weighed by influence"
    return tiles(
        [
            (f"{sums.layers} of {total}", f"layers found, {sums.smoothed} of them smoothed"),
            (f"{signed(sums.gain_db, 1)} dB", "gain against no smoothing, all layers added up"),
            (f"{signed(sums.mean_gain_db)} dB", f"mean gain per layer, n = {sums.layers}"),
            (f"{percent(sums.mean_error)} %", f"mean {error}, n = {sums.layers}"),
        ]
    )


def edit_html(
    found: Predictions, name: str, recipe: Recipe, changed: Recipe, group: str, title: str
) -> str:
    """What the change does to this layer's predicted error, to the whole recipe's and to size."""
    before, after = found.errors(recipe), found.errors(changed)
    at = found.groups.index(group)
    old, new = before[at], after[at]
    pairs = []
    if old is None or new is None:
        pairs.append((UNKNOWN, f"{title}: press “Predict all” to measure its error"))
    elif recipe == changed:
        pairs.append((f"{percent(old)} %", f"{title}: error of its output, nothing changed yet"))
    else:
        text = f"{title}: error of its output, was {percent(old)} %"
        pairs.append((f"{percent(new)} %", f"{text} ({signed(change_db(old, new))} dB)"))
    known = [error for error in before if error is not None]
    if len(known) == len(before) and new is not None:
        mean, was = mean_error(e for e in after if e is not None), mean_error(known)
        text = f"whole recipe: mean error of {len(after)} layers"
        if recipe != changed:
            text += f", was {percent(was)} % ({signed(change_db(was, mean), 3)} dB)"
        pairs.append((f"{percent(mean)} %", text))
    else:
        text = f"whole recipe: {len(known)} of {len(before)} layers predicted so far"
        pairs.append((UNKNOWN, text))
    size = bits_per_weight(found.checkpoint, changed)
    was_size = bits_per_weight(found.checkpoint, recipe)
    text = "bits per weight on disk"
    pairs.append((f"{size:.2f}", text if recipe == changed else f"{text}, was {was_size:.2f}"))
    source = html.escape(f"“{name}”, predicted on {found.source}; energy of the error over energy "
                         "of the output, both of this layer alone.")  # fmt: skip
    return tiles(pairs) + f'<p class="lead">{source}</p>'


def layer_text(layer: LayerRecipe) -> str:
    return f"{layer.bits}, {'s = 1' if layer.alpha is None else f'α = {layer.alpha:.2f}'}"


def recipe_bits(recipe: Recipe) -> str:
    return " / ".join(sorted({str(layer.bits) for layer in recipe.layers.values()}))


def recipe_rows(found: Predictions, recipes: Mapping[str, Recipe]) -> list[list[Any]]:
    """As in RECIPE_HEADERS; the predicted error is the mean of all layers."""
    rows = []
    for name, recipe in recipes.items():
        errors = found.errors(recipe)
        known = [error for error in errors if error is not None]
        smoothed = sum(layer.alpha is not None for layer in recipe.layers.values())
        bits = recipe_bits(recipe)
        rows.append(
            [
                name,
                recipe.name,
                bits if len(bits) <= 24 else "mixed",
                f"{smoothed} of {len(errors)}",
                f"{bits_per_weight(found.checkpoint, recipe):.2f}",
                percent(mean_error(known)) if len(known) == len(errors) else UNKNOWN,
            ]
        )
    return rows


def compare_rows(
    found: Predictions, recipes: Mapping[str, Recipe]
) -> tuple[list[str], list[list[Any]]]:
    """Headers and one row per layer: settings and error of each recipe."""
    headers = ["layer"]
    for name in recipes:
        headers += [f"{name}: bits, α", f"{name}: error, %"]
    errors = {name: found.errors(recipe) for name, recipe in recipes.items()}
    rows: list[list[Any]] = []
    for at, group in enumerate(found.groups):
        row: list[Any] = [group]
        for name, recipe in recipes.items():
            row += [layer_text(recipe.layers[group]), percent(errors[name][at])]
        rows.append(row)
    return headers, rows


def read_name(value: object, taken: Sequence[str] = ()) -> str:
    """A recipe's name as a visitor may give it.

    Raises:
        gr.Error: too long, unprintable, of a built-in recipe, or one of ``taken``.
    """
    text = " ".join(value.split()) if isinstance(value, str) and len(value) < 1000 else ""
    if not 1 <= len(text) <= LONGEST_NAME or not is_plain(text):
        raise refuse(
            f"name: expected 1 to {LONGEST_NAME} printable characters without < > &, "
            f"got {brief(value)}"
        )
    if text.lower() in {name.lower() for name in (*BUILT_IN, REFERENCE)}:
        raise refuse(f"name: expected one of your own, got the built-in {text!r}")
    if text in taken:
        raise refuse(f"name: expected a new one, {text!r} is kept already")
    return text


def recipe_file(name: str, recipe: Recipe) -> str:
    """A file to download; the oldest of this process's are removed."""
    text = recipe.to_json()
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") or "recipe"
    short = hashlib.sha256(text.encode()).hexdigest()[:8]
    folder = Path(FOLDER.name)
    path = folder / f"{stem}-{short}.json"
    with LOCK:  # two visitors may want the same one
        write_text(path, text)
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
    for old in files[:-KEPT_FILES]:
        old.unlink(missing_ok=True)
    return str(path)
