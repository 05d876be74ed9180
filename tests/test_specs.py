"""Settings: what is accepted, what is refused and how; recipes as JSON."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditas_core.specs import (
    ACTIVATION_BITS,
    BIT_PRESETS,
    CONVENTIONS,
    METHODS,
    WEIGHT_BITS,
    WEIGHTINGS,
    BitWidths,
    CalibrationSpec,
    Granularity,
    LayerRecipe,
    LowRankSpec,
    QuantizerSpec,
    Recipe,
    SamplingSpec,
    SpecError,
    get_convention,
    read_timesteps,
    summarize,
)

NOT_A_COUNT = [float("nan"), float("inf"), -1, 10**9, 2.5, True, "50", None, [50]]
NOT_A_NUMBER = [float("nan"), float("inf"), float("-inf"), -0.5, 1e9, True, "0.5", [0.5]]

bit_widths = st.builds(
    BitWidths, st.sampled_from([*WEIGHT_BITS, 16]), st.sampled_from(ACTIVATION_BITS)
)
low_ranks = st.builds(
    LowRankSpec, st.integers(0, 256), st.integers(1, 50), st.sampled_from(WEIGHTINGS)
)
layer_recipes = st.builds(LayerRecipe, bit_widths, st.none() | st.floats(0, 1), low_ranks)
recipes = st.builds(
    Recipe,
    name=st.sampled_from(tuple(METHODS)),
    convention=st.sampled_from(sorted(CONVENTIONS)),
    checkpoint=st.text(max_size=20),
    layers=st.dictionaries(st.text(max_size=8), layer_recipes, min_size=1, max_size=4),
    calibration=st.text(max_size=8),
    calibration_file=st.text(max_size=8),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def example_document() -> dict[str, Any]:
    recipe = Recipe(
        "ditas",
        "integer",
        "c" * 64,
        {
            "0.qkv": LayerRecipe(BitWidths(4, 8), 0.35, LowRankSpec(16)),
            "0.proj": LayerRecipe(BitWidths(8, 8)),
        },
        "d" * 64,
        "calibration.safetensors",
    )
    return dict(json.loads(recipe.to_json()))


@pytest.mark.parametrize("weight", [*WEIGHT_BITS, 16])
@pytest.mark.parametrize("activation", ACTIVATION_BITS)
def test_bits_parse_what_they_print(weight: int, activation: int) -> None:
    bits = BitWidths(weight, activation)
    assert BitWidths.parse(str(bits)) == bits
    assert BitWidths.parse(f"  {str(bits).lower()}\n") == bits
    assert [str(BitWidths.parse(text)) for text in BIT_PRESETS] == list(BIT_PRESETS)


@pytest.mark.parametrize(
    "text",
    [
        *("", "W4", "A8", "4A8", "W4A", "WA8", "W4 A8", "W4A8x", "W1A8", "W9A8", "W0A0", "W4A1"),
        *("W4A17", "W99A99", "W-4A8", "W4.0A8", "W444A8", "A8W4", "W4A8W4A8", "W15A8"),
    ],
)
def test_bits_refuse_anything_else(text: str) -> None:
    with pytest.raises(SpecError, match="bits: expected"):
        BitWidths.parse(text)


NOT_A_NAME = ["", "DDIM", "euler", None, 1, ["ddim"]]
HOSTILE: list[tuple[str, Callable[[Any], object], list[Any]]] = [
    ("expected", lambda x: BitWidths(x, 8), [*NOT_A_COUNT, 0, 1, 4.0, 9, 17]),
    ("expected", lambda x: BitWidths(8, x), [*NOT_A_COUNT, 0, 1, 4.0, 17]),
    ("expected", lambda x: QuantizerSpec(x, False, Granularity.PER_TENSOR), [*NOT_A_COUNT, 1, 17]),
    ("group_size", lambda x: QuantizerSpec(4, False, Granularity.PER_GROUP, x), [0, *NOT_A_COUNT]),
    ("group_size", lambda x: QuantizerSpec(4, False, Granularity.PER_STRIDED_GROUP, x), [0, "32"]),
    ("steps", lambda x: SamplingSpec(steps=x), [*NOT_A_COUNT, 0, 1001]),
    ("guidance_scale", lambda x: SamplingSpec(guidance_scale=x), [*NOT_A_NUMBER, None, 50.1]),
    ("guided_channels", lambda x: SamplingSpec(guided_channels=x), [*NOT_A_COUNT, 65]),
    ("scheduler", lambda x: SamplingSpec(scheduler=x), NOT_A_NAME),
    ("samples", lambda x: CalibrationSpec(samples=x), NOT_A_COUNT),
    ("tokens", lambda x: CalibrationSpec(tokens=x), NOT_A_COUNT),
    ("seed", lambda x: CalibrationSpec(seed=x), [2**31, *(x for x in NOT_A_COUNT if x != 10**9)]),
    ("rank", lambda x: LowRankSpec(rank=x), NOT_A_COUNT),
    ("iterations", lambda x: LowRankSpec(iterations=x), NOT_A_COUNT),
    ("weighting", lambda x: LowRankSpec(weighting=x), ["Energy", *NOT_A_NAME]),
    ("alpha", lambda x: LayerRecipe(BitWidths(4, 8), x), [*NOT_A_NUMBER, 1.01]),
    ("convention", get_convention, ["Integer", "int8", "integer-g", "integer-g3", "integer-g99999",
                                    "paper-g64", "g64", *NOT_A_NAME]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "build", "values"), HOSTILE)
def test_hostile_values_are_refused_by_name(
    name: str, build: Callable[[Any], object], values: list[Any]
) -> None:
    for value in values:
        with pytest.raises(SpecError, match=name):
            build(value)


def test_power_of_two_steps_are_asymmetric_only() -> None:
    with pytest.raises(SpecError, match="power_of_two_steps"):
        QuantizerSpec(4, True, Granularity.PER_TENSOR, power_of_two_steps=True)


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_and_steps(bits: int) -> None:
    signed = QuantizerSpec(bits, True, Granularity.PER_TENSOR)
    assert signed.qmin == -signed.qmax and signed.steps == 2**bits - 2
    unsigned = QuantizerSpec(bits, False, Granularity.PER_TENSOR)
    assert (unsigned.qmin, unsigned.qmax, unsigned.steps) == (0, 2**bits - 1, 2**bits - 1)
    released = QuantizerSpec(bits, False, Granularity.PER_TENSOR, power_of_two_steps=True)
    assert (released.qmin, released.qmax, released.steps) == (0, 2**bits - 1, 2**bits)


def test_the_conventions() -> None:
    assert list(CONVENTIONS) == ["integer", "integer-tensor", "paper", "released"]
    for name, convention in CONVENTIONS.items():
        assert get_convention(name) is convention
        weight, activation = convention.quantizers(BitWidths(4, 6))
        assert (weight.bits, activation.bits) == (4, 6)
        assert convention.name == name and convention.summary
    released = CONVENTIONS["released"]
    assert released.weight.group_size == 32
    assert released.weight.power_of_two_steps and released.activation.power_of_two_steps
    assert CONVENTIONS["integer"].activation.granularity is Granularity.PER_TOKEN
    assert CONVENTIONS["paper"].weight.granularity is Granularity.PER_INPUT_CHANNEL


@given(recipe=recipes)
def test_recipe_round_trip(recipe: Recipe) -> None:
    text = recipe.to_json()
    restored = Recipe.from_json(text)
    assert restored == recipe
    assert restored.calibration_file == recipe.calibration_file
    assert restored.to_json() == text
    assert summarize(restored) == summarize(recipe)


def test_the_hint_where_the_calibration_lies_is_not_compared() -> None:
    document = example_document()
    here = Recipe.from_json(json.dumps(document))
    there = Recipe.from_json(json.dumps({**document, "calibration_file": "elsewhere"}))
    assert here == there
    assert here != Recipe.from_json(json.dumps({**document, "calibration": "other"}))


def test_recipe_needs_its_calibration_only_for_what_comes_from_it() -> None:
    def needs(layer: LayerRecipe) -> bool:
        return Recipe("x", "integer", "c", {"0.qkv": layer}).needs_calibration

    bits = BitWidths(4, 8)
    assert not needs(LayerRecipe(bits))
    assert not needs(LayerRecipe(bits, None, LowRankSpec(8, weighting="none")))
    assert needs(LayerRecipe(bits, 0.0))
    assert needs(LayerRecipe(bits, None, LowRankSpec(8, weighting="energy")))


def test_with_layer_replaces_one_group_in_a_copy() -> None:
    recipe = Recipe.from_json(json.dumps(example_document()))
    changed = recipe.with_layer("0.proj", LayerRecipe(BitWidths(2, 4)))
    assert changed.layers["0.proj"].bits == BitWidths(2, 4)
    assert recipe.layers["0.proj"].bits == BitWidths(8, 8)
    with pytest.raises(SpecError, match=r"9\.fc9"):
        recipe.with_layer("9.fc9", LayerRecipe(BitWidths(2, 4)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        '"recipe"',
        "{}",
        '{"format": 2}',
        "NaN",
        "[" * 100_000,
        '{"format": ' + "1" * 5000 + "}",
        '{"format": 2, "layers": ' + "[" * 100 + "]" * 100 + "}",
        json.dumps("x" * 2_000_000),
    ],
    ids=lambda text: text[:14],
)
def test_text_that_is_no_recipe(text: str) -> None:
    with pytest.raises(SpecError, match="recipe"):
        Recipe.from_json(text)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("1e999", "expected finite numbers, got 1e999"),
        ("-Infinity", "expected finite numbers"),
        ("1" * 400, "got a much larger number"),
        ("[" * 900 + "]" * 900, "levels|nested"),
    ],
    ids=["overflow", "infinity", "long", "deep"],
)
def test_numbers_and_nesting_are_bounded(written: str, reason: str) -> None:
    document = example_document()
    document["layers"]["0.qkv"]["alpha"] = "HERE"
    with pytest.raises(SpecError, match=reason) as caught:
        Recipe.from_json(json.dumps(document).replace('"HERE"', written))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["{}", "[1.5]", "[true]", "[-1]", "[1e999, 1]", "[" * 100_000])
def test_timesteps_are_whole_numbers(text: str) -> None:
    with pytest.raises(SpecError, match="timesteps: expected"):
        read_timesteps(text)
    assert read_timesteps("[981, 961, 1]") == (981, 961, 1)


def test_a_file_is_read_only_as_far_as_a_recipe_goes(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    with pytest.raises(SpecError, match="recipe: expected a file"):
        Recipe.load(path)
    path.write_text(json.dumps(example_document()))
    assert Recipe.load(path).layers["0.qkv"].alpha == 0.35
    path.write_bytes(b"\xff{}")
    with pytest.raises(SpecError, match="UTF-8"):
        Recipe.load(path)
    os.truncate(path, 300_000_000)  # sparse
    tracemalloc.start()
    try:
        with pytest.raises(SpecError, match="at most 2000000 B"):
            Recipe.load(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


TOP = ("format", "name", "convention", "checkpoint", "layers", "calibration", "calibration_file")
LAYER = ("bits", "alpha", "low_rank")


@given(value=json_values, data=st.data())
def test_any_field_replaced_or_removed(value: Any, data: st.DataObject) -> None:
    """Only SpecError, and whatever is accepted can be written and read again."""
    document = example_document()
    where = data.draw(st.sampled_from(["top", "layer", "bits", "low_rank"]))
    layer = document["layers"]["0.qkv"]
    target, keys = {
        "top": (document, TOP),
        "layer": (layer, LAYER),
        "bits": (layer["bits"], ("weight", "activation")),
        "low_rank": (layer["low_rank"], ("rank", "iterations", "weighting")),
    }[where]
    key = data.draw(st.sampled_from(keys))
    if data.draw(st.booleans()):
        target[key] = value
    else:
        del target[key]
    try:
        recipe = Recipe.from_json(json.dumps(document))
    except SpecError:
        return
    assert Recipe.from_json(recipe.to_json()) == recipe
    summarize(recipe)


def test_a_recipe_has_layers_and_a_known_convention() -> None:
    with pytest.raises(SpecError, match="layers"):
        Recipe("x", "integer", "c", {})
    with pytest.raises(SpecError, match="convention"):
        Recipe("x", "other", "c", {"0.qkv": LayerRecipe(BitWidths(4, 8))})


@pytest.mark.parametrize("place", ["recipe", "layer", "bits", "low_rank"])
@pytest.mark.parametrize("strange", ["Z" * 300, "<img src=x>"])
def test_a_strange_field_is_named_in_few_words(place: str, strange: str) -> None:
    document = example_document()
    name, layer = next(iter(document["layers"].items()))
    {"recipe": document, "layer": layer}.get(place, layer.get(place))[strange] = 1
    with pytest.raises(SpecError, match="expected the fields") as caught:
        Recipe.from_json(json.dumps(document))
    assert len(str(caught.value)) < 250 and "__init__" not in str(caught.value)
    assert place == "recipe" or name in str(caught.value)


@pytest.mark.parametrize(
    "place", ["layers", "layer", "bits", "low_rank", "name", "checkpoint", "calibration_file"]
)
@pytest.mark.parametrize("bad", [None, 7, [], True])
def test_what_is_no_object_or_text_is_said(place: str, bad: Any) -> None:
    document = example_document()
    name, layer = next(iter(document["layers"].items()))
    if place == "layer":
        document["layers"][name] = bad
    else:
        (layer if place in layer else document)[place] = bad
    with pytest.raises(SpecError, match="expected"):
        Recipe.from_json(json.dumps(document))


@pytest.mark.parametrize("field", ["bits", "alpha", "low_rank"])
def test_a_missing_field_is_named(field: str) -> None:
    document = example_document()
    del next(iter(document["layers"].values()))[field]
    with pytest.raises(SpecError, match=f"expected the field {field}, found none"):
        Recipe.from_json(json.dumps(document))
