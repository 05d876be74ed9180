"""``ditas export CHECKPOINT --to web``: a site that draws in the visitor's browser."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

# torch and diffusers take seconds to import, and the parser needs this module
if TYPE_CHECKING:
    from ..calibration import Calibration
    from ..checkpoints import Checkpoint
    from .commands import Report

BITS = "W4A8,W8A8,W3A8"
CONVENTION, GUIDANCE = "integer", 2.5
STEPS, SAMPLES = 20, 8
OWN = ("bits", "convention", "open", "guidance", "runtime")
"""Options of this form alone; None where they are not given."""


def add_web(parser: argparse.ArgumentParser) -> None:
    """The arguments of the form ``web``."""
    group = parser.add_argument_group("--to web")
    group.add_argument(
        "--bits",
        help=f"widths that the site offers, the first opened on ({BITS})",
    )
    group.add_argument(
        "--convention",
        help=f"of the integer kind ({CONVENTION}); more scales make larger files",
    )
    group.add_argument("--open", metavar="CLASS", help="that the page opens on (the first)")
    group.add_argument("--guidance", type=float, help=f"that the page opens on ({GUIDANCE})")
    group.add_argument(
        "--runtime",
        type=Path,
        help="archive of `npm pack onnxruntime-web`, where there is no network; default: from the "
        "npm registry (npm_config_registry), kept in the cache",
    )


def check_no_web(args: argparse.Namespace) -> None:
    """Raise ValueError where an option of this form is given with another."""
    given = [name for name in OWN if getattr(args, name) is not None]
    if given:
        raise ValueError(f"--{given[0]}: expected only with --to web, got --to {args.to}")


def run_web(args: argparse.Namespace) -> Report:
    """Make the site; what it weighs and what the checks found."""
    from ..checkpoints import own_cache
    from ..onnx_runtime import check_installed, graphs
    from ..site import Settings, check_site, fetch_runtime, make_site
    from ..writing import check_new_folder
    from .commands import say
    from .loading import load
    from .progress import bar

    check_installed()
    check_new_folder(args.out)
    if args.modulation != "none":
        raise ValueError(
            f"modulation: expected none with --to web, got {args.modulation}; a site has it in "
            "4 bits, beside weights of 8 in 8"
        )
    bits = tuple(each.strip() for each in (args.bits or BITS).split(",") if each.strip())
    settings = Settings(
        bits,
        args.convention or CONVENTION,
        opened=args.open or "0",
        guidance_scale=GUIDANCE if args.guidance is None else args.guidance,
    )
    checkpoint = load(args)
    check_site(checkpoint, settings)
    runtime = fetch_runtime(own_cache() / "web", args.runtime)
    calibration = calibration_for(args, checkpoint)
    with bar("making the site", 2 * len(settings.widths) + 5) as shown:
        made = make_site(
            args.out,
            checkpoint,
            calibration,
            runtime,
            settings,
            graphs(),
            story=recorded(checkpoint),
            progress=lambda _, done, __: shown.update(bool(done)),
        )
    first = f"{settings.widths[0]}-ditas"
    say(
        args,
        f"wrote {args.out}: code and runtime {made.code / 1e6:.1f} MB, decoder "
        f"{made.decoder / 1e6:.2f} MB to download ({made.decoder_psnr:.0f} dB), {first} "
        f"{made.models[first] / 1e6:.2f} MB; torch's forward pass to {made.sqnr_db[first]:.0f} dB",
    )
    return asdict(made)


def recorded(checkpoint: Checkpoint) -> str:
    """The page's recorded results of this checkpoint; "" without the extra ``[app]``, or any."""
    try:  # a room beside this one: found by its name, as the benchmarks are
        module = importlib.import_module("ditas_core.ui.stored.story")
    except ModuleNotFoundError:
        return ""
    story: str = module.story_of(checkpoint)
    return story


def calibration_for(args: argparse.Namespace, checkpoint: Checkpoint) -> Calibration:
    """The one that was given, or a new one."""
    from ..calibration import Calibration
    from ..specs import CalibrationSpec, SamplingSpec
    from .commands import calibrated

    if args.calibration is not None:
        return Calibration.load(args.calibration)
    tokens = min(CalibrationSpec.tokens, 2 * SAMPLES * checkpoint.fewest_tokens)
    guidance = checkpoint.family.guidance_scale
    return calibrated(
        checkpoint, CalibrationSpec(SamplingSpec(STEPS, guidance), SAMPLES, tokens=tokens)
    )
