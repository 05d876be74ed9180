"""Rungs of growing injected outliers: one computed live, or a ladder of them shipped on disk."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...comparison import Preserved
from ...figures import contact_strip, split_strip
from ...specs import Recipe
from .results import REFERENCE

FORMAT = 1
DOCUMENT = "ladder.json"
NATURAL = "natural"


@dataclass(frozen=True)
class Rung:
    """One strength of injected outliers.

    images      REFERENCE (of the injected model) and recipes -> (N, H, W, 3) bytes
    same        how far the injected full-precision run is from the natural one
    sqnr        recipe -> latent SQNR of every sample in dB
    amplified   the difference of the two full-precision pictures, amplified; live only
    recipe      what repaired it; live only
    """

    strength: float
    same: Preserved
    images: dict[str, np.ndarray] = field(repr=False)
    sqnr: dict[str, list[float]] = field(default_factory=dict)
    amplified: np.ndarray | None = field(default=None, repr=False)
    recipe: Recipe | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Ladder:
    """Rungs by rising strength over the same noise.

    natural    full precision as trained, (N, H, W, 3) bytes
    settings   bits, convention, channels, steps and the like
    """

    fingerprint: str
    labels: tuple[str, ...]
    natural: np.ndarray = field(repr=False)
    rungs: tuple[Rung, ...] = field(repr=False)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def recipes(self) -> list[str]:
        return list(self.rungs[0].sqnr)

    def nearest(self, strength: float) -> Rung:
        """The rung with the smallest ratio to the strength."""
        return min(self.rungs, key=lambda rung: abs(math.log(rung.strength / strength)))


def stacked(strips: list[np.ndarray]) -> Image.Image:
    """One row of pictures per rung."""
    return Image.fromarray(np.concatenate([np.asarray(contact_strip(s)) for s in strips]))


def unstacked(sheet: Image.Image, rows: int, count: int) -> list[np.ndarray]:
    """Inverse of ``stacked``.

    Raises:
        ValueError: the sheet does not hold so many square pictures.
    """
    pixels = np.asarray(sheet.convert("RGB"), dtype=np.uint8)
    if rows < 1 or pixels.shape[0] % rows:
        raise ValueError(f"sheet: expected {rows} rows, got {pixels.shape[0]} pixels")
    return [split_strip(Image.fromarray(row), count) for row in np.split(pixels, rows)]


def save_ladder(ladder: Ladder, folder: Path) -> None:
    """Write ladder.json and one PNG per variant into an existing folder.

    The injected full-precision pictures are stored as what differs from the natural
    ones, modulo 256: nearly nothing.
    """
    sheets: dict[str, list[np.ndarray]] = {NATURAL: [ladder.natural]}
    sheets[REFERENCE] = [rung.images[REFERENCE] - ladder.natural for rung in ladder.rungs]
    sheets |= {name: [rung.images[name] for rung in ladder.rungs] for name in ladder.recipes}
    files = {name: f"ladder-{index}.png" for index, name in enumerate(sheets)}
    for name, strips in sheets.items():
        stacked(strips).save(folder / files[name], optimize=True)
    document = {
        "format": FORMAT,
        "fingerprint": ladder.fingerprint,
        "labels": list(ladder.labels),
        "settings": ladder.settings,
        "images": files,
        "rungs": [
            {"strength": r.strength, "same": asdict(r.same), "sqnr": r.sqnr} for r in ladder.rungs
        ],
    }
    (folder / DOCUMENT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load_ladder(folder: Path, fingerprint: str) -> Ladder:
    """Inverse of ``save_ladder``.

    Raises:
        ValueError: missing, damaged, or made for another checkpoint.
    """
    path = folder / DOCUMENT
    if not path.is_file():
        raise ValueError("no ladder of injected outliers is shipped")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"ladder: expected format {FORMAT}, got {document['format']}")
        if document["fingerprint"] != fingerprint:
            raise ValueError(
                f"ladder: made for checkpoint {document['fingerprint'][:12]}, "
                f"this is {fingerprint[:12]}"
            )
        labels, rungs = tuple(document["labels"]), document["rungs"]
        sheets = {}
        for name, file in document["images"].items():
            with Image.open(folder / Path(file).name) as sheet:
                rows = 1 if name == NATURAL else len(rungs)
                sheets[name] = unstacked(sheet, rows, len(labels))
        (natural,) = sheets.pop(NATURAL)
        sheets[REFERENCE] = [natural + difference for difference in sheets[REFERENCE]]
        return Ladder(
            fingerprint=fingerprint,
            labels=labels,
            natural=natural,
            settings=document["settings"],
            rungs=tuple(
                Rung(
                    strength=float(rung["strength"]),
                    same=Preserved(**rung["same"]),
                    images={name: strips[at] for name, strips in sheets.items()},
                    sqnr=rung["sqnr"],
                )
                for at, rung in enumerate(rungs)
            ),
        )
    except (KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"ladder: damaged, {type(error).__name__} {error}") from error
