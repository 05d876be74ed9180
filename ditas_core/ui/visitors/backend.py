"""What all visitors share: checkpoints, calibrations and results, in one bounded cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import torch

from ...calibration import Begun, Calibration, CalibrationProgress
from ...checkpoints import (
    Checkpoint,
    Need,
    check_fits,
    injected_note,
    own_cache,
    this_machine,
)
from ...contest import Contest
from ...conversion import inject_outliers, injected_factors
from ...evaluation import OutlierAtlas, outlier_atlas, rescaled_calibration
from ...search import plain_recipe
from ...specs import BitWidths, CalibrationSpec, LayerRecipe, Recipe, get_convention
from ..serving.errors import without_folders
from ..serving.heap import give_back
from ..serving.limits import Limits, read_limits
from ..serving.zerogpu import iterate_calibration
from ..stored.catalogue import (
    Entry,
    contests_folder,
    find_checkpoints,
    precomputed_folder,
    twin_folder,
)
from ..stored.contests import load_contests
from ..stored.dial import Cell, Dial, load_dial
from ..stored.ladder import Ladder, load_ladder
from ..stored.results import DITAS, PLAIN, SEARCHED, SMOOTHED, Preset, Shipped, load_shipped
from .cache import Cache, size_of, usual_limit
from .copies import INJECTED, make_room
from .entries import load_entry
from .queue import JobQueue, OneByOne
from .session import KEPT_BYTES, Session, Sessions

INJECTED_CHANNELS = 3
FIXED_ALPHA = 0.5
Part = TypeVar("Part")


@dataclass(frozen=True)
class Model:
    """A checkpoint of the catalogue; ``strength`` > 1 has injected outliers."""

    key: str
    strength: float = 1.0

    @property
    def injected(self) -> bool:
        return self.strength > 1.0

    @property
    def title(self) -> str:
        return self.key + (f" + {injected_note(self.strength)}" if self.injected else "")


@dataclass(frozen=True)
class Choice:
    """The checked values of the bar: what every tab is about."""

    model: Model
    bits: BitWidths
    convention: str
    recipe: str = DITAS
    dark: bool = False
    backend: str = "simulated"

    @property
    def title(self) -> str:
        return f"{self.model.title} · {self.bits} · {self.convention}"

    @property
    def runs_as(self) -> str:
        """The backend that was asked for, where convention and bits can run on it."""
        cannot = get_convention(self.convention).why_simulated([self.bits])
        return "simulated" if cannot else self.backend


class Backend:
    """Everything behind the tabs. ``spec`` is the calibration run where nobody asks for another,
    ``limits`` what the operator gives (see ``limits``)."""

    def __init__(
        self,
        entries: dict[str, Entry] | None = None,
        spec: CalibrationSpec | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.limits = read_limits() if limits is None else limits
        self.entries = find_checkpoints() if entries is None else entries
        self.spec = CalibrationSpec() if spec is None else spec
        room = usual_limit(this_machine(own_cache()).memory)
        self.loading = OneByOne()
        self.cache = Cache(min(self.limits.cache_bytes, room))
        self.queue = JobQueue(self.limits.places)
        self.fetching = JobQueue(self.limits.places)
        self.sessions = Sessions(most_bytes=min(KEPT_BYTES, self.cache.limit // 4))
        self.default = Model(next(iter(self.entries)))
        self.warmers: list[Callable[[], None]] = []
        self.shipped: Shipped | None = None
        self.notice = ""
        self.open_shipped()

    def open_shipped(self) -> None:
        """Load the shipped results if they belong to the default checkpoint."""
        if not self.entries[self.default.key].local:
            self.notice = "No local checkpoint is installed: choose one above and press “Load”."
            return
        try:
            self.shipped = load_shipped(
                precomputed_folder(), self.checkpoint(self.default).fingerprint
            )
        except ValueError as error:
            reason = without_folders(str(error))
            self.notice = (
                f"Shipped results are not shown ({reason}). Press “Measure” for live ones."
            )

    @cached_property
    def ladder(self) -> Ladder | None:
        """The shipped rungs of injected outliers, if they belong to the default checkpoint."""
        return self.of_default(load_ladder)

    @cached_property
    def dial(self) -> Dial | None:
        """The shipped dial, likewise."""
        return self.of_default(load_dial)

    @cached_property
    def dials(self) -> dict[Model, Dial]:
        """The dial, and that of the same checkpoint with injected outliers where it is shipped."""
        if self.dial is None:
            return {}
        found = {self.default: self.dial}
        twin = self.of_default(load_dial, twin_folder(precomputed_folder()))
        if twin is not None and twin.like(self.dial):
            if twin.convention == self.dial.convention:  # of the same shapes, in the same products
                twin = replace(twin, speeds=self.dial.speeds)
            found[replace(self.default, strength=twin.strength)] = twin
        return found

    @cached_property
    def contests(self) -> tuple[Contest, ...]:
        """The shipped contests of the default checkpoint and of its twins."""
        return self.of_default(load_contests, contests_folder(precomputed_folder())) or ()

    def of_default(
        self, load: Callable[[Path, str], Part], folder: Path | None = None
    ) -> Part | None:
        """A part of the shipped results, if it belongs to the default checkpoint."""
        if self.entries[self.default.key].local:
            with suppress(ValueError):
                fingerprint = self.checkpoint(self.default).fingerprint
                return load(folder or precomputed_folder(), fingerprint)
        return None

    def model_of(self, key: str) -> Model:
        """The checkpoint of an entry; a twin is its natural one with injected outliers."""
        entry = self.entries[key]
        return Model(entry.twin_of or key, entry.strength)

    def key_of(self, model: Model) -> str:
        """The entry of a model; the natural one's where no other is it."""
        return next((key for key in self.entries if self.model_of(key) == model), model.key)

    def session(self, request: gr.Request) -> Session:
        """The session of whoever asks; one for this question alone where no session is told."""
        if not request.session_hash:
            return Session("")
        return self.sessions.of(str(request.session_hash)[:64])

    def warm(self) -> threading.Thread:
        """In the background: calibrate the default checkpoint, make ready what tabs want."""

        def work() -> None:
            with self.queue.join() as ticket:
                for _ in ticket.waits():
                    pass
                for _ in self.calibrated(self.default, self.spec):
                    pass
                for work_of_a_tab in self.warmers:
                    work_of_a_tab()

        thread = threading.Thread(target=work, name="warm", daemon=True)
        if self.entries[self.default.key].local:
            thread.start()
        return thread

    def alone(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """What is cached, or built while nothing else that holds a whole model is.

        One at a time, so that each sees what the others take.
        """
        found = self.cache.get(key)
        if found is not None:
            return found
        with self.loading:
            return self.cache.make(key, build)

    def checkpoint(self, model: Model) -> Checkpoint:
        """The (immutable) checkpoint, loaded once; injected ones are rescaled copies."""
        entry = self.entries[model.key]

        def build() -> Checkpoint:
            return self.injected(model) if model.injected else load_entry(entry, self.cache)

        found: Checkpoint = self.alone(("checkpoint", model), build)
        return found

    def injected(self, model: Model) -> Checkpoint:
        """A copy in float32, whatever its base is in; others leave the cache for it.

        Raises:
            CheckpointError: too large; said before any of it is made.
        """
        base = self.checkpoint(Model(model.key))
        make_room(self.cache, base, INJECTED, "an injected copy")
        numbers = sum(parameter.numel() for parameter in base.transformer.parameters())
        size = INJECTED * numbers + size_of(base.vae)
        need = Need(f"an injected copy of {base.name}", 0, numbers, size, size)
        check_fits(need, self.cache.limit, None)  # else every question would make it anew
        self.cache.make_room(size)
        give_back()
        changed = inject_outliers(base.transformer, model.strength, INJECTED_CHANNELS)
        return replace(base, transformer=changed, name=model.title)

    def fingerprint(self, model: Model) -> str:
        """The checkpoint's, without keeping a copy for it."""
        if not model.injected:
            return self.checkpoint(model).fingerprint
        found: str = self.alone(("fingerprint", model), lambda: self.checkpoint(model).fingerprint)
        return found

    def is_loaded(self, model: Model) -> bool:
        """Whether it can be looked at without waiting: local, or in the cache."""
        return self.entries[model.key].local or (
            self.cache.get(("checkpoint", Model(model.key))) is not None
        )

    def factors(self, model: Model) -> dict[str, torch.Tensor]:
        """What the injection divides by, per group."""
        base = self.checkpoint(Model(model.key))
        return injected_factors(base.transformer, model.strength, INJECTED_CHANNELS, 0)

    def atlas(self, model: Model) -> OutlierAtlas | None:
        """The model's outliers if they have been measured (or shipped)."""
        base = Model(model.key)
        found: OutlierAtlas | None = self.cache.get(("atlas", base))
        if found is None and self.shipped is not None and base == self.default:
            found = self.shipped.atlas
        if found is None or not model.injected:
            return found
        natural = found
        changed: OutlierAtlas = self.alone(
            ("atlas", model), lambda: natural.rescaled(self.factors(model), self.checkpoint(model))
        )
        return changed

    def is_measured(self, model: Model) -> bool:
        """Whether its outliers are known; an injected one's follow from its natural model's."""
        return self.atlas(Model(model.key)) is not None

    def group_names(self, model: Model) -> list[str]:
        """The layers to choose from; of a hub checkpoint only once it is measured."""
        found = self.atlas(Model(model.key))
        if found is not None:
            return list(found.groups)
        if not self.entries[model.key].local:
            return []
        return [group.name for group in self.checkpoint(Model(model.key)).groups]

    def measured(self, model: Model, spec: CalibrationSpec) -> Calibration | None:
        """The model's Calibration if its natural model has been measured."""
        if self.cache.get(("calibration", Model(model.key), spec)) is None:
            return None
        *_, calibration = self.calibrated(model, spec)
        return calibration if isinstance(calibration, Calibration) else None

    def calibrated(
        self, model: Model, spec: CalibrationSpec
    ) -> Iterator[CalibrationProgress | Calibration]:
        """The model's Calibration, cached or from one trajectory of the natural model.

        Steps that are finished when it is closed are kept, and not run again by anybody.
        """
        base = Model(model.key)
        natural: Calibration | None = self.cache.get(("calibration", base, spec))
        if natural is None:
            checkpoint = self.checkpoint(base)
            unfinished = ("begun", base, spec)
            begun: Begun = self.cache.take(unfinished) or Begun()
            events = iterate_calibration(checkpoint, spec, begun)
            try:
                with closing(events):  # type: ignore[type-var]
                    for event in events:
                        if isinstance(event, Calibration):
                            natural = event
                        else:
                            yield event
            finally:
                if natural is None and begun.timesteps:  # stopped: the next run goes on there
                    self.cache.put(unfinished, begun)
            assert natural is not None
            self.cache.put(("calibration", base, spec), natural)
            if spec == self.spec or self.atlas(base) is None:
                self.cache.put(("atlas", base), outlier_atlas(checkpoint, natural))
        if not model.injected:
            yield natural
            return
        measured = natural
        yield self.cache.make(
            ("calibration", model, spec),
            lambda: rescaled_calibration(measured, self.factors(model), self.fingerprint(model)),
        )

    def preset(self, choice: Choice) -> Preset | None:
        """What is shipped at these bits, if it fits the choice."""
        shipped, where = self.shipped, (choice.model, choice.convention)
        if shipped is None or where != (self.default, shipped.convention):
            return None
        return shipped.presets.get(str(choice.bits))

    def cell(self, choice: Choice) -> Cell | None:
        """The dial's stop at these bits, if it fits the choice."""
        dial = self.dials.get(choice.model)
        if dial is None or choice.convention != dial.convention:
            return None
        return dial.cell(choice.bits)

    def own_recipes(self, session: Session, model: Model) -> dict[str, Recipe]:
        """The visitor's for this checkpoint."""
        if not session.recipes:
            return {}  # an injected model need not be made to see that
        mine = self.fingerprint(model)
        return {
            name: recipe for name, recipe in session.recipes.items() if recipe.checkpoint == mine
        }

    def recipe_names(self, session: Session, choice: Choice) -> list[str]:
        """Of everything that can be used at once: built in, shipped, the visitor's own."""
        shipped = [] if self.cell(choice) is None else [DITAS]
        if self.preset(choice) is not None:
            shipped = [SEARCHED, DITAS]
        own = self.own_recipes(session, choice.model)
        return list(dict.fromkeys([PLAIN, SMOOTHED, *shipped, *own]))

    def recipes(self, session: Session, choice: Choice) -> dict[str, Recipe]:
        """The same with the recipes themselves."""
        plain = plain_recipe(
            self.checkpoint(Model(choice.model.key)), choice.bits, choice.convention
        )
        if choice.model.injected:
            plain = replace(plain, checkpoint=self.fingerprint(choice.model))
        smoothed = {name: LayerRecipe(choice.bits, FIXED_ALPHA) for name in plain.layers}
        found = {PLAIN: plain, SMOOTHED: replace(plain, name="smoothing", layers=smoothed)}
        preset, cell = self.preset(choice), self.cell(choice)
        if preset is not None:
            found |= {SEARCHED: preset.searched, DITAS: preset.recipe}
        elif cell is not None:
            found[DITAS] = cell.recipe
        return found | self.own_recipes(session, choice.model)

    def recipe(self, session: Session, choice: Choice) -> tuple[str, Recipe | None]:
        """The chosen recipe and its name; None where it would have to be searched first."""
        here = self.entries[choice.model.key].local or self.is_measured(choice.model)
        if not here or choice.recipe not in self.recipe_names(session, choice):
            return choice.recipe, None
        return choice.recipe, self.recipes(session, choice).get(choice.recipe)

    def alphas(self, session: Session, choice: Choice) -> tuple[dict[str, float | None], str]:
        """Every layer's alpha and where it comes from."""
        name, recipe = self.recipe(session, choice)
        if recipe is not None:
            return {n: layer.alpha for n, layer in recipe.layers.items()}, name
        atlas = self.atlas(Model(choice.model.key))
        names = () if atlas is None else atlas.groups
        return dict.fromkeys(names, FIXED_ALPHA), f"{FIXED_ALPHA:g}, not searched yet"
