"""Second half of "Where it breaks": sensitivity map, mixed bits under a budget, their result."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from ....search import (
    Allocation,
    SensitivityMap,
    allocate,
    largest_uniform,
    priced,
    uniform_allocations,
)
from ....specs import width_title
from ...page.bar import BarInputs, Page, View, recipe_names, setup_notice
from ...page.picking import picker, read_pick
from ...serving.errors import refuse, status
from ...serving.inputs import Inputs
from ...serving.validate import one_of, real, whole
from ...visitors.backend import Backend
from ...visitors.running import PRIVATE, QUIET, Finished, Progress, answer, build_controls, wire_job
from ...visitors.session import Session
from .budget_job import (
    MEASURED,
    PREDICTED,
    SAMPLED,
    SEARCHED_ANEW,
    WEIGHED,
    WIDTHS,
    found_map,
    frontier_of,
    known_cells,
    map_key,
    map_sensitivity,
    run_mixed,
)
from .draw import (
    bits_table,
    budget_line,
    cell_table,
    curve_figure,
    decibels,
    empty,
    map_figure,
    mixed_pictures,
)
from .job import Ask
from .trials import notes_of

KINDS = (
    ("each layer’s own output, predicted (10 s)", PREDICTED),
    ("the same, weighed by what reaches the latents at the bar’s width (1 min)", WEIGHED),
    ("predicted, α searched anew in every cell (3 min)", SEARCHED_ANEW),
    ("the final latents, every cell measured (5 min)", MEASURED),
)
MOST_SAMPLES, MOST_STEPS, MOST_SEED = 4, 50, 2**31 - 8
FIRST_BUDGET, STEP = 5.0, 0.05
LEAST_BUDGET, MOST_BUDGET = 2.0, 16.0
MAP_FIRST = "Map the layers first; then every budget answers at once."
SHOWS = "Samples full precision, one width and the mixed bits from the same noise, as set above."
NO_MAP = "Error against size, and every layer’s bits, once there is a map."
EXPLAINED = (
    "Each cell is one layer alone at one weight width, its activations at the bar's. "
    "Brighter is worse. Click a cell, or choose a layer below, for its numbers."
)
EXPLAINED_BUDGET = (
    "The exact best choice of bits per layer that fits the budget: layers that bear it get fewer "
    "bits, the others more. Sizes count scales, low-rank branches and divided rows."
)


@dataclass(frozen=True)
class AskInputs(Inputs):
    """How both halves sample, and the bar."""

    samples: Any
    steps: Any
    seed: Any
    bar: BarInputs

    def read(self, backend: Backend) -> Ask:
        """Check everything."""
        return Ask(
            self.bar.read(backend),
            whole(self.samples, "samples", 1, MOST_SAMPLES),
            whole(self.steps, "steps", 4, MOST_STEPS),
            whole(self.seed, "seed", 0, MOST_SEED),
        )


@dataclass(frozen=True)
class BudgetInputs(Inputs):
    """Which map, and how many bits per weight."""

    kind: Any
    budget: Any
    ask: AskInputs

    def read(self, backend: Backend) -> tuple[str, float, Ask]:
        """Check everything."""
        return (
            one_of(self.kind, "map", [value for _, value in KINDS]),
            real(self.budget, "budget", LEAST_BUDGET, MOST_BUDGET),
            self.ask.read(backend),
        )


def shown_at(found: SensitivityMap, budget: float) -> Allocation:
    """The best choice within a budget.

    Raises:
        BudgetError: it is below the smallest possible size.
    """
    return priced(found, allocate(found, budget))


def budget_range(found: SensitivityMap, weight: int) -> tuple[float, float, float]:
    """The slider's ends, and its place for the single width nearest below ``weight``."""
    sizes = {b.weight_bits: a.bits_per_weight for b, a in uniform_allocations(found).items()}
    same = sizes[max(w for w in sizes if w <= max(weight, min(sizes)))]
    low, high, at = (
        round(math.ceil(size / STEP - 1e-9) * STEP, 2)
        for size in (min(sizes.values()), max(sizes.values()), same)
    )
    return low, high, at


def build_budget(backend: Backend, page: Page, ask: AskInputs) -> View:
    """Lay out map, budget and result."""
    names = backend.group_names(backend.default)
    gr.Markdown("### 2 · Map every layer’s sensitivity")
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            kind = gr.Radio(
                list(KINDS),
                value=PREDICTED,
                label="How sensitivity is found",
                info="A layer’s own error says little about what the rest makes of it; "
                "measuring takes 8 steps and up to 2 samples per cell. Times: demo, two cores.",
                elem_id="map-kind",
            )
            controls = build_controls("sensitivity", "Map the layers", EXPLAINED)
        with gr.Column(scale=3, min_width=300):
            plot = gr.Plot(
                show_label=False,
                label="sensitivity map",
                elem_id="map-plot",
                elem_classes="picks",
            )
            picked = picker("map-plot")
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            layer = gr.Dropdown(
                names, value=names[0] if names else None, label="Numbers of layer",
                elem_id="map-layer",
            )  # fmt: skip
        with gr.Column(scale=3, min_width=300):
            cell = gr.HTML(empty("Not mapped yet."), padding=False, elem_id="map-cell")
    gr.Markdown("### 3 · Spend the bits where they count")
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            budget = gr.Slider(
                LEAST_BUDGET, MOST_BUDGET, FIRST_BUDGET, step=STEP, interactive=False,
                label="Size budget, bits per weight", info=EXPLAINED_BUDGET, elem_id="budget",
            )  # fmt: skip
            line = gr.HTML(empty(MAP_FIRST), padding=False, elem_id="budget-line")
            keep = gr.Button("Keep as recipe", interactive=False, elem_id="keep-mixed", size="md")
            kept = gr.HTML("", padding=False, elem_id="kept")
            showing = build_controls("mixed", "Show the result", SHOWS)
        with gr.Column(scale=3, min_width=300):
            nothing = gr.HTML(empty(NO_MAP), padding=False)
            with gr.Column(visible=False) as mapped:
                curve = gr.Plot(
                    show_label=False, label="size and error",
                    elem_id="budget-plot",
                )  # fmt: skip
                table = gr.HTML("", padding=False, elem_id="budget-table")
    result = gr.HTML("", padding=False, elem_id="mixed-result")
    moved = [plot, line, curve, table]
    outputs = [layer, cell, budget, keep, mapped, nothing, *moved]

    def drawn(session: Session, ask: Ask, kind: str, layer: Any, budget: Any) -> tuple[Any, ...]:
        """Everything of maps and budgets, one value per output."""
        found = found_map(backend, session, ask, kind)
        cells = known_cells(backend, session, ask, kind)
        names = backend.group_names(ask.choice.model)
        name = layer if layer in names else names[0] if names else None
        shown = gr.update(choices=names, value=name)
        table = cell_table(name or "", cells, kind in SAMPLED)
        if found is None:
            figure = map_figure(names, cells, None, ask.choice.dark)
            off = gr.update(interactive=False)
            hidden, there = gr.update(visible=False), gr.update(visible=True)
            line = empty(MAP_FIRST)
            return shown, table, off, off, hidden, there, figure, line, gr.skip(), ""
        low, high, same = budget_range(found, ask.choice.bits.weight_bits)
        notes, of = (
            notes_of(session),
            (map_key(backend, session, ask, kind), ask.choice.bits.weight_bits),
        )
        from_address = notes.budget_of is None and budget != FIRST_BUDGET
        at = same if notes.budget_of != of and not from_address else budget
        at, notes.budget_of = min(max(at, low), high), of
        slider = gr.update(minimum=low, maximum=high, value=at, interactive=True)
        on = gr.update(interactive=True)
        visible = (gr.update(visible=True), gr.update(visible=False))
        return shown, table, slider, on, *visible, *at_budget(session, ask, kind, at)

    def at_budget(session: Session, ask: Ask, kind: str, budget: float) -> tuple[Any, ...]:
        """Map, headline, curve and table of one budget."""
        found = found_map(backend, session, ask, kind)
        cells = known_cells(backend, session, ask, kind)
        if found is None:
            skip = gr.skip()
            return skip, empty(MAP_FIRST), skip, skip
        chosen, dark = shown_at(found, budget), ask.choice.dark
        points = frontier_of(backend, map_key(backend, session, ask, kind), found)
        return (
            map_figure(found.groups, cells, chosen.bits, dark),
            budget_line(found, chosen, budget),
            curve_figure(found, points, chosen, dark),
            bits_table(chosen, largest_uniform(found, budget), cells),
        )

    def the_map(session: Session, ask: Ask, kind: str) -> SensitivityMap:
        found = found_map(backend, session, ask, kind)
        if found is None:
            raise refuse("budget: expected a finished map, got none; press “Map the layers” first")
        return found

    def refresh(session: Session, layer: Any, asked: BudgetInputs) -> tuple[Any, ...]:
        kind, budget, ask = asked.read(backend)
        shown = mixed_pictures(notes_of(session).mixed)
        return (*drawn(session, ask, kind, layer, budget), shown)

    def map_work(session: Session, layer: Any, asked: BudgetInputs) -> Iterator[Any]:
        kind, budget, ask = asked.read(backend)
        names = backend.group_names(ask.choice.model)
        skip = [gr.skip()] * (len(outputs) - 1)
        for event in map_sensitivity(backend, session, ask, kind):
            shown = None
            if event.shown:
                cells = known_cells(backend, session, ask, kind)
                figure = map_figure(names, cells, None, ask.choice.dark)
                shown = (*skip[:6], figure, *skip[6:])
            yield Progress(event.text, event.fraction, event.part, shown)
        found = the_map(session, ask, kind)
        size = f"{len(found.groups)} layers × {len(WIDTHS)} widths"
        text = f"{size} mapped, activations in {width_title(ask.choice.bits.activation)}."
        yield Finished(text, drawn(session, ask, kind, layer, budget))

    def map_stopped(
        session: Session, layer: Any, asked: BudgetInputs
    ) -> tuple[str, tuple[Any, ...]]:
        kind, budget, ask = asked.read(backend)
        done = len(known_cells(backend, session, ask, kind))
        text = (
            f"Cancelled. The {done} cells on view stay, and “Map the layers” goes on from what is "
            "done; a budget needs the whole map."
        )
        return text, drawn(session, ask, kind, layer, budget)

    def mixed_work(session: Session, asked: BudgetInputs) -> Iterator[Any]:
        kind, budget, ask = asked.read(backend)
        found = the_map(session, ask, kind)
        for event in run_mixed(backend, session, ask, found, shown_at(found, budget)):
            yield Progress(event.text, event.fraction, event.part)
        mixed = notes_of(session).mixed
        assert mixed is not None
        one, other = mixed.uniform, mixed.mixed
        text = f"{one.what}: {decibels(one.sqnr)}; {other.what}: {decibels(other.sqnr)}."
        yield Finished(f"Latent SQNR, n = {one.sqnr.n}. {text}", (mixed_pictures(mixed),))

    def mixed_stopped(session: Session, asked: BudgetInputs) -> tuple[str, tuple[Any, ...]]:
        return (
            "Cancelled. What was on view stays; “Show the result” goes on from what is done.",
            (gr.skip(),),
        )

    def on_budget(session: Session, asked: BudgetInputs) -> tuple[Any, ...]:
        kind, budget, ask = asked.read(backend)
        return at_budget(session, ask, kind, budget)

    def on_kind(session: Session, layer: Any, asked: BudgetInputs) -> tuple[Any, ...]:
        kind, budget, ask = asked.read(backend)
        return drawn(session, ask, kind, layer, budget)

    def on_layer(session: Session, layer: Any, asked: BudgetInputs) -> str:
        kind, _, ask = asked.read(backend)
        one_of(layer, "layer", backend.group_names(ask.choice.model))
        return cell_table(layer, known_cells(backend, session, ask, kind), kind in SAMPLED)

    def on_pick(session: Session, text: Any, asked: BudgetInputs) -> tuple[Any, Any]:
        kind, _, ask = asked.read(backend)
        pick = read_pick(text)
        if pick.x not in backend.group_names(ask.choice.model):
            return gr.skip(), gr.skip()
        width = int(pick.y) if str(pick.y) in map(str, WIDTHS) else None
        cells = known_cells(backend, session, ask, kind)
        shown = cell_table(str(pick.x), cells, kind in SAMPLED, width)
        return gr.update(value=pick.x), shown

    def on_keep(session: Session, asked: BudgetInputs) -> tuple[Any, str, str]:
        kind, budget, ask = asked.read(backend)
        found = the_map(session, ask, kind)
        chosen = shown_at(found, budget)
        name = f"mixed {chosen.bits_per_weight:.2f} bits"
        session.keep(name, found.recipe(chosen.bits, name))
        choice = replace(ask.choice, recipe=name)
        names = recipe_names(backend, session, choice)
        done = status(f"Kept as “{name}” and chosen in the bar above.", "done")
        return gr.update(choices=names, value=name), setup_notice(backend, session, choice), done

    bar = page.bar
    inputs = BudgetInputs(kind, budget, ask)
    running = wire_job(
        backend, controls, map_work, [layer, inputs], outputs, api_name="sensitivity",
        stopped=map_stopped,
    )  # fmt: skip
    wire_job(
        backend, showing, mixed_work, [inputs], [result], api_name="mixed", stopped=mixed_stopped
    )
    budget.input(*answer(backend, on_budget, [inputs]), moved, api_name="budget", **QUIET)
    kind.input(*answer(backend, on_kind, [layer, inputs]), outputs, **PRIVATE)
    layer.input(*answer(backend, on_layer, [layer, inputs]), cell, **PRIVATE)
    picked.input(*answer(backend, on_pick, [picked, inputs]), [layer, cell], **PRIVATE)
    keep.click(
        *answer(backend, on_keep, [inputs]), [bar.inputs.recipe, bar.notice, kept], **PRIVATE
    )
    page.fields["budget"] = budget
    page.actions["sensitivity"] = [running.success]
    page.actions["budget"] = [budget.input]
    return View(refresh, [layer, inputs], [*outputs, result])
