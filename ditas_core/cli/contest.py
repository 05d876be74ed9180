"""Arguments of the ``contest`` verb; ``contest_run`` does it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..specs import FORMATS, METHODS
from .loading import CHECKPOINT, add_loading
from .parsing import number, several

SAME, NONE = "same", "none"
STEPS = 20


def add_contest(parser: argparse.ArgumentParser) -> None:
    """All but sampling and device, whose defaults ``set_contest_defaults`` changes."""
    parser.add_argument("checkpoint", help=CHECKPOINT)
    add_loading(parser)
    parser.add_argument(
        "--bits",
        default="W4A8",
        help="of weights and activations: W2 to W8, A4 to A16 (%(default)s)",
    )
    parser.add_argument(
        "--budget",
        type=number(float, 0, 16),
        default=5.0,
        help="the most effective bits per weight, scales and branches counted: group sizes and "
        "ranks are as large as it lets them be; 0: no bound, methods as they are (%(default)s)",
    )
    parser.add_argument(
        "--methods",
        type=several(METHODS),
        default=tuple(METHODS),
        metavar="NAMES",
        help=f"some of {', '.join(METHODS)}, with commas (all)",
    )
    parser.add_argument(
        "--formats",
        default=SAME,
        metavar="NAMES",
        help=f"number formats of the weights that take part, too: some of {', '.join(FORMATS)}, "
        f"with commas; {SAME}: those with as many bits; {NONE} (%(default)s)",
    )
    parser.add_argument(
        "--samples", type=number(int, 1, 4096), default=64, help="paired samples (%(default)s)"
    )
    parser.add_argument(
        "--batch", type=number(int, 1, 256), default=16, help="in one forward pass (%(default)s)"
    )
    parser.add_argument(
        "--inject",
        type=number(float, 1, 1e4),
        default=1.0,
        metavar="K",
        help="first make 3 channels of every foldable layer K times larger without changing "
        "the function (injected outliers)",
    )
    parser.add_argument(
        "--calibration", type=Path, help="file from calibrate; default: made, and kept in --out"
    )
    parser.add_argument(
        "--features",
        choices=("auto", NONE),
        default="auto",
        help="of the feature distance: EfficientNet-Lite0's where it is installed (%(default)s)",
    )
    parser.add_argument(
        "--outside",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="final latents of a peer over the same noise, from `ditas bench peers`; repeatable",
    )
    parser.add_argument(
        "--out", type=Path, help="new folder for tables, figure and recipes (contest-BITS)"
    )


def set_contest_defaults(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(steps=STEPS)
