"""The page's settings as Python that gives the same recipe, images and metrics.

Texts of visitors go in through ``repr`` only, so they cannot become code.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from ....specs import BitWidths, LayerRecipe, LowRankSpec, Part, Recipe
from ...stored.results import PLAIN, SEARCHED, SMOOTHED
from .gather import Taken

METHOD_OF = {PLAIN: "plain", SMOOTHED: "smoothing", SEARCHED: "search"}
SHOWN = {"sampling", "samples", "seed", "steps", "guidance_scale", "scheduler", "rank", "weighting"}
WIDTH = 96
OPENING = ("from ditas_core.threads import share_cores", "", "share_cores()  # before torch", "")


def quoted(text: object) -> str:
    """A text as a Python literal in double quotes."""
    code = repr(str(text))
    if code.startswith("'") and '"' not in code and "\\'" not in code:
        return f'"{code[1:-1]}"'
    return code


def literal(value: object) -> str:
    return quoted(value) if isinstance(value, str) else repr(value)


def arguments(settings: Any) -> list[str]:
    """A frozen dataclass's fields as code: what decides most, and what is not at its default."""
    plain = type(settings)()
    parts = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in SHOWN or value != getattr(plain, field.name):
            nested = hasattr(value, "__dataclass_fields__")
            parts.append(f"{field.name}={call(value) if nested else literal(value)}")
    return parts


def call(settings: Any) -> str:
    return f"{type(settings).__name__}({', '.join(arguments(settings))})"


def branch(low_rank: LowRankSpec) -> str:
    return call(low_rank) if low_rank.rank else "LowRankSpec()"


def wrapped(parts: Iterable[str], indent: str) -> str:
    """Parts joined by commas, in lines that are not too long; parts are never broken."""
    lines, line = [], ""
    for part in parts:
        if line and len(indent) + len(line) + len(part) + 2 > WIDTH:
            lines.append(line)
            line = ""
        line += f"{part}, " if not line or line.endswith(" ") else f" {part}, "
    lines.append(line)
    return "\n".join(indent + text.rstrip() for text in lines if text)


def layers_code(recipe: Recipe) -> str:
    """The layers' settings: what most share once, then each layer's alpha, then exceptions."""
    kinds = Counter(map(kind_of, recipe.layers.values()))
    kind, _ = kinds.most_common(1)[0]
    bits, low_rank, more = kind
    alphas = {layer.alpha for layer in recipe.layers.values()}
    if len(alphas) == 1:
        listed = f"dict.fromkeys(GROUPS, {alphas.pop()!r})"
    else:
        items = (f"{quoted(name)}: {layer.alpha!r}" for name, layer in recipe.layers.items())
        listed = "{\n" + wrapped(items, " " * 8) + "\n    }"
    text = f"layers({quoted(bits)}, {branch(low_rank)}, {listed}{more})"
    odd = {n: v for n, v in recipe.layers.items() if kind_of(v) != kind}
    if not odd:
        return text
    lines = "\n".join(
        f"        {quoted(name)}: {layer_code(layer)}," for name, layer in odd.items()
    )
    return f"{text} | {{\n{lines}\n    }}"


def layer_code(layer: LayerRecipe) -> str:
    bits = f"BitWidths.parse({quoted(layer.bits)})"
    more = parts_code(layer)
    return f"LayerRecipe({bits}, {layer.alpha!r}, {branch(layer.low_rank)}{more})"


def kind_of(layer: LayerRecipe) -> tuple[BitWidths, LowRankSpec, str]:
    return layer.bits, layer.low_rank, parts_code(layer)


def parts_code(layer: LayerRecipe) -> str:
    """The last arguments, of the parts that act."""

    def of(part: Part) -> str:
        settings = [f"{name}={literal(value)}" for name, value in part.settings]
        return f"Part.of({', '.join([quoted(part.name), *settings])})"

    rounding = layer.rounding
    named = {"clipping": rounding.clipping, "compensation": rounding.compensation}
    listed = ", ".join(f"{kind}={of(part)}" for kind, part in named.items() if part.acts)
    text = f", rounding=Rounding({listed})" if listed else ""
    before = {"rotation": layer.rotation, "aggregation": layer.aggregation}
    return text + "".join(f", {kind}={of(part)}" for kind, part in before.items() if part.acts)


def load_code(taken: Taken) -> list[str]:
    """The checkpoint and its calibration."""
    source, strength = taken.source, taken.choice.model.strength
    note = f"  # {source.note}" if source.note else ""
    more = f", like={quoted(source.like)}" if source.like else ""
    more += ", dtype=torch.bfloat16" if source.half else ""
    lines = [f"checkpoint = load_checkpoint({quoted(source.place)}{more}){note}"]
    measured = [
        "# One full-precision run that records the inputs of every layer.",
        f"run = CalibrationSpec(\n{wrapped(arguments(taken.calibration), '    ')}\n)",
        "calibration = calibrate(checkpoint, run)",
    ]
    if not taken.choice.model.injected:
        if source.fingerprint:
            lines.append(
                f"assert checkpoint.fingerprint.startswith({quoted(source.fingerprint[:16])}), "
                '"expected the same weights"'
            )
        return [*lines, "", *measured]
    return [
        *lines,
        "",
        *measured,
        "",
        "# Outliers by a rescaling that does not change the function in full precision.",
        f"factors = injected_factors(checkpoint.transformer, {strength!r}, {taken.channels}, 0)",
        "checkpoint = replace(",
        "    checkpoint,",
        f"    transformer=inject_outliers(checkpoint.transformer, {strength!r}, {taken.channels}),",
        ")",
        "calibration = rescaled_calibration(calibration, factors, checkpoint.fingerprint)",
    ]


HELPERS = """
def layers(bits, branch, alphas, **parts):
    widths = BitWidths.parse(bits)
    return {name: LayerRecipe(widths, alpha, branch, **parts) for name, alpha in alphas.items()}


def recipe(name, convention, layers, **more):
    return Recipe(name, convention, checkpoint.fingerprint, layers, calibration.sha256, **more)


# The alpha of every layer; None leaves it unsmoothed.
GROUPS = [group.name for group in checkpoint.groups]
RECIPES = {}
"""


def recipe_code(taken: Taken) -> list[str]:
    """The recipes, or the search where there is none yet."""
    lines = [HELPERS.strip("\n")] if taken.recipes else ["RECIPES = {}"]
    lines[0] = "\n" + lines[0] if taken.recipes else lines[0]
    for name, recipe in taken.recipes.items():
        start = f"RECIPES[{quoted(name)}] = recipe("
        settings = f"{quoted(recipe.name)}, {quoted(recipe.convention)}"
        lines += [start, f"    {settings},", f"    {layers_code(recipe)},"]
        if recipe.modulation != "none":
            lines.append(f"    modulation={quoted(recipe.modulation)},")
        if recipe.objective != "output":
            lines.append(f"    objective={quoted(recipe.objective)},")
        lines.append(")")
    if taken.recipe is None:
        method = METHOD_OF.get(taken.name, "ditas")
        spec = f"BitWidths.parse({quoted(taken.choice.bits)}), {quoted(taken.choice.convention)}"
        lines += [
            "# Not searched on the page yet.",
            f"spec = SearchSpec({spec}, {quoted(method)})",
            f"RECIPES[{quoted(taken.name)}] = search(checkpoint, calibration, spec)",
        ]
    return lines


def compare_code(taken: Taken) -> list[str]:
    """The paired runs; without a comparison on the page, the conversion only."""
    quantize = "    quantized = quantize_transformer(checkpoint, recipe, calibration)"
    loop = "for name, recipe in RECIPES.items():"
    result = taken.result
    if result is None:
        return [loop, quantize, '    print(f"{name}: {summarize(recipe)}")']
    known = result.settings
    settings = {
        "steps": known.get("steps", len(result.timesteps)),
        "guidance_scale": float(known.get("guidance", 1.5)),
        "scheduler": known.get("scheduler", "ddim"),
    }
    listed = ", ".join(f"{name}={literal(value)}" for name, value in settings.items())
    names = wrapped((quoted(label) for label in result.labels), "    ")
    return [
        f"CLASSES = [\n{names}\n]",
        "labels = torch.tensor([checkpoint.class_index(name) for name in CLASSES])",
        f"sampling = SamplingSpec({listed})",
        "",
        "",
        "def sample(transformer):",
        f"    return run_trajectory(checkpoint, transformer, labels, sampling, "
        f"seed={known.get('seed', 0)!r})",
        "",
        "",
        "reference = sample(checkpoint.transformer)",
        loop,
        quantize,
        "    found = compare(reference, sample(quantized)).summary()",
        '    line = ", ".join(f"{metric} {value.mean:.3f}" for metric, value in found.items())',
        '    print(f"{name}: {line}, n = {len(labels)}")',
    ]


def import_lines(body: str) -> list[str]:
    """Only what the code uses."""
    rooms = {
        "calibration": ["calibrate"],
        "checkpoints": ["load_checkpoint"],
        "comparison": ["compare", "run_trajectory"],
        "conversion": ["inject_outliers", "injected_factors", "quantize_transformer"],
        "evaluation.outliers": ["rescaled_calibration"],
        "search": ["SearchSpec", "search"],
        "specs": ["BitWidths", "CalibrationSpec", "LayerRecipe", "LowRankSpec", "Part",
                  "Recipe", "Rounding", "SamplingSpec", "summarize"],
    }  # fmt: skip
    lines = ["from dataclasses import replace", ""] if "replace(" in body else []
    lines += ["import torch", ""] if "torch." in body else []
    for room, names in rooms.items():
        used = [name for name in names if re.search(rf"\b{name}(\.parse|\.of)?\(", body)]
        if not used:
            continue
        line = f"from ditas_core.{room} import {', '.join(used)}"
        if len(line) > WIDTH:
            line = f"from ditas_core.{room} import (\n{wrapped(used, '    ')}\n)"
        lines.append(line)
    return lines


def snippet(taken: Taken) -> str:
    """The whole program; run in the project's folder it prints the metrics on view."""
    title = " ".join(taken.choice.title.split())
    head = [
        f"{title}.",
        "As the DiTAS explorer shows it; run it in the project's folder.",
        "Simulated quantization: values are rounded to the integer grid and computed in floating "
        "point.",
    ]
    docstring = "\n".join(line for part in head for line in textwrap.wrap(part, WIDTH))
    docstring = docstring.replace("\\", "/").replace('"""', "'''")
    body = "\n".join([*load_code(taken), "", *recipe_code(taken), "", *compare_code(taken)])
    opening = [f'"""{docstring}"""', "", *OPENING, *import_lines(body)]
    return "\n".join([*opening, "", body, ""])
