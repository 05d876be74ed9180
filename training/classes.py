"""The classes of the demo checkpoint: Unicode subgroups and labels -> names.

A class is a list of Unicode subgroups and, optionally, a pattern that the
emoji's English label must match. The first matching class wins; an emoji that
matches none is left out of the training set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FACES_HAPPY = ("face-smiling", "face-affection", "face-tongue", "face-glasses")
FACES_OTHER = (
    "face-hand",
    "face-neutral-skeptical",
    "face-sleepy",
    "face-unwell",
    "face-concerned",
    "face-negative",
    "face-hat",
)
HANDS = (
    "hand-fingers-open",
    "hand-fingers-partial",
    "hand-single-finger",
    "hand-fingers-closed",
    "hands",
)


@dataclass(frozen=True)
class ClassRule:
    """One class: its name, the Unicode subgroups it draws from, a label filter."""

    name: str
    subgroups: tuple[str, ...]
    pattern: str = ""
    flip: bool = True

    def matches(self, subgroup: str, label: str) -> bool:
        return subgroup in self.subgroups and re.search(self.pattern, label) is not None


def _role(name: str, pattern: str) -> ClassRule:
    return ClassRule(name, ("person-role", "person-fantasy"), pattern)


CLASS_RULES: tuple[ClassRule, ...] = (
    ClassRule("happy-face", FACES_HAPPY),
    ClassRule("cat-face", ("cat-face",)),
    ClassRule("sad-face", FACES_OTHER, r"^(?!skull)"),
    ClassRule("heart", ("heart",), r"heart$|heart with|on fire|hearts$"),
    ClassRule("hand", HANDS, flip=False),
    ClassRule("person", ("person",)),
    ClassRule("gesture", ("person-gesture",)),
    _role("astronaut", r"astronaut"),
    _role("firefighter", r"firefighter"),
    _role("police-officer", r"police officer"),
    _role("construction-worker", r"construction worker"),
    _role("cook", r"\bcook\b"),
    _role("farmer", r"farmer"),
    _role("health-worker", r"health worker"),
    _role("artist", r"\bartist"),
    _role("guard", r"\bguard\b"),
    _role("royalty", r"crown|prince"),
    _role("office-worker", r"office worker|tuxedo|detective"),
    _role("superhero", r"super(hero|villain)"),
    _role("mage", r"\bmage\b"),
    _role("fairy", r"fairy"),
    _role("santa", r"Claus"),
    ClassRule("walking", ("person-activity",), r"walking|running|standing|dancing|levitating"),
    ClassRule("wheelchair", ("person-activity",), r"wheelchair"),
    ClassRule("cyclist", ("person-sport",), r"biking"),
    ClassRule("swimmer", ("person-sport",), r"swimming|surfing|polo"),
    ClassRule("mammal", ("animal-mammal", "monkey-face"), r"^(?!paw|pig nose)"),
    ClassRule("bird", ("animal-bird",), r"^(?!feather|wing)"),
    ClassRule("sea-animal", ("animal-marine",)),
    ClassRule("bug", ("animal-bug",), r"^(?!spider web|microbe)"),
    ClassRule("flower", ("plant-flower",), r"^(?!rosette)"),
    ClassRule("plant", ("plant-other",), r"^(?!.*nest|mushroom)"),
    ClassRule("fruit", ("food-fruit",)),
    ClassRule("vegetable", ("food-vegetable",)),
    ClassRule("meal", ("food-prepared", "food-asian")),
    ClassRule("sweets", ("food-sweet",)),
    ClassRule("drink", ("drink",)),
    ClassRule("building", ("place-building", "place-religious")),
    ClassRule("land-vehicle", ("transport-ground",)),
    ClassRule("clock", ("time",), r"o’clock|thirty", flip=False),
    ClassRule("moon", ("sky-weather",), r"moon"),
    ClassRule("cloud", ("sky-weather",), r"cloud"),
    ClassRule("ball", ("sport", "game"), r"ball$|softball|volleyball|tennis"),
    ClassRule("clothing", ("clothing",)),
    ClassRule("instrument", ("musical-instrument", "music")),
    ClassRule("book", ("book-paper", "office")),
    ClassRule("tool", ("tool", "writing")),
    ClassRule(
        "blue-button",
        ("alphanum", "transport-sign", "arrow", "av-symbol", "keycap"),
        flip=False,
    ),
    ClassRule("zodiac", ("zodiac", "religion"), flip=False),
    ClassRule("shape", ("geometric",), r"circle|square|diamond|triangle"),
    ClassRule("flag", ("country-flag", "subdivision-flag", "flag"), flip=False),
)


def classify(subgroup: str, label: str) -> int | None:
    """Index into ``CLASS_RULES`` of the first rule that matches, else None."""
    for index, rule in enumerate(CLASS_RULES):
        if rule.matches(subgroup, label):
            return index
    return None
