"""A quantized checkpoint on disk: a self-contained folder, written whole or not at all.

ditas.json                 format, base checkpoint's name, fingerprint, class names, licence
recipe.json                the recipe
transformer/config.json    the base transformer's configuration
transformer/quantized.safetensors   integer codes, scales, branches and what stayed float; what
                           embeds timestep and class once, where all blocks have the same
vae/, scheduler/           as in the base checkpoint
captions.safetensors       of a text-conditioned model, what it was loaded with
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checkpoints import (
    Checkpoint,
    CheckpointError,
    Machine,
    build_empty,
    captions_for,
    check_captions,
    check_machine,
    compute_positions_,
    load_whole,
    read_headers,
    read_schedule,
    remember_,
    this_machine,
)
from ..checkpoints.files import iterate_weights, joined_headers, weight_files
from ..layers import run_as_
from ..models import Transformer, family_of_config
from ..specs import Recipe, brief, get_convention
from ..writing import whole_folder, write_text
from .checks import (
    check_count,
    check_marker,
    check_names,
    check_numbers,
    check_tensor,
    expected_tensors,
    inside,
    install_empty_layers_,
    need_of_quantized,
    quantized_layers,
    read_object,
    repeated,
)

FORMATS = ("ditas-quantized-2", "ditas-quantized-3")
"""The last one is written; before it every block's embedding was stored."""
WEIGHTS = "quantized.safetensors"
MAX_STORED = 10_000  # tensors: a layer is stored in up to ten


def save_quantized(
    target: Path, checkpoint: Checkpoint, transformer: Transformer, recipe: Recipe
) -> None:
    """Write the folder described above."""
    with whole_folder(target) as work:
        marker = {
            "format": FORMATS[-1],
            "base": checkpoint.name,
            "fingerprint": recipe.checkpoint,
            "class_names": checkpoint.class_names,
            "licence": checkpoint.licence,
        }
        (work / "ditas.json").write_text(json.dumps(marker, indent=1), encoding="utf-8")
        (work / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
        transformer.save_config(work / "transformer")
        if checkpoint.path.is_dir():
            for part in ("vae", "scheduler"):
                shutil.copytree(checkpoint.path / part, work / part)
        else:  # a weight file, whose other parts came from elsewhere
            checkpoint.vae.save_pretrained(work / "vae")
            (work / "scheduler").mkdir()
            write_text(
                work / "scheduler" / "scheduler_config.json", json.dumps(checkpoint.scheduler)
            )
        if checkpoint.captions is not None:
            checkpoint.captions.save(work)
        save_file(compact(transformer), work / "transformer" / WEIGHTS)
        (work / "transformer" / WEIGHTS).chmod(0o644)


def compact(transformer: Transformer) -> dict[str, Tensor]:
    """The state dict as it is stored, on the CPU."""
    whole = torch.contiguous_format
    return {
        key: value.to("cpu", copy=True, memory_format=whole)
        for key, value in compacted(transformer)
    }


def compacted(transformer: Transformer) -> Iterator[tuple[str, Tensor]]:
    """The state dict, floats in half precision where that is exact; copies that are equal to the
    first block's are left out."""
    state, first = transformer.state_dict(), repeated(transformer)
    for key, value in state.items():
        if key in first and torch.equal(value, state[first[key]]):
            continue
        if value.is_floating_point() and bool((value.half().to(value.dtype) == value).all()):
            value = value.half()
        yield key, value


def stored_bytes(transformer: Transformer, halved: bool = True) -> int:
    """What ``save_quantized`` writes of its tensors; one of them is alive at a time.

    halved  False: as if no float were kept in half precision
    """
    return sum(
        value.nbytes if halved or not value.is_floating_point() else 4 * value.numel()
        for _, value in compacted(transformer)
    )


def parameter_count(transformer: nn.Module) -> int:
    """Weights and biases that a transformer stands for; of a quantized one as before it was."""
    layers = [layer for _, layer in quantized_layers(transformer)]
    counted = sum(layer.weights + layer.bias.numel() for layer in layers)
    return counted + sum(each.numel() for each in transformer.parameters())


def whole_model_bits(transformer: Transformer) -> float:
    """Stored bits per parameter of the whole transformer: its quantized layers, and all that was
    left in floats (embeddings, modulation, biases)."""
    return 8 * stored_bytes(transformer) / parameter_count(transformer)


def is_quantized(path: Path) -> bool:
    """Whether ``path`` is a folder written by ``save_quantized``."""
    try:
        return (path / "ditas.json").is_file()
    except (OSError, ValueError):  # too long a name, or a null byte
        return False


def load_quantized(
    path: Path, machine: Machine | None = None, backend: str = "simulated"
) -> tuple[Checkpoint, Recipe]:
    """The quantized transformer as a Checkpoint (its fingerprint is its own), and its recipe.

    machine  what may be used; None: what this machine has left
    backend  what its layers are made ready for; "onnx" asks of them what "integer" does

    Raises:
        SpecError: a backend that the recipe's convention cannot run on; weights are not read.
        CheckpointError: a file is missing, damaged, a link to elsewhere, or does not fit the
            configuration and the recipe; or it does not fit the machine. Names, shapes and
            sizes are looked at before anything is allocated.
    """
    with wholeness_of(path):
        marker = read_object(path, "ditas.json")
    if marker.get("format") not in FORMATS:
        raise CheckpointError(
            f"{path.name}: expected format {FORMATS[-1]}, got {brief(marker.get('format'))}; "
            "quantize it again"
        )
    with wholeness_of(path):
        check_marker(marker)
        recipe = Recipe.load(inside(path, "recipe.json"))
        config = read_object(path, "transformer/config.json")
        inside(path, "vae/config.json")
        inside(path, "scheduler/scheduler_config.json")
        family = family_of_config(config)
        transformer = build_empty(family.cls, config, "transformer", positions=False)
        weights = inside(path, f"transformer/{WEIGHTS}")
        headers = read_headers(weights, MAX_STORED)
        install_empty_layers_(transformer, recipe, headers)
        expected = expected_tensors(transformer)
        first = repeated(transformer)
        check_names(headers.tensors, expected, first)
        expected = {name: expected[name] for name in headers.tensors}
        for name, header in headers.tensors.items():
            check_tensor(name, header.shape, header.dtype, expected[name])
        vae_headers = joined_headers(weight_files(path / "vae", path))
        schedule = read_schedule(path / "scheduler")
    get_convention(recipe.convention).check_backend(backend, recipe.bits)
    run_as_(transformer, "simulated" if backend == "simulated" else "integer")
    room = this_machine(path.parent) if machine is None else machine
    check_machine(need_of_quantized(path.name, headers, vae_headers, expected), room)
    with wholeness_of(path):
        names = tuple(marker["class_names"])
        captions = captions_for(family, path, None)
        if captions is None:
            check_count(names, transformer)
        else:
            check_captions(captions, transformer)
        vae = load_whole(AutoencoderKL, path / "vae")
        tensors = {}
        for name, value in iterate_weights(weights, torch.float32, MAX_STORED):
            check_tensor(name, tuple(value.shape), value.dtype, expected[name])
            check_numbers(name, value, expected[name])
            tensors[name] = value
        tensors |= {name: tensors[other] for name, other in first.items() if name not in tensors}
        compute_positions_(transformer)
        transformer.load_state_dict(tensors, strict=True, assign=True)
    checkpoint = Checkpoint(
        name=path.name,
        path=path,
        transformer=transformer.eval(),
        vae=vae,
        scheduler=schedule,
        class_names=names if captions is None else captions.names,
        licence=marker["licence"],
        captions=captions,
    )
    remember_(checkpoint.transformer, checkpoint, recipe)
    return checkpoint, recipe


@contextmanager
def wholeness_of(path: Path) -> Iterator[None]:
    """Whatever a file of the folder makes fail becomes one line that names the folder.

    Raises:
        CheckpointError: with the reason.
    """
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path.name}: expected a whole quantized folder ({first})") from None
