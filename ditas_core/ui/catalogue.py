"""Which checkpoints the operator offers. Visitors choose a key; they never type a path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints import HUB_SOURCES

CHECKPOINTS_VARIABLE = "DITAS_CHECKPOINTS"
PRECOMPUTED_VARIABLE = "DITAS_PRECOMPUTED"
FAVOURITES = (
    "cat", "police", "mage", "heart", "astronaut", "royalty", "clock", "moon", "cook", "face",
    "fruit", "flag", "person", "mammal",
)  # fmt: skip
ASSETS = Path(__file__).resolve().parents[2] / "assets"


@dataclass(frozen=True)
class Entry:
    """One offered checkpoint; licence and size of what is not on this machine yet."""

    key: str
    label: str
    source: str
    local: bool
    licence: str = ""
    gigabytes: float = 0.0


def find_checkpoints(assets: Path = ASSETS) -> dict[str, Entry]:
    """Folders of ``assets``, then those of ``DITAS_CHECKPOINTS``, then the known hub ids."""
    folders = sorted(assets.iterdir()) if assets.is_dir() else []
    extra = os.environ.get(CHECKPOINTS_VARIABLE, "").split(os.pathsep)
    folders += [Path(folder) for folder in extra if folder]
    entries: dict[str, Entry] = {}
    for folder in folders:
        if (folder / "model_index.json").is_file() and folder.name not in entries:
            entries[folder.name] = Entry(folder.name, folder.name, str(folder), True)
    for repo, hub in HUB_SOURCES.items():
        label = f"{repo} ({hub.gigabytes:g} GB download, {hub.licence})"
        entries[repo] = Entry(repo, label, repo, False, hub.licence, hub.gigabytes)
    return entries


def precomputed_folder(assets: Path = ASSETS) -> Path:
    """Where the shipped results lie."""
    return Path(os.environ.get(PRECOMPUTED_VARIABLE) or assets / "precomputed")


def showcase(names: Sequence[str], count: int) -> list[str]:
    """Up to ``count`` class names to open on: well-known ones first, the rest spread evenly."""
    chosen: dict[str, None] = {}
    for word in FAVOURITES:
        found = next((n for n in names if word in n.replace(" ", "-").split("-")), None)
        if found is not None:
            chosen[found] = None
    chosen |= dict.fromkeys(names[:: max(1, len(names) // count)])
    return list(chosen)[:count]
