"""The shape of a DiT or PixArt, and the operations that one forward pass of it takes.

One pass of one sample, D blocks of width d on T tokens, takes

    2 [ D (T ((4 + 2 r) d^2 + 2 T d) + 256 d + 7 d^2) + T d (i + o) + 256 d + 3 d^2 ]

floating-point operations: per block the linear layers (r the MLP's ratio), both
attention products and the conditioning; once the patches in (i values each) and out (o)
and the head's conditioning. A guided step is two such passes.

A PixArt with captions of L tokens has cross-attention in every block and its conditioning
once for all of them:

    2 [ D (T ((6 + 2 r) d^2 + 2 (T + L) d) + 2 L d^2) + T d (i + o) + 256 d + 7 d^2 + c ]

where c = L (D_c d + d^2) projects captions of width D_c, and 256 d + d^2 / 3 comes on top
where the model is told the image's size.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..checkpoints import Checkpoint
from ..models import get_linear, is_told, null_class

FREQUENCIES = 256
"""Sines and cosines that a DiT's timestep embedder starts from."""
SD_AUTOENCODER = 83_653_863
"""Parameters of the autoencoder that the published DiTs use."""


def forward_flops(
    depth: int,
    width: int,
    tokens: int,
    mlp_ratio: float = 4.0,
    patch_in: int = 16,
    patch_out: int = 16,
) -> int:
    """Operations (2 per multiply-add) of one pass of one sample; the module has the formula.

    patch_in, patch_out   values of a patch: its area times the latent's channels

    Raises:
        ValueError: a size below 1.
    """
    if min(depth, width, tokens, patch_in, patch_out) < 1 or not mlp_ratio > 0:
        raise ValueError(f"shape: expected sizes from 1, got {depth} x {width} on {tokens} tokens")
    hidden = round(mlp_ratio * width)
    block = tokens * (4 * width**2 + 2 * width * hidden + 2 * tokens * width)
    embedding = FREQUENCIES * width + width**2
    once = tokens * width * (patch_in + patch_out) + embedding + 2 * width**2
    return 2 * (depth * (block + embedding + 6 * width**2) + once)


@dataclass(frozen=True)
class TextShape:
    """Of captions: tokens L, and width D_c (0 = used as they are, without a projection).

    told   whether the model takes the image's size
    """

    tokens: int
    width: int = 0
    told: bool = False

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.width < 0:
            raise ValueError(f"shape: expected captions of at least one token, got {self}")

    def flops(self, depth: int, width: int, tokens: int) -> int:
        """What a pass takes beyond a DiT's without conditioning; the module has the formula."""
        block = 2 * tokens * width**2 + 2 * self.tokens * width**2
        block += 2 * tokens * self.tokens * width
        once = FREQUENCIES * width + 7 * width**2
        if self.width:
            once += self.tokens * width * (self.width + width)
        if self.told:
            once += FREQUENCIES * width + width**2 // 3
        return 2 * (depth * block + once)


@dataclass(frozen=True)
class ModelShape:
    """All that costs depend on, of a model that need not be there.

    patch, latent_size   in latent pixels: 256 px images have 32 of 4 channels
    classes              of each block's embedding, without the unconditional one
    weights              parameters of the transformer, 0 = as ``parameters`` computes for a DiT
    autoencoder          parameters of the autoencoder
    text                 of a PixArt its captions
    """

    depth: int
    width: int
    heads: int
    patch: int = 2
    latent_size: int = 32
    in_channels: int = 4
    out_channels: int = 8
    mlp_ratio: float = 4.0
    classes: int = 1000
    weights: int = 0
    autoencoder: int = SD_AUTOENCODER
    text: TextShape | None = None

    def __post_init__(self) -> None:
        sizes = (self.depth, self.width, self.heads, self.patch, self.latent_size, self.classes)
        if min(sizes) < 1 or min(self.in_channels, self.out_channels) < 1:
            raise ValueError(f"shape: expected sizes from 1, got {self}")
        if not self.mlp_ratio > 0 or min(self.weights, self.autoencoder) < 0:
            raise ValueError(f"shape: expected a ratio above 0 and counts from 0, got {self}")
        if self.text is not None and not self.weights:
            raise ValueError("shape: expected the number of a PixArt's parameters, got none")
        if self.width % self.heads or self.latent_size % self.patch:
            raise ValueError(
                "shape: expected a width of whole heads and a latent of whole patches, "
                f"got {self.width} / {self.heads} and {self.latent_size} / {self.patch}"
            )

    @staticmethod
    def of(checkpoint: Checkpoint) -> ModelShape:
        """A loaded checkpoint's."""
        config = checkpoint.transformer.config
        first = next(group for group in checkpoint.groups if group.kind == "fc1")
        fc1 = get_linear(checkpoint.transformer, first.layers[0])
        text = None
        if checkpoint.captions is not None:
            text = TextShape(
                checkpoint.captions.tokens,
                int(config.caption_channels or 0),
                is_told(checkpoint.transformer),
            )
        return ModelShape(
            depth=len(checkpoint.transformer.transformer_blocks),
            width=checkpoint.width,
            heads=int(config.num_attention_heads),
            patch=int(config.patch_size),
            latent_size=int(config.sample_size),
            in_channels=int(config.in_channels),
            out_channels=int(config.out_channels or config.in_channels),
            mlp_ratio=fc1.out_features / fc1.in_features,
            classes=null_class(checkpoint.transformer),
            weights=sum(p.numel() for p in checkpoint.transformer.parameters()),
            autoencoder=sum(p.numel() for p in checkpoint.vae.parameters()),
            text=text,
        )

    @property
    def tokens(self) -> int:
        """Of one image."""
        return (self.latent_size // self.patch) ** 2

    @property
    def hidden(self) -> int:
        """Channels inside the MLP."""
        return round(self.mlp_ratio * self.width)

    @property
    def flops(self) -> int:
        """``forward_flops`` of this shape: one sample, one pass."""
        area = self.patch**2
        size = (self.depth, self.width, self.tokens)
        ends = (area * self.in_channels, area * self.out_channels)
        plain = forward_flops(*size, self.mlp_ratio, *ends)
        if self.text is None:
            return plain
        # less the conditioning that a DiT has in every block and at its head
        embedding = FREQUENCIES * self.width + self.width**2
        own = 2 * (self.depth * (embedding + 6 * self.width**2) + embedding + 2 * self.width**2)
        return plain - own + self.text.flops(*size)

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """(C, outputs of all layers together) of one block's smoothing groups."""
        d, h = self.width, self.hidden
        cross = () if self.text is None else ((d, d), (d, 2 * d), (d, d))
        return (d, 3 * d), (d, d), *cross, (d, h), (h, d)

    @property
    def linear_weights(self) -> int:
        """Weights of all layers that are quantized."""
        return self.depth * sum(c * outputs for c, outputs in self.groups)

    @property
    def parameters(self) -> int:
        """Of the transformer; unless counted, with an embedder in every block."""
        if self.weights:
            return self.weights
        d, area = self.width, self.patch**2
        embedder = FREQUENCIES * d + d + d**2 + d + (self.classes + 1) * d
        block = sum(outputs for _, outputs in self.groups) + 6 * d**2 + 6 * d + embedder
        ends = area * self.in_channels * d + d + 2 * d**2 + 2 * d
        last = (d + 1) * area * self.out_channels
        return self.linear_weights + self.depth * block + ends + last


def transformer_flops(checkpoint: Checkpoint) -> int:
    """``forward_flops`` of a loaded checkpoint: one sample, one pass."""
    return ModelShape.of(checkpoint).flops
