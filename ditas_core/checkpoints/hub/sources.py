"""Which repositories of the hub are known, how others are named, and where they lie here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...models import CheckpointError
from ..files.folders import NAMES
from ..preflight import Need, add_up
from .pickled_folder import PICKLE

REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
CONVERTED = "safetensors"


@dataclass(frozen=True)
class HubSource:
    """A hub repository at one revision.

    licence   "" where only the repository's card says it
    revision  the commit that is downloaded, 40 hexadecimal digits
    bytes     of its weights; 0 where they are not known beforehand
    sha256    of files, where they are known beforehand; the hub's own are checked anyway
    formats   names that a part's weights, or their shard index, may have: the first one found
    """

    repo: str
    licence: str
    gigabytes: float
    revision: str = ""
    bytes: int = 0
    sha256: dict[str, str] = field(default_factory=dict)
    formats: tuple[str, ...] = (PICKLE,)

    @property
    def title(self) -> str:
        return f"{self.repo} ({self.gigabytes:g} GB)" if self.gigabytes else self.repo


HUB_SOURCES: dict[str, HubSource] = {
    "facebook/DiT-XL-2-256": HubSource(
        "facebook/DiT-XL-2-256",
        "cc-by-nc-4.0",
        3.3,
        "eab87f77abd5aef071a632f08807fbaab0b704d0",
        3_334_245_438,
    ),
    "facebook/DiT-XL-2-512": HubSource(
        "facebook/DiT-XL-2-512",
        "cc-by-nc-4.0",
        3.3,
        "101a3d462b22d64c4afdd4d0c8c59a2c0b961b99",
        3_334_245_438,
    ),
}


def find_source(text: str) -> HubSource | None:
    """The repository that ``REPO@REVISION`` names, or a known ``REPO``; None for anything else.

    Raises:
        CheckpointError: a revision of a known repository that is no commit.
    """
    repo, at, revision = text.partition("@")
    source = HUB_SOURCES.get(repo)
    if source is None and (not at or not REPO.fullmatch(repo) or ".." in repo):
        return None
    if source is not None and not at:
        return source
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        if source is None:
            return None
        raise CheckpointError(
            f"{repo}: expected a commit of 40 hexadecimal digits behind @, got {revision[:60]!r}"
        )
    source = HubSource(repo, "", 0.0) if source is None else source
    formats = (*NAMES, PICKLE)  # another revision may have been converted
    return replace(source, revision=revision, bytes=0, sha256={}, formats=formats)


def own_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "ditas"


def place_of(source: HubSource, cache: Path) -> Path:
    """Where everything about one revision lies."""
    return cache / source.repo.replace("/", "--") / source.revision


def converted_folder(source: HubSource, cache: Path | None = None) -> Path | None:
    """The safetensors folder, if it was made already."""
    folder = place_of(source, own_cache() if cache is None else cache) / CONVERTED
    if folder.is_symlink():
        raise CheckpointError(f"{folder}: expected a folder, got a link to one; remove it")
    return folder if folder.is_dir() else None


def need_to_load(source: HubSource, transformer: int, vae: int) -> Need:
    """What downloading, converting and loading take, if these bytes of files hold float32."""
    total = transformer + vae
    return add_up(source.repo, total, transformer // 4, vae, disk=2 * total)


def known_need(source: HubSource) -> Need:
    """The same from what is known before anything is asked of the hub."""
    vae = source.bytes // 10  # sd-vae's share
    return need_to_load(source, source.bytes - vae, vae)
