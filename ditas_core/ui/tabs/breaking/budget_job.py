"""Sensitivity maps, bits under a size budget, and what they look like when sampled."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterator
from contextlib import closing

import torch

from ....comparison import iterate_measured_sensitivity
from ....evaluation import interval
from ....search import (
    Allocation,
    Cells,
    SearchSpec,
    SensitivityMap,
    SensitivityProgress,
    at_width,
    frontier,
    iterate_sensitivity,
    largest_uniform,
    priced,
    relative,
    weighted,
)
from ....specs import LEFT_ALONE, BitWidths, LowRankSpec, Recipe, SpecError
from ...stored.results import DITAS
from ...visitors.backend import Backend, Choice
from ...visitors.session import Session
from .job import (
    Ask,
    Step,
    check_measured,
    make_trial,
    measuring,
    quantizing,
    recipe_of,
    reference_of,
    run_key,
    sampling,
)
from .trials import Mixed, Trial, notes_of

WIDTHS = (2, 3, 4, 5, 6, 8)
PREDICTED, WEIGHED, SEARCHED_ANEW, MEASURED = "predicted", "weighed", "searched", "measured"
SAMPLED = (WEIGHED, MEASURED)
"""Maps in shares of the final latents, from short runs."""


def branch_of(recipe: Recipe) -> LowRankSpec | None:
    """The recipe's low-rank branch, if any layer has one."""
    found = (layer.low_rank for layer in recipe.layers.values() if layer.low_rank.rank)
    return next(found, None)


def search_spec(choice: Choice, recipe: Recipe | None) -> SearchSpec:
    """How cells are built: like the recipe, or as the full search does."""
    if recipe is None:
        return SearchSpec(choice.bits, choice.convention, "ditas")
    branch = branch_of(recipe)
    method = "search" if branch is None else "ditas"
    return SearchSpec(choice.bits, recipe.convention, method, branch)


def widths_of(choice: Choice) -> list[BitWidths]:
    """Several weight widths at the bar's activation width, and the layer left alone."""
    return [*(BitWidths(w, choice.bits.activation) for w in WIDTHS), LEFT_ALONE.bits]


def width_of(choice: Choice) -> BitWidths:
    """The map's width that the bar's is, or the nearest below."""
    weight = max(w for w in WIDTHS if w <= choice.bits.weight_bits)
    return BitWidths(weight, choice.bits.activation)


def map_key(backend: Backend, session: Session, ask: Ask, kind: str) -> Hashable:
    """What a map depends on, or None where it cannot be made (no recipe yet)."""
    choice = ask.choice
    spec = session.spec or backend.spec
    shared = ("sensitivity", kind, choice.model, spec, choice.bits.activation, choice.convention)
    if kind == SEARCHED_ANEW:
        return shared
    try:
        _, recipe = recipe_of(backend, session, choice)
    except SpecError:
        return None
    alphas = tuple((name, layer.alpha) for name, layer in sorted(recipe.layers.items()))
    sampled = ask.quick.settings if kind in SAMPLED else ""
    if kind == WEIGHED:
        sampled += f" {width_of(choice)}"
    return (*shared, recipe.convention, alphas, branch_of(recipe), sampled)


def found_map(backend: Backend, session: Session, ask: Ask, kind: str) -> SensitivityMap | None:
    """The map of these settings if anybody has made it."""
    key = map_key(backend, session, ask, kind)
    found: SensitivityMap | None = None if key is None else backend.cache.get(key)
    return found


def known_cells(
    backend: Backend, session: Session, ask: Ask, kind: str
) -> dict[tuple[str, int], float]:
    """Errors by group and weight bits: of the whole map, of one cut short, or shipped ones."""
    found = found_map(backend, session, ask, kind)
    if found is not None:
        return {
            (name, bits.weight_bits): float(found.error[row, column])
            for row, name in enumerate(found.groups)
            for column, bits in enumerate(found.bits)
            if bits != LEFT_ALONE.bits
        }
    cells: Cells = notes_of(session).begun.get(map_key(backend, session, ask, kind), {})
    if cells:
        return {
            (name, bits.weight_bits): error
            for (name, bits), (error, _) in cells.items()
            if bits != LEFT_ALONE.bits
        }
    choice, shipped = ask.choice, backend.shipped
    known = (
        shipped is not None
        and kind not in SAMPLED
        and choice.recipe == DITAS
        and choice.model == backend.default
        and choice.convention == shipped.convention
    )
    if shipped is None or not known:
        return {}
    return {
        (layer.group, preset_bits.weight_bits): relative(layer.best, layer.energy)
        for preset_bits, preset in ((BitWidths.parse(n), p) for n, p in shipped.presets.items())
        if preset_bits.activation == choice.bits.activation
        for layer in preset.layers
    }


def map_sensitivity(backend: Backend, session: Session, ask: Ask, kind: str) -> Iterator[Step]:
    """Cell by cell into the notes, none of them twice; the finished map into the cache."""
    parts = 3 if kind in SAMPLED else 2
    check_measured(backend, ask.choice)
    recipe = None if kind == SEARCHED_ANEW else recipe_of(backend, session, ask.choice)[1]
    key = map_key(backend, session, ask, kind)
    if backend.cache.get(key) is not None:
        yield Step("already mapped", 1.0, (parts, parts), shown=True)
        return
    calibration = yield from measuring(backend, session, ask.choice, (1, parts))
    checkpoint = backend.checkpoint(ask.choice.model)
    begun = notes_of(session)
    bits, spec = widths_of(ask.choice), search_spec(ask.choice, recipe)
    first = PREDICTED if kind in SAMPLED else kind
    first_key = map_key(backend, session, ask, first)
    predicted: SensitivityMap | None = backend.cache.get(first_key)
    if predicted is None:
        cells: Cells = begun.go_on(first_key, dict)
        events = iterate_sensitivity(checkpoint, calibration, bits, spec, recipe, cells)
        predicted = yield from streamed(events, cells, (2, parts), len(bits), kind == first)
        backend.cache.put(first_key, predicted)
        begun.begun.pop(first_key, None)
    if kind in SAMPLED:
        quick = ask.quick
        labels = torch.tensor([checkpoint.class_index(n) for n in quick.labels(checkpoint)])
        one = kind == WEIGHED
        asked = at_width(predicted, width_of(ask.choice)) if one else predicted
        cells = begun.go_on(key, dict)
        events = iterate_measured_sensitivity(
            checkpoint, calibration, asked, labels, quick.sampling, quick.seed, cells
        )
        measured = yield from streamed(events, cells, (3, parts), 1)
        backend.cache.put(key, weighted(predicted, measured) if one else measured)
        begun.begun.pop(key, None)
    yield Step("all layers", 1.0, (parts, parts), shown=True)


def streamed(
    events: Iterator[SensitivityProgress | SensitivityMap],
    cells: Cells,
    part: tuple[int, int],
    every: int,
    draw: bool = True,
) -> Generator[Step, None, SensitivityMap]:
    """Fill ``cells`` as they come; drawn after every so many."""
    found: SensitivityMap | None = None
    with closing(events):  # type: ignore[type-var]
        for event in events:
            if isinstance(event, SensitivityMap):
                found = event
                continue
            cells[event.group, event.bits] = (event.error, event.alpha)
            text = f"layer {event.group} in {event.bits.weight_bits} bits"
            shown = draw and event.done % every == 0
            yield Step(text, event.done / event.total, part, shown)
    assert found is not None
    return found


def frontier_of(backend: Backend, key: Hashable, sensitivities: SensitivityMap) -> list[Allocation]:
    """The best choices at many budgets, worked out once per map."""
    found: list[Allocation] = backend.cache.make(("frontier", key), lambda: frontier(sensitivities))
    return found


def run_mixed(
    backend: Backend, session: Session, ask: Ask, sensitivities: SensitivityMap, chosen: Allocation
) -> Iterator[Step]:
    """One width and the mixed bits, from the noise of the full-precision run.

    Each of the two is kept once it is done.
    """
    bits = largest_uniform(sensitivities, chosen.bits_per_weight)
    plain = priced(sensitivities, sensitivities.uniform(bits))
    calibration = yield from measuring(backend, session, ask.choice, (1, 6))
    reference = yield from reference_of(backend, ask, (2, 6))
    titles = (f"{bits} everywhere", f"mixed, {chosen.bits_per_weight:.2f} bits per weight")
    recipes = [
        sensitivities.recipe(each.bits, title)
        for each, title in zip((plain, chosen), titles, strict=True)
    ]
    notes, key = notes_of(session), ("mixed", run_key(backend, session, ask, *recipes))
    trials: dict[str, Trial] = notes.go_on(key, dict)
    for index, (recipe, title) in enumerate(zip(recipes, titles, strict=True)):
        if title in trials:
            continue
        part = 3 + 2 * index
        model = yield from quantizing(backend, ask.choice, recipe, calibration, (part, 6))
        run = yield from sampling(backend, ask, model, title, (part + 1, 6))
        about = f"{ask.choice.model.title} · {sensitivities.convention}"
        trials[title] = make_trial(backend, ask, title, about, (reference, run), 0)
        notes.add(trials[title])
    notes.begun.pop(key, None)
    one, other = (trials[title] for title in titles)
    gain = interval(torch.tensor(other.each) - torch.tensor(one.each))
    notes.mixed = Mixed(one, plain, other, chosen, gain, not sensitivities.measured)
    notes.shown = "trial"
    yield Step(titles[1], 1.0, (6, 6), shown=True)
