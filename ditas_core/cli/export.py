"""The ``export`` verb: a model as files that other runtimes load."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..specs import MODULATIONS
from .loading import CHECKPOINT, add_loading
from .web import add_web, check_no_web, run_web

# torch and diffusers take seconds to import, and the parser needs this module
if TYPE_CHECKING:
    from .commands import Report

FORMS = ("onnx", "web")


def add_export(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("checkpoint", help=f"{CHECKPOINT}, or quantized folder")
    add_loading(parser)
    parser.add_argument(
        "--to",
        choices=FORMS,
        required=True,
        help="onnx: transformer, decoder, schedule, class names, recipe and card; a quantized "
        "transformer multiplies integers; web: a static site that draws in the visitor's browser, "
        "in full precision and at several bit-widths",
    )
    add_modulation(parser)
    parser.add_argument("--out", type=Path, required=True, help="new folder to write")
    add_web(parser)


def add_modulation(parser: argparse.ArgumentParser, default: str | None = "none") -> None:
    parser.add_argument(
        "--modulation",
        choices=MODULATIONS,
        default=default,
        help="the layers that compute shifts, scales and gates, a third of a DiT: as they are, "
        "8-bit weights, 8-bit activations as well, or 4-bit weights in groups of 64 "
        f"({default or 'as the recipe says'})",
    )


def run_export(args: argparse.Namespace) -> Report:
    """Export; sizes, bits and what the check found."""
    if args.to == "web":
        return run_web(args)
    check_no_web(args)
    from ..onnx_runtime import STEPS, check_installed, export_onnx, graphs
    from ..writing import check_new_folder
    from .commands import say
    from .loading import load_any
    from .progress import bar

    check_installed()
    check_new_folder(args.out)
    checkpoint, recipe = load_any(args)
    with bar("exporting", len(STEPS)) as shown:
        found = export_onnx(
            args.out,
            checkpoint,
            recipe,
            args.modulation,
            graphs(),
            lambda _, done, __: shown.update(bool(done)),
        )
    size = sum(found.bytes.values())
    layers = (
        "" if found.layer_sqnr_db is None else f", its worst layer {found.layer_sqnr_db:.0f} dB"
    )
    say(
        args,
        f"wrote {args.out}: {size / 1e6:.1f} MB, {found.bits:.2f} bits per parameter of the whole "
        f"transformer; torch's forward pass to {found.sqnr_db:.0f} dB{layers}",
    )
    return asdict(found)
