"""The guided tour's eight steps: where, what to do, what was seen, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step, Markdown with formulae.

    tab    where it happens
    action what the visitor does; a key of ``Page.actions``
    task   what to do and why
    seen   said once it is done
    twin   it is done on the model's twin with injected outliers, where one is shipped
    """

    title: str
    tab: str
    action: str
    task: str
    seen: str
    twin: bool = False


STEPS = (
    Step(
        "Turn the dial",
        "overview",
        "dial",
        "The three pictures come from the same noise. **Turn the dial**, with the mouse, the arrow "
        "keys or a swipe: with $b$ bits a number can only be one of $2^b$ levels, $Q(x) = \\Delta"
        "\\cdot\\mathrm{round}(x/\\Delta)$.",
        "You took bits away. The line below the dial says where plain rounding breaks and how far "
        "DiTAS holds; the other steps show why.",
    ),
    Step(
        "Find who shouts",
        "outliers",
        "layer",
        "Each cell of the map is one layer at one step: its loudest channel divided by its "
        "median one. **Click a bright cell, or select a row of the table.**",
        "You opened a layer: a few columns are bright at every step. One rounding scale "
        "$\\Delta$ has to span them all, so the quiet channels share few levels.",
        twin=True,
    ),
    Step(
        "Look at one channel",
        "outliers",
        "channel",
        "**Choose a channel** from the list, or click a bright column of the heatmap.",
        "You see its values and, as thin lines, the only levels rounding leaves. After smoothing "
        "the same channel spreads over fewer of the others' levels.",
        twin=True,
    ),
    Step(
        "Turn the knob",
        "lab",
        "alpha",
        "Smoothing divides channel $c$ by $s_c = \\max|X_c|^{\\alpha} / \\max|W_c|^{1-\\alpha}$ "
        "and multiplies the weights by it. **Move α** and watch both errors.",
        "You moved the burden: a larger α helps the activations and hurts the weights. The best "
        "α lies where the sum is lowest, and differs from layer to layer.",
        twin=True,
    ),
    Step(
        "Let it search",
        "search",
        "search",
        "The grid search tries 21 values of α in every layer. **Press Start**; it takes some "
        "twenty seconds, and Cancel keeps what is done.",
        "You have a recipe: an α for every layer, found without any training data.",
        twin=True,
    ),
    Step(
        "Walk through the steps",
        "compare",
        "step",
        "Two runs from the same noise drift apart step by step. **Move the denoising step** below "
        "the pictures.",
        "You watched the paths part: the curve says how far, in dB, at every step.",
    ),
    Step(
        "Make it worse, on purpose",
        "injector",
        "inject",
        "Large models grow far louder channels than this one. **Drag the strength**: the "
        "full-precision picture does not change, because the next weights are made smaller by "
        "the same factor.",
        "You broke plain rounding without touching the function, and DiTAS repaired it.",
    ),
    Step(
        "Can you tell?",
        "blind",
        "blind",
        "One of two pictures is quantized. **Guess which.**",
        "You took the test. The score says how far from pure guessing you are. The Take away tab "
        "has the recipe, a report and the code of everything you saw.",
    ),
)
