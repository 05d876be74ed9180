"""Command line of the demo checkpoint's recipe: data, training, export and measurement."""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors import SafetensorError

from .card import write_card
from .data import load_images, prepare, read_classes, to_float
from .dit import DiTConfig, train_dit
from .evaluate import (
    EvaluationConfig,
    draw_all_classes,
    draw_sheet,
    evaluate,
    load_pipeline,
)
from .export import export_checkpoint
from .latents import encode_looks
from .look import LOOKED_AT, look
from .pack import pack
from .runs import read_config
from .sheets import save_image
from .vae import VAEConfig, adapt_vae, train_vae

EXAMPLE = """\
the whole recipe:
  python -m training prepare --out data/ --size 64
  python -m training prepare --out data/ --size 256
  python -m training train --data data/ --out runs/
  python -m training export --run runs/ --out assets/NAME
  python -m training evaluate assets/NAME --data data/ --run runs/
  python -m training card assets/NAME
"""
TRAIN_OPTIONS = {
    "minutes": "wall time of the DiT",
    "anneal_minutes": "the last part of it, in which the rate falls",
    "batch": "images per DiT step",
    "layers": "blocks of the DiT",
    "heads": "heads per block",
    "head_dim": "width of a head",
    "patch": "latents per side of a token",
    "peak_rate": "learning rate",
    "modulation_rate": "that of adaLN's layers, in multiples of it",
    "second_moment": "beta2 of Adam",
    "epsilon": "of Adam",
    "weight_decay": "of Adam",
    "group_share": "how often a group's label is drawn instead of the emoji's",
    "look_share": "share of the looks at each image that are drawn",
    "kept_share": "share of the tokens that see the middle blocks until the anneal",
    "save_minutes": "between saves",
    "look_minutes": "between looks",
}
EXPECTED_ERRORS = (ValueError, OSError, ArithmeticError, ImportError, SafetensorError)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults there are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def say(line: str) -> None:
    """One line of progress."""
    print(line, flush=True)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return int(text)


def images_file(data: Path, size: int) -> Path:
    """The file of ``prepare`` for images of ``size`` pixels."""
    path = data / f"images-{size}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"expected {path}, found none; make it with `prepare --size {size}`"
        )
    return path


def run_prepare(args: argparse.Namespace) -> None:
    try:
        say(f"wrote {prepare(args.out, args.size, say)}")
    except subprocess.CalledProcessError as error:
        reason = "; ".join((error.stderr or "").strip().splitlines()[:2])
        raise OSError(f"expected npm to fetch {error.cmd[2]}, got: {reason}") from error


def run_vae(args: argparse.Namespace) -> Path:
    """The autoencoder of a run, for its size: ``--vae``'s, or trained at half of the size."""
    vae = args.out / "vae" / "vae"
    if (vae / "config.json").is_file():
        return Path(vae)
    trained = args.vae / "vae" if args.vae is not None else args.out / "vae" / "small"
    if not (trained / "config.json").is_file():
        say("training the VAE")
        config = VAEConfig(steps=args.vae_steps, seed=args.seed)
        shutil.move(
            train_vae(images_file(args.data, args.size // 2), args.out / "vae", config, say),
            trained,
        )
    large = load_images(images_file(args.data, 2 * args.size))
    some = large["images"][large["labels"] >= 0][::10]
    adapt_vae(trained, F.avg_pool2d(to_float(some), 2), args.size, vae)
    return Path(vae)


def run_train(args: argparse.Namespace) -> None:
    data = images_file(args.data, 2 * args.size)
    config = DiTConfig(
        **{name: getattr(args, name) for name in TRAIN_OPTIONS},
        compile=args.compile,
        seed=args.seed,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(args.data / "classes.json", args.out / "classes.json")
    vae = run_vae(args)
    latents = args.out / "latents.safetensors"
    encode_looks(data, AutoencoderKL.from_pretrained(vae), latents, args.size, say)
    say("training the DiT")
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    train_dit(
        latents,
        args.out / "dit",
        config,
        say,
        init=args.init,
        stop=stopping.is_set,
        look=lambda _: say(f"wrote {look(args.out, LOOKED_AT, say)}"),
    )


def run_look(args: argparse.Namespace) -> None:
    say(f"wrote {look(args.run, LOOKED_AT, say)}")


def run_pack(args: argparse.Namespace) -> None:
    say(f"wrote {pack(args.run, args.out)}")


def run_export(args: argparse.Namespace) -> None:
    config = read_config(args.run / "dit", DiTConfig)
    state = args.run / "dit" / "state.pt"
    names = read_classes(args.run)
    say(f"wrote {export_checkpoint(args.run / 'vae' / 'vae', state, args.out, config, names)}")


def run_evaluate(args: argparse.Namespace) -> None:
    config = EvaluationConfig(
        samples=args.samples,
        steps=args.steps,
        frechet_steps=args.frechet_steps,
        frechet_bfloat16=args.frechet_bfloat16,
        guidance_scale=args.guidance,
        seed=args.seed,
    )
    pipeline = load_pipeline(args.checkpoint)
    if args.sheet is not None:
        save_image(draw_sheet(pipeline, config, say), args.sheet)
        beside = args.sheet.with_name("all-classes.webp")
        save_image(draw_all_classes(pipeline, config, say), beside)
        say(f"wrote {args.sheet} and {beside.name}")
        return
    data = images_file(args.data, 2 * pipeline.vae.config.sample_size)
    out = args.out or args.checkpoint
    report = evaluate(args.checkpoint, data, args.run, out, config, say)
    for name, group in report["frechet"].items():
        if name != "reference_images":
            name = name.replace("_", " ")
            say(f"Frechet distance of {group['images']} {name}: {group['distance']:.2f}")
    found = report["right_label"]
    say(
        f"right label: {found['share']:.1%} of {found['samples']} samples "
        f"({found['ci95'][0]:.1%} to {found['ci95'][1]:.1%})"
    )
    say(f"VAE: {report['vae']['psnr_db']:.2f} dB PSNR")
    strongest = max(report["outliers"], key=lambda layer: report["outliers"][layer])
    say(f"strongest outlier: {report['outliers'][strongest]:.1f} x the median, in {strongest}")
    say(f"wrote {out}/evaluate.json, the contact sheets and the curves")


def run_card(args: argparse.Namespace) -> None:
    say(f"wrote {write_card(args.checkpoint)}")


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m training",
        description="Make the demo checkpoint: a small DiT that draws emoji, trained on a CPU.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    dit, vae, measure = DiTConfig(), VAEConfig(), EvaluationConfig()

    def add(name: str, run: object, text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text, formatter_class=Defaults)
        verb.set_defaults(run_verb=run)
        return verb

    verb = add("prepare", run_prepare, "Fetch the emoji with npm and write them as one file.")
    verb.add_argument("--out", type=Path, required=True, help="folder for the data")
    verb.add_argument("--size", type=positive, default=256, help="pixels per side")

    verb = add("train", run_train, "Train the VAE, then the DiT. Run it again to resume.")
    verb.add_argument("--data", type=Path, required=True, help="folder that `prepare` wrote")
    verb.add_argument("--out", type=Path, required=True, help="folder for the runs")
    verb.add_argument("--size", type=positive, default=128, help="pixels per side of the images")
    verb.add_argument("--vae", type=Path, help="take the VAE of this checkpoint")
    verb.add_argument("--vae-steps", type=positive, default=vae.steps, help="steps of the VAE")
    verb.add_argument("--init", type=Path, help="start a new run from this exported checkpoint")
    verb.add_argument("--seed", type=int, default=dit.seed, help="seed of both runs")
    for name, text in TRAIN_OPTIONS.items():
        default = getattr(dit, name)
        kind = positive if isinstance(default, int) else float
        verb.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help=text)
    verb.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=dit.compile,
        help="compile the DiT; needs a C++ compiler and minutes at each start",
    )

    verb = add("look", run_look, "Draw 48 classes and measure the outliers of a run as it is.")
    verb.add_argument("--run", type=Path, required=True, help="folder that `train` writes")

    verb = add("pack", run_pack, "Keep a run in little space, to go on with it on another machine.")
    verb.add_argument("--run", type=Path, required=True, help="folder that `train` writes")
    verb.add_argument("--out", type=Path, required=True, help="folder; copy it to resume it")

    verb = add("export", run_export, "Write the trained weights as a diffusers DiTPipeline folder.")
    verb.add_argument("--run", type=Path, required=True, help="folder that `train` wrote")
    verb.add_argument("--out", type=Path, required=True, help="checkpoint folder, e.g. assets/NAME")

    verb = add("evaluate", run_evaluate, "Measure a checkpoint and draw its contact sheet.")
    verb.add_argument("checkpoint", type=Path, help="checkpoint folder, e.g. assets/NAME")
    verb.add_argument("--data", type=Path, required=True, help="folder that `prepare` wrote")
    verb.add_argument("--run", type=Path, required=True, help="folder that `train` wrote")
    verb.add_argument("--out", type=Path, help="folder for the figures instead of the checkpoint's")
    verb.add_argument(
        "--samples", type=positive, default=measure.samples, help="images for the Frechet distance"
    )
    verb.add_argument(
        "--steps", type=positive, default=measure.steps, help="DDIM steps of the contact sheet"
    )
    verb.add_argument(
        "--frechet-steps",
        type=positive,
        default=measure.frechet_steps,
        help="DDIM steps of those images",
    )
    verb.add_argument(
        "--frechet-bfloat16",
        action=argparse.BooleanOptionalAction,
        default=measure.frechet_bfloat16,
        help="draw those images in bfloat16: twice as fast where the processor has it",
    )
    verb.add_argument(
        "--guidance",
        type=float,
        default=measure.guidance_scale,
        help="classifier-free guidance scale, on all latent channels",
    )
    verb.add_argument("--seed", type=int, default=measure.seed, help="seed of the first sample")
    verb.add_argument("--sheet", type=Path, help="only draw the contact sheet, into this PNG file")

    verb = add("card", run_card, "Write the model card README.md of an evaluated checkpoint.")
    verb.add_argument("checkpoint", type=Path, help="checkpoint folder, e.g. assets/NAME")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(arguments)
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        args.run_verb(args)
    except EXPECTED_ERRORS as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
