"""The graph of a transformer, once per configuration, without its weights.

torch.onnx.export of a transformer on the meta device: what a value is called, not what it is.
Any transformer of that configuration, quantized or not, lends the weights afterwards (see
``rewrite``), so that a recipe never traces again. Tracing takes seconds a block.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import Checkpoint
from ..checkpoints.loading import build_empty
from ..models import class_conditions, family_of
from ..writing import whole_file
from .packages import IR_VERSION, OPSET, imported, versions

SAMPLE, LATENTS, TIMESTEP, BATCH = "sample", "hidden_states", "timestep", "batch"
PREFIX = "transformer."
EXAMPLES = 2
KEPT: dict[str, Traced] = {}
LOCK = threading.Lock()
FORMAT = "ditas-graph-1"


@dataclass(frozen=True)
class Traced:
    """A graph whose weights are names.

    model       onnx.ModelProto, opset 21; parameters and buffers of the transformer appear as
                inputs of nodes under their names in it, and are defined nowhere
    parameters  these names
    inputs      of the graph, in order: hidden_states, timestep and what conditions them
    """

    model: Any
    parameters: frozenset[str]
    inputs: tuple[str, ...]


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
    """The graph of the checkpoint's configuration; traced once in this process.

    cache  folder that keeps graphs from one process to the next (100 kB a graph)

    Raises:
        MissingPackage: the extra ``[onnx]`` is not installed.
    """
    arguments = conditions_of(checkpoint, torch.zeros(EXAMPLES // 2, dtype=torch.long))
    key = key_of(checkpoint, flat_arguments(arguments))
    with LOCK:
        if key not in KEPT:
            path = None if cache is None else cache / f"{key}.onnx"
            found = None if path is None else read(path)
            if found is None:
                found = trace(checkpoint, arguments)
                if path is not None:
                    with whole_file(path) as part:
                        part.write_bytes(found.model.SerializeToString())
            KEPT[key] = found
        return KEPT[key]


def key_of(checkpoint: Checkpoint, arguments: Mapping[str, Tensor]) -> str:
    """Of all that a graph depends on."""
    config = {k: v for k, v in checkpoint.transformer.config.items() if not k.startswith("_")}
    shapes = {name: tuple(value.shape[1:]) for name, value in arguments.items()}
    parts = [FORMAT, checkpoint.family.name, config, shapes, versions(), torch.__version__]
    return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()[:32]


def read(path: Path) -> Traced | None:
    """A graph that an earlier process kept; None of none, or one that is damaged."""
    try:
        return described(imported("onnx").load(path))
    except Exception:  # absent, cut off, another format: it is traced again
        return None


def described(model: Any) -> Traced:
    """What a graph says of itself."""
    made = {name for node in model.graph.node for name in node.output}
    known = made | {each.name for each in model.graph.initializer}
    inputs = tuple(each.name for each in model.graph.input)
    used = {name for node in model.graph.node for name in node.input if name}
    return Traced(model, frozenset(used - known - set(inputs)), inputs)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's warnings, which say nothing about the model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def trace(checkpoint: Checkpoint, arguments: Mapping[str, Any]) -> Traced:
    """``traced`` without any memory."""
    for name in ("onnx", "onnxscript"):
        imported(name)
    stock = checkpoint.transformer
    cls = family_of(stock).cls
    empty = build_empty(cls, dict(stock.config), "transformer", positions=False)
    empty.requires_grad_(False).eval()
    flat = flat_arguments(arguments)
    batch = next(iter(flat.values())).shape[0]
    channels, height, width = checkpoint.latent_shape
    values = {
        LATENTS: torch.empty(batch, channels, height, width),
        TIMESTEP: torch.empty(batch),
        **flat,
    }
    names = tuple(values)
    module = Called(empty, names, dict(arguments))
    dimension = torch.export.Dim(BATCH)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(value.to("meta") for value in values.values()),
            dynamo=True,
            dynamic_shapes=(tuple({0: dimension} for _ in names),),
            input_names=list(names),
            output_names=[SAMPLE],
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
        assert program is not None
        unknown = nameless(program.model.graph)
        program.optimize()
        keep_wide_(program.model.graph)
    model = program.model_proto
    strip_(model, set(names) | {SAMPLE})
    keep = [each for each in model.graph.input if each.name not in unknown]
    del model.graph.input[:]
    model.graph.input.extend(keep)
    rename_(model, {name: name.removeprefix(PREFIX) for name in unknown})
    model.ir_version = IR_VERSION
    return described(model)


def nameless(graph: Any) -> set[str]:
    """Make inputs of the initializers that have no values, so that nothing is folded into them;
    their names."""
    found = set()
    for name, value in list(graph.initializers.items()):
        raw = getattr(value.const_value, "raw", None)
        if isinstance(raw, Tensor) and raw.is_meta:
            value.const_value = None
            del graph.initializers[name]
            graph.inputs.append(value)
            found.add(str(name))
    return found


def keep_wide_(graph: Any) -> None:
    """Exchange Squeeze of a dimension that is not 1: torch leaves such a tensor as it is, ONNX
    refuses it (PixArt ends with one)."""
    for node in graph:
        if node.op_type != "Squeeze" or len(node.inputs) != 2:
            continue
        shape, axes = node.inputs[0].shape, node.inputs[1].const_value
        if shape is not None and axes is not None:
            sizes = [shape[axis] for axis in axes.numpy().tolist()]
            if any(isinstance(size, int) and size != 1 for size in sizes):
                node.op_type = "Identity"
                node.resize_inputs(1)


def strip_(model: Any, named: set[str]) -> None:
    """Without what only the exporter's own tools read: 9 of 10 bytes."""
    del model.graph.value_info[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for each in (*model.graph.node, *model.graph.input, *model.graph.output):
        del each.metadata_props[:]
        each.doc_string = ""
    for each in (*model.graph.input, *model.graph.output):
        if each.name in named:
            each.type.tensor_type.shape.dim[0].dim_param = BATCH
    model.graph.name, model.producer_name, model.producer_version = "transformer", "ditas", ""


def rename_(model: Any, names: Mapping[str, str]) -> None:
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
