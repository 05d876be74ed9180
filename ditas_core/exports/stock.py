"""From a recipe to a folder that stock diffusers loads, with what it costs measured."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..artifact import parameter_count
from ..calibration import Calibration, check_together
from ..checkpoints import Checkpoint
from ..conversion import quantize_transformer
from ..evaluation import interval, sqnr_db
from ..models import SmoothingGroup, Transformer
from ..sampling import iterate_latents, spread_labels
from ..search import SearchSpec, search_group
from ..specs import Recipe, SamplingSpec, SpecError, check_choice, check_whole, summarize
from ..writing import check_new_folder, whole_folder
from . import sdnq, torchao
from .card import card_of
from .folder import write_folder
from .formats import QUANTIZED, Stored, fit_recipe
from .layers import halve_, narrowed
from .smoothed import smoothed_transformer

FORMAT = "ditas-export-1"
FORMS = ("smoothed", *QUANTIZED)
BATCH = 16
Told = Callable[[str, int, int], object]


@dataclass(frozen=True)
class StockExport:
    """What was written.

    recipe, stored       what was given, and what is stored of it, in a line each
    left_out             of what was left out, the groups that had it
    bits                 stored bits per parameter of the whole transformer
    bytes                of the transformer's file
    relative_difference  of a smoothed transformer's forward pass; None of others
    as_exported_db, as_given_db   latent SQNR of both against full precision, paired: ``mean`` and
                         ``ci95``; None where nothing is quantized
    """

    folder: str
    form: str
    name: str
    recipe: str
    stored: str
    left_out: dict[str, tuple[str, ...]]
    parameters: int
    bits: float
    bytes: int
    relative_difference: float | None
    samples: int
    steps: int
    as_exported_db: dict[str, float | None] | None
    as_given_db: dict[str, float | None] | None


def export_stock(
    target: Path,
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration | None,
    form: str,
    leave_out: Collection[str] = (),
    samples: int = 16,
    steps: int = 20,
    progress: Told = lambda *_: None,
) -> StockExport:
    """Write a folder of ``form``: "smoothed", "torchao" or "sdnq".

    checkpoint  in full precision: what is left out is not rounded with, and so the weights are
                rounded anew
    leave_out   see ``fit_recipe``
    samples, steps   of the pictures that the SQNR is of
    progress    called with what is being done, how much of it is done, and how much there is

    Raises:
        FileExistsError: the folder exists and is not empty.
        SpecError: a recipe that the form cannot hold, or parts that do not belong together.
        CheckpointError: a smoothed transformer that is not the same function.
    """
    check_choice("to", form, FORMS)
    check_whole("samples", samples, 1, 1000)
    check_whole("steps", steps, 1, 1000)
    check_new_folder(target)
    if calibration is None and (recipe.needs_calibration or form == "smoothed"):
        raise SpecError("calibration: expected the one the recipe was searched with, got none")
    if form == "smoothed":
        assert calibration is not None
        return export_smoothed(target, checkpoint, recipe, calibration, progress)
    groups, library = checkpoint.groups, {"torchao": torchao, "sdnq": sdnq}[form]
    fitted = fit_recipe(recipe, groups, checkpoint.transformer, form, leave_out)
    check_together(checkpoint, calibration if recipe.needs_calibration else None, recipe)
    stored = searched_again(checkpoint, fitted, calibration, progress)
    networks = [
        quantized(checkpoint, each, calibration, progress)
        for each in dict.fromkeys((stored.to_json(), recipe.to_json()))
    ]
    halve_(networks[0])
    db = measured(checkpoint, networks, samples, steps, progress)
    make = torchao.torchao_files if form == "torchao" else sdnq.sdnq_files
    tensors, metadata, config = make(networks[0], checkpoint.transformer)
    progress("writing", 0, 1)
    parameters = parameter_count(networks[0])
    found = StockExport(
        str(target), form, checkpoint.name, summarize(recipe), summarize(stored),
        fitted.left_out, parameters, 0.0, 0, None, samples, steps, db[0], db[-1],
    )  # fmt: skip
    return write(target, checkpoint, stored, tensors, metadata, config, found, library.VERSION)


def export_smoothed(
    target: Path, checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration, progress: Told
) -> StockExport:
    """See ``export_stock``."""
    progress("smoothing", 0, 2)
    smoothed, difference = smoothed_transformer(checkpoint, recipe, calibration)
    progress("writing", 1, 2)
    line = summarize(recipe)
    tensors = {name: narrowed(value) for name, value in smoothed.state_dict().items()}
    parameters = sum(each.numel() for each in smoothed.parameters())
    found = StockExport(
        str(target), "smoothed", checkpoint.name, line, line, {}, parameters, 0.0, 0,
        difference, 0, 0, None, None,
    )  # fmt: skip
    return write(target, checkpoint, recipe, tensors, {"format": "pt"}, None, found, "")


def write(
    target: Path,
    checkpoint: Checkpoint,
    stored: Recipe,
    tensors: dict[str, Tensor],
    metadata: dict[str, str],
    config: dict[str, Any] | None,
    found: StockExport,
    version: str,
) -> StockExport:
    """The whole folder or none; sizes filled in."""
    size = sum(value.nbytes for value in tensors.values())
    found = replace(found, bits=8 * size / found.parameters, bytes=size)
    about = {key: value for key, value in asdict(found).items() if key != "folder"}
    about |= {
        "format": FORMAT,
        "fingerprint": checkpoint.fingerprint,
        "licence": checkpoint.licence,
    }
    texts = {
        "recipe.json": stored.to_json(),
        "export.json": json.dumps(about, indent=1) + "\n",
        "README.md": card_of(checkpoint, about, version),
    }
    with whole_folder(target) as work:
        write_folder(work, checkpoint, tensors, metadata, config, texts)
    return found


def searched_again(
    checkpoint: Checkpoint, fitted: Stored, calibration: Calibration | None, progress: Told
) -> Recipe:
    """The stored recipe with the alphas of what is stored otherwise than it was searched."""
    recipe = fitted.recipe
    by_name: dict[str, SmoothingGroup] = {group.name: group for group in checkpoint.groups}
    for index, name in enumerate(fitted.again):
        progress("searching", index, len(fitted.again))
        layer = recipe.layers[name]
        method = "ditas" if layer.low_rank.rank else "search"
        spec = SearchSpec(layer.bits, recipe.convention, method, layer.low_rank)
        assert calibration is not None
        found = search_group(checkpoint, by_name[name], calibration, spec)
        recipe = recipe.with_layer(name, replace(layer, alpha=found.alpha))
    return recipe


def quantized(
    checkpoint: Checkpoint, recipe: str, calibration: Calibration | None, progress: Told
) -> Transformer:
    """Converted from a recipe's JSON."""
    parsed = Recipe.from_json(recipe)
    return quantize_transformer(
        checkpoint,
        parsed,
        calibration if parsed.needs_calibration else None,
        lambda event: progress("quantizing", event.index, event.total),
    )


def measured(
    checkpoint: Checkpoint, networks: list[Transformer], samples: int, steps: int, progress: Told
) -> list[dict[str, float | None]]:
    """Latent SQNR of each network against full precision: the same noise and conditions."""
    labels = spread_labels(samples, len(checkpoint.class_names))
    spec = SamplingSpec(steps, checkpoint.family.guidance_scale)
    runs = [checkpoint.transformer, *networks]
    total = len(runs) * steps * -(-samples // BATCH)
    done = itertools.count(1)
    drawn = [
        final_latents(
            checkpoint, network, labels, spec, lambda: progress("measuring", next(done), total)
        )
        for network in runs
    ]
    found = []
    for latents in drawn[1:]:
        of = interval(sqnr_db(drawn[0], latents))
        half = round(of.half_width, 3) if math.isfinite(of.half_width) else None
        found.append({"mean": round(of.mean, 3), "ci95": half})
    return found


def final_latents(
    checkpoint: Checkpoint,
    network: nn.Module,
    labels: Tensor,
    spec: SamplingSpec,
    tell: Callable[[], object] = lambda: None,
) -> Tensor:
    """Of every sample, (N, C, H, W); sample i starts from the noise of seed i."""
    parts = []
    for first in range(0, len(labels), BATCH):
        for step in iterate_latents(
            network,
            checkpoint.scheduler,
            labels[first : first + BATCH],
            checkpoint.latent_shape,
            spec,
            first,
            checkpoint.conditions,
        ):
            tell()
            latents = step.latents
        parts.append(latents)
    return torch.cat(parts)
