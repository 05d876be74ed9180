"""What each method of the registry does, in a sentence and a small picture of its parts."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import fields

from ....specs import METHODS, Method, Part, Rounding

MEANINGS = {
    ("smoothing", "fixed"): "loud inputs are divided and their weights multiplied, α = 0.5 for all",
    (
        "smoothing",
        "grid",
    ): "loud inputs are divided and their weights multiplied, each layer by its "
    "own α from a grid search",
    ("branch", "own"): "a low-rank branch, alternated with rounding, repays what it loses",
    ("branch", "first"): "a low-rank branch takes the largest part of the weight before it is "
    "rounded",
    ("clipping", "mse"): "a weight's range is clipped where that leaves less error",
    ("compensation", "gptq"): "later columns of the weight make up for each rounding error",
}
"""Of the parts that are known here; any other is told by its name."""
NEAREST = "every number goes to the nearest level"
WIDTH, HEIGHT, BOX, ROW = 232, 66, 46, 20
INPUTS, WEIGHTS = ("smoothing", "rotation"), ("smoothing", "rotation", "clipping", "compensation")


def parts_of(method: Method) -> list[tuple[str, str]]:
    """Kind and name of every part that does something, in the registry's own order."""
    found: list[tuple[str, str]] = []
    for each in fields(method):
        value = getattr(method, each.name)
        if each.name != "title":
            found += acting(each.name, value)
    return found


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
    text = "; ".join(told) if told else NEAREST
    return f"{text[0].upper()}{text[1:]}."


def boxes(names: list[str], y: int, start: str) -> str:
    """One lane: what enters, then a box per part, then rounding."""
    x, drawn = 14, [f'<text x="4" y="{y + 4}">{start}</text>']
    for name in names:
        drawn.append(
            f'<path d="M{x} {y}h8" class="wire"/><rect x="{x + 8}" y="{y - 8}" width="{BOX}" '
            f'height="16" rx="3"/><text x="{x + 8 + BOX / 2}" y="{y + 3}" class="in">'
            f"{html.escape(name[:9])}</text>"
        )
        x += BOX + 8
    return "".join(drawn) + f'<path d="M{x} {y}H{WIDTH - 26}" class="wire"/>'


def drawing(method: Method) -> str:
    """Inputs above, weights below, the branch in between; they meet in the product."""
    parts = parts_of(method)
    kinds = dict(parts)
    above = [title(kind, name) for kind, name in parts if kind in INPUTS]
    below = [title(kind, name) for kind, name in parts if kind in WEIGHTS]
    below += [title(kind, name) for kind, name in parts if kind not in {*WEIGHTS, "branch"}]
    branch = (
        f'<path d="M22 {HEIGHT / 2}H{WIDTH - 26}" class="branch"/>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT / 2 - 3}" class="in">low rank</text>'
        if "branch" in kinds
        else ""
    )
    return (
        f'<svg class="method" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{html.escape(", ".join(above + below) or "rounding alone")}">'
        f"{boxes([*above, 'round'], 13, 'x')}{boxes([*below[:3], 'round'], HEIGHT - 13, 'W')}"
        f'{branch}<circle cx="{WIDTH - 16}" cy="{HEIGHT / 2}" r="9"/>'
        f'<text x="{WIDTH - 16}" y="{HEIGHT / 2 + 4}" class="in">×</text>'
        f'<path d="M{WIDTH - 26} 13L{WIDTH - 21} {HEIGHT / 2 - 8}M{WIDTH - 26} {HEIGHT - 13}'
        f'L{WIDTH - 21} {HEIGHT / 2 + 8}" class="wire"/></svg>'
    )


def title(kind: str, name: str) -> str:
    """A few letters for a box."""
    return {"smoothing": "smooth", "rotation": "rotate", "clipping": "clip"}.get(kind, name)


def cards() -> str:
    """Every method of the registry."""
    made = "".join(
        f'<figure class="method-card">{drawing(method)}<figcaption><b>{html.escape(name)}</b> '
        f"{html.escape(sentence(method))}</figcaption></figure>"
        for name, method in METHODS.items()
    )
    return f'<div class="method-cards" role="group" aria-label="What each method does">{made}</div>'
