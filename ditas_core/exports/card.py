"""The model card of an exported folder: what it is, what is missing, what it costs, how to load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checkpoints import Checkpoint
from ..models import KINDS
from .folder import pipeline_name

CARD = """\
---
license: {licence}
library_name: diffusers
tags:
- quantization
- {tag}
---
# {name}, {what}

{about}

```python
{code}
```

{demands}

| | |
|---|---|
{rows}

Made with DiTAS explorer. {files}
"""
WHAT = {
    "smoothed": "smoothed",
    "injected": "with injected outliers",
    "torchao": "quantized for torchao",
    "sdnq": "quantized for sdnq",
}
ABOUT = {
    "smoothed": (
        "Outliers in the channels of its activations are smoothed: what a layer divides is "
        "multiplied in the next. It computes the same function, so that any quantizer may round "
        "it, with less error where outliers cost the most. Needs diffusers only."
    ),
    "injected": (
        "Its outliers are *injected*, by hand: channels of its activations are made larger, the "
        "weights behind them smaller. It computes the same function as the base model, and shows "
        "what rounding does to outliers such as large models grow. Needs diffusers only."
    ),
    "torchao": "Needs diffusers and torchao ({version}): `pip install diffusers torchao`.",
    "sdnq": "Needs diffusers and sdnq ({version}): `pip install diffusers sdnq`.",
}
DEMANDS = {
    "mit": "keep the base model's copyright and licence notice with copies.",
    "apache-2.0": "keep the base model's notices with copies, and say what was changed.",
    "cc-by-nc-4.0": "no commercial use; name the authors of the base model and say that it was "
    "changed, as this card does.",
    "openrail++": "the base model's use restrictions hold for this one, and have to be passed on.",
}
NO_DEMANDS = "see what the base model's licence asks for before you share this one."
CLASSES = """\
import torch
from diffusers import {pipeline}
pipeline = {pipeline}.from_pretrained("FOLDER", dtype=torch.float32)
images = pipeline([0, 1], guidance_scale={guidance:g}, num_inference_steps=20).images
images[0].save("0.png")"""
TEXTS = """\
import torch
from diffusers import {cls}
folder = "FOLDER"  # the text encoder is not part of it: put the transformer into its own pipeline
transformer = {cls}.from_pretrained(folder, subfolder="transformer", dtype=torch.float32)
# pipeline = {pipeline}.from_pretrained(BASE, transformer=transformer)"""
LEFT = {"branch": "low-rank branches", "divisor": "divided inputs"}


def card_of(checkpoint: Checkpoint, found: Mapping[str, Any], version: str) -> str:
    """The card of what ``found``, the fields of a ``StockExport``, tells."""
    form, licence = found["form"], checkpoint.licence or "unknown"
    pipeline = pipeline_name(checkpoint)
    code = (CLASSES if checkpoint.captions is None else TEXTS).format(
        pipeline=pipeline,
        guidance=checkpoint.family.guidance_scale,
        cls=checkpoint.family.cls.__name__,
    )
    lower = licence.lower()
    return CARD.format(
        licence=lower if lower != "unknown" else "other",
        tag={"smoothed": "smoothing", "injected": "outliers"}.get(form, form),
        name=checkpoint.name,
        what=WHAT[form],
        about=ABOUT[form].format(version=version),
        code=code,
        demands=f"Licence of the base model: {licence}; {DEMANDS.get(lower, NO_DEMANDS)}",
        files="`export.json` has the figures."
        if form == "injected"
        else "`recipe.json` is what is stored, `export.json` the figures.",
        rows="\n".join(f"| {key} | {value} |" for key, value in rows_of(found)),
    )


def rows_of(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The table: recipe, what is missing, figures."""
    rows = [("outliers" if found["form"] == "injected" else "recipe", found["recipe"])]
    if found["stored"] != found["recipe"]:
        rows.append(("as stored", found["stored"]))
    for word, names in found["left_out"].items():
        kinds = dict.fromkeys(name.split(".")[-1] for name in names)
        listed = ", ".join(kind for kind in KINDS if kind in kinds)
        rows.append(("left out", f"{LEFT[word]} of {listed}: {len(names)} groups"))
    if found["relative_difference"] is not None:
        rows.append(
            ("relative difference", f"{found['relative_difference']:.1e}, single precision")
        )
    rows.append(("size", f"{found['bits']:.2f} bits per parameter, all {found['parameters']}"))
    if found["as_exported_db"] is not None:
        of = f"{found['samples']} samples, {found['steps']} DDIM steps"
        rows += [
            ("latent SQNR, as exported", f"{spread(found['as_exported_db'])}, {of}"),
            ("latent SQNR, the recipe itself", spread(found["as_given_db"])),
        ]
    return rows


def spread(value: Mapping[str, Any]) -> str:
    """A mean with the half width of its 95 % interval."""
    if value["ci95"] is None:
        return f"{value['mean']:.1f} dB"
    return f"{value['mean']:.1f} ± {value['ci95']:.1f} dB"
