"""A transformer that ONNX Runtime computes on the CPU, called as the stock one is."""

from __future__ import annotations

import inspect
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn

from .packages import imported
from .trace import LATENTS, SAMPLE, TIMESTEP, flat_arguments

LARGEST = 2**31 - 2**20
"""Bytes of a model that its own format holds; larger ones go through a file."""
SPIN_US = "200"
"""How long a thread spins for the next piece of work before it sleeps."""
OPTIONS = {
    # QuantizeLinear is meant as it stands here, not as one half of a pair
    "session.disable_quant_qdq": "1",
    "session.intra_op.spin_duration_us": SPIN_US,
    "session.force_spinning_stop": "1",
}
WIDE_SUMS = {"session.x64quantprecision": "1"}
"""Where a processor has no VNNI, the runtime's kernel of uint8 x int8 adds pairs in 16 bits, which
overflow. This makes it take the one of uint8 x uint8: slower, and exact."""


class OnnxTransformer(nn.Module):
    """Takes and returns what the stock transformer does; its numbers come from ONNX Runtime.

    config  of the stock transformer, whose plain settings it has as attributes, too
    nbytes  of its weights in memory, as the runtime multiplies them
    threads it uses at most
    """

    def __init__(self, model: Any, stock: nn.Module, threads: int = 0) -> None:
        """
        model    onnx.ModelProto, or the path of one
        stock    the transformer that the graph was traced of; only looked at
        threads  0: as many as torch uses

        Raises:
            MissingPackage: the extra ``[onnx]`` is not installed.
        """
        super().__init__()
        self.threads = threads or torch.get_num_threads()
        self.session: Any = open_session(model, self.threads)
        self.config: Any = stock.config
        for name, value in vars(stock).items():
            if isinstance(value, bool | int | float | str) and not name.startswith("_"):
                setattr(self, name, value)
        self.training = False
        self.called = inspect.signature(type(stock).forward)
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        self.nbytes = 0 if isinstance(model, str | Path) else weight_bytes(model)
        # where the tensors lie, and in which precision: asked of the first parameter
        self.anchor = nn.Parameter(torch.empty(0), requires_grad=False)

    @property
    def dtype(self) -> torch.dtype:
        return self.anchor.dtype

    @property
    def device(self) -> torch.device:
        return self.anchor.device

    def close(self) -> None:
        """Give the runtime's memory back; the transformer cannot be called again."""
        self.session = None

    def forward(self, *positional: Any, **named: Any) -> Any:
        """Arguments and result of the stock transformer's forward.

        Raises:
            RuntimeError: it is closed.
            ValueError: an argument that the graph has no place for, or of another shape.
        """
        if self.session is None:
            raise RuntimeError("transformer: expected an open one, got one that was closed")
        given = dict(self.called.bind(self, *positional, **named).arguments)
        given.pop(next(iter(self.called.parameters)))
        whole = given.pop("return_dict", True)
        latents = given[LATENTS]
        found = self.session.run([SAMPLE], self.feeds(given, len(latents)))[0]
        sample = torch.from_numpy(found).to(latents.device, latents.dtype)
        return Transformer2DModelOutput(sample=sample) if whole else (sample,)

    def feeds(self, given: Mapping[str, Any], batch: int) -> dict[str, Any]:
        """Arrays by the graph's names."""
        time = torch.as_tensor(given[TIMESTEP]).to(torch.float32)
        tensors = {**flat_arguments(given), TIMESTEP: time.reshape(-1).expand(batch)}
        strange = sorted(set(tensors) - set(self.inputs))
        missing = sorted(set(self.inputs) - set(tensors))
        if strange or missing:
            raise ValueError(
                f"transformer: expected the arguments {', '.join(self.inputs)}, got "
                + (f"also {strange[0]}" if strange else f"no {missing[0]}")
            )
        for name, value in tensors.items():
            wanted = self.inputs[name].shape[1:]
            if list(value.shape[1:]) != wanted or len(value) != batch:
                raise ValueError(
                    f"{name}: expected the shape {[batch, *wanted]}, got {list(value.shape)}"
                )
        return {
            name: np.ascontiguousarray(value.detach().cpu().numpy())
            for name, value in tensors.items()
        }


def options_here() -> dict[str, str]:
    """Settings of a session whose integer sums are exact on this processor."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    safe = not x86 or capabilities.get("avx512_vnni") or capabilities.get("avx_vnni")
    return dict(OPTIONS) if safe else {**OPTIONS, **WIDE_SUMS}


def open_session(model: Any, threads: int, options: Mapping[str, str] | None = None) -> Any:
    """An onnxruntime.InferenceSession on the CPU of a model or of the path of one.

    options  None: ``options_here()``
    """
    runtime = imported("onnxruntime")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    for key, value in (options_here() if options is None else options).items():
        settings.add_session_config_entry(key, value)
    where = {"providers": ["CPUExecutionProvider"]}
    if isinstance(model, str | Path):
        return runtime.InferenceSession(str(model), settings, **where)
    if model.ByteSize() < LARGEST:
        return runtime.InferenceSession(model.SerializeToString(), settings, **where)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_external(model, path)
        return runtime.InferenceSession(str(path), settings, **where)


def save_external(model: Any, path: Path) -> None:
    """A model of any size: its tensors in one file beside it, ``path`` with ``.data``."""
    onnx = imported("onnx")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # saving moves the tensors out
    onnx.save_model(
        copy,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=path.name + ".data",
        size_threshold=1024,
    )


def weight_bytes(model: Any) -> int:
    """Bytes of a model's constants in memory: half precision as single, 4 bits as 8."""
    kinds = imported("onnx").TensorProto
    size = {kinds.FLOAT: 4, kinds.FLOAT16: 4, kinds.INT64: 8, kinds.INT32: 4}
    return sum(
        size.get(each.data_type, 1) * int(np.prod(each.dims, dtype=np.int64))
        for each in model.graph.initializer
    )
