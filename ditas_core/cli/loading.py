"""How the verbs load what they were given: a folder, a hub id or an original weight file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..specs import PRECISIONS

# torch and diffusers take seconds to import, and the parser needs this module
if TYPE_CHECKING:
    from ..checkpoints import Checkpoint, Progress
    from ..specs import Recipe

CHECKPOINT = "folder, hub id (REPO@REVISION; REPO if known) or original .pt / .safetensors"


def add_loading(parser: argparse.ArgumentParser, *names: str) -> None:
    """``--like``, ``--captions`` and ``--weights``, which may have other ``names``, too."""
    parser.add_argument(
        "--like",
        default="",
        help="for a weight file: folder or hub id that lends the autoencoder and the schedule; "
        "default: sd-vae-ft-ema from the hub's cache",
    )
    parser.add_argument(
        "--captions",
        type=Path,
        help="for a text-conditioned model: file of embedded captions, its classes; default: "
        "captions.safetensors in its folder",
    )
    parser.add_argument(
        "--weights",
        *names,
        dest="weights",
        choices=PRECISIONS,
        default="float32",
        help="precision of the transformer's weights in memory; bfloat16 takes half of it, "
        "quantized copies are float32 (%(default)s)",
    )


@contextmanager
def fetching() -> Iterator[Callable[[Progress], None]]:
    """A callback that shows downloads under a bar on stderr."""
    from .progress import bar

    with ExitStack() as stack:
        shown: dict[str, Any] = {"total": None}

        def tell(step: Progress) -> None:
            if shown["total"] != step.total:  # a download, then its conversion
                stack.close()
                progress = stack.enter_context(bar("hub", step.total))
                shown.update(bar=progress, total=step.total, done=0)
            shown["bar"].update(max(0, step.done - shown["done"]))
            shown["done"] = max(shown["done"], step.done)

        yield tell


def load(args: argparse.Namespace) -> Checkpoint:
    """The full-precision checkpoint that the arguments name.

    Raises:
        CheckpointError: nothing that can be loaded, or a quantized folder.
    """
    import torch

    from ..artifact import is_quantized
    from ..checkpoints import CheckpointError, load_checkpoint

    if is_quantized(Path(args.checkpoint)):
        raise CheckpointError(
            f"{Path(args.checkpoint).name}: expected a model in full precision, got a quantized "
            f"folder; {args.verb} starts from the one it was made of"
        )
    half = args.weights == "bfloat16"
    with fetching() as progress:
        return load_checkpoint(
            args.checkpoint,
            like=args.like or None,
            dtype=torch.bfloat16 if half else torch.float32,
            captions=args.captions,
            progress=progress,
        )


def load_any(
    args: argparse.Namespace, backend: str = "simulated"
) -> tuple[Checkpoint, Recipe | None]:
    """A quantized folder, or a checkpoint.

    Raises:
        CheckpointError: neither; or options of a quantized folder that it answers itself.
    """
    from ..artifact import is_quantized
    from ..checkpoints import CheckpointError
    from ..onnx_runtime import load_on

    if is_quantized(Path(args.checkpoint)):
        if args.like or args.captions:
            raise CheckpointError(
                "--like, --captions: expected neither with a quantized folder, which has its own"
            )
        return load_on(Path(args.checkpoint), backend)
    if backend != "simulated":
        raise CheckpointError(
            f"--backend: expected a quantized folder to run as {backend}, got a model in "
            "full precision; quantize it first"
        )
    return load(args), None
