"""The ``convert`` verb: between a diffusers folder and the original DiT's state dict."""

from __future__ import annotations

import argparse
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

# torch and diffusers take seconds to import, and the parser needs this module
if TYPE_CHECKING:
    from ..checkpoints import Architecture
    from ..models import Transformer
    from .commands import Report

COPIED = ("model_index.json", "README*", "LICENSE*", "LICENCE*")


def add_convert(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument(
        "source", help="to original: folder or known hub id; to diffusers: .pt or .safetensors"
    )
    parser.add_argument(
        "--to",
        choices=("original", "diffusers"),
        required=True,
        help="original: the state dict that facebookresearch/DiT loads; diffusers: a folder",
    )
    parser.add_argument(
        "--like",
        default="",
        help="to diffusers: folder or known hub id to take the autoencoder, the schedule, the "
        "class names and the licence from",
    )
    parser.add_argument(
        "--heads",
        type=int,
        help="to diffusers: attention heads; default: those of --like if it is as wide, "
        "of the known size, or 64 channels each",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="to original: file to write (.pt or .safetensors); to diffusers: new folder",
    )


def run_convert(args: argparse.Namespace) -> Report:
    """Convert; the report counts parameters once, as the original layout stores them."""
    from .commands import say

    started = time.perf_counter()
    report = convert_to_original(args) if args.to == "original" else convert_to_diffusers(args)
    report["seconds"] = round(time.perf_counter() - started, 2)
    say(
        args,
        f"wrote {args.out}: {report['blocks']} blocks, width {report['width']}, "
        f"{report['parameters']} parameters, {report['bytes']} B",
    )
    return report


def convert_to_original(args: argparse.Namespace) -> Report:
    from ..checkpoints import (
        CheckpointError,
        compact_state,
        load_checkpoint,
        recognise,
        to_original,
        write_state,
    )
    from ..models import DIT
    from ..writing import check_new_file

    if args.like or args.heads is not None:
        raise ValueError("convert: expected --like and --heads only with --to diffusers")
    if Path(args.source).is_file():
        raise ValueError(f"convert: expected a folder or a known hub id, got a file {args.source}")
    check_new_file(args.out, Path(args.source))
    checkpoint = load_checkpoint(args.source)
    if checkpoint.family is not DIT:
        raise CheckpointError(
            f"convert: expected a DiT, which alone has this original layout, got {args.source}, "
            f"a {checkpoint.family.name}"
        )
    state = to_original(checkpoint.transformer)
    found = recognise(state, heads=1)  # the layout holds no heads
    write_state(args.out, compact_state(state))
    return summary(args.out, found, args.out.stat().st_size)


def convert_to_diffusers(args: argparse.Namespace) -> Report:
    from ..checkpoints import (
        check_machine,
        choose_parts,
        find_parts,
        from_original,
        need_of_original,
        read_headers,
        read_state,
        recognise_file,
        this_machine,
    )
    from ..writing import check_new_folder, whole_folder

    if not args.like:
        raise ValueError(
            "like: expected a diffusers folder to take the autoencoder, the schedule and the "
            "class names from, got none; pass --like FOLDER"
        )
    check_new_folder(args.out)
    headers = read_headers(Path(args.source))
    like = find_parts(args.like)
    assert like is not None
    heads = args.heads
    if heads is None and recognise_file(headers, heads=1).width == like.width:
        heads = like.heads
    found = recognise_file(headers, heads)
    choose_parts(found, headers, like)
    check_classes(found)
    need = need_of_original(headers, found, like)
    need = replace(need, disk=4 * need.parameters + like.headers().file_bytes)
    check_machine(need, this_machine(args.out))
    with whole_folder(args.out) as work:
        transformer = from_original(read_state(Path(args.source)), heads, like.norm_eps)
        home = like.folder.parent
        for pattern in COPIED:
            for path in home.glob(pattern):
                shutil.copyfile(path, work / path.name)
        for part in ("vae", "scheduler"):
            shutil.copytree(home / part, work / part)
        save_transformer(transformer, work / "transformer")
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    return summary(args.out, found, size)


def check_classes(found: Architecture) -> None:
    """Raise a CheckpointError where the stock pipeline could not run the model."""
    from ..models import NULL_CLASS, CheckpointError

    if found.classes != NULL_CLASS:
        raise CheckpointError(
            f"y_embedder.embedding_table.weight: expected {NULL_CLASS + 1} rows, as DiTPipeline "
            f"takes number {NULL_CLASS} for no class, got {found.classes + 1}; such a file can be "
            "loaded as it is"
        )


def save_transformer(transformer: Transformer, target: Path) -> None:
    """As the stock pipeline saves it; in half precision where that is exact for every weight."""
    from ..checkpoints import half_is_exact

    if half_is_exact(transformer.state_dict()):
        transformer = transformer.half()
    transformer.save_pretrained(target, safe_serialization=True)
    for path in target.iterdir():
        path.chmod(0o644)  # safetensors makes its file private


def summary(out: Path, found: Architecture, size: int) -> Report:
    shapes = found.shapes()
    shapes.pop("pos_embed")  # fixed, no parameter
    return {
        "out": str(out),
        "parameters": sum(math.prod(shape) for shape in shapes.values()),
        "blocks": found.depth,
        "width": found.width,
        "bytes": size,
    }
