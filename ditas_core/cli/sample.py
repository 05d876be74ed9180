"""The ``sample`` verb: a few images with a contact sheet, or thousands in one file."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checkpoints import Checkpoint
from ..drawing import (
    BatchDone,
    DrawSpec,
    ShardJournal,
    check_disk,
    draw_shards,
    labels_for,
    own_shards,
    write_images_npz,
    write_images_png,
)
from ..sampling import batches_of, join_rows, process_group, wait_for_all
from ..specs import Recipe, SamplingSpec, SpecError, summarize
from ..writing import check_new_file, check_new_folder, whole_folder
from .commands import Report, place_, sampling_spec, say
from .images import contact_sheet, to_uint8
from .loading import load_any
from .parsing import split_names
from .progress import bar, trajectory

ON_A_SHEET = 1024
"""Images in a folder with a contact sheet, at most."""


def run_sample(args: argparse.Namespace) -> Report:
    """One process, or one of several started by ``torchrun ... -m ditas_core sample``."""
    spec = sampling_spec(args)
    if args.npz is not None:
        check_new_file(args.npz, Path(args.checkpoint))
    elif args.out is not None:
        check_new_folder(args.out)
    if args.out is not None and args.samples > ON_A_SHEET:
        raise SpecError(
            f"samples: expected at most {ON_A_SHEET} in a folder with a contact sheet, got "
            f"{args.samples}; --npz FILE and --png FOLDER take more"
        )
    checkpoint, recipe = load_any(args, args.backend)
    labels = chosen_labels(args, checkpoint)
    if args.out is None:
        return run_draw(args, checkpoint, recipe, spec, labels)
    place_(checkpoint, args.device)
    return run_sheet(args, checkpoint, spec, labels)


def chosen_labels(args: argparse.Namespace, checkpoint: Checkpoint) -> Tensor:
    """The class of every image."""
    if args.classes.strip():
        names = split_names(args.classes, checkpoint.class_names)
        wanted = [checkpoint.class_index(name) for name in names]
        count = args.samples or len(wanted)
        if args.spread == "balanced":
            wanted = wanted[:count]  # in the order in which they were named
    else:
        wanted, count = list(range(len(checkpoint.class_names))), args.samples or 16
    return labels_for(count, wanted, args.spread, args.seed)


def run_sheet(
    args: argparse.Namespace, checkpoint: Checkpoint, spec: SamplingSpec, labels: Tensor
) -> Report:
    """A folder of PNGs with a contact sheet; all images are in memory."""
    started = time.perf_counter()
    names = [checkpoint.class_names[i] for i in labels.tolist()]
    with process_group() as (rank, world):
        first, last = batches_of(len(labels), args.batch, rank, world)
        mine = torch.zeros(0, checkpoint.image_size, checkpoint.image_size, 3, dtype=torch.uint8)
        if first < last:
            result = trajectory(
                "sampling",
                checkpoint,
                checkpoint.transformer,
                labels[first:last],
                spec,
                args.seed + first,
                args.batch,
            )
            mine = torch.from_numpy(to_uint8(result.images))
        pixels = join_rows(mine, first, len(labels)).numpy()
    settings: dict[str, Any] = {"classes": names, "seed": args.seed, "steps": spec.steps}
    settings.update(guidance_scale=spec.guidance_scale, scheduler=spec.scheduler)
    if rank == 0:
        write_images(args.out, pixels, names, settings)
    seconds = time.perf_counter() - started
    if rank == 0:
        say(args, f"wrote {len(labels)} images to {args.out} in {seconds:.1f} s")
    return {
        "out": str(args.out),
        **settings,
        "processes": world,
        "rank": rank,
        "seconds": round(seconds, 2),
    }


def write_images(
    target: Path, pixels: np.ndarray, names: list[str], settings: dict[str, Any]
) -> None:
    """One PNG per sample, a contact sheet and the settings, as a whole folder."""
    with whole_folder(target) as work:
        for index, (image, name) in enumerate(zip(pixels, names, strict=True)):
            safe = "".join(c if c.isalnum() else "-" for c in name)[:40]
            Image.fromarray(image).save(work / f"{index:04d}-{safe}.png")
        contact_sheet(pixels).save(work / "contact-sheet.png")
        (work / "settings.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def source_of(args: argparse.Namespace, checkpoint: Checkpoint, recipe: Recipe | None) -> str:
    """What the images depend on besides their settings; equal recipes give equal models."""
    if recipe is None:
        return f"{checkpoint.origin} {args.weights}"
    words = recipe.to_json() + (checkpoint.captions.sha256 if checkpoint.captions else "")
    return f"{hashlib.sha256(words.encode()).hexdigest()} {args.backend}"


def run_draw(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    recipe: Recipe | None,
    spec: SamplingSpec,
    labels: Tensor,
) -> Report:
    """Thousands: shard by shard into one file or folder, a shard in memory at a time."""
    target: Path = args.npz or args.png
    draw = DrawSpec(
        source_of(args, checkpoint, recipe),
        spec,
        tuple(labels.tolist()),
        args.seed,
        args.batch,
        checkpoint.image_size,
    )
    partial = target.with_name(target.name + ".partial")
    settings = {
        "checkpoint": checkpoint.name,
        "recipe": None if recipe is None else summarize(recipe),
        "source": draw.source,
        **asdict(spec),
        "seed": args.seed,
        "batch": args.batch,
        "spread": args.spread,
        "samples": draw.count,
    }
    place_(checkpoint, args.device)
    started = time.perf_counter()
    with process_group() as (rank, world):
        resumed = begin(args, draw, partial) if rank == 0 else False
        wait_for_all()
        journal = ShardJournal(partial, draw)
        found = draw_all(checkpoint, draw, journal, rank, world)
        wait_for_all()
        if rank == 0:
            if found:
                say(args, f"{found} images of this process were there from an earlier run")
            if args.npz is not None:
                write_images_npz(target, journal, settings)
            else:
                names = [checkpoint.class_names[i] for i in draw.labels]
                write_images_png(target, journal, names, replaces=resumed)
            journal.remove()
    seconds = time.perf_counter() - started
    if rank == 0:
        say(args, f"wrote {draw.count} images to {target} in {seconds:.1f} s")
    return {
        "out": str(target),
        **settings,
        "resumed": found,
        "processes": world,
        "rank": rank,
        "seconds": round(seconds, 2),
    }


def begin(args: argparse.Namespace, draw: DrawSpec, partial: Path) -> bool:
    """Look at everything that can be wrong before the long work, and start the journal; whether
    an interrupted run is there to be gone on with.

    Raises:
        SpecError, OSError: images of other settings, a folder that is not empty, a full disk.
    """
    journal = ShardJournal(partial, draw)
    if journal.discards:
        raise SpecError(
            f"{partial}: expected an interrupted run with these settings, found images drawn "
            "with others; run that command again, or remove the folder"
        )
    if journal.started:
        return True
    if args.png is not None:
        check_new_folder(args.png)
    check_disk(partial, draw)
    journal.start()
    return False


def draw_all(
    checkpoint: Checkpoint, draw: DrawSpec, journal: ShardJournal, rank: int, world: int
) -> int:
    """This process's shards under a bar; how many images were there already."""
    mine = own_shards(draw.shards, rank, world)
    there = [shard for shard in mine if journal.shard_path(shard).is_file()]
    steps = draw.sampling.steps
    found = 0
    with bar("sampling", len(mine) * steps, len(there) * steps) as progress:
        for event in draw_shards(checkpoint, draw, journal, rank, world):
            if not isinstance(event, BatchDone):
                progress.update(1)
            elif event.found:
                first, last = draw.rows(event.shard)
                found += last - first
    return found
