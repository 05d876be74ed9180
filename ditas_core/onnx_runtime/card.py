"""The model card of an exported folder: what it is, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checkpoints import Checkpoint
from ..models import null_class

CARD = """\
---
license: {licence}
library_name: onnxruntime
---
# {name}, as ONNX

{recipe}; {bits:.2f} bits per parameter, all {parameters} of the transformer counted. Written with
opset {opset}, onnx {onnx}, onnxruntime {onnxruntime}; every operator is a standard one. Checked by
`onnx.checker`, run once and compared with torch: {sqnr:.0f} dB.

```python
import numpy as np, onnxruntime as ort
latents = np.random.default_rng(0).standard_normal({latents}, dtype=np.float32)
inputs = {{"hidden_states": latents, "timestep": np.full(2, 999, np.float32), {conditions}}}
noise = ort.InferenceSession("transformer.onnx").run(None, inputs)[0][:, :{channels}]
image = ort.InferenceSession("vae_decoder.onnx").run(None, {{"latents": latents[:1]}})[0]
```

- `transformer.onnx`: one step of the noise prediction. The first half of the batch is conditional,
  the second is not (classifier-free guidance); any batch.
- `vae_decoder.onnx`: latents as sampling ends with them to images in [0, 1].
- `scheduler/`: the noise schedule, as diffusers reads it{names}.
{quantized}"""
QUANTIZED = """\
- Codes of up to 4 bits are packed two to a byte in the file and 8 bits in memory.
- On an x86 processor without VNNI set the session option `session.x64quantprecision` to "1": the
  runtime's kernel adds in 16 bits there and overflows.
"""


def card_of(checkpoint: Checkpoint, about: Mapping[str, Any]) -> str:
    """The card of what ``about`` tells."""
    null = null_class(checkpoint.transformer)
    if checkpoint.captions is None:
        conditions = f'"class_labels": np.array([0, {null}])'
        names = "; `classes.json`: what the class numbers mean; " + f"{null} is no class"
    else:
        conditions, names = given_captions(checkpoint), "; `captions.safetensors`: embedded prompts"
    return CARD.format(
        licence=checkpoint.licence,
        name=checkpoint.name,
        recipe=about["recipe"] or "Full precision",
        bits=about["bits"],
        parameters=about["parameters"],
        sqnr=about["sqnr_db"],
        latents=(2, *checkpoint.latent_shape),
        channels=checkpoint.latent_shape[0],
        conditions=conditions,
        names=names,
        quantized=QUANTIZED if about["recipe"] or about["modulation"] != "none" else "",
        **about["versions"],
    )


def given_captions(checkpoint: Checkpoint) -> str:
    """Arguments of a text-conditioned model, with an empty prompt of its length and width."""
    captions = checkpoint.captions
    assert captions is not None
    shape = (2, captions.tokens, captions.width)
    parts = [
        f'"encoder_hidden_states": np.zeros({shape}, np.float32)',
        f'"encoder_attention_mask": np.ones({shape[:2]}, np.float32)',
    ]
    if getattr(checkpoint.transformer, "use_additional_conditions", False):
        side = float(checkpoint.image_size)
        parts += [
            f'"resolution": np.full((2, 2), {side}, np.float32)',
            '"aspect_ratio": np.ones((2, 1), np.float32)',
        ]
    return ", ".join(parts)
