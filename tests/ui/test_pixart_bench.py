"""A local PixArt folder on the page: its captions are the classes, its seven groups the layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from tiny_pixart import NAMES, save_tiny_pixart

from ditas_core.specs import CalibrationSpec, SamplingSpec
from ditas_core.ui.stored.catalogue import find_checkpoints
from ditas_core.ui.stored.results import PLAIN, SMOOTHED
from ditas_core.ui.tabs.outliers import draw as show
from ditas_core.ui.tabs.search.draw import MAP
from ditas_core.ui.visitors.backend import Backend

from .conftest import bar

SHORT = CalibrationSpec(SamplingSpec(steps=4), samples=2, tokens=8)
TEXT_LAYERS = {f"{block}.{kind}" for block in range(2) for kind in ("q2", "kv2", "proj2")}


BAR = bar("tiny-sigma", recipe=SMOOTHED, convention="integer")


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory, nothing_shipped: Path) -> Backend:
    """Offered by the operator; nothing is shipped for it."""
    home = tmp_path_factory.mktemp("offered")
    save_tiny_pixart(home / "tiny-sigma", told=False)
    entries = find_checkpoints(home, [])
    assert next(iter(entries)) == "tiny-sigma" and entries["tiny-sigma"].local
    return Backend({"tiny-sigma": entries["tiny-sigma"]}, SHORT)


def outliers(layer: str | None, channel: str | None) -> list[Any]:
    """The tab's values and the bar's, in their order."""
    return [
        "loudest ÷ median", "both", show.PANELS[0], layer, show.WHOLE_RUN, show.MAPS, False, True,
        0.5, channel, *BAR,
    ]  # fmt: skip


def as_text(found: Any) -> str:
    return json.dumps(found, default=str, ensure_ascii=False)


def test_outliers_of_every_layer_are_measured_and_drawn(client: Client, backend: Backend) -> None:
    measured = as_text(client.predict(*outliers(None, None), api_name="/measure"))
    names = backend.group_names(backend.default)
    assert len(names) == 14 and set(names) > TEXT_LAYERS
    assert all(name in measured for name in names)
    drawn = as_text(client.predict(*outliers("1.kv2", "7"), api_name="/draw_outliers"))
    assert "block 1 · kv2" in drawn and "press “Measure”" not in drawn


def test_search_finds_every_layer(client: Client) -> None:
    job = client.submit(
        "search",
        "output",
        4,
        2,
        True,
        None,
        [SMOOTHED, PLAIN],
        None,
        *BAR,
        api_name="/search",
    )
    text = as_text(job.result(timeout=120))
    assert "kept as “my W4A8 grid search”" in text and "14 of 14" in text
    shown = as_text(client.predict(MAP, "search", "output", 4, 2, *BAR, api_name="/search_layers"))
    assert "All 14 layers are found" in shown and all(name in shown for name in TEXT_LAYERS)


def test_captions_are_the_classes_to_compare(client: Client) -> None:
    settings = ([NAMES[1], NAMES[2]], 2, 5, 4, 4.5, [SMOOTHED, PLAIN])
    line, sheet, *_ = client.predict(*settings, *BAR, api_name="/compare")
    assert "done" in line and sheet.count("<img") == 6 and NAMES[1] in sheet
    with pytest.raises(AppError, match="classes: expected one of"):
        client.predict(["a prompt of my own"], *settings[1:], *BAR, api_name="/compare")
