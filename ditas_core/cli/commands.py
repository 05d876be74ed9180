"""What each verb does: load, run the library's generators under a progress bar, write, report."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..artifact import save_quantized, whole_model_bits
from ..calibration import (
    Calibration,
    CalibrationJournal,
    Exchange,
    Shard,
    calibrate,
    check_together,
    exchange_steps,
    measure_influence,
    memory_need,
    remove_journals,
    shard_of,
    tokens_for_budget,
)
from ..checkpoints import Checkpoint
from ..conversion import quantize_transformer
from ..layers import effective_bits
from ..sampling import process_group, wait_for_all
from ..search import (
    BitsProgress,
    CandidateDone,
    LayerDone,
    Searching,
    SearchJournal,
    SearchSpec,
    bits_per_weight,
    layer_bits_steps,
    search,
)
from ..specs import (
    INFLUENCE_SAMPLES,
    METHODS,
    BitWidths,
    CalibrationSpec,
    LowRankSpec,
    Recipe,
    SamplingSpec,
    SpecError,
    check_choice,
    get_convention,
    summarize,
)
from ..writing import check_new_file, check_new_folder, write_text
from .budget import search_within_budget, widths_of
from .loading import load, load_any
from .progress import bar

Report = dict[str, Any]


def set_threads(count: int) -> None:
    torch.set_num_threads(count)


def say(args: argparse.Namespace, line: str) -> None:
    """Text for people: on stdout, or on stderr when stdout carries JSON."""
    (sys.stderr if args.json else sys.stdout).write(line + "\n")


def sampling_spec(args: argparse.Namespace) -> SamplingSpec:
    return SamplingSpec(args.steps, args.guidance, args.guided_channels, args.scheduler)


def low_rank_spec(args: argparse.Namespace, checkpoint: Checkpoint) -> LowRankSpec:
    """The branch that was asked for; without --rank the model's or the convention's default."""
    convention = get_convention(args.convention)
    branch = convention.branch(checkpoint.width, args.rank)
    if convention.own_branch is None:
        return replace(branch, weighting=args.weighting or branch.weighting)
    if args.weighting not in (None, branch.weighting):
        raise SpecError(
            f"weighting: expected {branch.weighting} in the {convention.name} convention, "
            f"got {args.weighting!r}"
        )
    return branch


def place_(checkpoint: Checkpoint, device: str) -> None:
    """Move the loaded networks to this process's device.

    Raises:
        SpecError: no GPU to be seen.
    """
    if device == "cpu":
        return
    if not torch.cuda.is_available():
        raise SpecError("device: expected a GPU for cuda, found none; leave out --device")
    own = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    checkpoint.transformer.to(f"cuda:{own}")
    checkpoint.vae.to(f"cuda:{own}")


def run_calibrate(args: argparse.Namespace) -> Report:
    """One process, or one of several started by ``accelerate launch -m ditas_core calibrate``."""
    spec = CalibrationSpec(
        sampling_spec(args),
        args.samples,
        args.seed,
        args.tokens,
        args.batch,
        args.precision,
        args.token_dtype,
    )
    check_new_file(args.out, Path(args.checkpoint))
    checkpoint, _ = load_any(args)
    if args.token_budget_mb is not None:
        spec = replace(spec, tokens=tokens_for_budget(checkpoint, spec, args.token_budget_mb))
    need = memory_need(checkpoint, spec)
    started = time.perf_counter()
    _ = checkpoint.fingerprint  # of the weights as they were read
    place_(checkpoint, args.device)
    with process_group() as (rank, world):
        if rank == 0:
            say(args, f"needs {need}, {spec.tokens} tokens per layer and step")
        shard = shard_of(spec, rank, world)
        partial = args.out.with_name(args.out.name + ".partial")
        journal = CalibrationJournal(
            partial / f"{rank}-of-{world}",
            checkpoint.origin,
            spec,
            (shard.first, shard.last),
        )
        resumed = sum(1 for _ in journal.steps())
        if resumed:
            say(args, f"going on after {resumed} steps that an earlier run finished")
        elif journal.discards:
            say(args, "finished steps of a run with other settings are dropped")
        exchange = exchange_steps if world > 1 else None
        calibration = calibrated(checkpoint, spec, journal, shard, exchange, resumed)
        if rank == 0:
            if args.influence:
                calibration = with_influence(checkpoint, calibration, args.influence)
            calibration.save(args.out)
        wait_for_all()  # until the file is there each finished step may be needed again
        remove_journals(partial)
    seconds = time.perf_counter() - started
    if rank == 0:
        say(args, f"wrote {args.out}: {len(calibration.groups)} groups, {seconds:.1f} s")
    return {
        "out": str(args.out),
        "sha256": calibration.sha256,
        "groups": len(calibration.groups),
        "steps": len(calibration.timesteps),
        "tokens": spec.tokens,
        "memory_need_bytes": need.total,
        "processes": world,
        "rank": rank,
        "resumed": resumed,
        "bytes": args.out.stat().st_size if rank == 0 else 0,
        "seconds": round(seconds, 2),
    }


def calibrated(
    checkpoint: Checkpoint,
    spec: CalibrationSpec,
    journal: CalibrationJournal | None = None,
    shard: Shard | None = None,
    exchange: Exchange | None = None,
    resumed: int = 0,
) -> Calibration:
    samples = spec.samples if shard is None else shard.last - shard.first
    per_step = -(-samples // spec.batch)
    before = resumed * per_step
    with bar("calibrating", spec.sampling.steps * per_step, before) as progress:
        return calibrate(checkpoint, spec, journal, shard, exchange, lambda _: progress.update(1))


def with_influence(
    checkpoint: Checkpoint, calibration: Calibration, samples: int = INFLUENCE_SAMPLES
) -> Calibration:
    """The calibration with how far errors reach on trajectories of its settings and seed."""
    spec = calibration.spec
    batch = min(spec.batch, samples)
    with bar("influence", 2 * spec.sampling.steps * -(-samples // batch)) as progress:
        found = measure_influence(
            checkpoint, spec.sampling, samples, spec.seed, batch, lambda _: progress.update(1)
        )
    return replace(calibration, influence=found)


def searched(
    checkpoint: Checkpoint,
    calibration: Calibration,
    spec: SearchSpec,
    file: str = "",
    journal: SearchJournal | None = None,
) -> tuple[Recipe, list[LayerDone]]:
    layers: list[LayerDone] = []
    per_group = spec.candidates
    finished = {} if journal is None else journal.finished
    label = f"searching {spec.bits} {spec.method}"
    total = len(checkpoint.groups) * per_group
    total += layer_bits_steps(checkpoint, calibration, spec)
    with bar(label, total, len(finished) * per_group) as progress:

        def tell(event: Searching) -> None:
            if isinstance(event, CandidateDone | BitsProgress):
                progress.update(1)
            elif isinstance(event, LayerDone):
                layers.append(event)
                if journal is not None:
                    journal.add(event)

        return search(checkpoint, calibration, spec, file, dict(finished), tell), layers


def run_search(args: argparse.Namespace) -> Report:
    bits = BitWidths.parse(args.bits)
    check_choice("method", args.method, METHODS)
    budget = args.budget if METHODS[args.method].allocates else None
    for each in (bits, *widths_of(args)):
        SearchSpec(
            each,
            args.convention,
            args.method,
            products=args.precision,
            objective=args.objective,
            budget=budget,
        )
    LowRankSpec(weighting=args.weighting or "none")
    check_new_file(args.out, Path(args.checkpoint))
    checkpoint = load(args)
    spec = SearchSpec(
        bits,
        args.convention,
        args.method,
        low_rank_spec(args, checkpoint),
        products=args.precision,
        objective=args.objective,
        budget=budget,
    )
    calibration = Calibration.load(args.calibration)
    started = time.perf_counter()
    check_together(checkpoint, calibration)
    place_(checkpoint, args.device)
    if spec.reads_influence and calibration.influence is None:
        calibration = with_influence(checkpoint, calibration)
    hint = os.path.relpath(args.calibration.resolve(), args.out.resolve().parent)
    if args.budget is not None and not spec.parts.allocates:
        return search_within_budget(args, checkpoint, calibration, spec, hint)
    journal = SearchJournal(
        args.out.with_name(args.out.name + ".partial"), calibration, checkpoint, spec
    )
    resumed = len(journal.finished)
    if resumed:
        say(args, f"going on after {resumed} layers that an earlier run finished")
    elif journal.discards:
        say(args, "finished layers of a search with other settings are dropped")
    recipe, layers = searched(checkpoint, calibration, spec, hint, journal)
    write_text(args.out, recipe.to_json())
    journal.remove()
    seconds = time.perf_counter() - started
    for layer in layers:
        alpha = "identity" if layer.alpha is None else f"{layer.alpha:.2f}"
        own = f"  {recipe.layers[layer.group].bits}" if spec.chooses_bits else ""
        say(
            args,
            f"{layer.title:>18}  alpha {alpha:>8}  {layer.gain_db:6.2f} dB over identity{own}",
        )
    size = bits_per_weight(checkpoint, recipe)
    say(
        args,
        f"wrote {args.out}: {summarize(recipe)}, {size:.3f} bits per weight, {seconds:.1f} s",
    )
    return {
        "out": str(args.out),
        "recipe": summarize(recipe),
        "alphas": {layer.group: layer.alpha for layer in layers},
        "widths": {group: str(layer.bits) for group, layer in recipe.layers.items()},
        "bits_per_weight": round(size, 4),
        "objective": recipe.objective,
        "gain_db": {layer.group: round(layer.gain_db, 3) for layer in layers},
        "losses": {layer.group: layer.losses for layer in layers},
        "identity": {layer.group: layer.identity for layer in layers},
        "resumed": resumed,
        "seconds": round(seconds, 2),
    }


def find_calibration(args: argparse.Namespace, recipe: Recipe) -> Calibration | None:
    if not recipe.needs_calibration:
        return None
    if args.calibration is not None:
        return Calibration.load(args.calibration)
    named = args.recipe.resolve().parent / recipe.calibration_file
    if not recipe.calibration_file or not named.is_file():
        raise SpecError(
            f"recipe: expected its calibration at {named}, found none; pass --calibration FILE"
        )
    return Calibration.load(named)


def apply_recipe(checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration | None) -> Any:
    with bar("quantizing", len(checkpoint.groups)) as progress:
        return quantize_transformer(checkpoint, recipe, calibration, lambda _: progress.update(1))


def run_quantize(args: argparse.Namespace) -> Report:
    recipe = Recipe.load(args.recipe)
    if args.modulation is not None:
        recipe = replace(recipe, modulation=args.modulation)
    check_new_folder(args.out)
    checkpoint = load(args)
    calibration = find_calibration(args, recipe)
    started = time.perf_counter()
    _ = checkpoint.fingerprint
    place_(checkpoint, args.device)
    transformer = apply_recipe(checkpoint, recipe, calibration)
    bits = whole_model_bits(transformer)
    save_quantized(args.out, checkpoint, transformer, recipe)
    size = sum(f.stat().st_size for f in (args.out / "transformer").iterdir())
    report = {
        "out": str(args.out),
        "recipe": summarize(recipe),
        "effective_bits": round(effective_bits(transformer), 3),
        "whole_model_bits": round(bits, 3),
        "transformer_bytes": size,
        "seconds": round(time.perf_counter() - started, 2),
    }
    say(
        args,
        f"wrote {args.out}: {report['recipe']}, {report['effective_bits']} bits per weight, "
        f"{bits:.2f} per parameter of the whole transformer, {size / 1e6:.1f} MB",
    )
    return report


def finite(value: float) -> float | None:
    """JSON has no infinity: None instead."""
    return round(value, 4) if math.isfinite(value) else None
