"""Methods at equal bits: who takes part, what is measured, what is told apart, going on."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ditas_core.bench import peers
from ditas_core.calibration import Calibration
from ditas_core.checkpoints import Checkpoint, load_checkpoint
from ditas_core.cli import main
from ditas_core.comparison import compare, run_trajectory
from ditas_core.contest import (
    Contest,
    ContestJournal,
    ContestProgress,
    ContestSpec,
    LeftOut,
    Peer,
    Row,
    RowDone,
    contenders,
    drawn_as,
    formats_of,
    iterate_contest,
    outside_row,
    predicted_seconds,
    read_outside,
    reference_run,
    run_contest,
    summary,
    write_outside,
)
from ditas_core.contest.contenders import GROUP_SIZES, LEAST_RANK, convention_name, counted_bits
from ditas_core.contest.packing import pack, unpack
from ditas_core.conversion import quantize_transformer
from ditas_core.evaluation import (
    ModelShape,
    holm,
    interval,
    paired_probability,
    t_probability,
)
from ditas_core.fidelity import feature_distance, load_stages
from ditas_core.figures import contest_drawing, contest_front
from ditas_core.layers import QuantizedLinear, effective_bits, multiply_numbers_
from ditas_core.results import contests as results
from ditas_core.results import pages
from ditas_core.sampling import spread_labels
from ditas_core.search import SearchSpec, search
from ditas_core.specs import METHODS, BitWidths, LowRankSpec, Recipe, SamplingSpec, SpecError
from ditas_core.ui.stored.contests import load_contests

pytestmark = pytest.mark.numeric

SPEC = ContestSpec(
    BitWidths(4, 8),
    9.0,
    ("plain", "gptq", "svdquant"),
    ("nvfp4",),
    samples=3,
    sampling=SamplingSpec(steps=2),
    batch=2,
)


@pytest.fixture(scope="module")
def contest(random_checkpoint: Checkpoint, random_calibration: Calibration) -> Contest:
    return run_contest(random_checkpoint, random_calibration, SPEC)


# ---- pairs ---------------------------------------------------------------------------------


def test_probabilities_of_students_t() -> None:
    for t in (0.0, 0.3, 1.0, 7.0):
        assert t_probability(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), abs=1e-12)
        assert t_probability(-t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-12)
    for freedom, quantile in ((3, 3.182446), (10, 2.228139), (63, 1.998341), (120, 1.979930)):
        assert t_probability(quantile, freedom) == pytest.approx(0.05, abs=1e-6)
    with pytest.raises(ValueError, match="at least 1"):
        t_probability(1.0, 0)


@given(st.integers(1, 40), st.floats(0, 12))
def test_probabilities_are_areas_of_the_density(freedom: int, t: float) -> None:
    x = torch.linspace(0, t, 4001, dtype=torch.float64)
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    density = (1 + x**2 / freedom) ** (-(freedom + 1) / 2) / math.sqrt(freedom * math.pi)
    inside = 2 * float(torch.trapezoid(density, x)) * math.exp(log)
    assert t_probability(t, freedom) == pytest.approx(1 - inside, abs=1e-5)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=12))
def test_a_pair_is_told_apart_where_its_interval_leaves_zero_out(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    found, probability = interval(x), paired_probability(x)
    if abs(abs(found.mean) - found.half_width) > 1e-3 * (1e-6 + found.half_width):
        assert (probability < 0.05) == (abs(found.mean) > found.half_width)
    assert paired_probability(-x) == pytest.approx(probability)


def test_pairs_without_spread_and_without_company() -> None:
    assert paired_probability(torch.zeros(4)) == 1
    assert paired_probability(torch.ones(4)) == 0
    assert paired_probability(torch.ones(1)) == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_holms_correction(values: list[float], random: object) -> None:
    found = holm(values)
    order = sorted(range(len(values)), key=values.__getitem__)
    largest = 0.0
    for rank, index in enumerate(order):  # as Holm writes it
        largest = max(largest, (len(values) - rank) * values[index])
        assert found[index] == pytest.approx(min(1.0, largest))
    assert all(a >= v for a, v in zip(found, values, strict=True))


# ---- features ------------------------------------------------------------------------------


def test_feature_distance_of_known_features() -> None:
    def stages(x: Tensor) -> list[Tensor]:
        return [x, x.mean((2, 3), keepdim=True)]

    a, b = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    a[:, 0], b[0, 1], b[1, 0] = 1.0, 1.0, 0.5  # at right angles; of another length alone
    assert feature_distance(stages, a, b, batch=1).tolist() == pytest.approx([2.0, 0.0], abs=1e-6)
    assert feature_distance(stages, a, a).tolist() == [0.0, 0.0]
    assert torch.equal(feature_distance(stages, a, b), feature_distance(stages, b, a))
    with pytest.raises(ValueError, match="equal shapes"):
        feature_distance(stages, a, b[:1])


def test_more_noise_is_further_in_the_classifiers_features() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(1, 3, 4, 4, generator=generator)
    image = torch.nn.functional.interpolate(smooth, size=(64, 64), mode="bilinear")
    noise = torch.randn(image.shape, generator=generator)
    stages = load_stages()
    found = [float(feature_distance(stages, image, image + x * noise)) for x in (0, 0.02, 0.1)]
    assert found[0] == 0 < found[1] < found[2] < 4


# ---- who takes part ------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [5.2, 7.0, 9.0, 12.0])
def test_nobody_takes_more_than_the_budget_and_nothing_is_wasted(
    random_checkpoint: Checkpoint, budget: float
) -> None:
    spec = replace(SPEC, budget=budget, methods=("plain", "search", "ditas"), formats=())
    entered, barred = contenders(random_checkpoint, spec)
    assert len({each.label for each in entered}) == len(entered)
    width = random_checkpoint.width
    for each in entered:
        assert each.counted == counted_bits(random_checkpoint, each.search) <= budget + 1e-9
        if each.search.parts.branch != "none":
            rank = each.search.branch(width).rank
            wider = replace(each.search, low_rank=LowRankSpec(rank + 1))
            assert rank == width or counted_bits(random_checkpoint, wider) > budget
    for name in ("plain", "search", "ditas"):
        mine = [each for each in entered if each.search.method == name]
        assert bool(mine) != any(each.label == name for each in barred)
        rest = [size for size in GROUP_SIZES if mine and size < (mine[-1].group_size or 10**9)]
        for size in rest:
            finer = replace(mine[-1].search, convention=convention_name(size))
            if finer.parts.branch != "none":
                finer = replace(finer, low_rank=LowRankSpec(LEAST_RANK))
            assert counted_bits(random_checkpoint, finer) > budget


def test_what_is_counted_is_what_is_stored(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    entered, _ = contenders(random_checkpoint, SPEC)
    for each in entered:
        recipe = search(random_checkpoint, random_calibration, each.search)
        made = quantize_transformer(random_checkpoint, recipe, random_calibration)
        real = effective_bits(made)
        assert real <= each.counted + 1e-9
        if each.search.parts.smoothing == "none":
            assert real > each.counted - 0.5  # scales that half precision happens to hold


def test_a_budget_for_nobody_says_what_would_do(random_checkpoint: Checkpoint) -> None:
    with pytest.raises(SpecError, match=r"got 4: plain takes 5\.12 bits at least"):
        contenders(random_checkpoint, replace(SPEC, budget=4.0, methods=("plain",)))


def test_without_a_budget_methods_are_as_they_are(random_checkpoint: Checkpoint) -> None:
    entered, barred = contenders(random_checkpoint, replace(SPEC, budget=None, formats=()))
    assert [each.label for each in entered] == list(SPEC.methods) and not barred
    assert all(each.search == SearchSpec(SPEC.bits, method=each.label) for each in entered)


def test_every_method_of_the_registry_takes_part() -> None:
    assert ContestSpec().methods == tuple(METHODS)
    assert formats_of(BitWidths(4, 8)) >= ("fp4",) and not formats_of(BitWidths(3, 8))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"bits": BitWidths("nvfp4", 8)}, "whole number of weight bits"),
        ({"budget": 1.0}, "budget"),
        ({"methods": ("best",)}, "methods"),
        ({"formats": ("fp5",)}, "formats"),
        ({"methods": (), "formats": ()}, "at least one"),
        ({"samples": 0}, "samples"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(SpecError, match=named):
        replace(SPEC, **wrong)  # type: ignore[arg-type]


# ---- what is measured ----------------------------------------------------------------------


def test_products_of_numbers_are_those_of_codes(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))
    for convention in ("integer", "integer-g16"):
        spec = SearchSpec(BitWidths(4, 8), convention, "smoothing")
        recipe = search(random_checkpoint, random_calibration, spec)
        made = quantize_transformer(random_checkpoint, recipe, random_calibration)
        layers = [m for m in made.modules() if isinstance(m, QuantizedLinear)]
        layers = [layer for layer in layers if layer.in_features == 32]
        codes = [layer(x) for layer in layers]
        stored, bits = dict(made.state_dict()), effective_bits(made)
        multiply_numbers_(made)
        for layer, expected in zip(layers, codes, strict=True):
            torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
        assert effective_bits(made) == bits and set(made.state_dict()) == set(stored)


def test_a_row_is_what_comparing_gives(
    random_checkpoint: Checkpoint, random_calibration: Calibration, contest: Contest
) -> None:
    labels = spread_labels(3, len(random_checkpoint.class_names))

    def run(transformer: torch.nn.Module) -> object:
        return run_trajectory(random_checkpoint, transformer, labels, SPEC.sampling, 0, 2)

    for row in (contest.row("plain"), contest.row("svdquant r4")):
        recipe = Recipe.from_json(row.recipe)
        made = quantize_transformer(random_checkpoint, recipe, random_calibration)
        assert row.effective_bits == pytest.approx(effective_bits(made))
        multiply_numbers_(made)
        found = compare(run(random_checkpoint.transformer), run(made))  # type: ignore[arg-type]
        assert row.samples["latent_sqnr_db"] == pytest.approx(found.latent_sqnr.tolist(), abs=1.0)
        assert row.samples["psnr_db"] == pytest.approx(found.psnr.tolist(), abs=1.0)
        assert row.rank == max(layer.low_rank.rank for layer in recipe.layers.values())
    assert contest.row("plain").extra_operations == 0 < contest.row("svdquant r4").extra_operations
    assert contest.row("gptq nvfp4").weights == "nvfp4"


def test_progress_runs_from_nothing_to_all(
    random_checkpoint: Checkpoint, random_calibration: Calibration
) -> None:
    spec = replace(SPEC, methods=("plain", "smoothing"), formats=(), budget=None)
    events = list(iterate_contest(random_checkpoint, random_calibration, spec))
    steps = [each for each in events if isinstance(each, ContestProgress)]
    shares = [each.fraction for each in steps]
    assert shares == sorted(shares) and 0 < shares[0] < 0.3 and shares[-1] == pytest.approx(1)
    assert all(0 < each.done <= each.total for each in steps)
    assert [each.found.label for each in events if isinstance(each, RowDone)] == list(spec.methods)


def test_one_that_cannot_be_built_is_left_out(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> Iterator[object]:
        raise SpecError("rotation: expected a width that is a power of two, got 12")
        yield

    monkeypatch.setattr("ditas_core.contest.run.iterate_search", refuse)
    spec = replace(SPEC, methods=("plain",), formats=(), budget=None)
    with pytest.raises(SpecError, match="plain: rotation"):
        run_contest(random_checkpoint, random_calibration, spec)


def test_seconds_add_up(random_checkpoint: Checkpoint, random_calibration: Calibration) -> None:
    entered, _ = contenders(random_checkpoint, SPEC)
    shape = ModelShape.of(random_checkpoint)

    def seconds(some: object) -> float:
        return predicted_seconds(shape, 1e9, random_calibration, SPEC, some)  # type: ignore[arg-type]

    both = seconds(entered[:2])
    apart = seconds(entered[:1]) + seconds(entered[1:2])
    reference = SPEC.samples * SPEC.sampling.steps * 2 * shape.flops / 1e9
    assert both == pytest.approx(apart - reference) and seconds(entered) > both > 0


# ---- the table -----------------------------------------------------------------------------


def row(label: str, bits: float, values: list[float]) -> Row:
    return Row(label, "plain", "4", bits, {"latent_sqnr_db": tuple(values)})


CLOSE = st.lists(st.floats(0, 40), min_size=4, max_size=4)


@given(st.lists(st.tuples(st.floats(2, 9), CLOSE), min_size=1, max_size=7))
def test_the_front_and_the_ties(found: list[tuple[float, list[float]]]) -> None:
    rows = tuple(row(f"r{i}", bits, values) for i, (bits, values) in enumerate(found))
    table = Contest({}, rows)
    for one in rows:
        beaten = [x for x in rows if x.effective_bits <= one.effective_bits]
        best = all(x.quality <= one.quality for x in beaten)
        assert best or one.label not in table.front
        if all(x is one or x.quality < one.quality for x in beaten):
            assert one.label in table.front
        for other in table.ties[one.label]:
            assert one.label in table.ties[other] and table.pair(one.label, other).tie
    assert len(table.pairs) == len(rows) * (len(rows) - 1) // 2
    assert table.leaders[0] == table.standing[0].label
    assert all(pair.difference.mean >= -1e-4 for pair in table.pairs)


def test_what_differs_in_every_sample_is_no_tie() -> None:
    noise = [0.1 * math.sin(i) for i in range(32)]
    table = Contest(
        {},
        (
            row("near", 4.0, [20 + x for x in noise]),
            row("same", 4.0, [20 + x for x in reversed(noise)]),
            row("far", 5.0, [15 + x for x in noise]),
        ),
    )
    assert table.leaders == ("near", "same") or table.leaders == ("same", "near")
    assert not table.ties["far"] and len(table.front) == 1


def test_files_hold_the_whole_contest(contest: Contest) -> None:
    again = Contest.from_json(contest.to_json())
    assert again.to_json() == contest.to_json() and again.front == contest.front
    assert [Recipe.from_json(r.recipe) for r in again.rows] == [
        Recipe.from_json(r.recipe) for r in contest.rows
    ]
    lines = list(csv.DictReader(io.StringIO(contest.to_csv())))
    assert [line["label"] for line in lines] == [each.label for each in contest.standing]
    assert list(lines[0]) == list(summary(contest, contest.rows[0]))
    assert {line["label"] for line in lines if line["on_front"] == "True"} == set(contest.front)
    pairs = list(csv.DictReader(io.StringIO(contest.pairs_csv())))
    assert len(pairs) == len(contest.pairs)
    for wrong in ("{}", "[]", contest.to_json().replace("ditas-contest-1", "other")):
        with pytest.raises(SpecError):
            Contest.from_json(wrong)
    document = json.loads(contest.to_json())
    del document["rows"][0]["recipe"]
    with pytest.raises(SpecError, match="expected rows"):
        Contest.from_json(json.dumps(document))


@pytest.mark.parametrize("method", METHODS)
def test_packed_recipes_are_whole(
    random_checkpoint: Checkpoint, random_calibration: Calibration, method: str
) -> None:
    spec = SearchSpec(BitWidths(4, 8), method=method, grid=(0.5,))
    recipe = search(random_checkpoint, random_calibration, spec)
    packed = pack(recipe)
    assert unpack(json.loads(json.dumps(packed))) == recipe
    for wrong in ([], {**packed, "own": None}, {**packed, "own": {"x": 1}}):
        with pytest.raises(SpecError):
            unpack(wrong)


def test_figures_show_everybody(contest: Contest) -> None:
    standings = contest.standings(chosen=("gptq",))
    figure = contest_front(standings, budget=9.0)
    shown = [label for trace in figure.data for label in trace.customdata or ()]
    assert sorted(shown) == sorted(each.label for each in contest.rows)
    front = figure.data[0]
    assert list(front.x) == sorted(contest.row(name).effective_bits for name in contest.front)
    drawing = contest_drawing(standings, "a & b")
    assert drawing.count("<circle") == len(contest.rows) and "a &amp; b" in drawing
    assert all(f">{name}</text>" in drawing for name in contest.front)


# ---- going on ------------------------------------------------------------------------------


class Enough(Exception):
    """The test has seen what it wanted."""


def test_an_interrupted_contest_goes_on(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    contest: Contest,
    tmp_path: Path,
) -> None:
    entered, _ = contenders(random_checkpoint, SPEC)
    path = tmp_path / "rows.jsonl"

    def journal(spec: ContestSpec = SPEC, features: bool = False) -> ContestJournal:
        return ContestJournal(path, random_checkpoint, random_calibration, spec, entered, features)

    first = journal()
    first.remove()
    for done in contest.rows[:3]:
        first.add(done)
    first.add(LeftOut(entered[3].label, "too wide"))
    with path.open("a") as file:
        file.write('{"key": "cut o')
    second = journal()
    assert list(second.finished) == [each.label for each in entered[:4]]
    events = iterate_contest(random_checkpoint, random_calibration, SPEC, finished=second.finished)
    labels = []
    for event in events:
        if isinstance(event, ContestProgress):
            labels.append(event.label)
        elif isinstance(event, RowDone):
            second.add(event.found)
        else:
            assert event.left_out == ((entered[3].label, "too wide"),)
            assert [each.label for each in event.rows] == [
                each.label for each in entered if each is not entered[3]
            ]
            for each in event.rows:
                expected = contest.row(each.label).samples["latent_sqnr_db"]
                assert each.samples["latent_sqnr_db"] == pytest.approx(expected, abs=0.5)
    assert set(labels) == {"full precision", *(each.label for each in entered[4:])}
    third = journal()
    assert set(third.finished) == {each.label for each in entered}
    fewer = replace(SPEC, methods=("plain",), formats=())
    assert len(journal(fewer).finished) == len(entered)  # who takes part changes no result
    assert journal(replace(SPEC, seed=1)).discards and journal(features=True).discards
    third.remove()
    assert not path.exists()
    path.write_text("something else")
    with pytest.raises(FileExistsError, match="interrupted contest"):
        journal()


# ---- from outside --------------------------------------------------------------------------


def test_a_peer_is_measured_like_everybody(
    random_checkpoint: Checkpoint,
    random_calibration: Calibration,
    contest: Contest,
    tmp_path: Path,
) -> None:
    recipe = Recipe.from_json(contest.row("plain").recipe)
    made = quantize_transformer(random_checkpoint, recipe)
    labels = spread_labels(3, len(random_checkpoint.class_names))
    run = run_trajectory(random_checkpoint, made, labels, SPEC.sampling, 0)
    peer = Peer(
        "theirs", "library 1.0", "int4", 5.1, 0.1, 0.2, random_checkpoint.fingerprint,
        drawn_as(SPEC),
    )  # fmt: skip
    path = tmp_path / "theirs.safetensors"
    write_outside(path, peer, run.final)
    read = read_outside(path)
    assert read[0] == peer
    reference = reference_run(random_checkpoint, SPEC)
    found = outside_row(random_checkpoint, SPEC, reference, read)
    for name, values in contest.row("plain").samples.items():
        assert found.samples[name] == pytest.approx(values, abs=1.0)
    assert found.outside == "library 1.0" and not found.recipe
    table = Contest({}, (*contest.rows, found))
    assert Contest.from_json(table.to_json()).row("theirs").outside == "library 1.0"
    other = replace(peer, drawn={**drawn_as(SPEC), "seed": 1})
    for wrong, named in (
        ((replace(peer, fingerprint="0" * 64), read[1]), "drawn with checkpoint"),
        ((other, read[1]), "expected samples of"),
        ((peer, read[1][:2]), "expected latents"),
    ):
        with pytest.raises(SpecError, match=named):
            outside_row(random_checkpoint, SPEC, reference, wrong)
    path.write_bytes(b"nothing")
    for missing in (path, tmp_path / "absent"):
        with pytest.raises(SpecError):
            read_outside(missing)


def test_a_librarys_files_take_part(
    stock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for torchao and its like: eight levels a row, the codes a byte each."""

    class Packed(torch.nn.Linear):
        def __init__(self, linear: torch.nn.Linear) -> None:
            torch.nn.Module.__init__(self)
            top = linear.weight.abs().amax(1, keepdim=True) / 7
            self.register_buffer("codes", (linear.weight / top).round().to(torch.int8))
            self.register_buffer("scale", top)
            self.bias = linear.bias

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.linear(x, self.codes * self.scale, self.bias)

    def change(network: torch.nn.Module, checkpoint: Checkpoint) -> None:
        for path in peers.grouped_paths(network):
            parent, _, child = path.rpartition(".")
            packed = Packed(network.get_submodule(path))  # type: ignore[arg-type]
            network.get_submodule(parent)._modules[child] = packed

    theirs = (
        peers.Quantizer("theirs int4", "torch", "W4A16", "integer", change),
        peers.Quantizer("absent int4", "no-such-package", "W4A16", "integer", change),
        peers.Quantizer("theirs int8", "torch", "W8A8", "integer", change),
    )
    monkeypatch.setattr(peers, "QUANTIZERS", theirs)
    sizes = "--samples 2 --steps 2 --seed 3"
    out = tmp_path / "peers"
    assert main(shlex.split(f"bench peers {stock} --bits W4A8 {sizes} --out {out} --json")) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["absent"] == ["absent int4"] and len(report["rows"]) == 1
    # a float a row of 32 inputs, of 128 in every block's fc2
    rows, weights = 2 * (3 * 32 + 32 + 128 + 32), 2 * (4 * 32 * 32 + 2 * 128 * 32)
    assert report["rows"][0]["effective_bits"] == pytest.approx(4 + 32 * rows / weights, abs=1e-3)
    words = f"contest {stock} --methods plain --formats none --features none --budget 0 {sizes}"
    words += f" --outside {out / 'theirs-int4.safetensors'} --out {tmp_path / 'c'} --json"
    assert main(shlex.split(words)) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = {each["label"]: each for each in report["results"]}
    assert found["theirs int4"]["outside"].startswith("torch ")
    # rounding alike: a scale a row, weights only, so closer than the same with rounded activations
    assert abs(found["theirs int4"]["latent_sqnr_db"] - found["plain"]["latent_sqnr_db"]) < 8


# ---- the command ---------------------------------------------------------------------------


def test_the_command_writes_a_folder_and_goes_on(
    stock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "c"
    words = f"contest {stock} --samples 2 --steps 2 --budget 7 --methods plain --formats nvfp4"
    words += f" --inject 8 --features none --out {out} --json"
    add = ContestJournal.add

    def stop(self: ContestJournal, result: Row) -> None:
        add(self, result)
        if result.label == "plain g16":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ContestJournal, "add", stop)
        assert main(shlex.split(words)) == 130
    assert "the same command goes on" in capsys.readouterr().err and not out.exists()
    assert main(shlex.split(words)) == 0
    told = capsys.readouterr()
    assert "going on after 2 contenders" in told.err
    report = json.loads(told.out.splitlines()[-1])
    labels = ["plain", "plain g16", "plain nvfp4", "gptq nvfp4"]
    assert sorted(each["label"] for each in report["results"]) == sorted(labels)
    assert report["injected"] == 8 and report["budget"] == 7 and report["steps"] == 2
    contest = Contest.from_json((out / "contest.json").read_text())
    assert list(contest.front) == report["front"]
    assert {path.name for path in out.iterdir()} == {
        "contest.json", "contest.csv", "pairs.csv", "front.svg", "recipes",
        "calibration.safetensors",
    }  # fmt: skip
    recipe = Recipe.load(out / "recipes" / "gptq-nvfp4.json")
    kept = out / "recipes" / recipe.calibration_file
    assert recipe.calibration == Calibration.load(kept).sha256
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--budget 3", "at least what one of the contenders takes"),
        ("--formats fp5", "formats"),
        ("--bits W:nvfp4", "bits"),
        ("--outside absent.safetensors", "expected a file of a peer"),
    ],
)
def test_wrong_words_are_refused_before_the_long_work(
    stock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, named: str
) -> None:
    out = tmp_path / "c"
    assert main(shlex.split(f"contest {stock} --methods plain --out {out} {words}")) == 2
    error = capsys.readouterr().err
    assert named in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


# ---- what is shipped -----------------------------------------------------------------------


def test_shipped_contests_go_on_and_fill_the_pages(
    stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setattr(results, "SAMPLES", 2)
    monkeypatch.setattr(results, "STEPS", 2)
    monkeypatch.setattr(results, "WITH_FORMATS", ())
    monkeypatch.setattr(
        results, "ContestSpec", lambda *a, **k: ContestSpec(*a, methods=("plain",), **k)
    )
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        if line == "W4A8: plain" and lines.count(line) == 1:
            raise Enough

    setting = (("W4A8", 7.0),)
    with pytest.raises(Enough):
        results.measure(stock, tmp_path, 32.0, setting, report)
    found = results.measure(stock, tmp_path, 32.0, setting, report)
    assert lines.count("W4A8: plain") == 1 and lines.count("W4A8: plain g16") == 1
    names = {f"W4A8-injected.{kind}" for kind in ("json", "csv", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == names
    natural = load_checkpoint(str(stock)).fingerprint
    (shipped,) = load_contests(tmp_path, natural)
    assert shipped.settings["injected"] == 32 and shipped.settings["fingerprint"] != natural
    machine = {"cpu": "some", "cores": 2, "date": "2000-01-01"}
    lines = pages.contest({**found, "machine": machine})
    assert sum(line.startswith("| ") for line in lines) == 1 + len(shipped.rows)
    assert any(line.startswith("| **plain") and " * |" in line for line in lines)
