"""The classes of the demo checkpoint: one per emoji, and groups such as "any bird" after them.

Names are Unicode's. Skin tones, hair and the words man and woman go under one label, as do the
hours of a clock. What is left out, so that all fit into the 1,000 labels of DiT: flags, symbols
and keycaps, families and gestures, and emoji that hardly differ from another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

LEFT_OUT_GROUPS = {"flags", "symbols", "component"}
LEFT_OUT_SUBGROUPS = {
    "family", "person-symbol", "person-gesture", "person-activity", "person-resting",
    "person-sport", "hand-prop", "hand-single-finger", "emotion", "mail", "office",
    "place-map", "other-object", "place-religious",
}  # fmt: skip
LEFT_OUT = re.compile(
    r"oncoming (police|taxi|automobile|bus)|station|bus stop|motorway|railway track|oil drum|"
    r"mountain railway|tram car|trolleybus|minibus|light rail|metro|construction$|"
    r"(waxing|waning) gibbous|(first|last) quarter moon$|waning crescent|"
    r"sun behind (small|large|rain) cloud|snowman without|umbrella on ground|^fog|"
    r"(green|blue|orange) book|^notebook|ledger|^page |bookmark|^label$|rolled-up|"
    r"magnifying glass tilted right|camera with flash|videocassette|film frames|"
    r"low battery|trackball|^keyboard|computer disk|^dvd|"
    r"(yen|euro|pound) banknote|receipt|chart increasing|woman’s clothes|thong sandal|briefs|"
    r"clutch bag|hair pick|elevator|^mirror$|safety pin|roll of paper|Japanese post|love hotel|"
    r"convenience store|wedding|phone with arrow|pager|heart (decoration|exclamation)|"
    r"revolving hearts|pregnant|breast-feeding|feeding baby"
)
NO_MIRROR = re.compile(
    r"hand|fist|thumbs|gesture|salute|horns|clock|watch|left|right|calendar|ATM|book|newspaper|"
    r"piano|musical|coin|medal|8 ball|hotel|bank|hospital|school|taxi|police|ambulance|1st|2nd|3rd"
)
"""Labels whose pictures mean something else, or show letters backwards, in a mirror."""


@dataclass(frozen=True)
class Group:
    """A class of its own: any emoji of some Unicode subgroups."""

    name: str
    subgroups: str  # a regular expression that a whole subgroup matches


GROUPS = (
    Group("any face", r"face-(?!costume).*"),
    Group("any cat face", "cat-face"),
    Group("any heart", "heart"),
    Group("any hand", "hand.*"),
    Group("any body part", "body-parts"),
    Group("any person", "person.*"),
    Group("any worker", "person-role"),
    Group("any fantasy figure", "person-fantasy|face-costume"),
    Group("any animal", "animal-.*|monkey-face"),
    Group("any mammal", "animal-mammal"),
    Group("any bird", "animal-bird"),
    Group("any reptile", "animal-(reptile|amphibian)"),
    Group("any sea animal", "animal-marine"),
    Group("any bug", "animal-bug"),
    Group("any plant", "plant-.*"),
    Group("any flower", "plant-flower"),
    Group("any food", "food-.*"),
    Group("any fruit", "food-fruit"),
    Group("any vegetable", "food-vegetable"),
    Group("any meal", "food-(prepared|asian)"),
    Group("any dessert", "food-sweet"),
    Group("any drink", "drink"),
    Group("any landscape", "place-(geographic|other)"),
    Group("any building", "place-building"),
    Group("any vehicle", "transport-.*"),
    Group("any land vehicle", "transport-ground"),
    Group("any boat", "transport-water"),
    Group("any aircraft", "transport-air"),
    Group("any clock", "time"),
    Group("any sky", "sky-weather"),
    Group("any celebration", "event|award-medal"),
    Group("any sport", "sport"),
    Group("any game", "game"),
    Group("any clothing", "clothing"),
    Group("any instrument", "musical-instrument|music"),
    Group("any device", "phone|computer|light-video"),
    Group("any tool", "tool|writing"),
    Group("any household thing", "household|dishware"),
)


@dataclass(frozen=True)
class Emoji:
    """One emoji of Unicode's list, without its skin tones."""

    label: str
    group: str
    subgroup: str


def class_name(label: str, labels: set[str]) -> str:
    """The label that an emoji goes under: "woman astronaut" -> "astronaut"."""
    if re.search(r"o’clock|-thirty", label):
        return "clock"
    label = label.partition(":")[0]  # hair, facing right
    if gendered := re.match(r"(?:man|woman|men|women) (.+)", label):
        for same in (gendered[1], f"person {gendered[1]}", f"people {gendered[1]}"):
            if same in labels:
                return same
    return label


def is_wanted(emoji: Emoji) -> bool:
    """Whether an emoji belongs to a class at all."""
    return not (
        emoji.group in LEFT_OUT_GROUPS
        or emoji.subgroup in LEFT_OUT_SUBGROUPS
        or LEFT_OUT.search(emoji.label)
    )


def class_names(emoji: Iterable[Emoji], labels: set[str]) -> list[str]:
    """All classes, in the order of their numbers: emoji as Unicode lists them, then the groups."""
    single = dict.fromkeys(class_name(each.label, labels) for each in emoji if is_wanted(each))
    return [*single, *(group.name for group in GROUPS)]


def groups_of(subgroup: str) -> list[str]:
    """Names of the groups that hold a subgroup."""
    return [group.name for group in GROUPS if re.fullmatch(group.subgroups, subgroup)]
