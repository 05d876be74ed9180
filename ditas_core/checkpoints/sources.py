"""Find a checkpoint: a local folder or one of the known hub ids."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import Checkpoint, CheckpointError, load_folder


@dataclass(frozen=True)
class HubSource:
    """A hub repository that this package knows: its id, licence and size."""

    repo: str
    licence: str
    gigabytes: float


HUB_SOURCES: dict[str, HubSource] = {
    "facebook/DiT-XL-2-256": HubSource("facebook/DiT-XL-2-256", "cc-by-nc-4.0", 3.3),
    "facebook/DiT-XL-2-512": HubSource("facebook/DiT-XL-2-512", "cc-by-nc-4.0", 3.3),
}
HUB_FILES = [
    "model_index.json",
    "README.md",
    "scheduler/scheduler_config.json",
    "transformer/config.json",
    "transformer/*.safetensors",
    "transformer/*.bin",
    "vae/config.json",
    "vae/*.safetensors",
    "vae/*.bin",
]


def load_checkpoint(source: str | Path) -> Checkpoint:
    """Load a checkpoint from a local folder or a known hub id.

    Raises:
        CheckpointError: neither a folder nor a known id, no network, or unusable files.
    """
    text = str(source)
    if text in HUB_SOURCES:
        return load_folder(fetch(HUB_SOURCES[text]), text, HUB_SOURCES[text].licence)
    path = Path(source)
    if not path.is_dir():
        raise CheckpointError(
            f"checkpoint: expected a folder or one of {', '.join(HUB_SOURCES)}, got {text!r}"
        )
    return load_folder(path)


def fetch(source: HubSource) -> Path:
    """Download (or find in the cache) a known repository; returns a safetensors folder."""
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(source.repo, allow_patterns=HUB_FILES))
    except Exception as error:
        raise CheckpointError(
            f"{source.repo}: expected to download {source.gigabytes} GB from the hub or find it "
            f"in the local cache, got {type(error).__name__}; go online once, or pass a local "
            "diffusers folder"
        ) from error
    return with_safetensors(folder)


def with_safetensors(folder: Path) -> Path:
    """A sibling folder whose weights are safetensors, converted once from ``.bin``.

    The pickles are read with ``weights_only`` only. Names and tensors stay as they are.
    """
    parts = ("transformer", "vae")
    if all(list((folder / part).glob("*.safetensors")) for part in parts):
        return folder
    import shutil
    import tempfile

    import torch
    from safetensors.torch import save_file

    target = folder.with_name(folder.name + "-safetensors")
    if target.is_dir():
        return target
    work = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        for name in ("model_index.json", "README.md", "scheduler/scheduler_config.json"):
            if (folder / name).is_file():
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, work / name)
        for part in parts:
            (work / part).mkdir()
            shutil.copyfile(folder / part / "config.json", work / part / "config.json")
            pickled = folder / part / "diffusion_pytorch_model.bin"
            if not pickled.is_file():
                raise CheckpointError(f"{part}: expected {pickled.name} or safetensors, found none")
            state = torch.load(pickled, weights_only=True, map_location="cpu")
            state = {key: value.contiguous().clone() for key, value in state.items()}
            save_file(state, work / part / "diffusion_pytorch_model.safetensors")
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return target
