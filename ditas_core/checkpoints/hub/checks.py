"""What is known of a hub repository before its weights are fetched: kind, configuration, need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...models import CheckpointError, Family, family_of_index
from ..captions import FILE
from ..configurations import read_configurations
from ..files.folders import read_json
from ..machine import figure
from ..preflight import Need, add_up
from .sources import HubSource
from .transfer import Remote

MAX_SMALL, MAX_CAPTIONS, MAX_HEAVY = 1_000_000, 500_000_000, 20_000_000_000


def check_kind(source: HubSource, raw: Path, captions: bool) -> Family:
    """The family, by the index of the pipeline alone.

    Raises:
        CheckpointError: another pipeline, or one that lacks captions.
    """
    try:
        family = family_of_index(read_json(raw / "model_index.json", raw))
    except CheckpointError as error:
        raise CheckpointError(f"{source.repo}: {error}") from None
    if family.text and not captions:
        raise CheckpointError(
            f"{source.repo}: expected {FILE} in the repository, or captions= (--captions FILE), "
            f"got neither: a {family.name} needs embedded captions, and this package has no text "
            "encoder; Captions.of_pipeline(pipeline, prompts).save(FOLDER) writes the file; the "
            "page takes captions from a local folder only, app.py --checkpoint FOLDER"
        )
    return family


def need_of_parts(source: HubSource, raw: Path, captions: bool, sizes: Sequence[int]) -> Need:
    """What loading takes, counted from the configurations; their models are built without memory.

    sizes  of the transformer's and the autoencoder's weights, in bytes: they tell the precision
           that they are stored in, and the configurations do not

    Raises:
        CheckpointError: a part that cannot be loaded, whatever its weights are.
    """
    check_kind(source, raw, captions)
    try:
        configured = read_configurations(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{source.repo}: {error}") from None
    transformer, largest = counted(configured.transformer.state_dict().values())
    vae, _ = counted(configured.vae.state_dict().values())
    stored = min(8, max(1, round(sizes[0] / transformer)))  # bytes of a number
    fixed = 4 * vae + stored * largest
    return add_up(source.repo, sum(sizes), transformer, fixed, disk=2 * sum(sizes))


def counted(tensors: Iterable[Any]) -> tuple[int, int]:
    """Numbers in all of them, and in the largest."""
    counts = [int(tensor.numel()) for tensor in tensors]
    return max(1, sum(counts)), max(counts, default=0)


def check_remote(source: HubSource, name: str, remote: Remote) -> Remote:
    """What the hub announces, against what is pinned.

    Raises:
        CheckpointError: another revision, hash or size.
    """
    if remote.commit and remote.commit != source.revision:
        raise CheckpointError(
            f"{name}: expected revision {source.revision}, got {remote.commit[:60]!r}"
        )
    pinned = source.sha256.get(name)
    if pinned is not None and remote.etag != pinned:
        raise CheckpointError(f"{name}: expected the hash {pinned}, got {remote.etag}")
    heavy = name.endswith((".safetensors", ".bin")) and name != FILE
    limit = int(1.1 * source.bytes) if heavy and source.bytes else MAX_HEAVY
    limit = limit if heavy else MAX_CAPTIONS if name == FILE else MAX_SMALL
    if remote.size > limit:
        raise CheckpointError(
            f"{name}: expected at most {figure(limit)}, got {figure(remote.size)}"
        )
    if heavy and len(remote.etag) != 64:
        raise CheckpointError(f"{name}: expected a sha256 from the hub, got {remote.etag}")
    return remote
