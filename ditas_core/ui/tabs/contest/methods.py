"""What each method and number format does, in a sentence and a small picture."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import fields

from ....quantizer import levels
from ....specs import FORMATS, METHODS, Method, NumberFormat, Part, Rounding

MEANINGS = {
    ("smoothing", "fixed"): "loud inputs are divided and their weights multiplied, α = 0.5 for all",
    (
        "smoothing",
        "grid",
    ): "loud inputs are divided and their weights multiplied, each layer by its "
    "own α from a grid search",
    (
        "aggregation",
        "salience",
    ): "how loud is a mean over the steps, in which those weigh more whose loud inputs meet "
    "small weights",
    ("rotation", "hadamard"): "a rotation spreads each loud input over its block of inputs, and "
    "the weights are rotated against it",
    ("branch", "own"): "a low-rank branch, alternated with rounding, repays what it loses",
    ("branch", "first"): "a low-rank branch takes the largest part of the weight before it is "
    "rounded",
    ("clipping", "mse"): "a weight's range is clipped where that leaves less error",
    (
        "allocates",
        "True",
    ): "each layer has the bits that its errors' reach into the picture is worth",
    ("compensation", "gptq"): "later columns of the weight make up for each rounding error",
}
"""Of the parts that are known here; any other is told by its name."""
ORDER = ("smoothing", "aggregation", "rotation", "allocates", "branch", "clipping", "compensation")
"""Of what happens to a layer; kinds that are not known here come last."""
NEAREST = "every number goes to the nearest level"
BOX, GAP, LEFT, HEIGHT = 50, 8, 14, 66
LANES = {"x": 31, "W": 55}
TOP = 9
"""Of the branch."""
INPUT_BOXES = {"smoothing": "÷ s", "rotation": "rotate"}
WEIGHT_BOXES = {
    "smoothing": "× s",
    "rotation": "rotate",
    "allocates": "own bits",
    "clipping": "clip",
}
BRANCH_BOXES = {"own": "low rank", "first": "SVD first"}
ALPHAS = {"fixed": "α = 0.5", "grid": "best α"}


def parts_of(method: Method) -> list[tuple[str, str]]:
    """Kind and name of every part that does something, in the order in which they do it."""
    found: list[tuple[str, str]] = []
    for each in fields(method):
        if each.name != "title":
            found += acting(each.name, getattr(method, each.name))
    return sorted(found, key=lambda part: ORDER.index(part[0]) if part[0] in ORDER else len(ORDER))


def acting(kind: str, value: object) -> Iterable[tuple[str, str]]:
    """Of one field."""
    if isinstance(value, Rounding):
        for each in fields(value):
            yield from acting(each.name, getattr(value, each.name))
    elif isinstance(value, Part):
        if value.acts:
            yield kind, value.name
    elif isinstance(value, str):
        if value not in ("", "none"):
            yield kind, value
    elif value:
        yield kind, str(value)


def sentence(method: Method) -> str:
    """What becomes of a layer."""
    told = [MEANINGS.get(part, f"{part[0]}: {part[1]}") for part in parts_of(method)]
    return capitalized("; ".join(told) if told else NEAREST)


def capitalized(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def lanes(method: Method) -> tuple[list[str], list[str], str]:
    """The boxes that inputs go through, those of weights, and the branch's; "" without one."""
    parts = parts_of(method)
    kinds = dict(parts)
    inputs = [INPUT_BOXES[kind] for kind in kinds if kind in INPUT_BOXES]
    known = {*ORDER}
    weights = [WEIGHT_BOXES[kind] for kind in kinds if kind in WEIGHT_BOXES]
    weights += [name for kind, name in parts if kind not in known]
    branch = kinds.get("branch", "")
    rounding = kinds.get("compensation", "round")  # which is how the codes are chosen
    return [*inputs, "round"], [*weights, rounding], BRANCH_BOXES.get(branch, branch)


def box(x: int, y: int, name: str) -> str:
    return (
        f'<rect x="{x}" y="{y - 8}" width="{BOX}" height="16" rx="3"/>'
        f'<text x="{x + BOX // 2}" y="{y + 4}" class="in">{html.escape(name[:9])}</text>'
    )


def drawing(method: Method) -> str:
    """Inputs x and weights W, each through its boxes, meet in the product; a branch of what
    inputs are before they are rounded is added to it."""
    inputs, weights, branch = lanes(method)
    kinds = dict(parts_of(method))
    longest = max(len(inputs), len(weights), 3)
    product = LEFT + longest * (BOX + GAP) + 14
    width = product + (40 if branch else 20)
    middle = (LANES["x"] + LANES["W"]) // 2
    drawn = []
    for start, names in (("x", inputs), ("W", weights)):
        y, x = LANES[start], LEFT + GAP
        drawn.append(f'<text x="2" y="{y + 4}">{start}</text>')
        drawn.append(f'<path d="M{LEFT - 2} {y}H{x}" class="wire"/>')
        for name in names:
            drawn.append(box(x, y, name) + f'<path d="M{x + BOX} {y}h{GAP}" class="wire"/>')
            x += BOX + GAP
        drawn.append(f'<path d="M{x} {y}H{product - 10}L{product - 6} {middle}" class="wire"/>')
    if "smoothing" in kinds:
        said = kinds.get("aggregation", ALPHAS.get(kinds["smoothing"], ""))
        drawn.append(
            f'<text x="{LEFT + GAP + BOX // 2}" y="{TOP + 8}" class="in">{html.escape(said)}</text>'
        )
    drawn.append(f'<circle cx="{product}" cy="{middle}" r="8"/>')
    drawn.append(f'<text x="{product}" y="{middle + 4}" class="in">×</text>')
    if branch:
        before = LEFT + GAP + (len(inputs) - 1) * (BOX + GAP) - GAP // 2
        total = product + 24
        drawn.append(
            f'<path d="M{before} {LANES["x"]}V{TOP}h{GAP}M{before + GAP + BOX} {TOP}H{total}'
            f'V{middle - 8}" class="branch"/>{box(before + GAP, TOP, branch)}'
            f'<path d="M{product + 8} {middle}h8" class="wire"/>'
            f'<circle cx="{total}" cy="{middle}" r="8"/>'
            f'<text x="{total}" y="{middle + 4}" class="in">+</text>'
        )
    told = f"Inputs: {', '.join(inputs)}. Weights: {', '.join(weights)}."
    told += f" Beside them: {branch}." if branch else ""
    return picture(told, width, "".join(drawn))


def picture(label: str, width: int, drawn: str) -> str:
    return (
        f'<svg class="method" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" '
        f'role="img" aria-label="{html.escape(label)}">{drawn}</svg>'
    )


def format_sentence(each: NumberFormat) -> str:
    """How many levels, and what shares a scale."""
    values = levels(each.element)
    gaps = values.diff()
    spread = "evenly spaced" if float(gaps.max()) == float(gaps.min()) else "denser towards zero"
    text = f"{len(values)} levels, {spread}"
    if each.block:
        scale = {"e8m0": "a power of two", "e4m3": "an FP8 number"}.get(each.scale, each.scale)
        text += f"; {each.block} inputs share a scale, {scale}"
    if each.tensor_scale:
        text += ", and the tensor one more"
    return capitalized(f"{text}; {each.bits_with_scale:g} bits")


def format_drawing(each: NumberFormat) -> str:
    """A stroke per level, from the least to the largest."""
    values = levels(each.element).tolist()
    width, largest = 232, max(abs(value) for value in values)
    places = [width / 2 + (width / 2 - 4) * value / largest for value in values]
    strokes = "".join(f"M{x:.1f} 14V52" for x in places)
    drawn = f'<path d="M2 33H{width - 2}" class="wire"/><path d="{strokes}" class="levels"/>'
    return picture(f"{len(values)} levels from {values[0]:g} to {values[-1]:g}", width, drawn)


def card(name: str, title: str, text: str, drawn: str) -> str:
    return (
        f'<figure class="method-card">{drawn}<figcaption><b>{html.escape(name)}</b> '
        f"{html.escape(title)}{html.escape(text)}</figcaption></figure>"
    )


def cards() -> str:
    """Every method of the registry, then every number format."""
    methods = [card(n, "", sentence(each), drawing(each)) for n, each in METHODS.items()]
    formats = [
        card(name, f"{each.title}. ", format_sentence(each), format_drawing(each))
        for name, each in FORMATS.items()
    ]
    return (
        f'<div class="method-cards" role="group" aria-label="What each method does">'
        f"{''.join(methods)}</div><h4>Number formats</h4>"
        f'<div class="method-cards" role="group" aria-label="What each number format holds">'
        f"{''.join(formats)}</div>"
    )
