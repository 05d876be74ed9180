"""Making the dial: which convention shows most, then every stop from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...artifact import stored_bytes
from ...calibration import Calibration
from ...checkpoints import Checkpoint
from ...comparison import Trajectory, run_trajectory
from ...conversion import quantize_transformer
from ...evaluation import sqnr_db
from ...figures import to_uint8
from ...search import LayerDone, SearchSpec, iterate_search, plain_recipe, search
from ...specs import Recipe, SamplingSpec
from .catalogue import showcase
from .dial import FULL, Cell, Dial, Stop, bits_of, key_of
from .results import DITAS, PLAIN

Report = Callable[[str], None]
MODULATION = "w8"
"""A third of a DiT's weights, which would else be most of what is stored at few bits."""
WORST_DB = -200.0
"""The latent SQNR of a run that has left the numbers altogether."""


@dataclass(frozen=True)
class DialSpec:
    """What is drawn.

    together     bits of weights and activations alike, from many to few
    apart        bits of either, every pair of which is shipped with 32 among them; () = none
    samples      classes, one picture each
    conventions  those that are tried where none is named, at the bits ``trial``, on
                 ``trial_samples`` pictures, and with alphas of ``trial_grid``
    """

    together: tuple[int, ...] = (8, 7, 6, 5, 4, 3, 2)
    apart: tuple[int, ...] = (8, 4, 2)
    samples: int = 8
    sampling: SamplingSpec = SamplingSpec(steps=20, guidance_scale=2.5)
    seed: int = 7
    conventions: tuple[str, ...] = ("integer", "integer-tensor", "paper")
    trial: tuple[int, ...] = (8, 6, 4)
    trial_samples: int = 4
    trial_grid: tuple[float, ...] = (0.25, 0.5, 0.75)

    def pairs(self) -> list[Stop]:
        """The stops of ``apart``: full precision itself is none of them."""
        sizes = (FULL, *self.apart) if self.apart else ()
        return [(w, a) for w in sizes for a in sizes if (w, a) != (FULL, FULL)]


@dataclass(frozen=True)
class Turner:
    """Draws stops of one checkpoint over one reference."""

    checkpoint: Checkpoint
    calibration: Calibration
    spec: DialSpec
    labels: torch.Tensor
    reference: Trajectory
    report: Report

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        calibration: Calibration,
        spec: DialSpec,
        names: Sequence[str],
        report: Report,
    ) -> Turner:
        """With the pictures of full precision."""
        labels = torch.tensor([checkpoint.class_index(name) for name in names])  # (N,)
        run = run_trajectory(checkpoint, checkpoint.transformer, labels, spec.sampling, spec.seed)
        return cls(checkpoint, calibration, spec, labels, run, report)

    def cell(self, stop: Stop, convention: str, grid: tuple[float, ...] = SearchSpec.grid) -> Cell:
        """Plain rounding and DiTAS at these bits."""
        bits = bits_of(stop)
        self.report(f"dial: {convention}, {key_of(stop)}")
        wanted = SearchSpec(bits, convention, "ditas", grid=grid)
        found = search(self.checkpoint, self.calibration, wanted)
        assert isinstance(found, Recipe)
        plain = plain_recipe(self.checkpoint, bits, convention)
        modulation = "none" if stop[0] == FULL else MODULATION
        recipes = {
            way: replace(recipe, modulation=modulation)
            for way, recipe in ((PLAIN, plain), (DITAS, found))
        }
        sqnr, megabytes, images = {}, {}, {}
        for way, recipe in recipes.items():
            made = quantize_transformer(self.checkpoint, recipe, self.calibration)
            megabytes[way] = stored_bytes(made) / 1e6
            run = run_trajectory(
                self.checkpoint, made, self.labels, self.spec.sampling, self.spec.seed
            )
            near = sqnr_db(self.reference.final, run.final)  # (N,)
            sqnr[way] = near.nan_to_num(nan=WORST_DB).tolist()
            images[way] = to_uint8(run.images.nan_to_num())  # (N, H, W, 3)
        return Cell(stop, sqnr, megabytes, recipes[DITAS], images)


def emoji(checkpoint: Checkpoint, count: int) -> tuple[str, ...]:
    """The classes that are shown."""
    return tuple(showcase(checkpoint.class_names, count))


def choose_convention(
    checkpoint: Checkpoint, calibration: Calibration, spec: DialSpec, report: Report
) -> tuple[str, dict[str, Any]]:
    """The convention at which most is to be seen, and what was measured at each.

    Most trial stops at which plain rounding has broken and DiTAS holds; of equals the largest
    mean lead of DiTAS over the stops at which it holds.
    """
    turner = Turner.of(checkpoint, calibration, spec, emoji(checkpoint, spec.trial_samples), report)
    scores: dict[str, tuple[int, float]] = {}
    measured: dict[str, Any] = {}
    for name in spec.conventions:
        cells = [turner.cell((bits, bits), name, spec.trial_grid) for bits in spec.trial]
        holding = [cell for cell in cells if cell.holds(DITAS)]
        seen = sum(not cell.holds(PLAIN) for cell in holding)
        leads = [cell.lead for cell in holding]
        scores[name] = (seen, sum(leads) / len(leads) if leads else float("-inf"))
        measured[name] = {
            key_of(cell.stop): {way: cell.closeness(way).mean for way in cell.sqnr}
            for cell in cells
        }
    return max(scores, key=lambda name: scores[name]), measured


def first_to_break(
    checkpoint: Checkpoint, calibration: Calibration, stop: Stop, convention: str
) -> str:
    """The smoothing group whose output plain rounding changes most, relative to its energy."""
    spec = SearchSpec(bits_of(stop), convention, "search", grid=(0.5,))
    events = iterate_search(checkpoint, calibration, spec)
    layers = [event for event in events if isinstance(event, LayerDone)]
    return max(layers, key=lambda layer: layer.identity / layer.energy).group


def make_dial(
    checkpoint: Checkpoint,
    calibration: Calibration,
    convention: str,
    report: Report,
    spec: DialSpec | None = None,
    tried: dict[str, Any] | None = None,
) -> Dial:
    """Every stop; ``tried`` is what the convention was chosen by."""
    spec = DialSpec() if spec is None else spec
    names = emoji(checkpoint, spec.samples)
    turner = Turner.of(checkpoint, calibration, spec, names, report)
    together = tuple(turner.cell((bits, bits), convention) for bits in spec.together)
    known = {cell.stop: cell for cell in together}
    apart = tuple(known.get(pair) or turner.cell(pair, convention) for pair in spec.pairs())
    dial = Dial(
        fingerprint=checkpoint.fingerprint,
        convention=convention,
        labels=names,
        reference=to_uint8(turner.reference.images),
        megabytes=stored_bytes(checkpoint.transformer, halved=False) / 1e6,
        layer="",
        together=together,
        apart=apart,
        settings={
            "seed": spec.seed,
            "steps": spec.sampling.steps,
            "guidance": spec.sampling.guidance_scale,
            "calibration": calibration.sha256,
            "tried": dict(tried or {}),
        },
    )
    broken = dial.breaks(PLAIN) or together[-1]
    return replace(dial, layer=first_to_break(checkpoint, calibration, broken.stop, convention))
