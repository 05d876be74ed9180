"""What a quantized transformer remembers of where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..models import CheckpointError
from ..specs import Recipe
from .captions import Captions

if TYPE_CHECKING:
    from .checkpoint import Checkpoint


@dataclass(frozen=True)
class Origin:
    """Kept on a quantized transformer as ``origin``, so that it can be saved; no weights."""

    name: str
    scheduler: dict[str, Any]
    class_names: tuple[str, ...]
    licence: str
    captions: Captions | None
    recipe: Recipe


def remember_(transformer: Any, checkpoint: Checkpoint, recipe: Recipe) -> Any:
    """The transformer, which from now on knows its recipe and the checkpoint it was made of."""
    transformer.requires_grad_(False)
    transformer.origin = Origin(
        checkpoint.name,
        checkpoint.scheduler,
        checkpoint.class_names,
        checkpoint.licence,
        checkpoint.captions,
        recipe,
    )
    return transformer


def find_origin(model: Any) -> Origin | None:
    """Of a quantized pipeline or Checkpoint; None of any other."""
    origin = getattr(getattr(model, "transformer", None), "origin", None)
    return origin if isinstance(origin, Origin) else None


def origin_of(quantized: Any) -> Origin:
    """Of what ``quantize``, ``convert`` or ``load`` made.

    Raises:
        CheckpointError: another.
    """
    origin = find_origin(quantized)
    if origin is None:
        raise CheckpointError(
            "quantized: expected what ditas.quantize or ditas.convert made, or ditas.load found in "
            f"a folder of ditas.save, got {article(type(quantized).__name__)}"
        )
    return origin


def article(name: str) -> str:
    return f"a {name} that is not quantized" if name.endswith(("Pipeline", "Checkpoint")) else name
