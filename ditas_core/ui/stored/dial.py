"""The dial: one picture per class and stop, from 32 bits down to 2, as it is shipped on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...checkpoints import injected_note
from ...evaluation import Interval, interval
from ...specs import FULL_PRECISION_BITS, BitWidths, Recipe, SpecError
from .results import DITAS, PLAIN
from .speeds import Speeds, load_speeds

FORMAT = 1
DOCUMENT = "dial.json"
FULL = 32
"""What people call full precision; a recipe writes ``FULL_PRECISION_BITS`` for the same."""
HOLDS_DB = 5.0
"""A stop holds where the mean latent SQNR is at least this: the error has at most a third of the
latents' power. Below it is broken: what was asked for is hardly recognized."""
WAYS = (PLAIN, DITAS)
QUALITY = 92
Stop = tuple[int, int]
"""Weight and activation bits, 32 for those that are left alone."""


def bits_of(stop: Stop) -> BitWidths:
    """As recipes write it."""
    weight, activation = (FULL_PRECISION_BITS if bits == FULL else bits for bits in stop)
    return BitWidths(weight, activation)


def stop_of(bits: BitWidths) -> Stop:
    """Inverse of ``bits_of``, of integers."""
    weight, activation = (
        FULL if each == FULL_PRECISION_BITS else each
        for each in (bits.weight_bits, bits.activation_bits)
    )
    return weight, activation


def key_of(stop: Stop) -> str:
    """``W4A8``; the stop's name in the page and in its address."""
    return f"W{stop[0]}A{stop[1]}"


@dataclass(frozen=True)
class Cell:
    """One stop. Plain rounding and DiTAS, in ``WAYS``' order where there is one of each.

    sqnr       latent SQNR of every sample in dB
    megabytes  whole transformer as stored, 10^6 bytes
    images     (N, H, W, 3) bytes
    recipe     DiTAS'
    """

    stop: Stop
    sqnr: dict[str, list[float]]
    megabytes: dict[str, float]
    recipe: Recipe = field(repr=False)
    images: dict[str, np.ndarray] = field(repr=False)

    def closeness(self, way: str) -> Interval:
        """Mean latent SQNR in dB with its 95 % interval."""
        return interval(torch.tensor(self.sqnr[way], dtype=torch.float64))

    def holds(self, way: str) -> bool:
        """Whether the pictures still stand for those of full precision; see ``HOLDS_DB``."""
        return self.closeness(way).mean >= HOLDS_DB

    @property
    def lead(self) -> float:
        """How much closer DiTAS is than plain rounding, dB."""
        return self.closeness(DITAS).mean - self.closeness(PLAIN).mean


@dataclass(frozen=True)
class Dial:
    """All stops over the same noise and classes.

    fingerprint  of the checkpoint; with injected outliers, which ``settings`` tell, of its
                 natural twin
    together   weights and activations at the same bits, from many to few
    apart      every other pair that is shipped
    reference  full precision, (N, H, W, 3) bytes
    megabytes  of the transformer in 32 bits, 10^6 bytes
    layer      the smoothing group whose output suffers most where plain rounding breaks
    settings   seed, steps, guidance, and what was measured to choose the convention
    speeds     in integers
    """

    fingerprint: str
    convention: str
    labels: tuple[str, ...]
    reference: np.ndarray = field(repr=False)
    megabytes: float
    layer: str
    together: tuple[Cell, ...] = field(repr=False)
    apart: tuple[Cell, ...] = field(default=(), repr=False)
    settings: dict[str, Any] = field(default_factory=dict)
    speeds: Speeds = field(default_factory=lambda: Speeds("", ""))

    @property
    def strength(self) -> float:
        """How many times larger its outliers were made; 1 for none."""
        return float(self.settings.get("injected", 1.0))

    def like(self, other: Dial) -> bool:
        """Whether both have the same stops and classes."""
        return (self.stops, self.labels) == (other.stops, other.labels)

    @property
    def cells(self) -> dict[Stop, Cell]:
        return {cell.stop: cell for cell in (*self.together, *self.apart)}

    def cell(self, bits: BitWidths) -> Cell | None:
        """The stop at these bits if there is one; formats have none."""
        return None if bits.formats else self.cells.get(stop_of(bits))

    @property
    def stops(self) -> list[Stop]:
        """All of them, full precision first."""
        return [(FULL, FULL), *self.cells]

    def breaks(self, way: str) -> Cell | None:
        """The first stop, from many bits to few, that does not hold."""
        return next((cell for cell in self.together if not cell.holds(way)), None)

    @property
    def telling(self) -> Cell:
        """The stop that the page opens on: plain rounding has broken, DiTAS holds.

        Of several the one with the largest lead; where there is none the largest lead of those
        at which DiTAS holds, else of all.
        """
        holding = [cell for cell in self.together if cell.holds(DITAS)]
        apart = [cell for cell in holding if not cell.holds(PLAIN)]
        return max(apart or holding or self.together, key=lambda cell: cell.lead)

    @property
    def sizes(self) -> tuple[list[int], list[int]]:
        """Weight and activation bits of the pairs that are shipped, from many to few."""
        pairs = [(FULL, FULL), *(cell.stop for cell in self.apart)]
        found = [sorted({pair[at] for pair in pairs}, reverse=True) for at in (0, 1)]
        return found[0], found[1]


def spoken(stop: Stop) -> str:
    """``4 bits``, or both where they differ."""
    weight, activation = stop
    if weight == activation:
        return f"{weight} bits"
    return f"{weight}-bit weights and {activation}-bit activations"


def verdict(dial: Dial, stop: Stop) -> str:
    """What is to be seen at a stop, for those who know no decibels."""
    if stop == (FULL, FULL):
        return "32 bits: the model as it was trained."
    cell, at = dial.cells[stop], f"At {spoken(stop)}"
    if cell.holds(PLAIN) and cell.holds(DITAS):
        return f"{at} both hold" + ("." if cell.lead > 0 else "; DiTAS gains nothing here.")
    if cell.holds(DITAS):
        return f"{at} plain rounding falls apart and DiTAS holds."
    if cell.holds(PLAIN):
        return f"{at} DiTAS does harm: plain rounding alone holds."
    return f"{at} both fall apart."


def details(dial: Dial, stop: Stop) -> str:
    """Megabytes, speed, closeness with its interval, and where either breaks."""
    cell = dial.cells.get(stop)
    twin = f"{injected_note(dial.strength).capitalize()}: " if dial.strength > 1 else ""
    if cell is None:
        return f"{twin}{dial.megabytes:.1f} MB. {turning(dial)}"
    plain, ours = (brief(cell.closeness(way)) for way in WAYS)
    faster = dial.speeds.told(key_of(stop))
    return (
        f"{twin}{cell.megabytes[DITAS]:.1f} MB instead of {dial.megabytes:.1f}"
        f"{', ' if faster else ''}{faster}. Closeness to full precision: "
        f"plain rounding {plain}, DiTAS {ours}. {turning(dial)}"
    )


def brief(found: Interval) -> str:
    """``8.1 ± 2.3 dB``."""
    spread = f" ± {found.half_width:.1f}" if found.n > 1 else ""
    return f"{found.mean:.1f}{spread} dB"


def turning(dial: Dial) -> str:
    """At which stop each breaks."""
    parts: list[str] = []
    for way, name in ((PLAIN, "Plain rounding"), (DITAS, "DiTAS")):
        cell = dial.breaks(way)
        breaks = "at" if parts and "breaks" in parts[0] else "breaks at"
        where = "holds at every stop" if cell is None else f"{breaks} {spoken(cell.stop)}"
        parts.append(f"{name} {where}")
    return ", ".join(parts) + "."


def sprite(dial: Dial, at: int, cells: tuple[Cell, ...]) -> Image.Image:
    """One class: a column per cell, plain rounding above DiTAS; full precision in the first.

    (2 H, (1 + cells) W, 3)
    """
    first = np.concatenate([dial.reference[at]] * len(WAYS))  # (2 H, W, 3)
    columns = [np.concatenate([cell.images[way][at] for way in WAYS]) for cell in cells]
    return Image.fromarray(np.concatenate([first, *columns], axis=1))


def sheet_name(at: int, apart: bool = False) -> str:
    """The file of a class."""
    return f"dial-{at}{'-apart' if apart else ''}.webp"


def sheets(dial: Dial) -> dict[str, tuple[int, tuple[Cell, ...]]]:
    """Every file: its class and its cells."""
    found = {sheet_name(at): (at, dial.together) for at in range(len(dial.labels))}
    if dial.apart:
        found |= {sheet_name(at, True): (at, dial.apart) for at in range(len(dial.labels))}
    return found


def save_dial(dial: Dial, folder: Path) -> None:
    """Write dial.json and the sheets into an existing folder."""
    for name, (at, cells) in sheets(dial).items():
        sprite(dial, at, cells).save(folder / name, quality=QUALITY, method=6)

    def written(cell: Cell) -> dict[str, Any]:
        return {
            "stop": list(cell.stop),
            "sqnr": cell.sqnr,
            "megabytes": cell.megabytes,
            "recipe": json.loads(cell.recipe.to_json()),
        }

    document = {
        "format": FORMAT,
        "fingerprint": dial.fingerprint,
        "convention": dial.convention,
        "labels": list(dial.labels),
        "side": dial.reference.shape[1],
        "megabytes": dial.megabytes,
        "layer": dial.layer,
        "settings": dial.settings,
        "together": [written(cell) for cell in dial.together],
        "apart": [written(cell) for cell in dial.apart],
    }
    (folder / DOCUMENT).write_text(json.dumps(document) + "\n", encoding="utf-8")


def load_dial(folder: Path, fingerprint: str) -> Dial:
    """Inverse of ``save_dial``, but for what the pictures' encoding loses.

    Raises:
        ValueError: missing, damaged, or made for another checkpoint.
    """
    path = folder / DOCUMENT
    if not path.is_file():
        raise ValueError("no dial is shipped")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"dial: expected format {FORMAT}, got {document['format']}")
        if document["fingerprint"] != fingerprint:
            raise ValueError(
                f"dial: made for checkpoint {document['fingerprint'][:12]}, "
                f"this is {fingerprint[:12]}"
            )
        labels, side = tuple(document["labels"]), int(document["side"])
        pictures = {
            apart: [
                cut(folder / sheet_name(at, apart), side, len(document[name]))
                for at in range(len(labels))
                if document[name]
            ]
            for apart, name in ((False, "together"), (True, "apart"))
        }

        def read(entry: dict[str, Any], number: int, apart: bool) -> Cell:
            weight, activation = entry["stop"]
            images = {
                way: np.stack([each[row, 1 + number] for each in pictures[apart]])
                for row, way in enumerate(WAYS)
            }
            recipe = Recipe.from_json(json.dumps(entry["recipe"]))
            return Cell((weight, activation), entry["sqnr"], entry["megabytes"], recipe, images)

        return Dial(
            fingerprint=fingerprint,
            convention=document["convention"],
            labels=labels,
            reference=np.stack([each[0, 0] for each in pictures[False]]),
            megabytes=float(document["megabytes"]),
            layer=document["layer"],
            together=tuple(read(e, i, False) for i, e in enumerate(document["together"])),
            apart=tuple(read(e, i, True) for i, e in enumerate(document["apart"])),
            settings=document["settings"],
            speeds=load_speeds(folder, fingerprint),
        )
    except (KeyError, TypeError, AttributeError, OSError, IndexError, SpecError) as error:
        raise ValueError(f"dial: damaged, {type(error).__name__} {error}") from error


def cut(path: Path, side: int, cells: int) -> np.ndarray:
    """A class's sheet as (2, 1 + cells, side, side, 3).

    Raises:
        ValueError: it does not hold so many.
    """
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"), dtype=np.uint8)
    expected = (len(WAYS) * side, (1 + cells) * side, 3)
    if pixels.shape != expected:
        raise ValueError(f"dial: {path.name}: expected {expected}, got {pixels.shape}")
    return pixels.reshape(len(WAYS), side, 1 + cells, side, 3).swapaxes(1, 2)
