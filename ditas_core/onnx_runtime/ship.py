"""``python -m ditas_core.onnx_runtime.ship assets/NAME ...``: checkpoints' graphs for the package.

Traced anew, without weights, and put into ``graphs``, so that nobody else waits for that; those of
other checkpoints leave.
"""

from __future__ import annotations

import argparse
import lzma
from collections.abc import Sequence
from pathlib import Path

from ..checkpoints import Checkpoint, load_checkpoint
from ..writing import whole_file
from .trace import SHIPPED, graph_key, trace


def ship(checkpoint: Checkpoint, folder: Path = SHIPPED) -> Path:
    """The file; other configurations' stay."""
    path = folder / f"{graph_key(checkpoint)}.onnx.xz"
    packed = lzma.compress(trace(checkpoint).model.SerializeToString(deterministic=True))
    with whole_file(path) as part:
        part.write_bytes(packed)
    path.chmod(0o644)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ditas_core.onnx_runtime.ship", description=__doc__
    )
    parser.add_argument("checkpoint", nargs="+", help="a local folder, for example assets/NAME")
    paths = [ship(load_checkpoint(each)) for each in parser.parse_args(arguments).checkpoint]
    for path in set(SHIPPED.iterdir()) - set(paths):
        path.unlink()
    for path in paths:
        print(f"wrote {path.name}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
