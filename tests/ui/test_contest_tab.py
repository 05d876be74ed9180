"""Contest without a browser: what is shipped, a run that goes on, two contenders everywhere."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ditas_core.bench.pages import Served, Visitor, served
from ditas_core.calibration import calibrate
from ditas_core.contest import Contest, ContestSpec, Row, run_contest
from ditas_core.conversion import inject_outliers
from ditas_core.quantizer import levels
from ditas_core.specs import (
    FORMATS,
    METHODS,
    BitWidths,
    Method,
    Part,
    Recipe,
    SamplingSpec,
    SpecError,
)
from ditas_core.ui.page.picking import Pick
from ditas_core.ui.stored.contests import NATURAL, load_contests, save_contest, title_of
from ditas_core.ui.stored.results import REFERENCE
from ditas_core.ui.tabs.blind.layout import source
from ditas_core.ui.tabs.compare.draw import shown
from ditas_core.ui.tabs.contest import draw as show
from ditas_core.ui.tabs.contest.job import (
    LiveJob,
    choice_of,
    draw_two,
    notes_of,
    recipe_name,
    run_live,
    sources,
)
from ditas_core.ui.tabs.contest.layout import first_source
from ditas_core.ui.tabs.contest.methods import (
    MEANINGS,
    cards,
    drawing,
    format_drawing,
    format_sentence,
    lanes,
    parts_of,
    sentence,
)
from ditas_core.ui.visitors.backend import INJECTED_CHANNELS, Backend, Choice
from ditas_core.ui.visitors.running import Progress
from ditas_core.ui.visitors.session import Session

from .conftest import SHORT, bench_of, closed_when, hooked

SPEC = ContestSpec(
    BitWidths(4, 8),
    7.0,
    ("plain", "gptq"),
    samples=2,
    sampling=SamplingSpec(steps=4),
    batch=2,
)


def shipped_contest(backend: Backend, strength: float = 1.0, bits: str = "W4A8") -> Contest:
    """Of the default checkpoint, or of its twin, as ``make contests`` writes it."""
    natural = checkpoint = backend.checkpoint(backend.default)
    if strength > 1:
        changed = inject_outliers(natural.transformer, strength, INJECTED_CHANNELS)
        checkpoint = replace(natural, transformer=changed)
    spec = replace(SPEC, bits=BitWidths.parse(bits))
    found = run_contest(checkpoint, calibrate(checkpoint, SHORT), spec)
    if strength <= 1:
        return found
    more = {"injected": strength, NATURAL: natural.fingerprint}
    return replace(found, settings={**found.settings, **more})


@pytest.fixture(scope="module")
def backend(tiny: Path, nothing_shipped: Path) -> Backend:
    """A natural contest and one of its twin are shipped, a damaged and a foreign one too."""
    found = bench_of(tiny)
    folder = nothing_shipped.with_name("contests")
    natural = shipped_contest(found)
    save_contest(natural, folder, "W4A8")
    save_contest(shipped_contest(found, 32.0), folder, "W4A8-injected")
    foreign = replace(natural, settings={**natural.settings, "fingerprint": "0" * 64})
    save_contest(foreign, folder, "foreign")
    (folder / "damaged.json").write_text('{"format": "ditas-contest-1"')
    return found


def live(backend: Backend, **changes: object) -> LiveJob:
    return LiveJob(backend.default, replace(SPEC, **changes), backend.spec)  # type: ignore[arg-type]


def test_only_this_checkpoints_contests_are_shown(backend: Backend, session: Session) -> None:
    found = sources(backend, session)
    assert list(found) == [
        "W4A8 · at most 7 bits",
        "W4A8 · at most 7 bits · injected outliers ×32",
    ]
    assert [model.strength for model, _ in found.values()] == [1.0, 32.0]
    assert first_source(list(found), "W4A8") == next(iter(found))
    assert (
        first_source(list(found), "W8A8") == next(iter(found)) and first_source([], "W8A8") is None
    )
    with pytest.raises(ValueError, match="none found"):
        load_contests(Path("/nowhere"), "x")


def test_a_stopped_run_goes_on_and_is_the_visitors_own(backend: Backend, session: Session) -> None:
    job = live(backend)
    events = closed_when(run_live(backend, session, job), lambda e: isinstance(e, Contest))
    assert [row.label for row in events[-1].rows] == ["plain"]
    notes = notes_of(session)
    assert list(notes.finished) == ["plain"] and notes.entered == 4
    assert not hooked(backend.checkpoint(backend.default).transformer)
    *steps, last = run_live(backend, session, job)
    texts = [each.text for each in steps if isinstance(each, Progress)]
    places = {text[:6] for text in texts if ":" in text}
    assert "1 of 4" not in places and {"2 of 4", "4 of 4"} <= places
    partial = [len(each.rows) for each in steps if isinstance(each, Contest)]
    assert partial == [2, 3, 4], "what was measured before stays in the table"
    assert isinstance(last, Contest) and len(last.rows) == 4
    assert [each.fraction for each in steps if isinstance(each, Progress)][-1] <= 1
    title = next(iter(sources(backend, session)))
    assert title == f"Run here: {title_of(last)}" and sources(backend, session)[title][1] == last
    expected = backend.contests[0]
    for row in last.rows:
        assert row.effective_bits == pytest.approx(expected.row(row.label).effective_bits)
    list(run_live(backend, session, live(backend, seed=1, methods=("plain",))))
    assert list(notes.finished) == ["plain", "plain g16"], "of other noise nothing is kept"
    assert not Session("else").notes and session.empty is False


def test_two_contenders_stand_in_compare_and_in_the_blind_test(
    backend: Backend, session: Session
) -> None:
    for model, contest in sources(backend, Session("")).values():
        choice = Choice(backend.default, BitWidths(8, 8), "integer-tensor")
        labels = ("plain", "gptq g16")
        with closing(draw_two(backend, session, choice, model, contest, labels)) as events:
            *_, result = events
        names = [recipe_name(label) for label in labels]
        assert result.variants == names and len(result.images[REFERENCE]) == 4
        backend.cache.put(("result", "drawn"), result)
        session.result = "drawn"
        at = choice_of(choice, model, contest, labels[-1])
        view = shown(backend, session, at)
        assert view is not None and view.result is result
        assert source(backend, session, choice) == ("drawn", result)
        assert set(names) <= set(backend.recipe_names(session, at))
        kept = Recipe.from_json(contest.row("gptq g16").recipe)
        assert backend.recipe(session, at) == (names[1], kept)
        pictures = show.drawn(result)
        assert pictures.count("<img") == 12 and "gptq g16" in pictures


def test_what_cannot_be_drawn_is_said(backend: Backend, session: Session) -> None:
    model, contest = next(iter(sources(backend, session).values()))
    outside = Row("theirs", "theirs", "int4", 5.0, contest.rows[0].samples, outside="library 1.0")
    mixed = replace(contest, rows=(*contest.rows, outside))
    choice = Choice(backend.default, BitWidths(4, 8), "integer")
    with pytest.raises(SpecError, match="another library has rounded"):
        draw_two(backend, session, choice, model, mixed, ("plain", "theirs"))
    other = replace(model, strength=2.0)
    with pytest.raises(SpecError, match="made for checkpoint"):
        draw_two(backend, session, choice, other, contest, ("plain", "gptq"))
    assert "library 1.0" in str(show.table(mixed))


def test_the_chart_and_the_table_name_everybody(backend: Backend, session: Session) -> None:
    _, contest = next(iter(sources(backend, session).values()))
    rows = show.table(contest)
    assert [row[0] for row in rows] == show.names(contest)
    assert all(len(row) == len(show.HEADERS) == len(show.KINDS) for row in rows)
    figure = show.front(contest, ("plain",), dark=True)
    for at, trace in enumerate(figure.data):
        for x, y, label in zip(trace.x, trace.y, trace.customdata or (), strict=False):
            assert show.picked(contest, Pick(x, y, at)) == label
    for wrong in (Pick(0.0, 0.0, 0), Pick("plain", 1.0, 1)):
        with pytest.raises(Exception, match="expected a mark"):
            show.picked(contest, wrong)
    assert show.two_of(contest, ("gptq", "nobody"))[0] == "gptq"
    assert show.two_of(None, (None, None)) == (None, None) and show.table(None) == []
    assert "tie" in show.pair_line(contest, ("plain", "gptq"))
    assert "closest" in show.caption(contest) and "No contest" in show.caption(None)


@dataclass(frozen=True)
class Newer(Method):
    """A method of a registry with a kind of part that the page does not know."""

    rotation: Part = field(default_factory=lambda: Part.of("hadamard", block=64))
    ranges: int = 3


def test_every_method_of_the_registry_has_a_sentence_of_its_own_and_a_picture() -> None:
    page = cards()
    assert page.count("<svg") == len(METHODS) + len(FORMATS)
    told = {name: sentence(method) for name, method in METHODS.items()}
    assert len(set(told.values())) == len(METHODS)
    for name, method in METHODS.items():
        unknown = [part for part in parts_of(method) if part not in MEANINGS]
        assert not unknown, f"{name}: MEANINGS lacks {unknown}"
        assert f"<b>{name}</b>" in page and told[name].endswith(".")
        kinds, (inputs, weights, branch) = dict(parts_of(method)), lanes(method)
        assert ("÷ s" in inputs) == ("× s" in weights) == (method.smoothing != "none")
        assert ("rotate" in inputs) == ("rotate" in weights) == ("rotation" in kinds)
        assert bool(branch) == (method.branch != "none") == ("+</text>" in drawing(method))
        assert weights[-1] == kinds.get("compensation", "round") and inputs[-1] == "round"
        assert ("clip" in weights) == ("clipping" in kinds)
        assert kinds.get("aggregation", "") in drawing(method)
    assert told["plain"] == "Every number goes to the nearest level."


def test_a_method_with_a_part_that_the_page_does_not_know_is_told_by_its_name() -> None:
    newer = Newer("x", smoothing="grid")
    assert parts_of(newer)[1:] == [("rotation", "hadamard"), ("ranges", "3")]
    assert sentence(newer).endswith("rotated against it; ranges: 3.")
    assert lanes(newer) == (["÷ s", "rotate", "round"], ["× s", "rotate", "3", "round"], "")


def test_every_number_format_has_a_sentence_and_its_levels() -> None:
    page = cards()
    for name, each in FORMATS.items():
        drawn, text = format_drawing(each), format_sentence(each)
        assert f"<b>{name}</b>" in page and drawn in page and text in page
        assert drawn.count("V52") == len(levels(each.element))
        assert f"{each.bits_with_scale:g} bits" in text
        uneven = each.element.exponent or each.element.table
        assert ("denser towards zero" in text) == bool(uneven)
    assert "16 inputs share a scale, an FP8 number" in format_sentence(FORMATS["nvfp4"])


@pytest.fixture(scope="module")
def page(tiny: Path, backend: Backend) -> Served:
    """The page with these contests."""
    with served(tiny) as found:
        yield found  # type: ignore[misc]


def test_the_served_tab_draws_runs_and_refuses(page: Served) -> None:
    with closing(Visitor(page.url)) as visitor:
        title = "W4A8 · at most 7 bits"
        tab = [title, "plain", "gptq", *page.bar()]
        message = visitor.ask(visitor.number("draw_contest"), tab)
        assert message["success"], message
        text = json.dumps(message["output"]["data"], ensure_ascii=False)
        assert "gptq g16" in text and "is closest" in text
        run, good = visitor.number("contest_run"), [["plain"], 6.0, 1, 4, *page.bar()]
        for place, wrong in ((0, []), (0, ["plain", "best"]), (1, 99.0), (2, 9), (3, 21), (3, 3)):
            asked = [wrong if index == place else value for index, value in enumerate(good)]
            assert not visitor.ask(run, asked)["success"]
        assert visitor.ask(run, good)["success"]
        low = [["plain"], 2.5, 1, 4, *page.bar()]
        error = visitor.ask(run, low)["output"]["error"]
        assert "at least what one of the contenders takes" in error
        drawn = visitor.ask(visitor.number("contest_draw"), tab)
        assert drawn["success"] and "stand in Compare" in json.dumps(drawn["output"])
        assert not page.backend.queue.locked()
