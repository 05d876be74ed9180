"""The ``info`` verb: what a checkpoint or a weight file is, and whether it fits here."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..artifact import whole_model_bits
from ..checkpoints import (
    CheckpointError,
    Need,
    choose_parts,
    diffusers_parameters,
    figure,
    find_parts,
    is_file,
    need_of_original,
    preflight,
    read_headers,
    recognise_file,
    recognise_with,
    this_machine,
)
from ..layers import effective_bits
from ..specs import summarize
from .commands import Report, say
from .loading import load_any

SIZES = {(12, 384): "S", (12, 768): "B", (24, 1024): "L", (28, 1152): "XL"}


def run_info(args: argparse.Namespace) -> Report:
    """A weight file is told from its header alone; everything else is loaded."""
    path = Path(args.checkpoint)
    report = describe_file(path, args.like) if is_file(path) else describe_checkpoint(args)
    for key, value in report.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {figure(number)}" for name, number in value.items())
        say(args, f"{key:>16}  {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return report


def describe_file(path: Path, like: str) -> Report:
    """What the header says; no tensor is read."""
    headers = read_headers(path)
    lender = find_parts(like or None)
    try:
        found = recognise_with(headers, None, lender)
        heads: int | str = found.heads
    except CheckpointError as error:  # shapes do not tell the heads, and none are known
        found = recognise_file(headers, heads=1)
        heads = f"not known: {error}"
    try:
        parts = choose_parts(found, headers, lender)
        autoencoder = parts.name
    except CheckpointError as error:
        if like:
            raise
        parts, autoencoder = None, f"missing: {error}"
    size = SIZES.get((found.depth, found.width), "")
    return {
        "name": path.name,
        "kind": "safetensors" if headers.kind == "safetensors" else "torch.save archive",
        "layout": "original DiT",
        "size": f"DiT-{size}/{found.patch}" if size else "no published size",
        "blocks": found.depth,
        "width": found.width,
        "heads": heads,
        "patch": found.patch,
        "latent_shape": [found.in_channels, found.latent_size, found.latent_size],
        "learns_variance": found.out_channels == 2 * found.in_channels,
        "class_count": found.classes,
        "parameters": diffusers_parameters(found),
        "autoencoder": autoencoder,
        "preflight": need_bytes(need_of_original(headers, found, parts)),
    }


def need_bytes(need: Need) -> dict[str, int]:
    """Bytes it takes, and bytes there are."""
    free = this_machine(Path.cwd()).memory
    figures = {
        "file": need.file_bytes,
        "float32": need.float32,
        "bfloat16": need.bfloat16,
    }
    return figures if free is None else {**figures, "available": free}


def describe_checkpoint(args: argparse.Namespace) -> Report:
    """What was loaded says of itself."""
    checkpoint, recipe = load_any(args)
    transformer = checkpoint.transformer
    tensors = list(transformer.parameters()) + list(transformer.buffers())
    report: Report = {
        "name": checkpoint.name,
        "family": checkpoint.family.name,
        "licence": checkpoint.licence,
        "fingerprint": checkpoint.fingerprint,
        "blocks": len(transformer.transformer_blocks),
        "width": checkpoint.width,
        "parameters": sum(p.numel() for p in transformer.parameters())
        if recipe is None
        else sum(t.numel() for t in tensors),
        "vae_parameters": sum(p.numel() for p in checkpoint.vae.parameters()),
        "latent_shape": list(checkpoint.latent_shape),
        "image_size": checkpoint.image_size,
        "classes": list(checkpoint.class_names),
        "groups": [group.name for group in checkpoint.groups] if recipe is None else [],
        "quantized": recipe is not None,
    }
    if checkpoint.notes:
        report["notes"] = list(checkpoint.notes)
    if recipe is not None:
        report["recipe"] = summarize(recipe)
        report["effective_bits"] = round(effective_bits(transformer), 3)
        report["whole_model_bits"] = round(whole_model_bits(transformer), 3)
    if recipe is None and checkpoint.path.is_dir():
        report["preflight"] = need_bytes(preflight(checkpoint.path))
    return report
