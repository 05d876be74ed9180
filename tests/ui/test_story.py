"""The static page: well-formed, complete in itself, every number the shipped one."""

from __future__ import annotations

import json
import math
import re
import statistics
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from ditas_core.evaluation.outliers import OutlierAtlas
from ditas_core.specs import CalibrationSpec, Recipe
from ditas_core.ui.stored import story as module
from ditas_core.ui.stored.story import MOST_BYTES, story_of, tale_of
from ditas_core.ui.stored.story_page import SHOWN, Tale, story_html
from ditas_core.ui.visitors.backend import Backend

from .conftest import ROOT, bench_of, pictures

STORED = ROOT / "assets" / "precomputed"
STUDENT = 2.3646242510102993
"""Two-sided 95 % point of Student's t with 7 degrees of freedom."""
VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """Checks nesting while it reads; keeps elements, texts and the numbers with their sources."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[str, str, str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] == "data":
            given = self.elements[-1][1]
            self.numbers.append((given["data-of"], given["value"], given["data-digits"], data))


@pytest.fixture(scope="module")
def backend() -> Backend:
    return bench_of(spec=CalibrationSpec())


def told(backend: Backend) -> Tale:
    return tale_of(backend.checkpoint(backend.default), backend.shipped, backend.ladder)


@pytest.fixture(scope="module")
def page(backend) -> str:
    found = story_of(backend.checkpoint(backend.default))
    assert found == story_html(told(backend)) and len(found.encode()) < MOST_BYTES
    return found


@pytest.fixture(scope="module")
def read(page) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def stored() -> dict[str, float]:
    """source -> value, from the files themselves."""
    document = json.loads((STORED / "results.json").read_text())
    found: dict[str, float] = {}
    for bits, preset in document["presets"].items():
        for variant, metrics in preset["result"]["metrics"].items():
            for metric, values in metrics.items():
                key = f"{bits}/{variant}/{metric}"
                found[f"{key}/mean"] = statistics.fmean(values)
                found[f"{key}/half"] = STUDENT * statistics.stdev(values) / len(values) ** 0.5
        for layer in preset["layers"]:
            tried = dict(zip(layer["grid"], layer["losses"], strict=True))
            tried[None] = layer["identity"]
            tried = {alpha: loss for alpha, loss in layer["refined"]} or tried
            key = f"search/{bits}/{layer['group']}"
            best, before = tried[layer["alpha"]], tried.get(None, layer["identity"])
            found[f"{key}/best"] = best / layer["energy"]
            found[f"{key}/before"] = before / layer["energy"]
            found[f"{key}/gain"] = 10 * math.log10(before / best)
    atlas = OutlierAtlas.load(STORED / "atlas.safetensors")
    recipe = Recipe.from_json((STORED / "recipe-W4A8.json").read_text())
    for name, group in atlas.groups.items():
        after = group.smoothed(recipe.layers[name].alpha)
        for kind, each in (("strength", group), ("smoothed", after)):
            values = each.act_absmax
            found[f"layer/{name}/{kind}"] = float(values.max() / values.median())
    for rung in json.loads((STORED / "ladder.json").read_text())["rungs"]:
        key = f"ladder/{rung['strength']:g}"
        found |= {f"{key}/{name}": statistics.fmean(v) for name, v in rung["sqnr"].items()}
        found |= {f"{key}/{name}": rung["same"][name] for name in ("visible", "of")}
    return found


def test_every_number_is_the_shipped_one(read, stored):
    assert len(read.numbers) > 300
    for source, value, digits, shown in read.numbers:
        near = 5e-4 if source.endswith("/half") else 1e-5  # Student's t is a series there
        assert math.isclose(float(value), stored[source], rel_tol=near, abs_tol=1e-5), source
        assert shown == f"{float(value):.{digits}f}", source


def test_every_result_is_told(read, stored):
    """All presets, recipes, metrics, layers and rungs; the search at one bit-width."""
    told = {source for source, *_ in read.numbers}
    missing = {s for s in set(stored) - told if not re.match("search/(?!W4A8)", s)}
    assert missing == set()
    recipe = Recipe.from_json((STORED / "recipe-W4A8.json").read_text())
    for layer in recipe.layers.values():
        assert ("identity" if layer.alpha is None else f"{layer.alpha:.2f}") in read.text


def test_the_pictures_are_the_shipped_ones(read, backend):
    found: dict[str, list[Any]] = {}
    for tag, given in read.elements:
        if tag == "img":
            found.setdefault(given["alt"], []).extend(pictures(given["src"]))
    results = [(p.result.labels, p.result.images) for p in backend.shipped.presets.values()]
    results += [(backend.ladder.labels, rung.images) for rung in backend.ladder.rungs]
    for labels, images in results:
        for variant, pixels in images.items():
            for label, each in zip(labels[:SHOWN], pixels[:SHOWN], strict=True):
                assert any(np.array_equal(each, p) for p in found[f"{label}, {variant}"])


def test_nothing_is_loaded_from_elsewhere(page, read):
    for tag, given in read.elements:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form", "audio", "video"}
        for name, value in given.items():
            assert not name.startswith("on"), f"{tag} {name}"
            if name in {"src", "href", "srcset", "action", "poster", "xlink:href", "data"}:
                to_the_site = (tag, name, value) == ("a", "href", "./")
                assert to_the_site or (value or "").startswith(("data:", "#")), f"{tag} {name}"
    assert not re.search(r"https?://|//[a-z]|@import|url\(", re.sub("data:[^\"']*", "", page))
    assert "default-src 'none'" in page


def test_it_can_be_read_without_eyes(read):
    tags = [tag for tag, _ in read.elements]
    assert tags.count("h1") == 1 and tags.count("main") == 1 and tags.count("h2") == 8
    assert ("html", {"lang": "en"}) in read.elements
    ids = [given["id"] for _, given in read.elements if "id" in given]
    assert len(ids) == len(set(ids))
    for tag, given in read.elements:
        if tag == "img":
            assert given.get("alt")
        if tag == "svg":
            assert given.get("aria-label") or given.get("aria-hidden") == "true"
        if "aria-labelledby" in given:
            assert given["aria-labelledby"] in ids
    labelled = {given["for"] for tag, given in read.elements if tag == "label"}
    inputs = [given["id"] for tag, given in read.elements if tag == "input"]
    assert set(inputs) == labelled and len(inputs) == 4 + 9
    checked = [given for tag, given in read.elements if tag == "input" and "checked" in given]
    assert [given["name"] for given in checked] == ["bits", "strength"]
    assert tags.count("legend") == tags.count("fieldset") == 2


def test_names_cannot_become_html(backend):
    hostile = '"><script>alert(1)</script>'
    tale = told(backend)
    labels = (hostile, *tale.ladder.labels[1:])
    tale = replace(tale, name=hostile, ladder=replace(tale.ladder, labels=labels),
                   facts=((hostile, hostile),))  # fmt: skip
    assert "<script>" not in story_html(tale)


def test_of_another_checkpoint_there_is_no_story(backend, random_checkpoint, monkeypatch):
    assert story_of(random_checkpoint) == ""
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="at most 1000 bytes"):
        story_of(backend.checkpoint(backend.default))
