"""The library in fourteen names: what is handed in stays as it is, what comes out draws."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from conftest import DEMO
from diffusers import DiTPipeline, DPMSolverMultistepScheduler
from diffusers.utils import is_transformers_available
from marks import thorough
from tiny_pipelines import (
    DDIM,
    Encoder,
    broken,
    dit,
    draw,
    embedded,
    pixart,
    sigma_class,
    state_of,
    tokenizer,
)
from tiny_pixart import SCHEDULE, save_tiny_pixart, tiny_captions

import ditas_core as ditas
from ditas_core.api.progress import fetching
from ditas_core.checkpoints import CheckpointError, Progress
from ditas_core.layers import QuantizedLinear
from ditas_core.search import SearchSpec, predicted_errors, search
from ditas_core.specs import BitWidths, RecipeError, SpecError

ROOT = Path(__file__).resolve().parents[1]
QUICK: dict[str, Any] = {"samples": 2, "steps": 2, "progress": False}


def test_the_package_alone_loads_nothing() -> None:
    code = (
        "import sys, ditas_core; print(dir(ditas_core)); heavy = 'torch diffusers gradio plotly';"
        "print([n for n in heavy.split() if n in sys.modules]);"
        "import ditas_core.search; ditas_core.quantize;"
        "print([n for n in sys.modules if n in ('gradio', 'plotly') or '.pipelines.' in n]);"
        "print(ditas_core.search.__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names, alone, used, search = done.stdout.strip().splitlines()
    assert all(repr(name) in names for name in ditas.__all__)
    assert (alone, used, search) == ("[]", "[]", "ditas_core.api.steps")
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        ditas.quantise  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", [*ditas.__all__, "Checkpoint.of_pipeline"])
def test_every_public_name_has_an_example_that_runs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    value = attrgetter(name)(ditas)
    (example,) = doctest.DocTestFinder(recurse=False).find(value, name, globs={})
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("made", [dit, pixart])
def test_a_checkpoint_of_a_pipeline_shares_its_weights(made: Any) -> None:
    pipeline, captions = made(), tiny_captions() if made is pixart else None
    before = state_of(pipeline)
    checkpoint = ditas.Checkpoint.of_pipeline(pipeline, captions)
    assert state_of(pipeline) == before and ditas.load(checkpoint) is checkpoint
    assert checkpoint.fingerprint == before[0] and not checkpoint.path.exists()
    ours, theirs = checkpoint.transformer, pipeline.transformer
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    assert all(a.data_ptr() == b.data_ptr() and not a.requires_grad for a, b in pairs)
    assert checkpoint.captions is captions
    assert checkpoint.class_names == (captions.names if captions else ("cat", "dog", "fox"))
    with pytest.raises(CheckpointError, match=r"expected a DiTPipeline, .* got Checkpoint"):
        ditas.Checkpoint.of_pipeline(checkpoint)
    other = tiny_captions() if captions is None else None
    with pytest.raises(CheckpointError, match=r"captions: expected (none|embedded captions)"):
        ditas.Checkpoint.of_pipeline(pipeline, other)


@pytest.mark.numeric
@pytest.mark.parametrize("scheduler", [DDIM, *thorough(DPMSolverMultistepScheduler(**SCHEDULE))])
def test_a_live_pipeline_stays_as_it_is_and_its_copy_draws(scheduler: Any) -> None:
    pipeline, calls, seen = dit(scheduler), [], list[tuple[str, int, int]]()
    pipeline.scheduler.set_timesteps(7)
    pipeline.transformer.requires_grad_(True)  # as from_pretrained leaves it
    pipeline.transformer.register_forward_hook(lambda *_: calls.append(1))
    before = state_of(pipeline)
    quantized, report = ditas.quantize(
        pipeline, "W8A8", samples=2, steps=2, progress=lambda *told: seen.append(told)
    )
    assert state_of(pipeline) == before and not calls
    full, rounded = draw(pipeline), draw(quantized)
    assert calls and 0 < (full - rounded).abs().mean() < 0.05
    assert type(quantized) is DiTPipeline and quantized.labels == pipeline.labels
    assert quantized.vae is pipeline.vae and quantized.scheduler is not pipeline.scheduler
    shared = {p.data_ptr() for p in pipeline.transformer.parameters()}
    own = [*quantized.transformer.parameters(), *quantized.transformer.buffers()]
    assert not shared & {x.data_ptr() for x in own if x.numel()}
    assert not any(x.requires_grad for x in own)
    told = any("DDIM" in note for note in report.notes)
    assert told == isinstance(scheduler, DPMSolverMultistepScheduler)
    for what in {what for what, _, _ in seen}:
        steps = [(done, total) for name, done, total in seen if name == what]
        assert steps == sorted(steps) and steps[-1][0] == steps[-1][1], what


@pytest.mark.numeric
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_training_are_left_alone(dtype: torch.dtype, tmp_path: Path) -> None:
    pipeline = dit().to(dtype)
    pipeline.transformer.train()
    before = state_of(pipeline)
    quantized, report = ditas.quantize(pipeline, "W8A8", method="search", alpha=(0.5,), **QUICK)
    assert state_of(pipeline) == before
    assert quantized.transformer.dtype == dtype and quantized.vae is pipeline.vae
    layers = [m for m in quantized.transformer.modules() if isinstance(m, QuantizedLinear)]
    assert {layer.scale.dtype for layer in layers} == {torch.float32}
    pipeline.transformer.eval()
    assert 0 < (draw(pipeline) - draw(quantized)).abs().mean() < 0.05
    assert any(str(dtype).removeprefix("torch.") in note for note in report.notes)
    assert report.bytes_before == sum(
        x.numel() * 2 for x in pipeline.transformer.state_dict().values()
    )
    loaded = ditas.load(ditas.save(quantized, tmp_path / "saved")).transformer.state_dict()
    for key, value in quantized.transformer.state_dict().items():
        assert torch.equal(loaded[key], value if value.dtype == torch.uint8 else value.float())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_pipeline_on_an_accelerator_stays_there() -> None:
    pipeline = dit().to("cuda", torch.float16)
    before = state_of(pipeline)
    quantized, _ = ditas.quantize(pipeline, "W8A8", **QUICK)
    assert state_of(pipeline) == before and quantized.transformer.device.type == "cuda"
    assert (draw(pipeline) - draw(quantized)).abs().mean() < 0.05
    assert ditas.compare(pipeline, quantized, steps=2, progress=False).summary["psnr_db"].mean > 20


@pytest.mark.numeric
def test_the_steps_apart_are_the_one_call(tmp_path: Path) -> None:
    pipeline = dit()
    quantized, report = ditas.quantize(pipeline, "W4A8", **QUICK)
    calibration = ditas.calibrate(pipeline, **QUICK)
    recipe = ditas.search(pipeline, calibration, "W4A8", progress=False)
    assert recipe == report.recipe
    apart = ditas.convert(pipeline, recipe, calibration, progress=False)
    images = draw(quantized)
    assert torch.equal(images, draw(apart))
    _, again = ditas.quantize(pipeline, recipe=recipe, calibration=calibration, progress=False)
    for row, known in zip(again.rows, report.rows, strict=True):
        assert row.error == pytest.approx(known.error, rel=1e-4)
    # from a folder it is the same, bit by bit, and once more
    folder = ditas.save(quantized, tmp_path / "saved")
    loaded = ditas.load(folder)
    state = loaded.transformer.state_dict()
    assert all(torch.equal(state[k], x) for k, x in quantized.transformer.state_dict().items())
    assert loaded.class_names == ("cat", "dog", "fox")
    drawing = ditas.pipeline(ditas.load(ditas.save(loaded, tmp_path / "twice")))
    drawing.set_progress_bar_config(disable=True)
    assert torch.equal(images, draw(drawing))
    file = folder / "transformer" / "quantized.safetensors"
    assert 0 <= file.stat().st_size - report.bytes_after < 50_000  # names and shapes
    with pytest.raises(FileExistsError):
        ditas.save(quantized, folder)
    paired = ditas.compare(pipeline, quantized, ["fox", 1], steps=2, progress=False)
    other = ditas.compare(pipeline, loaded, ["fox", 1], steps=2, progress=False)
    assert torch.equal(paired.quantized, other.quantized) and paired.names == ("fox", "dog")
    assert "latent SQNR" in str(paired) and paired.full.shape == (2, 3, 16, 16)
    assert paired.sheet().size == (32, 32) and "data:image/png" in paired._repr_html_()
    with pytest.raises(CheckpointError, match="got one of another model"):
        ditas.compare(DEMO, quantized, steps=2, progress=False)
    with pytest.raises(RecipeError, match="expected the 32 groups"):
        ditas.convert(DEMO, recipe, calibration, progress=False)


@pytest.mark.numeric
@pytest.mark.parametrize("made", [dit, pixart])
def test_a_quantized_folder_is_calibrated_compared_and_drawn_with(
    made: Any, tmp_path: Path
) -> None:
    pipeline, text = made(), made is pixart
    captions = tiny_captions() if text else None
    base = ditas.Checkpoint.of_pipeline(pipeline, captions)
    calibration = ditas.calibrate(base, **QUICK)
    recipe = ditas.search(base, calibration, "W4A8", method="smoothing", progress=False)
    quantized = ditas.convert(base, recipe, calibration, progress=False)
    folder = ditas.save(quantized, tmp_path / "saved")
    loaded = ditas.load(folder)
    again = ditas.calibrate(folder, **QUICK)
    assert again.checkpoint == loaded.fingerprint != calibration.checkpoint
    # the first layers see the same image: divided by s where that was folded, as it is elsewhere
    full, divided = (x.groups["0.qkv"].absmax[0] for x in (calibration, again))  # (2, C)
    factor = full / divided
    assert factor.std() > 0.1 if not text else factor.std() == 0  # as PixArt divides on the fly
    assert torch.allclose(*factor, rtol=1e-4)  # both halves by the same
    for what in ("search", "convert", "quantize"):
        given = {"search": (again,), "convert": (recipe, again), "quantize": ()}[what]
        with pytest.raises(CheckpointError, match="quantized already; go back to the one it was"):
            getattr(ditas, what)(loaded, *given, progress=untouched)
    paired = ditas.compare(base, folder, samples=2, steps=2, progress=False)
    assert torch.equal(
        paired.quantized, ditas.compare(base, loaded, samples=2, steps=2, progress=False).quantized
    )
    with pytest.raises(CheckpointError, match="model: expected one in full precision"):
        ditas.compare(folder, loaded, progress=untouched)
    before = loaded.fingerprint
    cls, parts = type(pipeline), {"tokenizer": None, "text_encoder": None} if text else {}
    schedule = type(pipeline.scheduler).from_config(loaded.scheduler)
    stock = cls(transformer=loaded.transformer, vae=loaded.vae, scheduler=schedule, **parts)
    stock.set_progress_bar_config(disable=True)
    images = draw(stock, **(embedded(captions) if captions else {}))
    own = cls(transformer=quantized.transformer, vae=base.vae, scheduler=schedule, **parts)
    own.set_progress_bar_config(disable=True)
    assert torch.equal(images, draw(own, **(embedded(captions) if captions else {})))
    assert loaded.fingerprint == before == ditas.Checkpoint.of_pipeline(stock).fingerprint
    assert ditas.load(ditas.save(stock, tmp_path / "twice")).fingerprint == before


@pytest.mark.numeric
def test_layers_can_have_bits_of_their_own() -> None:
    """In one call and apart, the search room's own; errors are those at the chosen bits; one given
    alpha leaves the bits."""
    pipeline = dit()
    given: dict[str, Any] = {"method": "mixed", "budget": 5.5}
    _, report = ditas.quantize(pipeline, "W4A8", **given, **QUICK)
    calibration = ditas.calibrate(pipeline, **QUICK)
    apart = ditas.search(pipeline, calibration, "W4A8", progress=False, **given)
    checkpoint = ditas.load(pipeline)
    spec = SearchSpec(BitWidths(4, 8), method="mixed", budget=5.5)
    assert report.recipe == apart == search(checkpoint, calibration, spec)
    assert len(apart.bits) > 1
    for row, one in zip(report.rows, predicted_errors(checkpoint, calibration, apart), strict=True):
        assert row.error == pytest.approx(one.error, rel=1e-4)
    fixed = ditas.search(pipeline, calibration, "W4A8", alpha=0.5, progress=False, **given)
    assert {layer.alpha for layer in fixed.layers.values()} == {0.5} and len(fixed.bits) > 1


@pytest.mark.numeric
def test_the_objective_can_be_influence() -> None:
    """In one call, apart, and on a calibration that holds it already: the same alphas, which are
    the search room's own; errors in the report stay those of the output."""
    pipeline, told = dit(), []
    given: dict[str, Any] = {"method": "search", "objective": "influence"}
    options = {**QUICK, "progress": lambda what, *_: told.append(what)}
    _, report = ditas.quantize(pipeline, "W4A6", **given, **options)
    assert list(dict.fromkeys(told)) == [
        "calibrating", "measuring influence", "searching W4A6", "measuring", "quantizing",
    ]  # fmt: skip
    assert report.recipe is not None and report.recipe.objective == "influence"
    assert set(report.seconds) == {"calibration", "influence", "search", "conversion"}

    bare = ditas.calibrate(pipeline, **QUICK)
    assert bare.influence is None
    apart = ditas.search(pipeline, bare, "W4A6", progress=False, **given)
    held = ditas.calibrate(pipeline, influence=4, **QUICK)
    assert held.influence is not None and held.influence.samples == 4
    told.clear()
    known = ditas.search(
        pipeline, held, "W4A6", progress=lambda what, *_: told.append(what), **given
    )
    assert set(told) == {"searching W4A6"}, "nothing is measured again"
    checkpoint = ditas.load(pipeline)
    spec = SearchSpec(BitWidths(4, 6), method="search", objective="influence")
    assert report.recipe == apart == known == search(checkpoint, held, spec)

    output = ditas.search(pipeline, held, "W4A6", method="search", progress=False)
    assert output.objective == "output" and output.layers != known.layers
    errors = predicted_errors(checkpoint, held, report.recipe)
    for row, one in zip(report.rows, errors, strict=True):
        assert row.error == pytest.approx(one.error, rel=1e-4)
    told.clear()
    given["method"] = "plain"
    plain = ditas.search(pipeline, bare, progress=lambda what, *_: told.append(what), **given)
    assert plain.objective == "output" and set(told) == {"searching W4A8"}
    quantized = ditas.convert(pipeline, apart, bare, progress=False)
    with pytest.raises(CheckpointError, match="quantized already"):
        ditas.calibrate(quantized, influence=4, progress=untouched)


@pytest.mark.numeric
def test_alpha_and_rank_can_be_given() -> None:
    pipeline = dit()
    calibration = ditas.calibrate(pipeline, **QUICK)
    given = {"calibration": calibration, "progress": False}
    _, report = ditas.quantize(pipeline, "W4A8", alpha=0.35, rank=2, **given)
    assert {(row.alpha, row.rank) for row in report.rows} == {(0.35, 2)}
    _, same = ditas.quantize(pipeline, recipe=report.recipe, **given)
    for row, known in zip(same.rows, report.rows, strict=True):
        assert row.error == pytest.approx(known.error, rel=1e-4)
    recipe = ditas.search(pipeline, calibration, alpha=(0.2, 0.8), method="search", progress=False)
    assert {layer.alpha for layer in recipe.layers.values()} <= {None, 0.2, 0.8}
    _, plain = ditas.quantize(pipeline, "W4A8", method="plain", **given)
    assert all(row.error > 0 and row.alpha is None for row in plain.rows)


@pytest.mark.numeric
def test_a_text_conditioned_pipeline(tmp_path: Path) -> None:
    pipeline, captions = pixart(), tiny_captions()
    with pytest.raises(CheckpointError, match="no text encoder; pass captions="):
        ditas.quantize(pipeline, **QUICK)
    quantized, report = ditas.quantize(pipeline, "W8A8", captions=captions, **QUICK)
    assert type(quantized) is sigma_class() and len(report.rows) == 14
    one = embedded(captions)
    assert 0 < (draw(pipeline, **one) - draw(quantized, **one)).abs().mean() < 0.05
    paired = ditas.compare(pipeline, quantized, samples=2, steps=2, progress=False)
    assert paired.metrics.latent_sqnr.min() > 10
    loaded = ditas.load(ditas.save(quantized, tmp_path / "saved"))
    assert loaded.captions is not None and loaded.captions.sha256 == captions.sha256
    folder = save_tiny_pixart(tmp_path / "stock", told=False)
    if is_transformers_available():  # `make stock`
        quantized, _ = ditas.quantize(folder, "W8A8", **QUICK)
        assert type(quantized) is sigma_class() and draw(quantized, **one).std() > 0
    else:
        with pytest.raises(CheckpointError, match="pip install transformers"):
            ditas.quantize(folder, progress=lambda *_: pytest.fail("before long work"))


@pytest.mark.numeric
def test_a_pipeline_encodes_prompts_with_its_own_encoder() -> None:
    pipeline = pixart(tokenizer=tokenizer, text_encoder=Encoder())
    before = state_of(pipeline)
    given = ditas.load(pipeline, captions=["a fox", "an owl"])
    assert given.class_names == ("a fox", "an owl") and given.captions.tokens == 300
    quantized, report = ditas.quantize(pipeline, "W8A8", alpha=0.5, **QUICK)  # its own prompts
    assert state_of(pipeline) == before and quantized.text_encoder is pipeline.text_encoder
    assert any("DDIM" in note for note in report.notes)
    prompt = {"prompt": "a fox", "use_resolution_binning": False}
    assert 0 < (draw(pipeline, **prompt) - draw(quantized, **prompt)).abs().mean() < 0.05


def test_a_report_is_text_html_and_plain_values() -> None:
    pipeline = dit()
    pipeline.register_to_config(_name_or_path="<b>model")
    _, report = ditas.quantize(pipeline, "W4A8", alpha=0.5, **QUICK)
    lines = str(report).splitlines()
    assert len(lines) == 1 + len(report.rows) + 1 + len(report.notes) and str(report) == repr(
        report
    )
    assert lines[0].split()[:5] == ["layer", "bits", "alpha", "rank", "error"]
    page = report._repr_html_()
    assert page.count("<tr>") == 1 + len(report.rows) and "<b>" not in page
    values = json.loads(json.dumps(report.to_dict()))
    assert len(values["layers"]) == 8 and values["bytes_after"] < values["bytes_before"]
    assert all(0 < row.error < 1 for row in report.rows if row.error is not None)
    assert set(report.seconds) == {"calibration", "search", "conversion"}


def untouched(*_: Any) -> None:
    pytest.fail("long work began")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": "W3"}, "bits"),
        ({"method": "best"}, "method"),
        ({"convention": "octal"}, "convention"),
        ({"rank": -1}, "rank"),
        ({"rank": "8"}, "rank"),
        ({"rank": 4, "method": "search"}, "rank: expected none"),
        ({"objective": "picture"}, "objective"),
        ({"budget": 5.0}, "budget"),
        ({"method": "mixed", "budget": 0.5}, "budget"),
        ({"alpha": (2.0,)}, "alpha"),
        ({"alpha": ()}, "grid"),
        ({"alpha": "x"}, "alpha"),
        ({"alpha": 0.5, "method": "plain"}, "alpha: expected none"),
        ({"samples": 0}, "samples"),
        ({"steps": 0}, "steps"),
        ({"steps": 1001}, "steps"),
        ({"seed": -1}, "seed"),
        ({"calibration": "x"}, "expected a Calibration"),
        ({"recipe": "x"}, "expected a Recipe"),
        ({"captions": ["a"]}, "captions: expected none"),
        ({"progress": "x"}, "progress"),
    ],
)
def test_wrong_settings_are_told_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises((SpecError, CheckpointError), match=said):
        ditas.quantize(dit(), **{"samples": 2, "steps": 2, "progress": untouched, **options})


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("offloaded", "offloading.*load it without"),
        ("elsewhere", "offloading.*load it without"),
        ("cast", "layerwise casting; load it without"),
        ("fused", r"unfuse_qkv_projections\(\)"),
        pytest.param("compiled", "compile the quantized pipeline", marks=pytest.mark.thorough),
        ("adapted", "to_q: expected a linear layer.*adapters"),
        ("flowing", "pipeline's scheduler: expected.*flow-matching"),
        ("decoderless", "expected a vae"),
    ],
)
def test_a_pipeline_that_cannot_be_worked_on_is_refused(what: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        ditas.quantize(broken(what), "W8A8", progress=untouched)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_refused() -> None:
    pipeline = dit()
    for wrong in (3, pipeline.transformer, None):
        with pytest.raises(CheckpointError, match="expected a DiTPipeline"):
            ditas.quantize(wrong, progress=untouched)
    with pytest.raises(CheckpointError, match="got a DDPMPipeline"):
        ditas.load(diffusers.DDPMPipeline(None, DDIM))
    quantized, _ = ditas.quantize(pipeline, "W8A8", method="plain", progress=False)
    with pytest.raises(CheckpointError, match="quantized already"):
        ditas.quantize(quantized, progress=untouched)
    with pytest.raises(CheckpointError, match="a DiTPipeline that is not quantized"):
        ditas.save(pipeline, "nowhere")
    with pytest.raises(CheckpointError, match="a list of at least one"):
        ditas.compare(pipeline, quantized, "dog", progress=untouched)


def test_an_interrupted_call_leaves_nothing_behind() -> None:
    pipeline, errors = dit(), []
    before, checkpoint = state_of(pipeline), ditas.load(DEMO)

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) in {("searching W4A8", 3), ("calibrating", 2)}:
            raise KeyboardInterrupt

    for model, steps in ((pipeline, 1), (pipeline, 2), (checkpoint, 2)):
        with pytest.raises(KeyboardInterrupt) as caught:
            ditas.quantize(model, samples=1, steps=steps, progress=stop)
        errors.append(caught)  # as a notebook does, with its frames
    assert state_of(pipeline) == before
    assert not any(m._forward_pre_hooks for m in checkpoint.transformer.modules())


def test_a_download_is_told_of_as_it_goes() -> None:
    seen: list[tuple[str, int, int]] = []
    with fetching(lambda *told: seen.append(told)) as tell:
        for doing, done in (("downloading a", 1), ("downloading b", 3), ("converting to c", 2)):
            tell(Progress(doing, done, 4))
    down, convert = "downloading", "converting"
    assert seen == [(down, 0, 4), (down, 1, 4), (down, 3, 4), (convert, 0, 4), (convert, 2, 4)]


def test_the_shipped_model_in_one_call() -> None:
    pipeline = DiTPipeline.from_pretrained(DEMO)
    quantized, report = ditas.quantize(pipeline, "W8A8", method="smoothing", **QUICK)
    assert report.model == DEMO.name and len(report.rows) == len(ditas.load(DEMO).groups)
    assert ditas.load(pipeline).licence == "mit" and quantized.labels == pipeline.labels


def test_the_integer_backend_draws_what_the_simulated_one_does(tmp_path: Path) -> None:
    """Through every way in: quantize, convert, and a saved folder read for it."""
    pipeline = dit()
    settings: dict[str, Any] = {"samples": 1, "steps": 2, "alpha": (0.5,), "progress": False}
    simulated, _ = ditas.quantize(pipeline, "W4A8", **settings)
    integer, report = ditas.quantize(pipeline, "W4A8", backend="integer", **settings)
    assert type(integer) is type(pipeline) and report.notes[0].startswith("Integer: ")
    layers = [m for m in integer.transformer.modules() if isinstance(m, QuantizedLinear)]
    assert layers and all(m.backend == "integer" and m.weight is None for m in layers)
    want = draw(simulated)
    assert torch.equal(draw(integer), want)
    ditas.save(integer, tmp_path / "folder")
    for backend in ("simulated", "integer"):
        read = ditas.load(tmp_path / "folder", backend=backend)
        kinds = {m.backend for m in read.transformer.modules() if isinstance(m, QuantizedLinear)}
        assert kinds == {backend} and torch.equal(draw(ditas.pipeline(read)), want)


def test_a_backend_that_cannot_run_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    for arguments in ({"convention": "paper"}, {"convention": "released"}):
        with pytest.raises(SpecError, match="expected simulated with the convention"):
            ditas.quantize("nowhere", backend="integer", **arguments)
    with pytest.raises(SpecError, match="expected one of simulated, integer"):
        ditas.quantize("nowhere", backend="int8")
    with pytest.raises(CheckpointError, match="quantize it first"):
        ditas.load(DEMO, backend="integer")
