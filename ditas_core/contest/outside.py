"""Rows from outside: what another library drew from the same noise, measured like everybody's.

A file holds a peer's final latents (safetensors, ``latents`` (N, C, H, W)) and, as JSON under
``peer``, what it is and how it was drawn. Whatever writes such a file takes part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..checkpoints import Checkpoint
from ..comparison import Trajectory, run_trajectory
from ..fidelity import Stages
from ..sampling import decode_latents, spread_labels
from ..specs import SpecError, brief, check_number, check_text, parse_json
from ..writing import whole_file
from .contenders import ContestSpec
from .run import samples_of
from .table import Row

FORMAT = "ditas-contest-peer-1"


@dataclass(frozen=True)
class Peer:
    """One contender of another library.

    outside         the library and its version
    effective_bits  stored bits per weight of the same layers, scales counted
    fingerprint     of the checkpoint that it quantized
    drawn           see ``drawn_as``
    """

    label: str
    outside: str
    weights: str
    effective_bits: float
    convert_s: float
    seconds_per_sample: float
    fingerprint: str
    drawn: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name in ("label", "outside", "weights", "fingerprint"):
            check_text(name, getattr(self, name), 200)
        for name in ("effective_bits", "convert_s", "seconds_per_sample"):
            check_number(name, getattr(self, name), 0, 1e9)


def drawn_as(spec: ContestSpec) -> dict[str, Any]:
    """What a peer's samples have to have in common with the contest's."""
    return {**asdict(spec.sampling), "seed": spec.seed, "samples": spec.samples}


def write_outside(path: Path, peer: Peer, latents: Tensor) -> None:
    """A peer's file."""
    metadata = {"format": FORMAT, "peer": json.dumps(asdict(peer))}
    with whole_file(path) as part:
        save_file({"latents": latents.float().contiguous()}, part, metadata=metadata)


def read_outside(path: Path) -> tuple[Peer, Tensor]:
    """Inverse of ``write_outside``.

    Raises:
        SpecError: no such file, or something else.
    """
    if not path.is_file():
        raise SpecError(f"outside: expected a file of a peer, found no {path.name}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise SpecError(f"{path.name}: expected a file of format {FORMAT}")
            latents = file.get_tensor("latents")
        peer = Peer(**parse_json("peer", metadata["peer"]))
    except (SafetensorError, KeyError, TypeError) as error:
        raise SpecError(f"{path.name}: expected a peer's latents ({error})") from error
    if latents.ndim != 4 or not bool(torch.isfinite(latents).all()):
        raise SpecError(f"{path.name}: expected finite latents (N, C, H, W)")
    return peer, latents.float()


def reference_run(checkpoint: Checkpoint, spec: ContestSpec) -> Trajectory:
    """The full-precision run that peers are compared with."""
    labels = spread_labels(spec.samples, len(checkpoint.class_names))
    return run_trajectory(
        checkpoint, checkpoint.transformer, labels, spec.sampling, spec.seed, spec.batch
    )


def outside_row(
    checkpoint: Checkpoint,
    spec: ContestSpec,
    reference: Trajectory,
    read: tuple[Peer, Tensor],
    stages: Stages | None = None,
) -> Row:
    """A peer's row over the contest's samples.

    Raises:
        SpecError: another checkpoint, other settings or other sizes.
    """
    peer, latents = read
    if peer.fingerprint != checkpoint.fingerprint:
        raise SpecError(
            f"{peer.label}: drawn with checkpoint {peer.fingerprint[:12]}, {checkpoint.name} is "
            f"{checkpoint.fingerprint[:12]}"
        )
    wanted = drawn_as(spec)
    if dict(peer.drawn) != wanted:
        raise SpecError(f"{peer.label}: expected samples of {wanted}, got {brief(peer.drawn)}")
    if latents.shape != reference.final.shape:
        raise SpecError(
            f"{peer.label}: expected latents {tuple(reference.final.shape)}, "
            f"got {tuple(latents.shape)}"
        )
    # only its end is known: every step stands for it, and none is shown
    steps = latents.expand(len(reference.latents), *latents.shape)
    images = decode_latents(checkpoint.vae, latents)
    run = Trajectory(steps, reference.timesteps, images)
    return Row(
        label=peer.label,
        method=peer.label,
        weights=peer.weights,
        effective_bits=peer.effective_bits,
        samples=samples_of(reference, run, stages),
        convert_s=peer.convert_s,
        seconds_per_sample=peer.seconds_per_sample,
        outside=peer.outside,
    )
