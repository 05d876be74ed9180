"""Checkpoints from the hub and from the operator's disk, in the page: offered, loaded, bounded."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub.constants as constants
import pytest
import torch

gr = pytest.importorskip("gradio")

from gradio_client import Client  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402
from hub_server import REVISION, Hub, point_to, serve_hub  # noqa: E402
from test_original_sizes import random_state, tiny  # noqa: E402

from ditas_core.bench.pages import until  # noqa: E402
from ditas_core.calibration import Calibration  # noqa: E402
from ditas_core.checkpoints import (  # noqa: E402
    Checkpoint,
    CheckpointError,
    Machine,
    fingerprint,
    from_original,
    load_checkpoint,
    transfer,
    weigh,
    write_state,
)
from ditas_core.checkpoints.pickled_folder import convert_folder  # noqa: E402
from ditas_core.checkpoints.preflight import WORKING  # noqa: E402
from ditas_core.conversion import quantize_transformer  # noqa: E402
from ditas_core.search import SearchSpec, plain_recipe, search  # noqa: E402
from ditas_core.specs import BitWidths, CalibrationSpec, SamplingSpec  # noqa: E402
from ditas_core.ui import bench as bench_module  # noqa: E402
from ditas_core.ui import build_app, copies, launch_options, read_options  # noqa: E402
from ditas_core.ui.bench import Bench, Choice, Model  # noqa: E402
from ditas_core.ui.cache import size_of  # noqa: E402
from ditas_core.ui.catalogue import find_checkpoints  # noqa: E402
from ditas_core.ui.copies import INJECTED, QUANTIZED  # noqa: E402
from ditas_core.ui.desk import Desk  # noqa: E402
from ditas_core.ui.jobs.breaking import quantizing  # noqa: E402
from ditas_core.ui.jobs.comparing import CompareJob, run_comparison  # noqa: E402
from ditas_core.ui.jobs.injecting import Setting, inject_live  # noqa: E402
from ditas_core.ui.jobs.loading import load  # noqa: E402
from ditas_core.ui.parts.running import Progress  # noqa: E402
from ditas_core.ui.parts.setup import setup_notice  # noqa: E402
from ditas_core.ui.results import DITAS, PLAIN  # noqa: E402
from ditas_core.ui.takeaway.gather import gather  # noqa: E402
from ditas_core.ui.takeaway.snippet import load_code  # noqa: E402
from ditas_core.ui.views.overview import card  # noqa: E402

HUB = "facebook/DiT-XL-2-256"
HEAVY = "transformer/diffusion_pytorch_model.bin"
SHORT = CalibrationSpec(SamplingSpec(steps=2), samples=1, tokens=4)


def bar(key: str) -> tuple[Any, ...]:
    """The bar's nine values."""
    return (key, "W4A8", 4, 8, "integer", DITAS, False, 60, False)


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
def bench(folder: Path) -> Bench:
    """The tiny local folder, and both hub ids with the operator's leave."""
    names = [str(folder), HUB, "facebook/DiT-XL-2-512"]
    return Bench(find_checkpoints(folder / "no-assets", names), SHORT)


@pytest.fixture
def url(bench: Bench) -> Iterator[str]:
    demo = build_app(bench)
    _, url, _ = demo.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options()
    )
    yield url
    demo.close()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is really loaded from now on."""
    seen: list[str] = []

    def count(source: Any, **options: Any) -> Checkpoint:
        seen.append(str(source))
        return load_checkpoint(source, **options)

    monkeypatch.setattr(bench_module, "load_checkpoint", count)
    return seen


# the picker


def test_the_picker_says_size_licence_and_revision() -> None:
    for repo, revision in ((HUB, "eab87f7"), ("facebook/DiT-XL-2-512", "101a3d4")):
        entry = find_checkpoints()[repo]
        label = f"{repo} · 3.3 GB to download · CC-BY-NC 4.0 · revision {revision}"
        assert entry.label == label and len(entry.revision) == 40


def test_what_the_operator_names_is_offered_and_nothing_else(folder: Path, tmp_path: Path) -> None:
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
    checkpoint = Bench(entries, SHORT).checkpoint(Model("original.pt"))
    assert checkpoint.fingerprint == fingerprint(from_original(state, heads=2))


def test_names_that_collide_are_told_apart(repository: Path, tmp_path: Path) -> None:
    places = [tmp_path / place / "model" for place in ("a", "b", "b/b", "assets")]
    for place in places:
        list(convert_folder(repository, place))
    *named, _ = map(str, places)
    entries = find_checkpoints(tmp_path / "assets", [*named, named[1]])
    names = {key: entry.source for key, entry in entries.items() if entry.local and not entry.half}
    assert names == {
        "model": str(places[3]), "a/model": named[0], "b/model": named[1], "b/model (2)": named[2],
    }  # fmt: skip
    for key, source in names.items():
        if key != "model":
            assert entries[f"{key} (bfloat16)"].source == source


def test_the_folder_one_stands_in_has_a_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert folder.name in find_checkpoints(tmp_path / "none", ["."])


def test_loads_that_start_together_share_the_bound(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for one and a bit: three visitors ask for three models at once."""
    names = ["one", "two", "three"]
    for name in names:
        list(convert_folder(repository, tmp_path / name))
    bench = Bench(find_checkpoints(tmp_path / "x", [str(tmp_path / n) for n in names]), SHORT)
    bench.cache.limit = int(1.2 * need_of(bench, "one").float32)
    under_way, most = [0], [0]

    def watched(*arguments: Any, **options: Any) -> Checkpoint:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        try:
            time.sleep(0.1)
            return load_checkpoint(*arguments, **options)
        finally:
            under_way[0] -= 1

    monkeypatch.setattr(bench_module, "load_checkpoint", watched)
    threads = [threading.Thread(target=bench.checkpoint, args=(Model(n),)) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most[0] == 1


def test_a_lender_on_the_hub_is_not_fetched_by_a_visitor(hub: Hub, tmp_path: Path) -> None:
    weights = tmp_path / "original.pt"
    write_state(weights, random_state(tiny()))
    page = Bench(find_checkpoints(tmp_path / "none", [HUB, str(weights)], HUB), SHORT)
    with pytest.raises(CheckpointError, match="ditas_core info facebook/DiT-XL-2-256"):
        page.checkpoint(Model("original.pt"))
    assert hub.asked == []
    *_, _ = load(page, Model(HUB))
    assert page.checkpoint(Model("original.pt")).latent_shape == (4, 8, 8)


MISTAKES = ["/no/such/folder", "someone/theirs", f"{HUB}@main", "x" * 5_000, "\0"]


@pytest.mark.parametrize("name", MISTAKES, ids=range(len(MISTAKES)))
def test_the_operators_mistakes_are_said(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read_options(["--checkpoint", name])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "expected a folder, a weight file or a hub id" in said or "expected a commit" in said
    assert "Traceback" not in said


def test_without_the_operators_leave_nothing_is_fetched(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Bench(find_checkpoints(folder.parent / "none", [str(folder)]), SHORT)
    assert HUB in closed.entries
    choice = Choice(Model(HUB), BitWidths(4, 8), "integer")
    assert "not offered by this page" in setup_notice(closed, Desk("x"), choice)
    for ask in (lambda: list(load(closed, Model(HUB))), lambda: closed.checkpoint(Model(HUB))):
        with pytest.raises(CheckpointError, match=r"python app\.py --checkpoint facebook/DiT-XL-2"):
            ask()
    assert hub.asked == []


# the job


def test_a_hub_checkpoint_is_loaded_with_progress_and_used(
    hub: Hub, bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", 0.5)
    hub.faults[HEAVY] = ["stall"]  # long enough for a line about it
    choice = Choice(Model(HUB), BitWidths(4, 8), "integer")
    assert "not loaded yet" in setup_notice(bench, Desk("x"), choice)
    assert "3.3 GB to download" in card(bench, choice)
    job = Client(url, verbose=False).submit(*bar(HUB), api_name="/load")
    job.result(timeout=60)
    lines = [output[0] for output in job.outputs()]
    assert "is loaded" in lines[-1]
    assert any("1 of 3 · Downloading" in line and " MB of " in line for line in lines)
    assert hub.requests("GET", HEAVY) and not bench.fetching.locked()
    assert bench.is_loaded(Model(HUB))
    assert "not measured yet" in setup_notice(bench, Desk("x"), choice)
    assert "16 px, 5 classes" in card(bench, choice) and "CC-BY-NC 4.0" in card(bench, choice)
    *_, calibration = bench.calibrated(Model(HUB), SHORT)
    assert isinstance(calibration, Calibration) and bench.atlas(Model(HUB)) is not None
    # gone from the cache: read from disk again, nothing is asked of the hub
    bench.cache.entries.clear()
    asked = len(hub.asked)
    assert bench.checkpoint(Model(HUB)).name == HUB and len(hub.asked) == asked


def test_every_stage_has_its_words(hub: Hub, bench: Bench) -> None:
    events = list(load(bench, Model(HUB)))
    assert isinstance(events.pop(), Checkpoint)
    told = [event for event in events if isinstance(event, Progress)]
    assert len(told) == len(events) and all(0 <= event.fraction <= 1 for event in told)
    parts = [event.part for event in told]
    assert parts == sorted(parts) and set(parts) == {(1, 3), (2, 3), (3, 3)}
    assert told[0].text.startswith("Asking the hub")
    assert any(event.text.startswith("Converting to safetensors: ") for event in told)


def test_two_visitors_at_once_load_once(
    hub: Hub, bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch)
    jobs = [Client(url, verbose=False).submit(*bar(HUB), api_name="/load") for _ in range(2)]
    for job in jobs:
        assert "is loaded" in job.result(timeout=60)[0]
    assert seen == [HUB] and len(hub.requests("GET", HEAVY)) == 1


def test_even_past_the_line_it_is_loaded_once(
    hub: Hub, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, found = counted(monkeypatch), []

    def work() -> None:
        *_, checkpoint = load(bench, Model(HUB))
        found.append(checkpoint)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4 and all(each is found[0] for each in found)
    assert seen == [HUB] and len(hub.requests("GET", HEAVY)) == 1


def test_cancel_stops_a_download_and_load_goes_on_from_there(
    hub: Hub, bench: Bench, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even while the hub says nothing: after one silence, which is 4 s in earnest."""
    monkeypatch.setattr(transfer, "TIMEOUT", 2.0)
    hub.faults[HEAVY] = ["stall"] * 9
    client = Client(url, verbose=False)
    job = client.submit(*bar(HUB), api_name="/load")
    parts = partial(tmp_path.rglob, "*.bin.*.part")
    until(lambda: any(part.stat().st_size > 100_000 for part in parts()))
    assert not bench.line.locked(), "a download holds up no computation"
    job.cancel()
    until(lambda: not bench.fetching.locked())
    assert not bench.is_loaded(Model(HUB))
    (part,) = tmp_path.rglob("*.part")
    arrived = part.stat().st_size
    assert arrived > 100_000
    hub.faults.clear()
    assert "is loaded" in client.submit(*bar(HUB), api_name="/load").result(timeout=60)[0]
    assert hub.requests("GET", HEAVY)[-1]["range"] == f"bytes={arrived}-"


def test_what_the_hub_refuses_is_said_and_the_line_is_free(
    hub: Hub, bench: Bench, url: str
) -> None:
    client = Client(url, verbose=False)
    for status, words in ((401, "gated"), (404, "no such repository"), (418, "got 418")):
        hub.faults[f"HEAD {HEAVY}"] = [status]
        with pytest.raises(AppError, match=words):
            client.predict(*bar(HUB), api_name="/load")
        assert not bench.fetching.locked()


# room


def need_of(bench: Bench, key: str) -> Any:
    return weigh(bench.entries[key].source)


def test_what_does_not_fit_is_refused_and_bfloat16_is_offered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = need_of(bench, "mine")
    assert need.bfloat16 < need.float32
    bench.cache.entries.clear()  # the page opens on it
    kept = bench.cache.put("kept", torch.zeros(10))
    bench.cache.limit = (need.bfloat16 + need.float32) // 2
    seen = counted(monkeypatch)
    with pytest.raises(CheckpointError, match=r"mine: needs .* choose its bfloat16 entry"):
        bench.checkpoint(Model("mine"))
    assert seen == [] and bench.cache.get("kept") is kept, "nobody had to go for it"
    half = bench.checkpoint(Model("mine (bfloat16)"))
    assert {p.dtype for p in half.transformer.parameters()} == {torch.bfloat16}
    assert bench.cache.nbytes <= bench.cache.limit
    bench.cache.limit = need.bfloat16 // 2
    with pytest.raises(CheckpointError, match="a smaller checkpoint or a larger machine"):
        bench.checkpoint(Model("mine"))


def test_the_hubs_models_are_weighed_before_the_download(hub: Hub, bench: Bench) -> None:
    bench.cache.limit = 2**20
    with pytest.raises(CheckpointError, match="MB are free"):
        list(load(bench, Model(HUB)))
    assert not [path for method, path, _ in hub.asked if method == "GET"]


def test_models_share_one_bound(hub: Hub, bench: Bench) -> None:
    """Three models in turn where there is room for two: the oldest goes before the next comes."""
    size = need_of(bench, "mine").float32
    other = 5_000_000
    bench.cache.limit = size + other
    keys = [HUB, "facebook/DiT-XL-2-512", "mine"]
    for key in keys:
        bench.cache.put(("filler", key), torch.zeros(other // 5))
        with closing(load(bench, Model(key))) as events:  # type: ignore[type-var]
            for _ in events:
                assert bench.cache.nbytes <= bench.cache.limit
        assert bench.is_loaded(Model(key))
        assert bench.cache.nbytes <= bench.cache.limit
    assert bench.cache.get(("filler", keys[0])) is None, "the oldest has gone"


def test_copies_are_weighed_before_they_are_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Injected and quantized ones are float32: of a model in bfloat16 twice its size."""
    model = Model("mine (bfloat16)")
    base = bench.checkpoint(model)
    bench.cache.put("another", torch.zeros(2_500_000))
    numbers = sum(parameter.numel() for parameter in base.transformer.parameters())
    choice = Choice(model, BitWidths(8, 8), "integer")
    recipe = plain_recipe(base, choice.bits, choice.convention)
    job = CompareJob(choice, (PLAIN,), base.class_names[:1], 0, SHORT.sampling, SHORT)
    setting = Setting(choice.bits, choice.convention, sampling=SHORT.sampling)
    *_, calibration = bench.calibrated(model, SHORT)
    assert isinstance(calibration, Calibration)
    asked: list[tuple[int, Callable[[], object]]] = [
        (INJECTED, lambda: bench.checkpoint(replace(model, strength=8.0))),
        (QUANTIZED, lambda: list(run_comparison(bench, Desk("x"), job))),
        (QUANTIZED, lambda: list(quantizing(bench, choice, recipe, calibration, (1, 1)))),
        (INJECTED + QUANTIZED, lambda: list(inject_live(bench, model, SHORT, setting, 1))),
    ]
    for each, ask in asked:
        others = bench.cache.nbytes - size_of(base)
        little = Machine(memory=each * numbers + WORKING - others - 100_000)
        monkeypatch.setattr(copies, "this_machine", lambda _, little=little: little)
        with pytest.raises(CheckpointError, match=r"cop(y|ies) of mine.* needs .* are free"):
            ask()
        assert bench.cache.get("another") is not None, "nobody had to go for it"
    enough = Machine(memory=4 * numbers + WORKING - 5_000_000)
    monkeypatch.setattr(copies, "this_machine", lambda _: enough)
    injected = bench.checkpoint(replace(model, strength=8.0))
    assert {p.dtype for p in injected.transformer.parameters()} == {torch.float32}
    assert bench.cache.get("another") is None and bench.checkpoint(model) is base


def test_a_model_in_bfloat16_goes_through_everything(bench: Bench) -> None:
    model = Model("mine (bfloat16)")
    *_, calibration = bench.calibrated(model, SHORT)
    checkpoint = bench.checkpoint(model)
    recipe = search(checkpoint, calibration, SearchSpec(BitWidths(4, 8)))
    quantized = quantize_transformer(checkpoint, recipe, calibration)
    x = torch.randn(1, *checkpoint.latent_shape, generator=torch.Generator().manual_seed(0))
    arguments = {"timestep": torch.tensor([500]), "class_labels": torch.tensor([3])}
    with torch.no_grad():
        full = checkpoint.transformer(x.bfloat16(), **arguments).sample.float()
        found = quantized(x, **arguments).sample
    assert {p.dtype for p in quantized.parameters()} == {torch.float32}
    injected = bench.checkpoint(Model("mine (bfloat16)", 8.0)).transformer
    with torch.no_grad():
        louder = injected(x, **arguments).sample
    assert (louder - full).norm() < 0.02 * full.norm(), "the same function"
    assert (found - full).norm() < 0.5 * full.norm()


def test_the_program_on_view_loads_the_same(bench: Bench, folder: Path, tmp_path: Path) -> None:
    """What the Take away tab prints: the precision, and what lends a file its autoencoder."""
    weights = tmp_path / "original.pt"
    write_state(weights, random_state(tiny()))
    named = [str(weights), f"someone/theirs@{REVISION}"]
    bench.entries |= find_checkpoints(tmp_path / "none", named, str(folder))
    for key, code in (
        ("mine", 'load_checkpoint("mine")'),
        ("mine (bfloat16)", 'load_checkpoint("mine", dtype=torch.bfloat16)'),
        ("original.pt", 'load_checkpoint("original.pt", like="mine")'),
        (f"someone/theirs@{REVISION}", f'load_checkpoint("someone/theirs@{REVISION}")'),
    ):
        taken = gather(bench, Desk("x"), Choice(Model(key), BitWidths(4, 8), "integer"))
        assert code in load_code(taken)[0] and str(tmp_path) not in load_code(taken)[0]


# uploads


def test_uploads_are_off(bench: Bench, url: str) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="x.pt"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\nabc\r\n--b--\r\n"
    )
    request = urllib.request.Request(
        f"{url}gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=b"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert caught.value.code in (404, 413)
    demo = build_app(bench)
    takes = (gr.File, gr.UploadButton, gr.FileExplorer, gr.ImageEditor, gr.Video, gr.Audio)
    accepting = [b for b in demo.blocks.values() if isinstance(b, takes) and b.interactive]
    images = [b for b in demo.blocks.values() if isinstance(b, gr.Image | gr.Gallery)]
    assert accepting == [] and not [b for b in images if b.interactive]
