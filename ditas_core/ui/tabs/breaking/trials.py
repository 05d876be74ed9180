"""What "Where it breaks" remembers of a visitor: experiments, sweeps, and work begun."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ....evaluation import Interval
from ....search import Allocation
from ...visitors.session import Session

NOTE = "breaking"
MOST_TRIALS, MOST_BEGUN = 10, 4
Found = TypeVar("Found")


@dataclass(frozen=True)
class Trial:
    """One partly quantized run against full precision.

    first_step   quantized from this loop index on; 0 = the whole run
    images       (N, H, W, 3) bytes, as the reference's
    each         latent SQNR of every sample in dB
    divergence   mean latent SQNR in dB after every step
    """

    what: str
    about: str
    settings: str
    labels: tuple[str, ...]
    timesteps: tuple[int, ...]
    first_step: int
    reference: np.ndarray = field(repr=False)
    images: np.ndarray = field(repr=False)
    sqnr: Interval
    psnr: Interval
    each: tuple[float, ...] = field(repr=False)
    divergence: list[float] = field(repr=False)


@dataclass
class LayerSweep:
    """Every layer alone: mean SQNR of the final latents in dB, by layer, as far as it got.

    breaking   the run of the layer that breaks most so far
    """

    about: str
    settings: str
    layers: tuple[str, ...]
    sqnr: dict[str, float] = field(default_factory=dict)
    breaking: Trial | None = None

    @property
    def worst(self) -> str:
        return min(self.sqnr, key=self.sqnr.__getitem__)


@dataclass
class StepSweep:
    """Quantized from step k on, for several k."""

    steps: int
    trials: dict[int, Trial] = field(default_factory=dict)


class Mixed(NamedTuple):
    """One width against mixed bits of at least its size.

    gain         of latent SQNR in dB, paired sample by sample
    own_output   the map knew of each layer's own output only, not of the latents
    """

    uniform: Trial
    uniform_cost: Allocation
    mixed: Trial
    mixed_cost: Allocation
    gain: Interval
    own_output: bool


@dataclass
class Notes:
    """What this tab remembers of one visitor.

    shown      which figure the first half shows: "trial", "layers" or "steps"
    sweeping   the sweep that was started last, until it has ended
    begun      what jobs have found that have not come to their end, by what it depends on
    budget_of  what the budget on view was chosen for
    """

    trials: list[Trial] = field(default_factory=list)
    shown: str = ""
    layers: LayerSweep | None = None
    steps: StepSweep | None = None
    sweeping: LayerSweep | StepSweep | None = None
    begun: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)
    budget_of: Hashable = None
    mixed: Mixed | None = None

    def add(self, trial: Trial) -> None:
        """Newest first; only the newest keeps its pictures, so that a session stays small."""
        small = [replace(t, reference=t.reference[:0], images=t.images[:0]) for t in self.trials]
        self.trials = [trial, *small][:MOST_TRIALS]

    def go_on(self, key: Hashable, start: Callable[[], Found]) -> Found:
        """What was found under this key before, or a start; to be added to.

        Whoever comes to the end takes it out of ``begun``; what was asked for longest ago
        makes room.
        """
        found: Found = self.begun.setdefault(key, start())
        self.begun.move_to_end(key)
        while len(self.begun) > MOST_BEGUN:
            self.begun.popitem(last=False)
        return found


def notes_of(session: Session) -> Notes:
    found: Notes = session.notes.setdefault(NOTE, Notes())
    return found
