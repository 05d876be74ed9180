"""What all sessions share: checkpoints, calibrations and results, in one bounded cache."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..calibration import Calibration, CalibrationProgress, calibrate
from ..checkpoints import Checkpoint, load_checkpoint
from ..conversion import inject_outliers, injected_factors
from ..evaluation.outliers import OutlierAtlas, outlier_atlas, rescaled_calibration
from ..specs import BitWidths, CalibrationSpec, Recipe
from .catalogue import Entry, find_checkpoints, precomputed_folder
from .messages import refuse
from .results import Shipped, load_shipped

CACHE_BYTES = 8 * 2**30
INJECTED_CHANNELS = 3
PATIENCE_S = 60.0


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
        note = f" + injected outliers ×{self.strength:g} (function-preserving)"
        return self.key + (note if self.injected else "")


@dataclass(frozen=True)
class Session:
    """The small things that a visitor's session keeps."""

    model: Model | None = None
    recipe: str = ""
    calibration: CalibrationSpec = field(default_factory=CalibrationSpec)
    result: str = ""


def size_of(value: Any) -> int:
    """Bytes of the tensors in a value."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, torch.nn.Module):
        states = list(value.parameters()) + list(value.buffers())
        return sum(size_of(tensor) for tensor in states)
    if isinstance(value, Checkpoint):
        return size_of(value.transformer) + size_of(value.vae)
    if isinstance(value, Calibration | OutlierAtlas):
        return sum(size_of(t) for group in value.groups.values() for t in vars(group).values())
    return 1 << 20


class Cache:
    """Least recently used, bounded by bytes, safe to use from many threads."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.lock = threading.RLock()
        self.entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """The value, or None."""
        with self.lock:
            if key not in self.entries:
                return None
            self.entries.move_to_end(key)
            return self.entries[key][0]

    def put(self, key: Hashable, value: Any) -> Any:
        """Keep a value; the least recently used go until the limit is kept."""
        with self.lock:
            self.entries[key] = (value, size_of(value))
            self.entries.move_to_end(key)
            while len(self.entries) > 1 and sum(s for _, s in self.entries.values()) > self.limit:
                self.entries.popitem(last=False)
            return value

    def make(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """The value, built once."""
        with self.lock:
            found = self.get(key)
            return self.put(key, build()) if found is None else found


class Bench:
    """Everything behind the tabs; one compute job at a time."""

    def __init__(self, entries: dict[str, Entry] | None = None) -> None:
        self.entries = find_checkpoints() if entries is None else entries
        self.cache = Cache()
        self.job = threading.Lock()
        self.default = Model(next(iter(self.entries)))
        self.shipped: Shipped | None = None
        self.notice = ""
        self.open_shipped()

    def open_shipped(self) -> None:
        """Load the shipped results if they belong to the default checkpoint."""
        if not self.entries[self.default.key].local:
            self.notice = "No local checkpoint is installed: choose one and press “Measure”."
            return
        try:
            self.shipped = load_shipped(
                precomputed_folder(), self.checkpoint(self.default).fingerprint
            )
        except ValueError as error:
            self.notice = f"Shipped results are not shown ({error}). Press “Measure” for live ones."

    @contextmanager
    def working(self) -> Iterator[None]:
        """Holds the one compute slot; a job that was just cancelled gets time to leave it."""
        if not self.job.acquire(timeout=PATIENCE_S):
            raise refuse("busy: expected a free compute slot, another job is still running")
        try:
            yield
        finally:
            self.job.release()

    def checkpoint(self, model: Model) -> Checkpoint:
        """The (immutable) checkpoint, loaded once; injected ones are rescaled copies."""
        if not model.injected:
            entry = self.entries[model.key]
            return self.cache.make(("checkpoint", model), lambda: load_checkpoint(entry.source))

        def build() -> Checkpoint:
            base = self.checkpoint(Model(model.key))
            changed = inject_outliers(base.transformer, model.strength, INJECTED_CHANNELS)
            return replace(base, transformer=changed, name=model.title)

        return self.cache.make(("checkpoint", model), build)

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
        return self.cache.make(
            ("atlas", model), lambda: natural.rescaled(self.factors(model), self.checkpoint(model))
        )

    def group_names(self, model: Model) -> list[str]:
        """The layers to choose from; of a hub checkpoint only once it is measured."""
        found = self.atlas(model)
        if found is not None:
            return list(found.groups)
        if not self.entries[model.key].local:
            return []
        return [group.name for group in self.checkpoint(Model(model.key)).groups]

    def calibrated(
        self, model: Model, spec: CalibrationSpec
    ) -> Iterator[CalibrationProgress | Calibration]:
        """The model's Calibration, cached or from one trajectory of the natural model."""
        base = Model(model.key)
        natural: Calibration | None = self.cache.get(("calibration", base, spec))
        if natural is None:
            checkpoint = self.checkpoint(base)
            events = calibrate(checkpoint, spec)
            with closing(events):  # type: ignore[type-var]
                for event in events:
                    if isinstance(event, Calibration):
                        natural = event
                    else:
                        yield event
            assert natural is not None
            self.cache.put(("calibration", base, spec), natural)
            self.cache.put(("atlas", base), outlier_atlas(checkpoint, natural))
        if not model.injected:
            yield natural
            return
        measured = natural
        yield self.cache.make(
            ("calibration", model, spec),
            lambda: rescaled_calibration(
                measured, self.factors(model), self.checkpoint(model).fingerprint
            ),
        )

    def shipped_recipe(self, model: Model, bits: BitWidths, convention: str) -> Recipe | None:
        """The shipped recipe for these settings, if there is one."""
        if self.shipped is None or model != self.default or convention != self.shipped.convention:
            return None
        preset = self.shipped.presets.get(str(bits))
        return None if preset is None else preset.recipe

    def session_recipe(
        self, session: Session, model: Model, bits: BitWidths, convention: str
    ) -> Recipe | None:
        """The session's last recipe, if it was made for these settings."""
        if session.model != model or not session.recipe:
            return None
        recipe = Recipe.from_json(session.recipe)
        fits = recipe.convention == convention and all(
            layer.bits == bits for layer in recipe.layers.values()
        )
        return recipe if fits else None

    def alphas(
        self, session: Session, model: Model, bits: BitWidths, convention: str
    ) -> tuple[dict[str, float | None], str]:
        """Every layer's alpha and where it comes from."""
        recipe = self.session_recipe(session, model, bits, convention)
        if recipe is not None:
            return {n: layer.alpha for n, layer in recipe.layers.items()}, "this session's search"
        recipe = self.shipped_recipe(model, bits, convention)
        if recipe is not None:
            return {n: layer.alpha for n, layer in recipe.layers.items()}, f"shipped {bits} recipe"
        atlas = self.atlas(model)
        names = () if atlas is None else atlas.groups
        return dict.fromkeys(names, 0.5), "default 0.5, not searched yet"
