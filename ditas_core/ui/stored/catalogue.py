"""Which checkpoints the operator offers. Visitors choose a key; they never type a path."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...checkpoints import (
    ASSETS,
    HUB_SOURCES,
    CheckpointError,
    HubSource,
    find_source,
    injected_note,
    injected_strength,
    is_file,
    shipped_folders,
)

CHECKPOINTS_VARIABLE = "DITAS_CHECKPOINTS"
LIKE_VARIABLE = "DITAS_LIKE"
PRECOMPUTED_VARIABLE = "DITAS_PRECOMPUTED"
FAVOURITES = (
    "fox", "hamburger", "panda", "strawberry", "butterfly", "astronaut",
    "smiling face with sunglasses", "cupcake", "frog", "avocado", "watermelon", "fire", "mage",
    "heart", "cat", "mammal", "fruit", "person",
)  # fmt: skip
LICENCES = {"cc-by-nc-4.0": "CC-BY-NC 4.0"}
HALF = " (bfloat16)"
TWIN_STRENGTH = 32.0
"""Of the shipped checkpoint's twin; a power of two is exact in any precision."""


@dataclass(frozen=True)
class Entry:
    """One checkpoint in the picker.

    source    what ``load_checkpoint`` takes: a folder, a weight file or ``REPO@REVISION``
    local     whether it lies on this machine, not on the hub
    licence, gigabytes, revision   of a hub repository; "" or 0 where they are not known
    half      its transformer is loaded in bfloat16
    allowed   whether the operator lets visitors have it fetched from the hub
    like      what lends a weight file its autoencoder
    twin_of   the entry whose function it has; its outliers are ``strength`` times those
    """

    key: str
    label: str
    source: str
    local: bool
    licence: str = ""
    gigabytes: float = 0.0
    revision: str = ""
    half: bool = False
    allowed: bool = False
    like: str = ""
    twin_of: str = ""
    strength: float = 1.0

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.half else torch.float32

    @property
    def repo(self) -> str:
        """Of the hub."""
        return "" if self.local else self.source.partition("@")[0]

    @property
    def in_half(self) -> Entry:
        """The same in bfloat16: half the memory."""
        label = f"{self.label} · bfloat16, half the memory"
        return replace(self, key=self.key + HALF, label=label, half=True)

    @property
    def twin(self) -> Entry:
        """The same with injected outliers, which its name says."""
        name = f"{self.key} · {injected_note(TWIN_STRENGTH)}"
        return replace(self, key=name, label=name, twin_of=self.key, strength=TWIN_STRENGTH)


def find_checkpoints(
    assets: Path = ASSETS, named: Sequence[str] | None = None, like: str | None = None
) -> dict[str, Entry]:
    """Folders of ``assets``, the first with its twin, then what the operator has named, then the
    known hub ids.

    named  folders, original weight files, hub ids; None: ``DITAS_CHECKPOINTS``
    like   for weight files; None: ``DITAS_LIKE``

    A hub id can be fetched by visitors only if the operator has named it. What is named
    can also be had in bfloat16.

    Raises:
        CheckpointError: a revision that is no commit.
    """
    if named is None:
        named = os.environ.get(CHECKPOINTS_VARIABLE, "").split(os.pathsep)
    if like is None:
        like = os.environ.get(LIKE_VARIABLE, "")
    entries: dict[str, Entry] = {}
    for folder in shipped_folders(assets):
        name = name_of(folder)
        entries[name] = Entry(name, name, str(folder), True)
        if len(entries) == 1:
            twin = entries[name].twin
            entries[twin.key] = twin
    for each in named_entries(named, like):
        entry = told_apart(each, entries)
        entries.setdefault(entry.key, entry)
        entries.setdefault(entry.in_half.key, entry.in_half)
    for repo, hub in HUB_SOURCES.items():
        entries.setdefault(repo, hub_entry(repo, hub))
    return entries


def named_entries(named: Iterable[str], like: str) -> Iterable[Entry]:
    """What the operator's list means; what is not there is left out."""
    for text in filter(None, named):
        hub, path = find_source(text), Path(text)
        if hub is not None:
            yield replace(hub_entry(text, hub), allowed=True)
        elif is_folder(path):
            name = name_of(path)
            yield Entry(name, name, text, True)
        elif is_file(path):
            yield Entry(path.name, path.name, text, True, like=like)


def name_of(folder: Path) -> str:
    """Its own, and that its outliers are injected; what is wrong with it, loading tells."""
    name = folder.resolve().name
    with suppress(CheckpointError):
        strength = injected_strength(folder)
        return name if strength <= 1 else f"{name} · {injected_note(strength)}"
    return name


def told_apart(entry: Entry, taken: dict[str, Entry]) -> Entry:
    """Under another name where another checkpoint has its name already."""
    key, path = entry.key, Path(entry.source).resolve()
    number = 1
    while key in taken and Path(taken[key].source).resolve() != path:
        key = f"{path.parent.name}/{entry.key}" + (f" ({number})" if number > 1 else "")
        number += 1
    return entry if key == entry.key else replace(entry, key=key, label=key)


def is_folder(path: Path) -> bool:
    return is_file(path / "model_index.json")


def hub_entry(key: str, hub: HubSource) -> Entry:
    """With size, licence and revision in its label."""
    facts = [
        f"{hub.gigabytes:g} GB to download" if hub.gigabytes else "",
        licence_name(hub.licence),
        f"revision {hub.revision[:7]}",
    ]
    label = " · ".join([hub.repo, *filter(None, facts)])
    source = f"{hub.repo}@{hub.revision}" if "@" in key else hub.repo
    return Entry(key, label, source, False, hub.licence, hub.gigabytes, hub.revision)


def licence_name(licence: str) -> str:
    """As people write it."""
    return LICENCES.get(licence, licence)


def read_options(arguments: Sequence[str]) -> dict[str, Entry]:
    """The checkpoints that the page is started with."""
    parser = argparse.ArgumentParser(
        prog="app.py",
        description="The DiTAS explorer. GRADIO_SERVER_NAME and GRADIO_SERVER_PORT choose where.",
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        metavar="SOURCE",
        help="also offer this folder, original DiT weight file or hub id (REPO@REVISION, or "
        f"{' or '.join(HUB_SOURCES)}, which visitors may then have downloaded); may be repeated; "
        f"default: {CHECKPOINTS_VARIABLE}, separated by {os.pathsep!r}",
    )
    parser.add_argument(
        "--like",
        metavar="SOURCE",
        help="folder or hub id that lends weight files the autoencoder and the schedule; default: "
        f"{LIKE_VARIABLE}, else sd-vae-ft-ema from the hub's cache",
    )
    options = parser.parse_args(arguments)
    try:
        for text in options.checkpoint or []:
            if find_source(text) is None and not is_folder(Path(text)) and not is_file(Path(text)):
                parser.error(
                    "--checkpoint: expected a folder, a weight file or a hub id, "
                    f"got {text[:200]!r}"
                )
        return find_checkpoints(named=options.checkpoint, like=options.like)
    except CheckpointError as error:
        parser.error(str(error))


def precomputed_folder(assets: Path = ASSETS) -> Path:
    """Where the shipped results lie."""
    return Path(os.environ.get(PRECOMPUTED_VARIABLE) or assets / "precomputed")


def contests_folder(precomputed: Path) -> Path:
    """Beside them, the shipped contests."""
    return precomputed.with_name("contests")


def twin_folder(precomputed: Path) -> Path:
    """Beside them, those of the twin with injected outliers."""
    return precomputed.with_name(f"{precomputed.name}-injected")


def showcase(names: Sequence[str], count: int) -> list[str]:
    """Up to ``count`` class names to open on: well-known ones first, the rest spread evenly."""
    chosen: dict[str, None] = {}
    for word in FAVOURITES:
        inside = (name for name in names if word in name.replace(" ", "-").split("-"))
        found = word if word in names else next(inside, None)
        if found is not None:
            chosen[found] = None
    chosen |= dict.fromkeys(names[:: max(1, len(names) // count)])
    return list(chosen)[:count]
