"""How far errors of a layer's weights reach: what they do to the final latents.

With the final latents z of a guided trajectory, v ~ N(0, 1) and the gradient of all of its steps
together, G = d(v . z / |z|) / dW (C_out, C),

    R = E |z' - z|^2 / (r^2 |z|^2) = E |G|_F^2 mean |Y|^2 / (C_out mean |X|^2)

is the final latents' relative squared deviation per relative squared error of the layer's output:
of |X D^T|^2 = r^2 |Y|^2 with D white, as r goes to 0; X (M, C) its inputs, Y = X W^T (M, C_out),
no unit. What an error of a weight does at every step adds up before it is squared, as it is the
same error; errors that are drawn anew at every step would not (see ``influence``). Of several
layers that share an input the sums over them. Two passes and a backward pass for each step, as for
``measure_influence``; the gradients of all weights are held at once, as large as the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checkpoints import Checkpoint, find_origin
from ..events import result_of
from ..models import get_linear
from ..sampling import spread_labels
from ..specs import INFLUENCE_SAMPLES, MOST_SAMPLES, SamplingSpec, SpecError, check_whole
from .influence import InfluenceProgress, there_and_back

Reach = dict[str, float]
"""R by the names of groups."""
TINY = 1e-30


@dataclass
class LayerGradient:
    """Of one layer, over the calls so far.

    total     G (C_out, C)
    inputs, outputs  sums of X^2 and Y^2
    """

    total: Tensor
    inputs: float = 0.0
    outputs: float = 0.0

    def add_(self, x: Tensor, y: Tensor, slope: Tensor) -> None:
        """One call's inputs, outputs and the gradient by its outputs, (..., C) and (..., C_out)."""
        x, slope = x.detach().flatten(0, -2).float(), slope.flatten(0, -2).float()
        self.total.addmm_(slope.T, x)
        self.inputs += float(x.double().square().sum())
        self.outputs += float(y.detach().double().square().sum())


class LayerGradients:
    """Adds up the gradients of linear layers while a trajectory is followed backwards."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        self.layers = layers
        self.found = [
            LayerGradient(torch.zeros_like(layer.weight, dtype=torch.float32).detach())
            for layer in layers
        ]
        self.calls: list[tuple[int, Tensor, Tensor]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the inputs and outputs of one forward pass."""
        self.calls.clear()

        def keep(index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
                if not output.requires_grad:  # of captions, which depend on no latents
                    output.requires_grad_(True)
                self.calls.append((index, args[0], output))

            return hook

        handles = [each.register_forward_hook(keep(i)) for i, each in enumerate(self.layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def outputs(self) -> list[Tensor]:
        """Of the calls that were recorded."""
        return [output for _, _, output in self.calls]

    def add_(self, slopes: list[Tensor]) -> None:
        """The gradients by ``outputs``."""
        for (index, x, y), slope in zip(self.calls, slopes, strict=True):
            self.found[index].add_(x, y, slope)
        self.calls.clear()


def measure_reach(
    checkpoint: Checkpoint,
    spec: SamplingSpec,
    samples: int = INFLUENCE_SAMPLES,
    seed: int = 0,
    batch: int = INFLUENCE_SAMPLES,
    progress: Callable[[InfluenceProgress], object] | None = None,
) -> Reach:
    """What ``iterate_reach`` comes to; ``progress`` gets each step and may raise to stop."""
    return result_of(iterate_reach(checkpoint, spec, samples, seed, batch), dict, progress)


def iterate_reach(
    checkpoint: Checkpoint,
    spec: SamplingSpec,
    samples: int = INFLUENCE_SAMPLES,
    seed: int = 0,
    batch: int = INFLUENCE_SAMPLES,
) -> Iterator[InfluenceProgress | Reach]:
    """Yields after every step there and back, last R of every group.

    Sample i starts from the noise of seed + i; labels are spread over all classes or captions.
    ``batch`` samples run at once: of them the activations of one step are kept for its backward
    pass. No data are needed.

    Raises:
        SpecError: a number out of its range; or a quantized checkpoint, as rounding has no
            derivative.
    """
    check_whole("reach: samples", samples, 1, MOST_SAMPLES)
    check_whole("batch", batch, 1, MOST_SAMPLES)
    if find_origin(checkpoint) is not None:
        raise SpecError("reach: expected a checkpoint in full precision, got a quantized one")
    labels = spread_labels(samples, len(checkpoint.class_names))
    groups = checkpoint.groups
    paths = [path for group in groups for path in group.layers]
    gradients = LayerGradients([get_linear(checkpoint.transformer, path) for path in paths])
    done, total = 0, 2 * spec.steps * -(-samples // batch)
    for first in range(0, samples, batch):
        some = labels[first : first + batch]
        for event in there_and_back(checkpoint, spec, some, seed + first, gradients):
            if event is None:
                done += 1
                yield InfluenceProgress(done, total)
    found = dict(zip(paths, gradients.found, strict=True))
    yield {
        group.name: reach_of([found[path] for path in group.layers], samples) for group in groups
    }


def reach_of(layers: list[LayerGradient], samples: int) -> float:
    """R of layers that share an input."""
    squares = sum(float(each.total.double().square().sum()) for each in layers) / samples
    outputs = sum(each.outputs for each in layers)
    rows = sum(len(each.total) for each in layers)
    return squares * outputs / max(rows * layers[0].inputs, TINY)
