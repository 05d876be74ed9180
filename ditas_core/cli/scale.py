"""The arguments of ``sample``, ``evaluate`` and ``cost``: images at the scale of a paper."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..specs import SPREADS
from .loading import CHECKPOINT, add_loading
from .parsing import number


def add_sample(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("checkpoint", help=f"{CHECKPOINT}, or quantized folder")
    add_loading(parser, "--precision")
    parser.add_argument(
        "--classes", default="", help="names or numbers, comma-separated; default: all"
    )
    parser.add_argument(
        "--spread",
        choices=SPREADS,
        default="balanced",
        help="balanced: each class as often; drawn: each image's at random, from --seed "
        "(%(default)s)",
    )
    parser.add_argument(
        "--samples",
        "--count",
        type=number(int, 1, 1_000_000),
        default=0,
        help="how many; default: one per class named, or 16",
    )
    parser.add_argument(
        "--batch",
        type=number(int, 1, 256),
        default=16,
        help="samples in one forward pass; batches are what processes share out (%(default)s)",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--out", type=Path, help="new folder to write: PNGs, a contact sheet, the settings"
    )
    target.add_argument(
        "--npz",
        type=Path,
        help="file to write, as ADM's evaluation reads it: arr_0 uint8 (N, H, W, 3), arr_1 the "
        "class numbers; goes on where an interrupted run stopped",
    )
    target.add_argument(
        "--png",
        type=Path,
        help="new folder of PNGs alone, as torch-fidelity reads it; goes on, too",
    )


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument(
        "images", nargs="+", type=Path, help=".npz files with arr_0, or folders of PNGs"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        required=True,
        help="the same: images of the data, of the full-precision model, or a reference batch of "
        "ADM's, whose moments are used with --inception",
    )
    parser.add_argument(
        "--inception",
        type=Path,
        metavar="WEIGHTS",
        help="file of the FID's Inception, pt_inception-2015-12-05-6726825d.pth; nothing is "
        "downloaded; default: EfficientNet-Lite0, whose distances are no FIDs",
    )
    parser.add_argument(
        "--neighbours",
        type=number(int, 1, 100),
        default=3,
        metavar="K",
        help="of precision and recall (%(default)s)",
    )
    parser.add_argument(
        "--batch", type=number(int, 1, 1024), default=32, help="images at a time (%(default)s)"
    )


def add_cost(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb, beside those of sampling."""
    parser.add_argument(
        "checkpoint",
        help=f"{CHECKPOINT}, quantized folder, or a published shape whose weights are not here: "
        "DiT-S/2, DiT-B/2, DiT-L/2, DiT-XL/2",
    )
    add_loading(parser, "--precision")
    parser.add_argument(
        "--image-size",
        type=number(int, 16, 4096),
        default=256,
        help="of a published shape (%(default)s)",
    )
    parser.add_argument(
        "--bits",
        default="",
        help="first quantize by plain rounding, as in W4A8, so that quantized passes are timed; "
        "a branch of rank 32 adds about 5 %% to them",
    )
    parser.add_argument("--convention", default="integer", help="of --bits (%(default)s)")
    parser.add_argument(
        "--samples",
        "--count",
        type=number(int, 1, 10_000_000),
        default=10_000,
        help="images to draw (%(default)s)",
    )
    parser.add_argument(
        "--batch", type=number(int, 1, 256), default=16, help="as of sample (%(default)s)"
    )
    parser.add_argument(
        "--check",
        type=number(int, 0, 100_000),
        default=0,
        metavar="N",
        help="also draw N images with the command sample, and show what it took beside what was "
        "predicted for them",
    )
