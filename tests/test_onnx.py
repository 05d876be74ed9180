"""Whole transformers as ONNX graphs: what they compute, and how they are called."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import onnx
import pytest
import torch
from conftest import build_random_checkpoint
from onnx_checks import forced, products, slow_total, taken_from, values_in
from tiny_pipelines import dit, draw
from tiny_pixart import tiny_captions, tiny_pixart

from ditas_core.calibration import Calibration, calibrate
from ditas_core.checkpoints import Checkpoint, CheckpointError
from ditas_core.conversion import quantize_modulation, quantize_transformer
from ditas_core.evaluation import sqnr_db
from ditas_core.layers import QuantizedLinear
from ditas_core.onnx_runtime import OnnxTransformer, onnx_model, trace, traced
from ditas_core.onnx_runtime.ship import ship
from ditas_core.onnx_runtime.trace import flat_arguments
from ditas_core.sampling import sample_latents
from ditas_core.search import SearchSpec, plain_recipe, search
from ditas_core.specs import (
    LEFT_ALONE,
    BitWidths,
    CalibrationSpec,
    LayerRecipe,
    LowRankSpec,
    Recipe,
    SamplingSpec,
    SpecError,
)

pytestmark = pytest.mark.numeric
CASES = [
    ("integer", "W8A8"),
    ("integer", "W4A8"),
    ("integer-tensor", "W8A8"),
    ("integer-g12", "W4A6"),
]
SAMPLES = 2


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where traced graphs are kept: one trace per configuration."""
    return tmp_path_factory.mktemp("graphs")


def pixart(told: bool = False) -> Checkpoint:
    captions = tiny_captions()
    return replace(
        build_random_checkpoint(),
        transformer=tiny_pixart(told),
        captions=captions,
        class_names=captions.names,
    )


def calls(checkpoint: Checkpoint, samples: int = SAMPLES) -> tuple[torch.Tensor, dict[str, Any]]:
    """Latents, and what else the transformer takes for both halves of guidance."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2 * samples, *checkpoint.latent_shape, generator=generator)
    labels = torch.arange(samples) % len(checkpoint.class_names)
    conditions = checkpoint.conditions
    if conditions is None:
        null = torch.full_like(labels, 1000)
        arguments: dict[str, Any] = {"class_labels": torch.cat([labels, null])}
    else:
        arguments = dict(conditions(labels))
    return latents, {"timestep": torch.full((2 * samples,), 321), **arguments}


def feeds_of(latents: torch.Tensor, arguments: dict[str, Any]) -> dict[str, Any]:
    flat = {"hidden_states": latents, **flat_arguments(arguments)}
    flat["timestep"] = flat["timestep"].float()
    return {name: value.numpy() for name, value in flat.items()}


def mixed(checkpoint: Checkpoint, calibration: Calibration, convention: str, bits: str) -> Recipe:
    """Smoothed everywhere, with branches; one group left alone, one W8A16, one without either."""
    spec = SearchSpec(BitWidths.parse(bits), convention, "ditas", LowRankSpec(3), grid=(0.6,))
    recipe = search(checkpoint, calibration, spec)
    names = list(recipe.layers)
    layers = {
        name: replace(layer, alpha=0.6 if layer.alpha is None else layer.alpha)
        for name, layer in recipe.layers.items()
    }
    layers[names[0]] = LayerRecipe(BitWidths.parse(bits))
    layers[names[2]] = LEFT_ALONE
    layers[names[-2]] = LayerRecipe(BitWidths(8, 16), 0.5)
    return replace(recipe, layers=layers)


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[Checkpoint, Calibration]]:
    spec = CalibrationSpec(SamplingSpec(steps=2), samples=2, tokens=8)
    found = {}
    for name, checkpoint in (("DiT", build_random_checkpoint()), ("PixArt", pixart())):
        found[name] = (checkpoint, calibrate(checkpoint, spec))
    return found


FAMILIES = ["DiT", pytest.param("PixArt", marks=pytest.mark.thorough)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("convention", "bits"), CASES)
def test_the_whole_graph_computes_what_is_simulated(
    family: str, convention: str, bits: str, models: Any, graphs: Path
) -> None:
    """Where the codes agree; and how rarely, and by how little, they do not.

    The two round what they computed with different order of additions. A value within its last
    bits of the middle between two codes may go either way; from there on the two differ by that
    code, as two processors' simulations would.
    """
    checkpoint, calibration = models[family]
    recipe = mixed(checkpoint, calibration, convention, bits)
    quantized = quantize_transformer(checkpoint, recipe, calibration)
    graph = traced(checkpoint, graphs)
    model = onnx_model(graph, quantized, half=True)
    onnx.checker.check_model(model, full_check=True)
    found = products(model)
    integer = {
        path
        for path, layer in quantized.named_modules()
        if isinstance(layer, QuantizedLinear)
        and max(layer.weight_spec.bits, layer.activation_spec.bits) <= 8
    }
    assert {name for name in found if name in integer} == integer or "-g" in convention
    latents, arguments = calls(checkpoint)
    feeds = feeds_of(latents, arguments)
    names = [name for each in found.values() for name in vars(each).values()]
    values = values_in(model, feeds, [*names, "sample"])
    for product in found.values():
        assert np.array_equal(values[product.total], slow_total(values, product))
    with forced(quantized, taken_from(model, feeds)) as counted, torch.no_grad():
        same = quantized(latents, return_dict=False, **arguments)[0]
    sample = torch.from_numpy(values["sample"])
    assert set(counted) == integer
    assert float(sqnr_db(same, sample).min()) > 80
    elements, other = (sum(each[i] for each in counted.values()) for i in (0, 1))
    assert other <= 1e-3 * elements and max(most for *_, most in counted.values()) <= 1
    # without its values being looked at, where nodes are fused
    runtime = OnnxTransformer(model, checkpoint.transformer, threads=1)
    plain = runtime(latents, return_dict=False, **arguments)[0]
    assert float(sqnr_db(sample, plain).min()) > 30


@pytest.mark.parametrize("family", FAMILIES)
def test_full_precision_is_the_stock_transformer(family: str, models: Any, graphs: Path) -> None:
    checkpoint, _ = models[family]
    runtime = OnnxTransformer(
        onnx_model(traced(checkpoint, graphs), checkpoint.transformer), checkpoint.transformer, 1
    )
    for samples in (1, 3):  # any batch
        latents, arguments = calls(checkpoint, samples)
        with torch.no_grad():
            stock = checkpoint.transformer(latents, **arguments).sample
        assert float(sqnr_db(stock, runtime(latents, **arguments).sample).min()) > 95
    assert runtime.nbytes >= 4 * sum(p.numel() for p in set(checkpoint.transformer.parameters()))


@pytest.mark.thorough
def test_a_model_that_is_told_its_size(graphs: Path) -> None:
    checkpoint = pixart(told=True)
    stock = checkpoint.transformer
    runtime = OnnxTransformer(onnx_model(traced(checkpoint, graphs), stock), stock, 1)
    assert runtime.use_additional_conditions
    latents, arguments = calls(checkpoint)
    assert "added_cond_kwargs" in arguments
    with torch.no_grad():
        expected = stock(latents, **arguments).sample
    assert float(sqnr_db(expected, runtime(latents, **arguments).sample).min()) > 95


def test_it_takes_the_place_of_the_transformer(models: Any, graphs: Path) -> None:
    """In this package's loop and in the stock pipeline."""
    checkpoint, _ = models["DiT"]
    stock = checkpoint.transformer
    graph = traced(checkpoint, graphs)
    quantized = quantize_transformer(
        checkpoint, plain_recipe(checkpoint, BitWidths(4, 16), "integer")
    )
    runtime = OnnxTransformer(onnx_model(graph, quantized), stock, 1)
    spec = SamplingSpec(steps=3)
    shape, labels = checkpoint.latent_shape, torch.tensor([1, 3])
    expected, found = (
        sample_latents(each, checkpoint.scheduler, labels, shape, spec, 0)
        for each in (quantized, runtime)
    )
    assert float(sqnr_db(expected, found).min()) > 80
    pipeline = dit()
    pipeline.transformer = quantized
    simulated = draw(pipeline)
    pipeline.transformer = runtime
    assert torch.allclose(draw(pipeline), simulated, atol=1e-3)
    assert (runtime.dtype, runtime.device.type) == (torch.float32, "cpu")
    half = runtime(*calls(checkpoint)[0:1], **calls(checkpoint)[1]).sample
    assert half.dtype == torch.float32
    runtime.close()
    with pytest.raises(RuntimeError, match="closed"):
        runtime(*calls(checkpoint)[0:1], **calls(checkpoint)[1])


def test_arguments_that_do_not_fit_are_named(models: Any, graphs: Path) -> None:
    checkpoint, _ = models["DiT"]
    stock = checkpoint.transformer
    runtime = OnnxTransformer(onnx_model(traced(checkpoint, graphs), stock), stock, 1)
    latents, arguments = calls(checkpoint)
    with pytest.raises(ValueError, match="no class_labels"):
        runtime(latents, timestep=arguments["timestep"])
    with pytest.raises(ValueError, match=r"hidden_states: expected the shape \[4, 4, 8, 8\]"):
        runtime(latents[..., :4], **arguments)
    with pytest.raises(ValueError, match=r"class_labels: expected the shape \[4\]"):
        runtime(latents, timestep=arguments["timestep"], class_labels=torch.tensor([1]))


def test_equal_tables_are_stored_once(models: Any, graphs: Path) -> None:
    """Every block of the stock class has its own copy of the label table."""
    checkpoint, _ = models["DiT"]
    graph = traced(checkpoint, graphs)
    apart = onnx_model(graph, checkpoint.transformer)
    tied = build_random_checkpoint().transformer
    blocks: Any = tied.transformer_blocks
    blocks[1].norm1.emb.load_state_dict(blocks[0].norm1.emb.state_dict())
    together = onnx_model(graph, tied)
    table = blocks[0].norm1.emb.class_embedder.embedding_table.weight
    assert apart.ByteSize() - together.ByteSize() > 4 * table.numel()


def test_a_recipe_does_not_trace_again(
    models: Any, graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, _ = models["DiT"]
    monkeypatch.setattr(trace, "KEPT", {})  # what other tests traced
    first = traced(checkpoint, graphs)
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("traced again"))
    assert traced(replace(checkpoint, transformer=build_random_checkpoint().transformer)) is first
    # nor does another process
    monkeypatch.setattr(trace, "KEPT", {})
    again = traced(checkpoint, graphs)
    assert again is not first and again.parameters == first.parameters
    kept = next(graphs.glob("*.onnx"))
    assert kept.stat().st_size < 100_000, "a graph, no weights"


def pinned(*names: str) -> bool:
    """Whether these packages are installed as constraints.txt has them."""
    lines = Path(__file__).parents[1].joinpath("constraints.txt").read_text().split()
    return all(f"{name}=={version(name).partition('+')[0]}" in lines for name in names)


def test_the_demos_graph_is_shipped(
    demo_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found by its configuration, quantized or not; another diffusers or opset traces."""
    if not pinned("diffusers"):
        pytest.skip("the graph was traced with the pinned diffusers")
    monkeypatch.setattr(trace, "KEPT", {})
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("traced"))
    found = traced(demo_checkpoint, tmp_path)
    assert not any(tmp_path.iterdir())
    recipe = plain_recipe(demo_checkpoint, BitWidths(4, 8), "integer")
    quantized = quantize_transformer(demo_checkpoint, recipe)
    assert traced(replace(demo_checkpoint, transformer=quantized)) is found
    stock = demo_checkpoint.transformer
    names = {*dict(stock.named_parameters()), *dict(stock.named_buffers())}
    assert found.parameters <= names and len(found.parameters) > 100
    assert all(each.stat().st_size < 100_000 for each in trace.SHIPPED.iterdir())

    def shipped() -> bool:
        return (trace.SHIPPED / f"{trace.graph_key(demo_checkpoint)}.onnx.xz").is_file()

    assert shipped()
    changes = ((diffusers, "__version__", "0.0.1"), (trace, "OPSET", 22), (trace, "FORMAT", "x"))
    for module, name, value in changes:
        with monkeypatch.context() as other:
            other.setattr(module, name, value)
            assert not shipped()
    assert trace.graph_key(demo_checkpoint) != trace.graph_key(build_random_checkpoint())


def test_a_damaged_graph_is_traced_anew(models: Any, tmp_path: Path) -> None:
    checkpoint, _ = models["DiT"]
    path = ship(checkpoint, tmp_path)
    assert trace.read(path) is not None
    path.write_bytes(path.read_bytes()[:-40])
    assert trace.read(path) is None and trace.read(tmp_path / "none.onnx.xz") is None


@pytest.mark.thorough
def test_the_shipped_graph_is_what_tracing_gives(
    demo_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    if not pinned("diffusers", "torch", "onnx", "onnxscript"):
        pytest.skip("the graph was traced with the pinned versions")
    fresh = trace.read(ship(demo_checkpoint, tmp_path))
    shipped = trace.read(trace.SHIPPED / f"{trace.graph_key(demo_checkpoint)}.onnx.xz")
    assert fresh is not None and shipped is not None
    assert fresh.parameters == shipped.parameters
    (graph, numbers), (known, expected) = map(without_numbers, (fresh.model, shipped.model))
    assert graph == known and len(numbers) == len(expected)
    for each, same in zip(numbers, expected, strict=True):
        assert each.dtype == same.dtype and each.shape == same.shape
        # what tracing has computed, such as frequencies by exp, may differ in its last bit
        np.testing.assert_allclose(each, same, rtol=1e-5, atol=1e-6)


def without_numbers(model: Any) -> tuple[bytes, list[np.ndarray]]:
    """A graph without its constants' values and its own names; these values in its order.

    Values between nodes are called by a count: what torch calls them depends on what else was
    traced along the way.
    """
    graph = onnx.ModelProto.FromString(model if type(model) is bytes else model.SerializeToString())
    constants, names = list(graph.graph.initializer), dict[str, str]()
    for node in graph.graph.node:
        constants += [attribute.t for attribute in node.attribute if attribute.HasField("t")]
        node.name = ""
        for name in node.output:
            names[name] = f"{len(names)}"
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for value in graph.graph.output:
        value.name = names[value.name]
    del graph.graph.value_info[:]
    numbers = [onnx.numpy_helper.to_array(each).copy() for each in constants]
    for each in constants:
        each.ClearField("raw_data")
    return graph.SerializeToString(deterministic=True), numbers


def test_another_transformer_is_refused(models: Any, graphs: Path) -> None:
    checkpoint, _ = models["DiT"]
    with pytest.raises(CheckpointError, match="expected the one that was traced"):
        onnx_model(traced(checkpoint, graphs), tiny_pixart(False))
    paper = quantize_transformer(checkpoint, plain_recipe(checkpoint, BitWidths(8, 8), "paper"))
    with pytest.raises(SpecError, match="cannot be added as integers"):
        onnx_model(traced(checkpoint, graphs), paper)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", ["w8", "w8a8", "w4"])
def test_the_modulation_in_few_bits(family: str, how: str, models: Any, graphs: Path) -> None:
    checkpoint, _ = models[family]
    stock = checkpoint.transformer
    before = {name: value.clone() for name, value in stock.state_dict().items()}
    small = quantize_modulation(stock, how)
    paths = checkpoint.family.modulations(stock)
    layers = {n for n, m in small.named_modules() if isinstance(m, QuantizedLinear)}
    assert layers == set(paths)
    assert small.pos_embed.proj.weight is stock.pos_embed.proj.weight, "shared, not copied"
    assert all(torch.equal(before[name], value) for name, value in stock.state_dict().items())
    graph = traced(checkpoint, graphs)
    model = onnx_model(graph, small)
    assert len(products(model)) == (len(paths) if how == "w8a8" else 0)
    latents, arguments = calls(checkpoint)
    with torch.no_grad():
        expected = small(latents, **arguments).sample
        full = stock(latents, **arguments).sample
    found = OnnxTransformer(model, stock, 1)(latents, **arguments).sample
    assert float(sqnr_db(expected, found).min()) > (45 if how == "w8a8" else 80)
    assert 5 < float(sqnr_db(full, expected).min()) < 70
    saved = sum(stock.get_submodule(path).weight.numel() for path in paths)
    assert onnx_model(graph, stock).ByteSize() - model.ByteSize() > 2 * saved


def test_modulation_is_one_of_four(random_checkpoint: Checkpoint) -> None:
    assert quantize_modulation(random_checkpoint.transformer, "none") is (
        random_checkpoint.transformer
    )
    with pytest.raises(SpecError, match="modulation: expected one of none, w8, w8a8, w4"):
        quantize_modulation(random_checkpoint.transformer, "w2")


@pytest.mark.thorough
def test_the_demo(demo_checkpoint: Checkpoint, graphs: Path) -> None:
    """Every layer's accumulators; the same codes give the same picture; equal SQNR of the whole."""
    recipe = plain_recipe(demo_checkpoint, BitWidths(8, 8), "integer")
    quantized = quantize_transformer(demo_checkpoint, recipe)
    model = onnx_model(traced(demo_checkpoint, graphs), quantized, half=True)
    latents, arguments = calls(demo_checkpoint)
    feeds = feeds_of(latents, arguments)
    found = products(model)
    assert len(found) == 6 * 8
    names = [name for each in found.values() for name in vars(each).values()]
    values = values_in(model, feeds, [*names, "sample"])
    for product in found.values():
        assert np.array_equal(values[product.total], slow_total(values, product))
    with forced(quantized, taken_from(model, feeds)) as counted, torch.no_grad():
        same = quantized(latents, return_dict=False, **arguments)[0]
    sample = torch.from_numpy(values["sample"])
    assert float(sqnr_db(same, sample).min()) > 80
    elements, other = (sum(each[i] for each in counted.values()) for i in (0, 1))
    assert other <= 1e-3 * elements
    with torch.no_grad():
        full = demo_checkpoint.transformer(latents, return_dict=False, **arguments)[0]
        simulated = quantized(latents, return_dict=False, **arguments)[0]
    difference = sqnr_db(full, simulated) - sqnr_db(full, sample)
    assert float(difference.abs().max()) < 1
