"""The graphs of a transformer and of a decoder, once per configuration, without their weights.

Any transformer of that configuration, quantized or not, lends the weights afterwards (see
``rewrite``), so that a recipe never traces again. Tracing takes seconds a block.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from ..checkpoints import Checkpoint, build_empty
from ..models import class_conditions
from ..writing import whole_file
from .exporter import Traced, described, trace_module
from .packages import IR_VERSION, OPSET, imported

SAMPLE, LATENTS, TIMESTEP = "sample", "hidden_states", "timestep"
EXAMPLES = 2
KEPT: dict[str, Traced] = {}
LOCK = threading.Lock()
FORMAT = "ditas-graph-2"
SHIPPED = Path(__file__).parent / "graphs"
"""Graphs that come with the package, compressed; see ``ship``."""


class Called(nn.Module):
    """The transformer with positional arguments."""

    def __init__(self, transformer: nn.Module, names: tuple[str, ...], nested: Any) -> None:
        super().__init__()
        self.transformer, self.names, self.nested = transformer, names, nested

    def forward(self, *values: Tensor) -> Tensor:
        for value in values[1:]:
            torch._check(value.shape[0] == values[0].shape[0])
        given = dict(zip(self.names, values, strict=True))
        arguments = {
            key: {inner: given[inner] for inner in part}
            if isinstance(part, Mapping)
            else given[key]
            for key, part in self.nested.items()
        }
        found: Tensor = self.transformer(
            given[LATENTS], timestep=given[TIMESTEP], return_dict=False, **arguments
        )[0]
        return found


def conditions_of(checkpoint: Checkpoint, labels: Tensor) -> Mapping[str, Any]:
    """What the transformer takes besides latents and timestep, for both halves (2N, ...)."""
    if checkpoint.conditions is None:
        return class_conditions(checkpoint.transformer, labels)
    return checkpoint.conditions(labels)


def flat_arguments(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors by name, those of inner mappings too; whole numbers stay, all others are floats."""
    found: dict[str, Tensor] = {}
    for key, value in arguments.items():
        if isinstance(value, Mapping):
            found.update(flat_arguments(value))
        elif isinstance(value, Tensor):
            whole = not value.is_floating_point() and value.dtype != torch.bool
            found[key] = value.to(torch.int64 if whole else torch.float32)
    return found


def traced(checkpoint: Checkpoint, cache: Path | None = None) -> Traced:
    """The graph of the checkpoint's configuration: shipped, or traced once in this process.

    cache  folder that keeps graphs from one process to the next (tens of kB a graph)

    Raises:
        MissingPackage: the extra ``[onnx]`` is not installed.
    """
    return kept(graph_key(checkpoint), cache, lambda: trace(checkpoint))


def example(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Arguments of a pass, besides latents and timestep."""
    return conditions_of(checkpoint, torch.zeros(EXAMPLES // 2, dtype=torch.long))


def graph_key(checkpoint: Checkpoint) -> str:
    """What the graph of the checkpoint's configuration is kept under."""
    flat = flat_arguments(example(checkpoint))
    shapes = {name: tuple(each.shape[1:]) for name, each in flat.items()}
    return key_of(checkpoint.family.name, dict(checkpoint.transformer.config), shapes)


def key_of(kind: str, config: Mapping[str, Any], shapes: Any) -> str:
    """Of all that a graph depends on: the configuration, the code that was traced, the opset.

    Whichever versions of torch and onnx wrote it, standard operators of one opset mean the same.
    """
    known = {name: value for name, value in config.items() if not name.startswith("_")}
    parts = [FORMAT, kind, known, shapes, OPSET, IR_VERSION, diffusers.__version__]
    return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()[:32]


def kept(key: str, cache: Path | None, make: Callable[[], Traced]) -> Traced:
    """The graph of this process or of an earlier one; made where there is none."""
    with LOCK:
        if key not in KEPT:
            path = None if cache is None else cache / f"{key}.onnx"
            found = read(SHIPPED / f"{key}.onnx.xz")
            if found is None and path is not None:
                found = read(path)
            if found is None:
                found = make()
                if path is not None:
                    with whole_file(path) as part:
                        part.write_bytes(found.model.SerializeToString())
            KEPT[key] = found
        return KEPT[key]


def read(path: Path) -> Traced | None:
    """A graph that an earlier process kept or that is shipped; None of none, or one that is
    damaged."""
    if not path.is_file():
        return None
    try:
        raw = path.read_bytes()
        plain = lzma.decompress(raw) if path.suffix == ".xz" else raw
        return described(imported("onnx").load_from_string(plain))
    except Exception:  # absent, cut off, another format: it is traced again
        return None


def trace(checkpoint: Checkpoint) -> Traced:
    """``traced`` without any memory."""
    stock, arguments = checkpoint.transformer, example(checkpoint)
    empty = build_empty(checkpoint.family.cls, dict(stock.config), "transformer", positions=False)
    flat = flat_arguments(arguments)
    batch = len(next(iter(flat.values())))
    values = {
        LATENTS: torch.empty(batch, *checkpoint.latent_shape),
        TIMESTEP: torch.empty(batch),
        **flat,
    }
    module = Called(empty.requires_grad_(False).eval(), tuple(values), dict(arguments))
    return trace_module(module, values, SAMPLE, "transformer.")


class Decoder(nn.Module):
    """From latents as sampling ends with them to images in [0, 1], (N, 3, H, W)."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, *values: Tensor) -> Tensor:
        (latents,) = values
        scaled = latents / float(self.vae.config.scaling_factor)
        found: Tensor = (self.vae.decode(scaled).sample / 2 + 0.5).clamp(0, 1)
        return found


def traced_decoder(checkpoint: Checkpoint, cache: Path | None = None) -> Traced:
    """The graph of the checkpoint's decoder; as ``traced``."""
    # lists, as a file would have it: diffusers' defaults are tuples
    config = {k: list(v) if type(v) is tuple else v for k, v in checkpoint.vae.config.items()}

    def make() -> Traced:
        empty = build_empty(AutoencoderKL, config, "vae", positions=False)
        decoder = Decoder(empty.requires_grad_(False).eval())
        latents = torch.empty(EXAMPLES, *checkpoint.latent_shape)
        return trace_module(decoder, {"latents": latents}, "images", "vae.")

    return kept(key_of("decoder", config, checkpoint.latent_shape), cache, make)
