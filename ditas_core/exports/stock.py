"""From a recipe to a folder that stock diffusers loads, with what it costs measured."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..artifact import parameter_count
from ..calibration import Calibration, check_together
from ..checkpoints import Checkpoint
from ..conversion import ConversionProgress, iterate_conversion
from ..evaluation import interval, sqnr_db
from ..events import result_of
from ..models import Transformer
from ..sampling import iterate_latents, spread_labels
from ..search import SearchSpec, search_group
from ..specs import Recipe, SamplingSpec, SpecError, check_choice, check_whole, summarize
from ..writing import check_new_folder, whole_folder
from . import sdnq, torchao
from .card import card_of
from .folder import write_folder
from .formats import QUANTIZED, fit_recipe
from .injected import CHANNELS, injected_transformer
from .layers import halve_, narrowed
from .smoothed import smoothed_transformer

FORMAT = "ditas-export-1"
FORMS = ("smoothed", *QUANTIZED)
BATCH = 16


@dataclass(frozen=True)
class ExportProgress:
    """``done`` of ``total`` of what is being done."""

    what: str
    done: int
    total: int


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
    progress: Callable[[ExportProgress], object] | None = None,
) -> StockExport:
    """What ``iterate_export`` comes to; ``progress`` gets each step and may raise to stop."""
    events = iterate_export(
        target, checkpoint, recipe, calibration, form, leave_out, samples, steps
    )
    return result_of(events, StockExport, progress)


def iterate_export(
    target: Path,
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration | None,
    form: str,
    leave_out: Collection[str] = (),
    samples: int = 16,
    steps: int = 20,
) -> Iterator[ExportProgress | StockExport]:
    """Write a folder of ``form``: "smoothed", "torchao" or "sdnq"; progress, then what was written.

    checkpoint  in full precision: what is left out is not rounded with, and so the weights are
                rounded anew
    leave_out   see ``fit_recipe``
    samples, steps   of the pictures that the SQNR is of

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
        yield ExportProgress("smoothing", 0, 1)
        yield export_smoothed(target, checkpoint, recipe, calibration)
        return
    fitted = fit_recipe(recipe, checkpoint.groups, checkpoint.transformer, form, leave_out)
    check_together(checkpoint, calibration if recipe.needs_calibration else None, recipe)
    stored = fitted.recipe
    for index, name in enumerate(fitted.again):
        yield ExportProgress("searching", index, len(fitted.again))
        assert calibration is not None
        stored = searched_again(checkpoint, stored, name, calibration)
    networks: list[Transformer] = []
    for each in [stored] if stored == recipe else [stored, recipe]:
        kept = calibration if each.needs_calibration else None
        for event in iterate_conversion(checkpoint, each, kept):
            if isinstance(event, ConversionProgress):
                yield ExportProgress("quantizing", event.index, event.total)
            else:
                networks.append(event)
    halve_(networks[0])
    labels = spread_labels(samples, len(checkpoint.class_names))
    spec = SamplingSpec(steps, checkpoint.family.guidance_scale)
    drawn: list[Tensor] = []
    total = (1 + len(networks)) * steps * -(-samples // BATCH)
    for done, found in enumerate(draw(checkpoint, networks, labels, spec)):
        if isinstance(found, Tensor):
            drawn.append(found)
        yield ExportProgress("measuring", min(done, total), total)
    db = [spread_of(sqnr_db(drawn[0], latents)) for latents in drawn[1:]]
    make, version = {
        "torchao": (torchao.torchao_files, torchao.VERSION),
        "sdnq": (sdnq.sdnq_files, sdnq.VERSION),
    }[form]
    tensors, metadata, config = make(networks[0], checkpoint.transformer)
    yield ExportProgress("writing", 0, 1)
    about = StockExport(
        str(target), form, checkpoint.name, summarize(recipe), summarize(stored),
        fitted.left_out, parameter_count(networks[0]), 0.0, 0, None, samples, steps, db[0], db[-1],
    )  # fmt: skip
    yield write(target, checkpoint, stored, tensors, metadata, config, about, version)


def export_smoothed(
    target: Path, checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration
) -> StockExport:
    """See ``iterate_export``."""
    smoothed, difference = smoothed_transformer(checkpoint, recipe, calibration)
    line = summarize(recipe)
    return write_same(target, checkpoint, recipe, smoothed, "smoothed", line, difference)


def export_injected(target: Path, checkpoint: Checkpoint, strength: float) -> StockExport:
    """Write a folder with the same function and injected outliers; ``injected_transformer``.

    Raises:
        FileExistsError: the folder exists and is not empty.
        SpecError, CheckpointError: see there.
    """
    check_new_folder(target)
    injected, difference = injected_transformer(checkpoint, strength)
    line = f"{CHANNELS} channels of every layer whose division folds made {strength:g} times larger"
    about = {"strength": strength, "channels": CHANNELS}
    return write_same(target, checkpoint, None, injected, "injected", line, difference, about)


def write_same(
    target: Path,
    checkpoint: Checkpoint,
    recipe: Recipe | None,
    transformer: Transformer,
    form: str,
    line: str,
    difference: float,
    extra: Mapping[str, Any] | None = None,
) -> StockExport:
    """A folder of a transformer with the checkpoint's function, in no format of a library."""
    tensors = {name: narrowed(value) for name, value in transformer.state_dict().items()}
    parameters = sum(each.numel() for each in transformer.parameters())
    found = StockExport(
        str(target), form, checkpoint.name, line, line, {}, parameters, 0.0, 0,
        difference, 0, 0, None, None,
    )  # fmt: skip
    return write(target, checkpoint, recipe, tensors, {"format": "pt"}, None, found, "", extra)


def write(
    target: Path,
    checkpoint: Checkpoint,
    stored: Recipe | None,
    tensors: dict[str, Tensor],
    metadata: dict[str, str],
    config: dict[str, Any] | None,
    found: StockExport,
    version: str,
    extra: Mapping[str, Any] | None = None,
) -> StockExport:
    """The whole folder or none; sizes filled in. ``extra`` goes into export.json, too."""
    size = sum(value.nbytes for value in tensors.values())
    found = replace(found, bits=8 * size / found.parameters, bytes=size)
    about = {key: value for key, value in asdict(found).items() if key != "folder"}
    about |= {
        "format": FORMAT,
        "fingerprint": checkpoint.fingerprint,
        "licence": checkpoint.licence,
        **(extra or {}),
    }
    texts = {
        "export.json": json.dumps(about, indent=1) + "\n",
        "README.md": card_of(checkpoint, about, version),
    }
    if stored is not None:
        texts["recipe.json"] = stored.to_json()
    with whole_folder(target) as work:
        write_folder(work, checkpoint, tensors, metadata, config, texts)
    return found


def searched_again(
    checkpoint: Checkpoint, recipe: Recipe, name: str, calibration: Calibration
) -> Recipe:
    """The recipe with the alpha that a search finds for a group as the recipe stores it, compared
    by the nearest codes whichever the recipe chooses."""
    (group,) = (each for each in checkpoint.groups if each.name == name)
    layer = recipe.layers[name]
    method = "ditas" if layer.low_rank.rank else "search"
    spec = SearchSpec(layer.bits, recipe.convention, method, layer.low_rank)
    found = search_group(checkpoint, group, calibration, spec)
    return recipe.with_layer(name, replace(layer, alpha=found.alpha))


def draw(
    checkpoint: Checkpoint, networks: list[Transformer], labels: Tensor, spec: SamplingSpec
) -> Iterator[Tensor | None]:
    """None for each step; the final latents of full precision and of each network when it ends."""
    for network in (checkpoint.transformer, *networks):
        yield from iterate_final(checkpoint, network, labels, spec)


def iterate_final(
    checkpoint: Checkpoint, network: nn.Module, labels: Tensor, spec: SamplingSpec
) -> Iterator[Tensor | None]:
    """None for each step, then the latents (N, C, H, W); sample i starts from seed i's noise."""
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
            latents = step.latents
            yield None
        parts.append(latents)
    yield torch.cat(parts)


def final_latents(
    checkpoint: Checkpoint,
    network: nn.Module,
    labels: Tensor,
    spec: SamplingSpec,
    tell: Callable[[], object] = lambda: None,
) -> Tensor:
    """What ``iterate_final`` comes to; ``tell`` is called after each step."""
    for found in iterate_final(checkpoint, network, labels, spec):
        if found is not None:
            return found
        tell()
    raise AssertionError


def spread_of(values: Tensor) -> dict[str, float | None]:
    """Mean and half width of the 95 % interval, where there is one."""
    found = interval(values)
    half = round(found.half_width, 3) if math.isfinite(found.half_width) else None
    return {"mean": round(found.mean, 3), "ci95": half}
