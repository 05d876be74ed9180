"""The ``export`` verb: a model as files that other libraries and runtimes load."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..specs import MODULATIONS
from .loading import CHECKPOINT, add_loading
from .parsing import number
from .web import add_web, check_no_web, run_web

# torch and diffusers take seconds to import, and the parser needs this module
if TYPE_CHECKING:
    from .commands import Report

STOCK = ("smoothed", "torchao", "sdnq")
FORMS = ("onnx", "web", *STOCK, "injected")
STRENGTH = 32.0  # as the library has it


def add_export(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("checkpoint", help=f"{CHECKPOINT}; onnx takes a quantized folder, too")
    add_loading(parser)
    parser.add_argument(
        "--to",
        choices=FORMS,
        required=True,
        help="onnx: transformer, decoder, schedule, class names, recipe and card; a quantized "
        "transformer multiplies integers; web: a static site that draws in the visitor's browser, "
        "in full precision and at several bit-widths. Folders that stock diffusers loads: "
        "smoothed, the same function with smaller outliers; injected, the same with larger ones; "
        "torchao and sdnq, quantized in their formats",
    )
    add_modulation(parser)
    parser.add_argument(
        "--recipe", type=Path, help="smoothed, torchao and sdnq: the recipe to store, of search"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        help="of the recipe (default: where it says), or for a site to search with (default: made)",
    )
    parser.add_argument(
        "--leave-out",
        default="",
        metavar="WORD,...",
        help="torchao and sdnq: what of the recipe may be missing where the format has no place "
        "for it: branch, divisor; what is stored otherwise is searched again",
    )
    parser.add_argument(
        "--samples",
        type=number(int, 1, 1000),
        help="torchao and sdnq: pictures that the SQNR of the card is of (default: 16)",
    )
    parser.add_argument(
        "--steps", type=number(int, 1, 1000), help="of those pictures (default: 20)"
    )
    parser.add_argument(
        "--strength",
        type=number(float, 1.0, 1000.0),
        help=f"injected: how many times larger its outliers are made (default: {STRENGTH:g})",
    )
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
    """Export; sizes, bits and what was measured."""
    if args.to not in STOCK and (args.recipe is not None or args.leave_out):
        raise ValueError("export: expected --recipe and --leave-out only with " + ", ".join(STOCK))
    if args.to != "injected" and args.strength is not None:
        raise ValueError(f"export: expected --strength only with --to injected, got --to {args.to}")
    if args.to not in ("torchao", "sdnq") and (args.samples or args.steps):
        raise ValueError(
            f"export: expected no --samples and --steps with --to {args.to}, which draws nothing"
        )
    if args.to == "web":
        return run_web(args)
    check_no_web(args)
    if args.to in STOCK:
        return export_stock_folder(args)
    if args.calibration is not None:
        raise ValueError(
            f"export: expected no --calibration with --to {args.to}, which searches nothing"
        )
    if args.to == "injected":
        return export_twin(args)
    return export_graph(args)


def export_graph(args: argparse.Namespace) -> Report:
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


def export_twin(args: argparse.Namespace) -> Report:
    from ..exports import export_injected
    from .commands import say
    from .loading import load

    if args.modulation != "none":
        raise ValueError(
            "export: expected no --modulation with --to injected, which rounds nothing"
        )
    found = export_injected(args.out, load(args), args.strength or STRENGTH)
    say(
        args,
        f"wrote {args.out}: {found.bytes / 1e6:.1f} MB, {found.recipe}; the same function to "
        f"{found.relative_difference:.1e}",
    )
    return asdict(found)


def export_stock_folder(args: argparse.Namespace) -> Report:
    from ..exports import export_stock
    from ..specs import Recipe
    from ..writing import check_new_folder
    from .commands import find_calibration, say
    from .loading import load
    from .progress import stages

    if args.recipe is None:
        raise ValueError(f"export: expected --recipe FILE with --to {args.to}, got none")
    if args.modulation != "none" and args.to == "smoothed":
        raise ValueError(
            "export: expected no --modulation with --to smoothed, which rounds nothing"
        )
    recipe = Recipe.load(args.recipe)
    if args.modulation != "none":
        recipe = replace(recipe, modulation=args.modulation)
    check_new_folder(args.out)
    checkpoint = load(args)
    calibration = find_calibration(args, recipe)
    with stages() as tell:
        found = export_stock(
            args.out,
            checkpoint,
            recipe,
            calibration,
            args.to,
            [word.strip() for word in args.leave_out.split(",") if word.strip()],
            args.samples or 16,
            args.steps or 20,
            lambda event: tell(event.what, event.done, event.total),
        )
    size = f"wrote {args.out}: {found.bytes / 1e6:.1f} MB, {found.bits:.2f} bits per parameter"
    if found.relative_difference is not None:
        say(args, f"{size}; the same function to {found.relative_difference:.1e}")
    else:
        assert found.as_exported_db is not None and found.as_given_db is not None
        left = "".join(f", without {word} of {len(n)} groups" for word, n in found.left_out.items())
        say(
            args,
            f"{size}{left}; latent SQNR as exported {found.as_exported_db['mean']:.1f} dB, of the "
            f"recipe itself {found.as_given_db['mean']:.1f} dB ({found.samples} samples)",
        )
    return asdict(found)
