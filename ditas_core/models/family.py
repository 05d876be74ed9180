"""What a family of models knows: the protocol that the file of each of them fills in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from .groups import SmoothingGroup

Conditions = Callable[[Tensor], Mapping[str, Any]]
"""From class numbers (N,) to the transformer's arguments of both halves (2N, ...)."""


class Embedded(Protocol):
    """Embedded prompts, as ``checkpoints.Captions`` holds them, and the unconditional one."""

    @property
    def embeds(self) -> Tensor: ...  # (K, L, D)

    @property
    def mask(self) -> Tensor: ...  # (K, L)

    @property
    def null_embeds(self) -> Tensor: ...  # (L, D)

    @property
    def null_mask(self) -> Tensor: ...  # (L,)


@dataclass(frozen=True)
class Kind:
    """A kind of layers, as groups name it: its colour in figures, and what it is."""

    colour: str
    meaning: str


ATTENTION = {
    "qkv": Kind("#009E73", "The three products before attention; they share one input."),
    "proj": Kind("#6CC5A4", "The product after attention, which mixes its heads."),
}
FEED_FORWARD = {
    "fc1": Kind("#B0579F", "First half of the feed-forward part."),
    "fc2": Kind("#E09AC4", "Second half of the feed-forward part."),
}
"""Self-attention green, feed-forward violet; safe for colour-blind readers."""


class Family(Protocol):
    """Transformers of diffusers, their ``transformer_blocks`` and sizes named as usual there.

    cls             the diffusers class; ``pipelines`` those whose folders hold it
    norm_type       of its configuration; ``blocks`` is what such blocks are called
    text            conditioned on embedded captions instead of classes
    guidance_scale  of classifier-free guidance where nobody gives one
    dead            buffers that older files hold and no model takes
    repeated        what a block's tensors that every block has a copy of begin with; "" of none
    kinds           of its groups, in execution order; ``said`` explains them, [[terms]] marked
    """

    name: ClassVar[str]
    cls: ClassVar[Any]
    pipelines: ClassVar[tuple[str, ...]]
    norm_type: ClassVar[str]
    blocks: ClassVar[str]
    text: ClassVar[bool]
    guidance_scale: ClassVar[float]
    dead: ClassVar[frozenset[str]]
    repeated: ClassVar[str] = ""
    kinds: ClassVar[Mapping[str, Kind]]
    said: ClassVar[str]

    def block_groups(self, block: int) -> tuple[SmoothingGroup, ...]:
        """The groups of one block, in execution order."""
        ...

    def groups(self, transformer: nn.Module) -> tuple[SmoothingGroup, ...]:
        """All groups of a transformer, in execution order."""
        blocks: Any = transformer.transformer_blocks
        return tuple(group for i in range(len(blocks)) for group in self.block_groups(i))

    def modulations(self, transformer: nn.Module) -> tuple[str, ...]:
        """Paths of the linear layers that compute shifts, scales and gates; in no group."""
        ...

    def check_options(self, config: Mapping[str, Any]) -> None:
        """Raise CheckpointError for an option of the configuration that changes the blocks."""
        return

    def conditions(
        self, transformer: nn.Module, captions: Embedded, pixels: int
    ) -> Conditions | None:
        """What captions are to the transformer; None where it takes class numbers.

        pixels  height and width of the images
        """
        return None

    def caption_width(self, transformer: nn.Module) -> int:
        """D of the captions that it takes."""
        return 0

    def pipeline_of(self, transformer: nn.Module, tokens: int) -> str:
        """The pipeline that draws with a transformer and captions of this many tokens."""
        return self.pipelines[0]
