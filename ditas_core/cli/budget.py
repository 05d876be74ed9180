"""``search --budget``: group sizes and bits of every layer within a size."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import replace
from typing import Any

from ..calibration import Calibration
from ..checkpoints import Checkpoint
from ..events import result_of
from ..search import SearchSpec, bits_per_weight, iterate_budget_search, with_group_sizes
from ..specs import METHODS, BitWidths, Recipe, SpecError, summarize
from ..writing import write_text
from .progress import bar


def widths_of(args: argparse.Namespace) -> tuple[BitWidths, ...]:
    """What layers are chosen from; nothing without a budget.

    Raises:
        SpecError: widths without a budget, or one twice.
    """
    if args.budget is None:
        if args.widths:
            raise SpecError("widths: expected --budget with them, got none; pass --budget BITS")
        return ()
    if METHODS[args.method].allocates:
        if args.widths:
            raise SpecError(
                f"widths: expected none of the method {args.method}, which has its own, got "
                f"{args.widths!r}"
            )
        return ()
    if not args.widths:
        return with_group_sizes(BitWidths.parse(args.bits))
    found = tuple(map(BitWidths.parse, args.widths.split(",")))
    if len(set(found)) < len(found):
        raise SpecError(f"widths: expected each once, got {args.widths!r}")
    return found


def search_within_budget(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    calibration: Calibration,
    spec: SearchSpec,
    hint: str,
) -> dict[str, Any]:
    """Search, write the recipe, report."""
    from .commands import say

    started, widths = time.perf_counter(), widths_of(args)
    label = f"searching {len(widths)} widths, {spec.method}"
    with bar(label, len(checkpoint.groups) * len(widths)) as progress:
        events = iterate_budget_search(checkpoint, calibration, widths, spec, args.budget)
        recipe: Recipe = result_of(events, Recipe, lambda _: progress.update(1))
    if recipe.calibration:
        recipe = replace(recipe, calibration_file=hint)
    write_text(args.out, recipe.to_json())
    size = bits_per_weight(checkpoint, recipe)
    counts = Counter(str(layer.bits) for layer in recipe.layers.values())
    for name, count in sorted(counts.items()):
        say(args, f"{name:>10}  {count} of {len(recipe.layers)} layers")
    seconds = time.perf_counter() - started
    say(args, f"wrote {args.out}: {summarize(recipe)}, {size:.3f} bits per weight, {seconds:.1f} s")
    return {
        "out": str(args.out),
        "recipe": summarize(recipe),
        "bits_per_weight": round(size, 4),
        "widths": {group: str(layer.bits) for group, layer in recipe.layers.items()},
        "alphas": {group: layer.alpha for group, layer in recipe.layers.items()},
        "seconds": round(seconds, 2),
    }
