"""A quantized transformer that stays what it is, and computes in a session of ONNX Runtime."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Self

from torch import nn

from ..checkpoints import Checkpoint
from ..layers import run_as_
from ..sampling import Asking
from .rewrite import onnx_model
from .session import OnnxTransformer
from .trace import LATENTS, traced


class Runtime:
    """Holds the session: copies of a transformer share it, and it is no part of the weights."""

    def __init__(self, session: OnnxTransformer) -> None:
        self.session = session

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class OnRuntime:
    """In front of a transformer's class: passes on the CPU go to the session, unless somebody
    listens to a layer, as a calibration does: a session runs none of them."""

    runtime: Runtime

    def forward(self, *positional: Any, **named: Any) -> Any:
        latents = positional[0] if positional else named[LATENTS]
        if latents.device.type == "cpu" and not is_listened_to(self):
            return self.runtime.session(*positional, **named)
        return super().forward(*positional, **named)  # type: ignore[misc]

    @property
    def nbytes(self) -> int:
        """Of the session; the codes are counted as buffers."""
        return self.runtime.session.nbytes


def is_listened_to(transformer: Any) -> bool:
    """Whether a hook would miss its layer; one that only asks whether to stop is no such hook."""
    return any(
        not isinstance(hook, Asking)
        for each in transformer.modules()
        for hook in (*each._forward_hooks.values(), *each._forward_pre_hooks.values())
    )


def leave_runtime_(transformer: nn.Module) -> None:
    """Back to the layers; a transformer without a session stays as it is."""
    if isinstance(transformer, OnRuntime):
        transformer.__class__ = type(transformer).__mro__[2]  # behind its own and OnRuntime
        del transformer.runtime


@cache
def attached_class(cls: type) -> type:
    """Under the same name, which a configuration is saved with."""
    return type(cls.__name__, (OnRuntime, cls), {"__module__": cls.__module__})


def run_on_onnx_(
    checkpoint: Checkpoint, transformer: nn.Module, cache: Path | None = None, threads: int = 0
) -> None:
    """Have a quantized transformer compute in a session, in place; on a GPU it goes on in torch.

    Its layers, state and configuration stay; it is called, copied and saved as before.

    checkpoint  of its configuration, quantized or not; traced where that was not done before
    cache       see ``traced``
    threads     0: as many as torch uses

    Raises:
        MissingPackage: the extra ``[onnx]`` is not installed.
        SpecError: a layer that has no integer product.
    """
    if isinstance(transformer, OnRuntime):
        return
    run_as_(transformer, "integer")
    model = onnx_model(traced(checkpoint, cache), transformer)
    session = OnnxTransformer(model, transformer, threads)
    cls: Any = type(transformer)
    transformer.__class__ = attached_class(cls)
    transformer.runtime = Runtime(session)  # type: ignore[assignment]
