"""A run made small enough to be kept with the code: what another machine needs to go on with it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch

from ditas_core.writing import whole_file, whole_folder

KEPT = ("classes.json", "dit/config.json", "dit/log.jsonl", "looks/outliers.jsonl")
SHARED = re.compile(r"transformer_blocks\.\d+\.(norm1\.emb\..*)")


def pack(run: Path, out: Path) -> Path:
    """Write ``out``, a run of its averaged weights in half precision, an eighth of its size.

    Copied to where runs lie, it is resumed like any other; the optimiser's moments begin anew.
    ``out`` is replaced. The autoencoder is left out: ``train --vae`` makes it again.

    Raises:
        FileNotFoundError: no run.
        ValueError: ``out`` is the run or holds it, and would replace it.
    """
    path = run / "dit" / "state.pt"
    if path.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"expected a folder apart from the run {run}, got {out}; name another")
    if not path.is_file():
        raise FileNotFoundError(f"expected a training run, found no {path}")
    state = torch.load(path, weights_only=True, map_location="cpu")
    halves: dict[str, torch.Tensor] = {}
    for name, value in state["ema"].items():
        # the embedders that all blocks share are one tensor, which is written once
        shared = SHARED.fullmatch(name)
        halves[name] = (
            halves[f"transformer_blocks.0.{shared[1]}"]
            if (shared and not name.startswith("transformer_blocks.0."))
            else value.half()
        )
    small = {name: state[name] for name in ("step", "seconds", "generator")} | {"ema": halves}
    with whole_folder(out, replaces=True) as part:
        for name in KEPT:
            if (run / name).is_file():
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run / name, part / name)
        with whole_file(part / "dit" / "state.pt") as file:
            torch.save(small, file)
    return out
