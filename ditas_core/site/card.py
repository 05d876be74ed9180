"""The front matter and the words of a site's README: what a static Space reads first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..checkpoints import Checkpoint

CARD = """\
---
title: Draw on your device
emoji: 🎚️
colorFrom: blue
colorTo: yellow
sdk: static
app_file: index.html
pinned: false
license: {licence}
short_description: A 4-bit diffusion transformer in your browser
custom_headers:
  cross-origin-embedder-policy: require-corp
  cross-origin-opener-policy: same-origin
  cross-origin-resource-policy: same-origin
tags:
  - quantization
  - diffusion
  - DiT
  - post-training-quantization
  - onnx
---

# Draw on your device

A page that draws with {name} in the visitor's own browser: in full precision and quantized with
DiTAS, from the same noise. No server computes, nothing is asked of another host, and once loaded it
works with the network off.

| model | to download |
|---|---|
{models}
| decoder ({bits} bits, {psnr:.0f} dB PSNR) | {decoder:.1f} MB |

Any static host serves this folder. The headers above let the runtime use several threads; without
them it uses one. `runtime/` holds {runtime} {version} (MIT licence, Microsoft).

Licence of the model: {terms}.
"""


def readme(checkpoint: Checkpoint, manifest: Mapping[str, Any]) -> str:
    """README.md of the folder that ``manifest`` describes."""
    decoder, runtime = manifest["decoder"], manifest["runtime"]
    rows = [
        f"| {' '.join(filter(None, (entry['bits'], entry['title'])))} | "
        f"{entry['bytes'] / 1e6:.1f} MB |"
        for entry in manifest["models"]
    ]
    licence = checkpoint.licence or "other"
    return CARD.format(
        licence=json.dumps(licence),
        terms=licence,
        name=checkpoint.name,
        models="\n".join(rows),
        bits=decoder["bits"],
        psnr=decoder["psnr"],
        decoder=decoder["bytes"] / 1e6,
        runtime=runtime["name"],
        version=runtime["version"],
    )
