"""``python -m ditas_core.ui.stored.story FOLDER``: the shipped results as a static page.

It needs no server.

Writes ``index.html`` and the ``README.md`` of a static Space, both or none. Upload the folder to
a Space whose SDK is "static", or open the file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ...writing import check_new_folder, whole_folder
from ..serving.errors import FAILURES
from ..visitors.backend import Backend
from .story_page import Tale, story_html

MOST_BYTES = 5_000_000
BITS = "W4A8"
README = """\
---
title: DiTAS story
emoji: 🎚️
colorFrom: blue
colorTo: yellow
sdk: static
app_file: index.html
pinned: false
license: mit
short_description: Why Diffusion Transformers are hard to quantize
tags:
  - quantization
  - diffusion
  - DiT
  - post-training-quantization
---

# DiTAS story

{title}: what a few loud channels do to a quantized diffusion transformer, and what smoothing and a
low-rank branch repair. One file, `index.html`: no server, no script, no request to anywhere.

Made by `python -m ditas_core.ui.stored.story` from the results that the DiTAS explorer ships.
"""


def tale_of(backend: Backend) -> Tale:
    """The default checkpoint's shipped results.

    Raises:
        ValueError: there are none that belong to it.
    """
    if backend.shipped is None or backend.ladder is None:
        raise ValueError(
            f"story: expected shipped results with a ladder, found none {backend.notice}"
        )
    checkpoint, shipped = backend.checkpoint(backend.default), backend.shipped
    bits = BITS if BITS in shipped.presets else next(iter(shipped.presets))
    weights = sum(each.numel() for each in checkpoint.transformer.parameters())
    result = shipped.presets[bits].result
    known = result.settings
    facts = (
        ("checkpoint", checkpoint.name),
        ("licence", checkpoint.licence),
        ("size", f"{weights:,} parameters".replace(",", "\u202f")),
        ("pictures", f"{checkpoint.image_size} px, {len(checkpoint.class_names)} classes"),
        ("blocks and width", f"{len({g.block for g in checkpoint.groups})}, {checkpoint.width}"),
        ("convention of the comparison", shipped.convention),
        (
            "comparison",
            f"{len(result.labels)} samples, {known['steps']} {known['scheduler'].upper()} steps, "
            f"guidance {known['guidance']:g}, seed {known['seed']}",
        ),
        ("fingerprint (sha256 of the weights)", checkpoint.fingerprint),
        ("calibration (sha256)", shipped.calibration),
    )
    return Tale(checkpoint.name, bits, shipped, backend.ladder, facts)


def export_story(backend: Backend, target: Path) -> int:
    """Write the folder whole or not at all; the page's size in bytes.

    Raises:
        ValueError: nothing is shipped, or the page would be larger than ``MOST_BYTES``.
        OSError: ``target`` exists and is not an empty folder, or cannot be written.
    """
    check_new_folder(target)
    tale = tale_of(backend)
    page = story_html(tale).encode()
    if len(page) > MOST_BYTES:
        raise ValueError(f"story: expected at most {MOST_BYTES} bytes, got {len(page)}")
    with whole_folder(target) as work:
        (work / "index.html").write_bytes(page)
        (work / "README.md").write_text(README.format(title=tale.name), encoding="utf-8")
    return len(page)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ditas_core.ui.stored.story", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="new folder to write")
    options = parser.parse_args(arguments)
    try:
        size = export_story(Backend(), options.folder)
    except (*FAILURES, ValueError, OSError) as error:
        print(f"story: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.folder}: index.html, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
