"""PixArt: what a block's groups are, what is folded, and the whole walk on a tiny folder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_random_checkpoint
from slow_reference import slow_fake_quantize, slow_smoothing_factor
from test_cli import run_json
from tiny_pipelines import DDIM, pixart
from tiny_pixart import LENGTHS, NAMES, TOKENS, save_tiny_pixart, tiny_captions, tiny_pixart
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ditas_core.artifact import load_quantized, save_quantized
from ditas_core.calibration import (
    Calibration,
    CalibrationJournal,
    calibrate,
    iterate_calibration,
    measure_reach,
)
from ditas_core.checkpoints import Checkpoint, CheckpointError, fingerprint, load_checkpoint
from ditas_core.cli import main
from ditas_core.comparison import measured_sensitivity, run_trajectory
from ditas_core.conversion import (
    get_affine,
    inject_outliers,
    quantize_transformer,
    rescaled_transformer,
)
from ditas_core.evaluation import ModelShape, estimate, measure_speed
from ditas_core.evaluation.outliers import outlier_atlas
from ditas_core.layers import QuantizedLinear
from ditas_core.models import DIT, PIXART, Absorber, family_of, get_linear, group_fed_by
from ditas_core.sampling import forward_arguments, generators, initial_noise
from ditas_core.search import SearchSpec, search, sensitivity
from ditas_core.specs import (
    BitWidths,
    CalibrationSpec,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    SamplingSpec,
    SpecError,
    get_convention,
)

pytestmark = pytest.mark.numeric

KINDS = ["qkv", "proj", "q2", "kv2", "proj2", "fc1", "fc2"]
SAMPLING = SamplingSpec(steps=3, guidance_scale=4.5)
SPEC = CalibrationSpec(SAMPLING, samples=3, tokens=16, batch=2)
BOTH = pytest.mark.parametrize("told", [False, True], ids=["sigma", "alpha"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Sigma and alpha as the stock pipelines save them, with their captions."""
    home = tmp_path_factory.mktemp("pixart")
    names = {False: "tiny-sigma", True: "tiny-alpha"}
    return {told: save_tiny_pixart(home / name, told) for told, name in names.items()}


@pytest.fixture(scope="module")
def checkpoints(folders: dict[bool, Path]) -> dict[bool, Checkpoint]:
    return {told: load_checkpoint(folder) for told, folder in folders.items()}


@pytest.fixture(scope="module")
def calibrations(checkpoints: dict[bool, Checkpoint]) -> dict[bool, Calibration]:
    found = {}
    for told, checkpoint in checkpoints.items():
        calibration = calibrate(checkpoint, SPEC)
        found[told] = calibration
    return found


def forward(checkpoint: Checkpoint, transformer: torch.nn.Module, seed: int = 0) -> torch.Tensor:
    """One pass of all captions, both halves."""
    labels = torch.arange(len(NAMES))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2 * len(labels), *checkpoint.latent_shape, generator=generator)
    times = torch.full((len(x),), 400)
    arguments = forward_arguments(transformer, labels, checkpoint.conditions)
    with torch.no_grad():
        return transformer(x, timestep=times, **arguments).sample


def smoothed(checkpoint: Checkpoint, calibration: Calibration, bits: BitWidths) -> Recipe:
    """Every group at alpha 0.5, no branch."""
    layers = {group.name: LayerRecipe(bits, 0.5) for group in checkpoint.groups}
    return Recipe("smoothing", "integer", checkpoint.fingerprint, layers, calibration.sha256)


def converted(checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration) -> Any:
    return quantize_transformer(checkpoint, recipe, calibration)


@BOTH
def test_a_stock_folder_loads_with_its_captions(
    folders: dict[bool, Path], checkpoints: dict[bool, Checkpoint], told: bool
) -> None:
    checkpoint = checkpoints[told]
    assert checkpoint.family is PIXART and family_of(build_random_checkpoint().transformer) is DIT
    assert checkpoint.class_names == NAMES and checkpoint.class_index("an owl, at night") == 1
    assert checkpoint.licence == "mit" and checkpoint.width == 96
    assert checkpoint.fingerprint == fingerprint(tiny_pixart(told))
    assert checkpoint.transformer.use_additional_conditions is told
    assert checkpoint.image_size == (256 if told else 16)
    assert (checkpoint.image_tokens, checkpoint.fewest_tokens) == ((64, 12) if told else (16, 12))
    again = load_checkpoint(folders[told])
    assert again.fingerprint == checkpoint.fingerprint and again.origin == checkpoint.origin


@BOTH
def test_reach_is_of_every_group_also_of_those_that_read_captions(
    checkpoints: dict[bool, Checkpoint], told: bool
) -> None:
    found = measure_reach(checkpoints[told], SAMPLING, 2, 3)
    assert list(found) == [group.name for group in checkpoints[told].groups]
    assert all(0 < value < float("inf") for value in found.values())


@BOTH
def test_groups_cover_every_linear_layer_of_the_blocks(
    checkpoints: dict[bool, Checkpoint], told: bool
) -> None:
    checkpoint = checkpoints[told]
    transformer, groups = checkpoint.transformer, checkpoint.groups
    assert [group.name for group in groups] == [f"{b}.{k}" for b in range(2) for k in KINDS]
    quantized = [path for group in groups for path in group.layers]
    modules = transformer.transformer_blocks.named_modules(prefix="transformer_blocks")
    inside = {path for path, module in modules if isinstance(module, torch.nn.Linear)}
    assert len(quantized) == len(inside) == 20 and set(quantized) == inside
    assert {g.kind for g in groups if g.absorber is Absorber.VALUE_ROWS} == {"proj", "proj2"}
    assert {g.absorber for g in groups} == {Absorber.VALUE_ROWS, Absorber.ON_THE_FLY}
    fed = {group.kind: group_fed_by(group, groups) for group in groups[:7]}
    feeding = {kind: one.name for kind, one in fed.items() if one}
    assert feeding == {"qkv": "0.proj", "kv2": "0.proj2"}


@BOTH
def test_layers_of_a_group_share_their_input(
    checkpoints: dict[bool, Checkpoint], told: bool
) -> None:
    """Seen, not said: every layer of a group gets the same tensor, other groups another."""
    checkpoint = checkpoints[told]
    seen: dict[str, torch.Tensor] = {}

    def watch(path: str) -> Any:
        layer = get_linear(checkpoint.transformer, path)
        return layer.register_forward_pre_hook(lambda _, args: seen.update({path: args[0].clone()}))

    handles = [watch(path) for group in checkpoint.groups for path in group.layers]
    forward(checkpoint, checkpoint.transformer)
    for handle in handles:
        handle.remove()
    for group in checkpoint.groups:
        first, *others = (seen[path] for path in group.layers)
        assert all(torch.equal(first, other) for other in others)
        tokens = TOKENS if group.kind == "kv2" else checkpoint.image_tokens
        assert first.shape[:2] == (2 * len(NAMES), tokens)
    assert torch.equal(
        seen["transformer_blocks.0.attn2.to_k"], seen["transformer_blocks.1.attn2.to_k"]
    )


@BOTH
def test_sampling_is_the_stock_pipelines(checkpoints: dict[bool, Checkpoint], told: bool) -> None:
    """Masks, padding, resolution, guidance, batches."""
    checkpoint, labels, captions = checkpoints[told], [1, 0, 2], tiny_captions()
    # the timesteps that DDIM takes when nothing is said
    leading = {**checkpoint.scheduler, "timestep_spacing": "leading"}
    checkpoint = replace(checkpoint, scheduler=leading)
    expected = pixart(told, DDIM)(
        prompt=None,
        negative_prompt=None,
        prompt_embeds=captions.embeds[labels],
        prompt_attention_mask=captions.mask[labels],
        negative_prompt_embeds=captions.null_embeds.repeat(3, 1, 1),
        negative_prompt_attention_mask=captions.null_mask.repeat(3, 1),
        latents=initial_noise(checkpoint.latent_shape, generators(7, 3)),
        num_inference_steps=SAMPLING.steps,
        guidance_scale=SAMPLING.guidance_scale,
        use_resolution_binning=False,
        output_type="latent",
    ).images
    run = run_trajectory(checkpoint, checkpoint.transformer, torch.tensor(labels), SAMPLING, 7)
    assert torch.allclose(run.final, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert run.images.shape == (3, 3, checkpoint.image_size, checkpoint.image_size)
    others = torch.tensor([0, 0, 2])
    other = run_trajectory(checkpoint, checkpoint.transformer, others, SAMPLING, 7)
    assert not torch.allclose(other.final[0], run.final[0], rtol=1e-2)
    assert torch.equal(other.final[1:], run.final[1:]), "a sample does not know its neighbours"


def test_steps_of_other_captions_are_not_taken_up(
    checkpoints: dict[bool, Checkpoint], calibrations: dict[bool, Calibration], tmp_path: Path
) -> None:
    checkpoint = checkpoints[False]

    def journal(of: Checkpoint) -> CalibrationJournal:
        return CalibrationJournal(tmp_path / "steps", of.origin, SPEC, (0, SPEC.samples))

    calibration = calibrate(checkpoint, SPEC, journal(checkpoint))
    assert calibration.sha256 == calibrations[False].sha256
    assert len(list(journal(checkpoint).steps())) == SAMPLING.steps
    assert not list(journal(replace(checkpoint, captions=tiny_captions(seed=4))).steps())


def test_padding_reaches_no_statistics(
    checkpoints: dict[bool, Checkpoint], calibrations: dict[bool, Calibration]
) -> None:
    """The text layers' inputs are those of the captions' own tokens, whatever pads them."""
    checkpoint, calibration = checkpoints[False], calibrations[False]
    captions = tiny_captions()
    project = checkpoint.transformer.caption_projection
    with torch.no_grad():
        own = torch.cat([project(captions.embeds[i][:n]) for i, n in enumerate(LENGTHS)])
        null = project(captions.null_embeds[:1])
    stats = calibration.groups["1.kv2"]
    rows = torch.cat([own, null])
    # a sum's rounding grows with its terms, not with what is left where they cancel
    atol = 1e-5 * float(rows.abs().max())
    assert torch.allclose(stats.high[0, 0], own.amax(0), rtol=1e-5, atol=atol)
    assert torch.allclose(stats.low[2, 0], own.amin(0), rtol=1e-5, atol=atol)
    assert torch.allclose(stats.high[1, 1], null[0], rtol=1e-5, atol=atol)
    assert torch.allclose(stats.low[1, 1], null[0], rtol=1e-5, atol=atol)
    for token in stats.tokens.flatten(0, 1).float():
        assert float((rows - token).abs().amax(1).min()) < 2e-3 * float(rows.abs().max())


@BOTH
def test_energy_is_the_mean_over_each_groups_own_rows(
    checkpoints: dict[bool, Checkpoint], calibrations: dict[bool, Calibration], told: bool
) -> None:
    """Text and image have different numbers of tokens; every token kept, the mean is theirs."""
    checkpoint = checkpoints[told]
    spec = replace(SPEC, tokens=3 * 2 * TOKENS, token_dtype="float32")
    whole = calibrate(checkpoint, spec)
    for block in range(2):
        stats = whole.groups[f"{block}.kv2"]
        assert stats.tokens.shape == (3, 3 * 2 * TOKENS, 96)
        assert torch.allclose(stats.energy, stats.tokens.square().mean(1), rtol=1e-4)
        assert torch.equal(stats.energy[0], stats.energy[1]), "the text is the same at every step"
    with pytest.raises(SpecError, match="tokens: expected at most 72"):
        list(iterate_calibration(checkpoint, replace(spec, tokens=73)))


@BOTH
def test_smoothing_alone_preserves_the_function(
    checkpoints: dict[bool, Checkpoint], calibrations: dict[bool, Calibration], told: bool
) -> None:
    """All groups at once, folded or on the fly, at strengths that move the channels far."""
    checkpoint, calibration = checkpoints[told], calibrations[told]
    reference = forward(checkpoint, checkpoint.transformer)
    recipe = smoothed(checkpoint, calibration, BitWidths(16, 16))
    model = converted(checkpoint, recipe, calibration)
    moved = [
        float((layer.codes - get_linear(checkpoint.transformer, path).weight).abs().max())
        for path, layer in model.named_modules()
        if isinstance(layer, QuantizedLinear)
    ]
    assert len(moved) == 20 and min(moved) > 0.01, "every layer was smoothed or divided"
    error = (forward(checkpoint, model) - reference).norm() / reference.norm()
    assert float(error) < 1e-4
    model = converted(checkpoint, smoothed(checkpoint, calibration, BitWidths(8, 8)), calibration)
    error = (forward(checkpoint, model) - reference).norm() / reference.norm()
    assert 1e-4 < float(error) < 0.05
    assert fingerprint(checkpoint.transformer) == checkpoint.fingerprint


@pytest.mark.parametrize("name", ["0.q2", "1.kv2", "0.proj2", "1.qkv"])
def test_a_quantized_layer_is_the_slow_reference(
    checkpoints: dict[bool, Checkpoint], calibrations: dict[bool, Calibration], name: str
) -> None:
    """Element by element: s, Q(W s), Q(x / s), and V's rows divided by the projection's s."""
    checkpoint, calibration = checkpoints[False], calibrations[False]
    groups = {group.name: group for group in checkpoint.groups}
    group = groups[name]
    model = converted(checkpoint, smoothed(checkpoint, calibration, BitWidths(8, 8)), calibration)
    convention = get_convention("integer")
    weight_spec, activation_spec = convention.quantizers(BitWidths(8, 8))

    def factor(of: str) -> torch.Tensor:
        paths = groups[of].layers
        weights = [get_affine(checkpoint.transformer, p).weight.numpy() for p in paths]
        absmax = calibration.groups[of].absmax.amax((0, 1)).tolist()
        return torch.tensor(slow_smoothing_factor(absmax, weights, 0.5))

    s = factor(name)
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(1)) * s
    for path in group.layers:
        weight, bias = get_affine(checkpoint.transformer, path)
        rounded = torch.from_numpy(slow_fake_quantize((weight * s).numpy(), weight_spec))
        on_the_fly = group.absorber is Absorber.ON_THE_FLY
        given = x if on_the_fly else x / s  # the rows of V have divided it
        inputs = torch.from_numpy(slow_fake_quantize((x / s).numpy(), activation_spec))
        expected = inputs @ rounded.T + bias
        if path.endswith("to_v"):
            expected = expected / factor(name.replace("kv2", "proj2").replace("qkv", "proj"))
        with torch.no_grad():
            got = model.get_submodule(path)(given)
        assert torch.allclose(got, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("convention", ["integer", "integer-g16", "paper", "released"])
def test_every_convention_survives_a_quantized_folder(
    checkpoints: dict[bool, Checkpoint],
    calibrations: dict[bool, Calibration],
    convention: str,
    tmp_path: Path,
) -> None:
    """Searched with a low-rank branch, written, read: the same recipe, captions and bits."""
    told = convention == "integer"
    checkpoint, calibration = checkpoints[told], calibrations[told]
    settings = SearchSpec(
        BitWidths(4, 8), convention, low_rank=LowRankSpec(4, 1, "none"), grid=(0.5,)
    )
    recipe = search(checkpoint, calibration, settings)
    assert isinstance(recipe, Recipe) and len(recipe.layers) == 14
    model = converted(checkpoint, recipe, calibration)
    assert fingerprint(checkpoint.transformer) == checkpoint.fingerprint
    save_quantized(tmp_path / "out", checkpoint, model, recipe)
    loaded, again = load_quantized(tmp_path / "out")
    assert again == recipe and loaded.class_names == NAMES
    assert loaded.captions is not None and checkpoint.captions is not None
    assert loaded.captions.sha256 == checkpoint.captions.sha256
    assert torch.equal(forward(loaded, loaded.transformer), forward(checkpoint, model))


def test_outliers_are_injected_where_they_fold(
    checkpoints: dict[bool, Checkpoint], calibrations: dict[bool, Calibration]
) -> None:
    base = checkpoints[False]
    loud = inject_outliers(base.transformer, 30.0, channels=4)
    before, after = forward(base, base.transformer), forward(base, loud)
    assert float((after - before).norm() / before.norm()) < 1e-4
    checkpoint = replace(base, transformer=loud)
    calibration = calibrate(checkpoint, SPEC)
    quiet, found = (
        outlier_atlas(each, of).groups["0.proj2"].strength
        for each, of in ((base, calibrations[False]), (checkpoint, calibration))
    )
    assert found > 5 * quiet
    for kind in ("qkv", "q2", "kv2", "fc1", "fc2"):
        s = torch.full((384 if kind == "fc2" else 96,), 2.0)
        with pytest.raises(ValueError, match="foldable"):
            rescaled_transformer(base.transformer, {f"0.{kind}": s})


@BOTH
def test_sensitivity_sizes_and_costs(
    checkpoints: dict[bool, Checkpoint], calibrations: dict[bool, Calibration], told: bool
) -> None:
    """Predicted sizes are what conversion stores; operations are the real transformer's."""
    checkpoint, calibration = checkpoints[told], calibrations[told]
    widths = [BitWidths(4, 8)]
    spec = SearchSpec(widths[0], method="search", grid=(0.5,))
    table = sensitivity(checkpoint, calibration, widths, spec)
    recipe = table.recipe(table.uniform(widths[0]))
    model = converted(checkpoint, recipe, calibration)
    stored = sum(m.bits_stored for m in model.modules() if isinstance(m, QuantizedLinear))
    assert table.bits_stored(table.uniform(widths[0])) == pytest.approx(stored, rel=1e-6)
    measured = measured_sensitivity(
        checkpoint, calibration, table, torch.tensor([0, 1]), replace(SAMPLING, steps=1), 0
    )
    assert bool((measured.error > 0).all())
    shape = ModelShape.of(checkpoint)
    arguments = forward_arguments(checkpoint.transformer, torch.tensor([0]), checkpoint.conditions)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        x = torch.zeros(2, *checkpoint.latent_shape)
        checkpoint.transformer(x, timestep=torch.ones(2), **arguments)
    assert counter.get_total_flops() == 2 * shape.flops
    channels = [
        get_linear(checkpoint.transformer, g.layers[0]).in_features for g in checkpoint.groups
    ]
    assert channels == [c for c, _ in shape.groups]
    assert measure_speed(checkpoint, shape.flops, 1) > 0
    assert estimate(shape, 1e9).search_s > 0


def test_without_captions_it_says_what_to_do(folders: dict[bool, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders[False], tmp_path / "tiny"))
    (tmp_path / "mine").mkdir()
    mine = tiny_captions(seed=4)
    found = load_checkpoint(str(folder), captions=str(mine.save(tmp_path / "mine")))
    assert found.captions is not None and found.captions.sha256 == mine.sha256
    file = (folder / "captions.safetensors").rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(
        CheckpointError, match=r"no text encoder; write captions.safetensors.*--captions"
    ):
        load_checkpoint(folder)
    assert load_checkpoint(folder, captions=file).class_names == NAMES
    assert load_checkpoint(folder, captions=tiny_captions()).class_names == NAMES
    narrow = tiny_captions()
    narrow = replace(narrow, embeds=narrow.embeds[..., :8], null_embeds=narrow.null_embeds[..., :8])
    with pytest.raises(CheckpointError, match=r"width 20.*got 8"):
        load_checkpoint(folder, captions=narrow)


@pytest.mark.thorough
def test_the_whole_walk(
    folders: dict[bool, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every verb, as people type it."""
    source, short = folders[False], "--steps 2 --guidance 4.5"
    calibration, recipe, quantized = tmp_path / "c.safetensors", tmp_path / "r", tmp_path / "q"
    info = run_json(capsys, f"info {source}")
    assert info["family"] == "PixArt" and info["classes"] == list(NAMES)
    assert len(info["groups"]) == 14
    run_json(capsys, f"calibrate {source} {short} --samples 2 --tokens 8 --out {calibration}")
    searching = f"search {source} --calibration {calibration} --bits W4A8 --out {recipe}"
    assert set(run_json(capsys, searching)["alphas"]) == set(info["groups"])
    made = run_json(capsys, f"quantize {source} --recipe {recipe} --out {quantized}")
    assert 4 < made["effective_bits"] < 12
    assert run_json(capsys, f"info {quantized}")["classes"] == list(NAMES)
    drawing = f"sample {quantized} --classes '{NAMES[0]},2' {short} --out {tmp_path / 'images'}"
    assert run_json(capsys, drawing)["classes"] == [NAMES[0], NAMES[2]]
    compared = run_json(capsys, f"compare {source} {quantized} --samples 3 {short}")
    (row,) = compared["results"]
    assert row["latent_sqnr_db"]["n"] == 3 and row["latent_sqnr_db"]["mean"] > 0
    ablation = f"compare {source} --ablation W8A8 --methods plain,smoothing --samples 2 {short}"
    ablated = run_json(capsys, ablation)["results"]
    assert [one["label"] for one in ablated] == ["W8A8 plain", "W8A8 smoothing"]
    assert main(["convert", str(source), "--to", "original", "--out", str(tmp_path / "x.pt")]) == 2
    assert "expected a DiT" in capsys.readouterr().err


def test_bfloat16_calibrates_and_samples(
    folders: dict[bool, Path], calibrations: dict[bool, Calibration]
) -> None:
    """Captions, mask and size follow the weights' precision; the statistics stay close."""
    exact = calibrations[True].groups
    checkpoint = load_checkpoint(folders[True], dtype=torch.bfloat16)
    for half in (checkpoint, load_checkpoint(folders[True])):
        calibration = calibrate(half, replace(SPEC, precision="bfloat16"))
        for name, stats in calibration.groups.items():
            a, b = stats.aggregated_absmax(), exact[name].aggregated_absmax()
            assert float((a - b).norm() / b.norm()) < 0.05, name
