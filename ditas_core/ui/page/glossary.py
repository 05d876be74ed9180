"""The words of the field, explained where they stand: hover, touch or focus shows the meaning."""

from __future__ import annotations

import html
import itertools
import re

TERMS = {
    "channel": "One feature of a layer's input: one column of its activations.",
    "outlier": "A channel whose values are many times larger than those of the others.",
    "outlier strength": "Largest channel divided by the median channel of the same layer.",
    "activation": "What flows into a layer while the picture is made.",
    "weight": "The layer's stored numbers, which the activations are multiplied by.",
    "W4A8": "Weights in 4 bits, activations in 8 bits.",
    "rounding": "Replacing each number by the nearest of a few allowed levels.",
    "smoothing": "Dividing loud input channels by s and multiplying the weights that read them "
    "by s: the product stays, the rounding gets easier.",
    "α": "How much of the burden smoothing moves from activations (0) to weights (1).",
    "identity": "No smoothing at all: s = 1.",
    "temporal aggregation": "One smoothing factor for all denoising steps, from each channel's "
    "largest value over the whole run.",
    "grid search": "Trying 21 values of α per layer and keeping the one with the least error.",
    "low-rank branch": "A thin correction L R beside the rounded weight that repays most of what "
    "rounding lost.",
    "calibration": "One full-precision run that records what flows into each layer.",
    "guidance": "Running with and without the class and pushing towards the class; it doubles "
    "each step: a conditional and an unconditional half.",
    "denoising step": "One of the some fifty steps from noise to picture.",
    "latent": "The small compressed picture that the transformer works on.",
    "SQNR": "Signal to quantization noise ratio in dB: +6 dB halves the error.",
    "PSNR": "Peak signal to noise ratio of the pictures in dB, higher is closer.",
    "SSIM": "Structural similarity of the pictures; 1 is identical.",
    "kurtosis": "How heavy the tail is: 0 for a bell curve, large where a few channels stand out.",
    "convention": "Which numbers share one rounding scale.",
    "sensitivity": "How much the output suffers when one layer alone is rounded.",
    "full precision": "The model as it was trained, in 32-bit floating point.",
    "recipe": "Bits, α and rank of every layer: all that decides how a model is quantized.",
    "qkv": "The three products before attention; they share one input.",
    "proj": "The product after attention, which mixes its heads.",
    "q2": "In PixArt models: what each image token asks of the text.",
    "kv2": "In PixArt models: the two products that read the text's embedding.",
    "proj2": "In PixArt models: the product after attention to the text.",
    "fc1": "First half of the feed-forward part.",
    "fc2": "Second half of the feed-forward part.",
}
MARK = re.compile(r"\[\[(.+?)(?:\|(.+?))?\]\]")
NUMBERS = itertools.count()


def term(word: str, shown: str = "") -> str:
    """A word with its meaning as a tooltip that keyboard and screen reader reach too."""
    key = f"term-{next(NUMBERS)}"
    return (
        f'<span class="term" tabindex="0" role="note" aria-describedby="{key}">'
        f'{html.escape(shown or word)}<span id="{key}" role="tooltip">'
        f"{html.escape(TERMS[word])}</span></span>"
    )


def explained(text: str) -> str:
    """``[[word]]`` or ``[[word|as shown]]`` become terms; the rest is HTML and stays."""
    return MARK.sub(lambda found: term(found[1], found[2] or ""), text)


def lead(text: str) -> str:
    """A tab's first sentences."""
    return f'<p class="lead">{explained(text)}</p>'
