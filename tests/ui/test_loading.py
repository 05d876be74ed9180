"""Checkpoints from the hub and from the operator's disk, in the page: offered, loaded, bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import huggingface_hub.constants as constants
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError
from hub_server import REVISION, Hub, point_to, serve_hub
from test_original_sizes import random_state, tiny

from ditas_core.bench.pages import until
from ditas_core.calibration import Calibration
from ditas_core.checkpoints import (
    Checkpoint,
    CheckpointError,
    Machine,
    fingerprint,
    from_original,
    loading_need,
    write_state,
)
from ditas_core.checkpoints.hub import transfer
from ditas_core.checkpoints.hub.pickled_folder import convert_folder
from ditas_core.checkpoints.preflight import WORKING
from ditas_core.search import plain_recipe
from ditas_core.specs import BitWidths, CalibrationSpec, SamplingSpec
from ditas_core.ui import build_app, read_options
from ditas_core.ui.page.bar import setup_notice
from ditas_core.ui.stored.catalogue import find_checkpoints
from ditas_core.ui.stored.results import PLAIN
from ditas_core.ui.tabs.breaking.job import quantizing
from ditas_core.ui.tabs.compare.job import CompareJob, run_comparison
from ditas_core.ui.tabs.injector.job import Setting, inject_live
from ditas_core.ui.tabs.overview.draw import card
from ditas_core.ui.tabs.takeaway.gather import gather
from ditas_core.ui.tabs.takeaway.snippet import load_code
from ditas_core.ui.visitors import copies
from ditas_core.ui.visitors.backend import Backend, Choice, Model
from ditas_core.ui.visitors.cache import size_of
from ditas_core.ui.visitors.copies import INJECTED, QUANTIZED
from ditas_core.ui.visitors.loading import load
from ditas_core.ui.visitors.running import Progress
from ditas_core.ui.visitors.session import Session

from .conftest import HUB, at_once, bar, launched, watch

HEAVY = "transformer/diffusion_pytorch_model.bin"
LOADING = "ui.visitors.entries.load_checkpoint"
SHORT = CalibrationSpec(SamplingSpec(steps=2), samples=1, tokens=4)


@pytest.fixture
def hub(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(transfer, "CHUNK", 10_000)
    with serve_hub(repository) as hub:
        point_to(hub, monkeypatch)
        yield hub


@pytest.fixture
def folder(repository: Path, tmp_path: Path) -> Path:
    """The same checkpoint as a local folder."""
    list(convert_folder(repository, tmp_path / "mine"))
    return tmp_path / "mine"


@pytest.fixture
def backend(folder: Path) -> Backend:
    """The tiny local folder, and both hub ids with the operator's leave."""
    names = [str(folder), HUB, "facebook/DiT-XL-2-512"]
    return Backend(find_checkpoints(folder / "no-assets", names), SHORT)


@pytest.fixture
def url(backend: Backend) -> Iterator[str]:
    with launched(build_app(backend)) as url:
        yield url


def test_the_picker_says_size_licence_and_revision():
    for repo, revision in ((HUB, "eab87f7"), ("facebook/DiT-XL-2-512", "101a3d4")):
        entry = find_checkpoints()[repo]
        label = f"{repo} · 3.3 GB to download · CC-BY-NC 4.0 · revision {revision}"
        assert entry.label == label and len(entry.revision) == 40


def test_what_the_operator_names_is_offered_and_nothing_else(folder, tmp_path):
    weights = tmp_path / "original.pt"
    state = random_state(tiny())
    write_state(weights, state)
    named = [str(folder), str(weights), f"someone/theirs@{REVISION}", HUB]
    arguments = [part for name in named for part in ("--checkpoint", name)]
    entries = read_options([*arguments, "--like", str(folder)])
    mine = ["mine", "original.pt", f"someone/theirs@{REVISION}", HUB]
    for key in mine:
        assert entries[key].in_half == entries[f"{key} (bfloat16)"]
    assert {key for key, entry in entries.items() if entry.allowed} == {
        f"{key}{half}" for key in mine[2:] for half in ("", " (bfloat16)")
    }
    assert not entries["facebook/DiT-XL-2-512"].allowed
    checkpoint = Backend(entries, SHORT).checkpoint(Model("original.pt"))
    assert checkpoint.fingerprint == fingerprint(from_original(state, heads=2))


def test_names_that_collide_are_told_apart(repository, tmp_path):
    places = [tmp_path / place / "model" for place in ("a", "b", "b/b", "assets")]
    for place in places:
        list(convert_folder(repository, place))
    *named, _ = map(str, places)
    entries = find_checkpoints(tmp_path / "assets", [*named, named[1]])
    names = {key: entry.source for key, entry in entries.items() if entry.local and not entry.half}
    twin = names.pop(next(key for key in names if "injected outliers" in key))
    assert twin == str(places[3])
    assert names == {
        "model": str(places[3]), "a/model": named[0], "b/model": named[1], "b/model (2)": named[2],
    }  # fmt: skip
    for key, source in names.items():
        if key != "model":
            assert entries[f"{key} (bfloat16)"].source == source


def test_the_folder_one_stands_in_has_a_name(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    assert folder.name in find_checkpoints(tmp_path / "none", ["."])


def test_loads_that_start_together_share_the_bound(repository, tmp_path, monkeypatch):
    """Room for one and a bit: three visitors ask for three models at once."""
    names = ["one", "two", "three"]
    for name in names:
        list(convert_folder(repository, tmp_path / name))
    backend = Backend(find_checkpoints(tmp_path / "x", [str(tmp_path / n) for n in names]), SHORT)
    backend.cache.limit = int(1.2 * need_of(backend, "one").float32)
    loads = watch(monkeypatch, LOADING, 0.1)
    at_once(backend.checkpoint, [Model(name) for name in names])
    assert loads.most == 1 and len(loads.asked) >= 2


def test_a_lender_on_the_hub_is_not_fetched_by_a_visitor(hub, tmp_path):
    weights = tmp_path / "original.pt"
    write_state(weights, random_state(tiny()))
    page = Backend(find_checkpoints(tmp_path / "none", [HUB, str(weights)], HUB), SHORT)
    with pytest.raises(CheckpointError, match="ditas_core info facebook/DiT-XL-2-256"):
        page.checkpoint(Model("original.pt"))
    assert hub.asked == []
    *_, _ = load(page, Model(HUB))
    assert page.checkpoint(Model("original.pt")).latent_shape == (4, 8, 8)


MISTAKES = ["/no/such/folder", "someone/theirs", f"{HUB}@main", "x" * 5_000, "\0"]


@pytest.mark.parametrize("name", MISTAKES, ids=range(len(MISTAKES)))
def test_the_operators_mistakes_are_said(name, capsys):
    with pytest.raises(SystemExit) as caught:
        read_options(["--checkpoint", name])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "expected a folder, a weight file or a hub id" in said or "expected a commit" in said
    assert "Traceback" not in said


def test_without_the_operators_leave_nothing_is_fetched(hub, folder, monkeypatch):
    closed = Backend(find_checkpoints(folder.parent / "none", [str(folder)]), SHORT)
    assert HUB in closed.entries
    choice = Choice(Model(HUB), BitWidths(4, 8), "integer")
    assert "not offered by this page" in setup_notice(closed, Session("x"), choice)
    for ask in (lambda: list(load(closed, Model(HUB))), lambda: closed.checkpoint(Model(HUB))):
        with pytest.raises(CheckpointError, match=r"python app\.py --checkpoint facebook/DiT-XL-2"):
            ask()
    assert hub.asked == []


def test_a_hub_checkpoint_is_loaded_with_progress_and_used(hub, backend, url, monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT", 0.5)
    hub.faults[HEAVY] = ["stall"]  # long enough for a line about it
    choice = Choice(Model(HUB), BitWidths(4, 8), "integer")
    assert "not loaded yet" in setup_notice(backend, Session("x"), choice)
    assert "3.3 GB to download" in card(backend, choice)
    job = Client(url, verbose=False).submit(*bar(HUB), api_name="/load")
    job.result(timeout=60)
    lines = [output[0] for output in job.outputs()]
    assert "is loaded" in lines[-1]
    assert any("1 of 3 · Downloading" in line and " MB of " in line for line in lines)
    assert hub.requests("GET", HEAVY) and not backend.fetching.locked()
    assert backend.is_loaded(Model(HUB))
    assert "not measured yet" in setup_notice(backend, Session("x"), choice)
    assert "16 px, 5 classes" in card(backend, choice) and "CC-BY-NC 4.0" in card(backend, choice)
    *_, calibration = backend.calibrated(Model(HUB), SHORT)
    assert isinstance(calibration, Calibration) and backend.atlas(Model(HUB)) is not None
    # gone from the cache: read from disk again, nothing is asked of the hub
    backend.cache.entries.clear()
    asked = len(hub.asked)
    assert backend.checkpoint(Model(HUB)).name == HUB and len(hub.asked) == asked


def test_every_stage_has_its_words(hub, backend):
    events = list(load(backend, Model(HUB)))
    assert isinstance(events.pop(), Checkpoint)
    told = [event for event in events if isinstance(event, Progress)]
    assert len(told) == len(events) and all(0 <= event.fraction <= 1 for event in told)
    parts = [event.part for event in told]
    assert parts == sorted(parts) and set(parts) == {(1, 3), (2, 3), (3, 3)}
    assert told[0].text.startswith("Asking the hub")
    assert any(event.text.startswith("Converting to safetensors: ") for event in told)


def test_even_past_the_line_it_is_loaded_once(hub, backend, monkeypatch):
    loads = watch(monkeypatch, LOADING)
    found = at_once(lambda _: list(load(backend, Model(HUB)))[-1], range(4))
    assert all(each is found[0] for each in found)
    assert [str(source) for source, *_ in loads.asked] == [HUB] and len(
        hub.requests("GET", HEAVY)
    ) == 1


def test_cancel_stops_a_download_and_load_goes_on_from_there(
    hub, backend, url, tmp_path, monkeypatch
):
    """Even while the hub says nothing: after one silence, which is 4 s in earnest."""
    monkeypatch.setattr(transfer, "TIMEOUT", 2.0)
    hub.faults[HEAVY] = ["stall"] * 9
    client = Client(url, verbose=False)
    job = client.submit(*bar(HUB), api_name="/load")
    parts = partial(tmp_path.rglob, "*.bin.*.part")
    until(lambda: any(part.stat().st_size > 100_000 for part in parts()))
    assert not backend.queue.locked(), "a download holds up no computation"
    job.cancel()
    until(lambda: not backend.fetching.locked())
    assert not backend.is_loaded(Model(HUB))
    (part,) = tmp_path.rglob("*.part")
    arrived = part.stat().st_size
    assert arrived > 100_000
    hub.faults.clear()
    assert "is loaded" in client.submit(*bar(HUB), api_name="/load").result(timeout=60)[0]
    assert hub.requests("GET", HEAVY)[-1]["range"] == f"bytes={arrived}-"


def test_what_the_hub_refuses_is_said_and_the_line_is_free(hub, backend, url):
    client = Client(url, verbose=False)
    for status, words in ((401, "gated"), (404, "no such repository"), (418, "got 418")):
        hub.faults[f"HEAD {HEAVY}"] = [status]
        with pytest.raises(AppError, match=words):
            client.predict(*bar(HUB), api_name="/load")
        assert not backend.fetching.locked()


def need_of(backend: Backend, key: str) -> Any:
    return loading_need(backend.entries[key].source)


def test_what_does_not_fit_is_refused_and_bfloat16_is_offered(backend, monkeypatch):
    need = need_of(backend, "mine")
    assert need.bfloat16 < need.float32
    backend.cache.entries.clear()  # the page opens on it
    kept = backend.cache.put("kept", torch.zeros(10))
    backend.cache.limit = (need.bfloat16 + need.float32) // 2
    loads = watch(monkeypatch, LOADING)
    with pytest.raises(CheckpointError, match=r"mine: needs .* choose its bfloat16 entry"):
        backend.checkpoint(Model("mine"))
    assert not loads.asked and backend.cache.get("kept") is kept, "nobody had to go for it"
    half = backend.checkpoint(Model("mine (bfloat16)"))
    assert {p.dtype for p in half.transformer.parameters()} == {torch.bfloat16}
    assert backend.cache.nbytes <= backend.cache.limit
    backend.cache.limit = need.bfloat16 // 2
    with pytest.raises(CheckpointError, match="a smaller checkpoint or a larger machine"):
        backend.checkpoint(Model("mine"))


def test_the_hubs_models_are_weighed_before_the_download(hub, backend):
    backend.cache.limit = 2**20
    with pytest.raises(CheckpointError, match="MB are free"):
        list(load(backend, Model(HUB)))
    assert not [path for method, path, _ in hub.asked if method == "GET"]


def test_models_share_one_bound(hub, backend):
    """Three models in turn where there is room for two: the oldest goes before the next comes."""
    size = need_of(backend, "mine").float32
    other = 5_000_000
    backend.cache.limit = size + other
    keys = [HUB, "facebook/DiT-XL-2-512", "mine"]
    for key in keys:
        backend.cache.put(("filler", key), torch.zeros(other // 5))
        for _ in load(backend, Model(key)):
            assert backend.cache.nbytes <= backend.cache.limit
        assert backend.is_loaded(Model(key))
        assert backend.cache.nbytes <= backend.cache.limit
    assert backend.cache.get(("filler", keys[0])) is None, "the oldest has gone"


def test_copies_are_weighed_before_they_are_made(backend, monkeypatch):
    """Injected and quantized ones are float32: of a model in bfloat16 twice its size."""
    model = Model("mine (bfloat16)")
    base = backend.checkpoint(model)
    backend.cache.put("another", torch.zeros(2_500_000))
    numbers = sum(parameter.numel() for parameter in base.transformer.parameters())
    choice = Choice(model, BitWidths(8, 8), "integer")
    recipe = plain_recipe(base, choice.bits, choice.convention)
    job = CompareJob(choice, (PLAIN,), base.class_names[:1], 0, SHORT.sampling, SHORT)
    setting = Setting(choice.bits, choice.convention, sampling=SHORT.sampling)
    *_, calibration = backend.calibrated(model, SHORT)
    asked = [
        (INJECTED, lambda: backend.checkpoint(replace(model, strength=8.0))),
        (QUANTIZED, lambda: list(run_comparison(backend, Session("x"), job))),
        (QUANTIZED, lambda: list(quantizing(backend, choice, recipe, calibration, (1, 1)))),
        (INJECTED + QUANTIZED, lambda: list(inject_live(backend, model, SHORT, setting, 1))),
    ]
    made = watch(monkeypatch, "ui.visitors.backend.inject_outliers")
    for each, ask in asked:
        others = backend.cache.nbytes - size_of(base)
        little = Machine(memory=each * numbers + WORKING - others - 100_000)
        monkeypatch.setattr(copies, "this_machine", lambda _, little=little: little)
        with pytest.raises(CheckpointError, match=r"cop(y|ies) of mine.* needs .* are free"):
            ask()
        assert backend.cache.get("another") is not None, "nobody had to go for it"
    assert not made.asked
    enough = Machine(memory=4 * numbers + WORKING - 5_000_000)
    monkeypatch.setattr(copies, "this_machine", lambda _: enough)
    injected = backend.checkpoint(replace(model, strength=8.0))
    assert {p.dtype for p in injected.transformer.parameters()} == {torch.float32}
    assert backend.cache.get("another") is None and backend.checkpoint(model) is base


@torch.no_grad()
def test_an_injected_copy_of_a_model_in_bfloat16_is_the_same_function(backend):
    base = backend.checkpoint(Model("mine (bfloat16)"))
    x = torch.randn(1, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    arguments = {"timestep": torch.tensor([500]), "class_labels": torch.tensor([3])}
    full = base.transformer(x.bfloat16(), **arguments).sample.float()
    injected = backend.checkpoint(Model("mine (bfloat16)", 8.0)).transformer
    assert (injected(x, **arguments).sample - full).norm() < 0.02 * full.norm()


def test_the_program_on_view_loads_the_same(backend, folder, tmp_path):
    """What the Take away tab prints: the precision, and what lends a file its autoencoder."""
    weights = tmp_path / "original.pt"
    write_state(weights, random_state(tiny()))
    named = [str(weights), f"someone/theirs@{REVISION}"]
    backend.entries |= find_checkpoints(tmp_path / "none", named, str(folder))
    for key, code in (
        ("mine", 'load_checkpoint("mine")'),
        ("mine (bfloat16)", 'load_checkpoint("mine", dtype=torch.bfloat16)'),
        ("original.pt", 'load_checkpoint("original.pt", like="mine")'),
        (f"someone/theirs@{REVISION}", f'load_checkpoint("someone/theirs@{REVISION}")'),
    ):
        taken = gather(backend, Session("x"), Choice(Model(key), BitWidths(4, 8), "integer"))
        assert code in load_code(taken)[0] and str(tmp_path) not in load_code(taken)[0]


def test_no_component_takes_files(backend):
    """And the server's gate is closed to them (tests/load)."""
    demo = build_app(backend)
    takes = (gr.File, gr.UploadButton, gr.FileExplorer, gr.ImageEditor, gr.Video, gr.Audio)
    accepting = [b for b in demo.blocks.values() if isinstance(b, takes) and b.interactive]
    images = [b for b in demo.blocks.values() if isinstance(b, gr.Image | gr.Gallery)]
    assert accepting == [] and not [b for b in images if b.interactive]
