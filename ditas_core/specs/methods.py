"""Methods by name: the one place where each is registered, as a composition of parts.

A part is a module of the room ``methods``, ``methods/KIND/NAME.py``, called as recipes call it,
and of one of the kinds aggregation, rotation, clipping and compensation. A new one is that module
and a line of ``METHODS`` that names it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from .checks import SpecError, brief, check_choice, check_number, check_text

Setting = bool | int | float | str
MOST_SETTINGS = 16
LONGEST = 60
SMOOTHINGS = ("none", "fixed", "grid")
BRANCHES = ("none", "own", "first")


@dataclass(frozen=True)
class Part:
    """A part by its name, with all its settings: pairs of a name and a value, sorted by name.

    "none" is the part that does nothing.
    """

    name: str = "none"
    settings: tuple[tuple[str, Setting], ...] = ()

    def __post_init__(self) -> None:
        check_text("part", self.name, LONGEST)
        if len(self.settings) > MOST_SETTINGS or list(self.settings) != sorted(self.settings):
            raise SpecError(f"settings: expected at most {MOST_SETTINGS} in order of their names")
        for name, value in self.settings:
            check_text("settings", name, LONGEST)
            if not name.isidentifier():
                raise SpecError(f"settings: expected names of letters, got {brief(name)}")
            if isinstance(value, str):
                check_text(name, value, LONGEST)
            elif not isinstance(value, bool):
                check_number(name, value, float("-inf"), float("inf"))

    @staticmethod
    def of(name: str, **settings: Setting) -> Part:
        """``Part.of("gptq", damping=0.01)``."""
        return Part(name, tuple(sorted(settings.items())))

    @property
    def acts(self) -> bool:
        return self.name != "none"

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"name": self.name, **dict(self.settings)}

    @staticmethod
    def of_document(where: str, kind: str, document: Any) -> Part:
        """Inverse of ``document``.

        Raises:
            SpecError: anything else, or a part that no method has.
        """
        if not isinstance(document, dict):
            raise SpecError(f"{where}: {kind}: expected an object, got {brief(document)}")
        settings = {name: value for name, value in document.items() if name != "name"}
        check_choice(f"{where}: {kind}", document.get("name"), parts(kind))
        return Part.of(document["name"], **settings)


NONE = Part()


@dataclass(frozen=True)
class Rounding:
    """How a weight becomes codes.

    clipping      which range they cover; without one, all of the weight. It sees the weight only
    compensation  which codes within it, seeing the second moment of the input; without one,
                  the nearest
    """

    clipping: Part = NONE
    compensation: Part = NONE

    @property
    def acts(self) -> bool:
        """Whether other codes than the nearest of the whole range are chosen."""
        return self.clipping.acts or self.compensation.acts

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parts that act."""
        return tuple(part.name for part in (self.clipping, self.compensation) if part.acts)

    @property
    def reads_inputs(self) -> bool:
        return self.compensation.acts

    @property
    def uncompensated(self) -> Rounding:
        """The same range, the nearest codes."""
        return Rounding(self.clipping)

    def document(self) -> dict[str, Any]:
        """As JSON has it: the parts that act."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: part.document() for name, part in found.items() if part.acts}

    @staticmethod
    def of_document(where: str, document: Any) -> Rounding:
        """Inverse of ``document``.

        Raises:
            SpecError: anything else, or a part that no method has.
        """
        if not isinstance(document, dict) or not set(document) <= {
            f.name for f in fields(Rounding)
        }:
            raise SpecError(
                f"{where}: expected clipping, compensation or both, got {brief(document)}"
            )
        return Rounding(**{k: Part.of_document(where, k, part) for k, part in document.items()})


NEAREST = Rounding()


@dataclass(frozen=True)
class Method:
    """What is done to every layer, part by part.

    title      a few words for a list to choose from
    smoothing  of inputs: "none"; "fixed", one alpha for all; "grid", each layer's searched
    branch     low rank: "none"; "own", the convention's, alternated with rounding; "first",
               of the smoothed weight before it is rounded
    rounding   of what is left of the weight
    rotation   of inputs, smoothed ones where they are, and of weights against it, before
               anything is rounded
    aggregation  of the channel maxima that smoothing reads over the steps; without one, the largest
    allocates  whether each layer has weight bits of its own, within the size of all
    """

    title: str
    smoothing: str = "none"
    branch: str = "none"
    rounding: Rounding = NEAREST
    rotation: Part = NONE
    aggregation: Part = NONE
    allocates: bool = False

    def __post_init__(self) -> None:
        check_choice("smoothing", self.smoothing, SMOOTHINGS)
        check_choice("branch", self.branch, BRANCHES)


MSE = Part.of("mse", candidates=15, least=0.3)
GPTQ = Part.of("gptq", act_order=True, block=128, damping=0.01)
COMPENSATED = Rounding(compensation=GPTQ)
SALIENCE = Part.of("salience")
HADAMARD = Part.of("hadamard", block=64)
HADAMARD_16 = Part.of("hadamard", block=16)
"""As many operations on the fly as a branch of rank 8, DiTAS's at width 256."""

METHODS: dict[str, Method] = {
    "plain": Method("plain rounding, nothing else"),
    "clip": Method("rounding in clipped ranges", rounding=Rounding(clipping=MSE)),
    "gptq": Method("GPTQ: error-compensated rounding", rounding=COMPENSATED),
    "clip+gptq": Method("GPTQ in clipped ranges", rounding=Rounding(MSE, GPTQ)),
    "rotation": Method("Hadamard rotation of inputs", rotation=HADAMARD),
    "rotation+gptq": Method(
        "QuaRot: Hadamard rotation + GPTQ", rounding=COMPENSATED, rotation=HADAMARD
    ),
    "smoothing": Method("one fixed α = 0.5", smoothing="fixed"),
    "smoothing+gptq": Method("one fixed α = 0.5 + GPTQ", "fixed", rounding=COMPENSATED),
    "search": Method("grid search of α", smoothing="grid"),
    "salience": Method("grid search of α, steps by salience", "grid", aggregation=SALIENCE),
    "search+gptq": Method("grid search of α + GPTQ", "grid", rounding=COMPENSATED),
    "mixed": Method("bits by layer, grid search of α", "grid", allocates=True),
    "mixed+gptq": Method(
        "bits by layer, grid search of α, GPTQ", "grid", rounding=COMPENSATED, allocates=True
    ),
    "mixed+rotation+gptq": Method(
        "Recommended: bits by layer, grid search of α, rotation, GPTQ",
        "grid",
        rounding=COMPENSATED,
        rotation=HADAMARD_16,
        allocates=True,
    ),
    "svdquant": Method("SVDQuant: search + branch of the weight, first", "grid", "first"),
    "svdquant+gptq": Method("SVDQuant + GPTQ of what is left", "grid", "first", COMPENSATED),
    "ditas+gptq": Method("DiTAS + GPTQ of what is left", "grid", "own", COMPENSATED),
    "ditas": Method("DiTAS: search + low-rank branch", "grid", "own"),
}
"""By the names of the command line and of recipes."""

RECOMMENDED = "mixed+rotation+gptq"
"""The closest at as many bits, see docs/contest.md; DiTAS is the paper's."""


def parts(kind: str) -> tuple[str, ...]:
    """The names of all parts of a kind, such as "clipping" or "rotation", that a method has."""
    rounds = {each.name for each in fields(Rounding)}
    having = (each.rounding if kind in rounds else each for each in METHODS.values())
    return tuple(dict.fromkeys(getattr(each, kind).name for each in having))
