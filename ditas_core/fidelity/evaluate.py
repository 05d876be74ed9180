"""One set of images measured, and two compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .features import FeatureNetwork
from .frechet import Gaussian, Moments, frechet_distance
from .neighbours import Tell, precision_recall
from .pictures import Pictures

BATCH = 32


@dataclass(frozen=True)
class Measured:
    """features float32 (N, D), and their moments; of ADM's references those of the whole data."""

    features: Tensor
    gaussian: Gaussian


@dataclass(frozen=True)
class Fidelity:
    """A set of images against a reference: how far their distributions are apart, what share of
    the images lies among the reference's, and of the reference's among the images."""

    frechet_distance: float
    precision: float
    recall: float


def measure(
    pictures: Pictures,
    network: FeatureNetwork,
    batch: int = BATCH,
    tell: Callable[[str, int, int], object] | None = None,
) -> Measured:
    """Features of every image: N x D numbers of four bytes are kept, the images are not.

    Raises:
        FidelityError: images that cannot be read, or fewer than two.
    """
    features = torch.empty(pictures.count, network.dimensions)
    moments: Moments | None = None
    done = 0
    for images in pictures.batches(batch):
        found = network.extract(images)  # (n, D)
        features[done : done + len(found)] = found
        more = Moments.of(found)
        moments = more if moments is None else moments.joined(more)
        done += len(found)
        if tell is not None:
            tell(f"features of {pictures.name}", done, pictures.count)
    assert moments is not None  # there is at least one image
    return Measured(features, moments.gaussian)


def compare_sets(
    reference: Measured, samples: Measured, k: int = 3, tell: Tell | None = None
) -> Fidelity:
    """Frechet distance, and precision and recall with ``k`` neighbours.

    Raises:
        FidelityError: too few images.
    """
    precision, recall = precision_recall(reference.features, samples.features, k, tell=tell)
    distance = frechet_distance(reference.gaussian, samples.gaussian)
    return Fidelity(distance, precision, recall)
