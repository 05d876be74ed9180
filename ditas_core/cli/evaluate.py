"""The ``evaluate`` verb: sets of images against a reference."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ..fidelity import (
    FeatureNetwork,
    Measured,
    Pictures,
    compare_sets,
    efficientnet_lite0,
    fid_inception,
    measure,
    open_pictures,
    stored_gaussian,
)
from .commands import Report, say
from .progress import stages


def run_evaluate(args: argparse.Namespace) -> Report:
    """The reference once, then each set; one is in memory beside it, as features."""

    started = time.perf_counter()
    sets = [open_pictures(path) for path in args.images]
    reference = open_pictures(args.reference)
    network = efficientnet_lite0() if args.inception is None else fid_inception(args.inception)
    say(args, f"features: {network.name}, {network.dimensions}")
    with stages() as tell:
        base, of_data = measured_reference(args, reference, network, tell)
    rows: list[dict[str, Any]] = []
    for pictures in sets:
        for warning in warnings_of(pictures, reference, network):
            say(args, f"note: {warning}")
        with stages() as tell:
            one = measure(pictures, network, args.batch, tell)
            found = compare_sets(base, one, args.neighbours, tell)
        rows.append(
            {
                "images": pictures.name,
                "count": pictures.count,
                "frechet_distance": round(found.frechet_distance, 4),
                "precision": round(found.precision, 4),
                "recall": round(found.recall, 4),
                "notes": warnings_of(pictures, reference, network),
            }
        )
        say(
            args,
            f"{pictures.name:>24}  {pictures.count} images  Frechet distance "
            f"{found.frechet_distance:.3f}  precision {found.precision:.4f}  "
            f"recall {found.recall:.4f}",
        )
    return {
        "features": network.name,
        "dimensions": network.dimensions,
        "weights_sha256": network.sha256 or None,
        "reference": reference.name,
        "reference_count": reference.count,
        "reference_moments": "of the whole data set" if of_data else "of its images",
        "neighbours": args.neighbours,
        "results": rows,
        "seconds": round(time.perf_counter() - started, 1),
    }


def measured_reference(
    args: argparse.Namespace, reference: Pictures, network: FeatureNetwork, tell: Any
) -> tuple[Measured, bool]:
    """Its features, and the moments that lie beside its images where they are Inception's."""

    stored = None
    if args.inception is not None:
        stored = stored_gaussian(args.reference, network.dimensions)
    found = measure(reference, network, args.batch, tell)
    return (found, False) if stored is None else (Measured(found.features, stored), True)


def warnings_of(pictures: Pictures, reference: Pictures, network: FeatureNetwork) -> list[str]:
    """What makes the figures worth less."""
    notes = []
    few = min(pictures.count, reference.count)
    if few <= network.dimensions:
        notes.append(
            f"{few} images are no more than the {network.dimensions} features: the distance "
            "depends on how many there are, compare equal numbers alone"
        )
    if pictures.size != reference.size:
        notes.append(f"images of {pictures.size} px against {reference.size} px: both are resized")
    return notes
