"""The table of a contest: a row per contender, what pairs of them are told apart, the front.

Samples are paired: sample i of every row started from the same noise. Two contenders are told
apart where the paired t test of their latent SQNRs says so at 5 % after Holm's correction for all
pairs of the table; all others are ties.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

import torch

from ..evaluation import Interval, holm, interval, paired_probability
from ..specs import Recipe, SpecError, brief, check_number, check_text, parse_json
from .packing import pack, unpack

FORMAT = "ditas-contest-1"
LEVEL = 0.05
MEASURES = ("latent_sqnr_db", "psnr_db", "ssim", "feature_distance")
"""Per sample; of the last lower is better."""
DIGITS = 5


@dataclass(frozen=True)
class Row:
    """One contender's results.

    method, weights    a name of ``METHODS`` (or what an outside one calls itself), and the
                       weights' bits or format
    group_size, rank   inputs that share a scale, 0 where the convention or format says; branch
    effective_bits     stored bits per weight of the quantized layers, as they really are
    whole_model_bits   per parameter of the whole transformer
    search_s, convert_s  seconds from the calibration to the quantized transformer
    seconds_per_sample of its trajectory, simulated in floating point
    extra_operations   of a forward pass, as a share of those in full precision: branches and
                       whatever else runs on the fly
    samples            measure -> one value per sample
    recipe             JSON; "" of one from outside
    outside            where it comes from; "" of this library's own
    """

    label: str
    method: str
    weights: str
    effective_bits: float
    samples: Mapping[str, tuple[float, ...]]
    group_size: int = 0
    rank: int = 0
    whole_model_bits: float = 0.0
    search_s: float = 0.0
    convert_s: float = 0.0
    seconds_per_sample: float = 0.0
    extra_operations: float = 0.0
    recipe: str = field(default="", repr=False)
    outside: str = ""

    def __post_init__(self) -> None:
        for name in ("label", "method", "weights", "outside"):
            check_text(name, getattr(self, name), 200)
        for name in NUMBERS:
            check_number(name, getattr(self, name), 0, 1e9)
        lengths = {len(values) for values in self.samples.values()}
        if not set(self.samples) <= set(MEASURES) or MEASURES[0] not in self.samples:
            raise SpecError(f"samples: expected {', '.join(MEASURES)}, got {brief(self.samples)}")
        if len(lengths) != 1 or 0 in lengths:
            raise SpecError("samples: expected as many numbers of each measure, at least one")
        for values in self.samples.values():
            for value in values:
                check_number("samples", value, -1e9, 1e9)

    @property
    def quality(self) -> float:
        """Mean latent SQNR in dB."""
        return self.mean(MEASURES[0]).mean

    def mean(self, measure: str) -> Interval:
        """With its 95 % interval."""
        return interval(torch.tensor(self.samples[measure]))

    @property
    def conversion_s(self) -> float:
        return self.search_s + self.convert_s


NUMBERS = tuple(each.name for each in fields(Row) if each.type in ("float", "int"))


@dataclass(frozen=True)
class Pair:
    """Two contenders, ``first - second`` in dB of latent SQNR over the same samples.

    probability  of such a difference by chance, adjusted for all pairs
    """

    first: str
    second: str
    difference: Interval
    probability: float

    @property
    def tie(self) -> bool:
        return not self.probability < LEVEL


@dataclass(frozen=True)
class Standing:
    """A row as a figure of the front shows it.

    kind      rows of one kind look alike: a method, or where a row comes from
    quality, low, high   mean latent SQNR in dB and the ends of its 95 % interval
    on_front, tied   see ``Contest.front`` and ``Contest.leaders``
    chosen    marked by the reader
    """

    label: str
    kind: str
    bits: float
    quality: float
    low: float
    high: float
    on_front: bool
    tied: bool
    chosen: bool = False


@dataclass(frozen=True)
class Contest:
    """All rows, in the order they were measured in.

    settings  what reproduces it: checkpoint, bits, budget, sampling, calibration, machine
    left_out  who does not take part, and why
    """

    settings: Mapping[str, Any]
    rows: tuple[Row, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        labels = [row.label for row in self.rows]
        if not labels or len(set(labels)) < len(labels):
            raise SpecError("rows: expected at least one, each label once")
        if len({len(row.samples[MEASURES[0]]) for row in self.rows}) > 1:
            raise SpecError("rows: expected the same samples of all")

    @cached_property
    def standing(self) -> tuple[Row, ...]:
        """The closest first."""
        return tuple(sorted(self.rows, key=lambda row: -row.quality))

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Every two of the standing, the better one first."""
        values = [torch.tensor(row.samples[MEASURES[0]]) for row in self.standing]
        named = [row.label for row in self.standing]
        places = [(i, j) for i in range(len(named)) for j in range(i + 1, len(named))]
        apart = [values[i] - values[j] for i, j in places]
        adjusted = holm([paired_probability(each) for each in apart])
        return tuple(
            Pair(named[i], named[j], interval(each), probability)
            for (i, j), each, probability in zip(places, apart, adjusted, strict=True)
        )

    @cached_property
    def ties(self) -> dict[str, tuple[str, ...]]:
        """Of each row those that it is not told apart from, in the order of the standing."""
        found: dict[str, list[str]] = {row.label: [] for row in self.standing}
        for pair in self.pairs:
            if pair.tie:
                found[pair.first].append(pair.second)
                found[pair.second].append(pair.first)
        order = {row.label: place for place, row in enumerate(self.standing)}
        return {name: tuple(sorted(names, key=order.__getitem__)) for name, names in found.items()}

    @cached_property
    def leaders(self) -> tuple[str, ...]:
        """The closest, and all that are tied with it."""
        first = self.standing[0].label
        return (first, *self.ties[first])

    @cached_property
    def front(self) -> tuple[str, ...]:
        """By rising bits: those that nobody of as many bits or fewer comes closer than."""
        found: list[Row] = []
        for row in sorted(self.rows, key=lambda row: (row.effective_bits, -row.quality)):
            if not found or row.quality > found[-1].quality:
                found.append(row)
        return tuple(row.label for row in found)

    def standings(self, chosen: Sequence[str] = ()) -> list[Standing]:
        """For a figure, in the order in which they were measured."""
        found = []
        for row in self.rows:
            mean = row.mean(MEASURES[0])
            marks = (row.label in self.front, row.label in self.leaders, row.label in chosen)
            kind = row.outside or row.method
            ends = (mean.mean, mean.low, mean.high)
            found.append(Standing(row.label, kind, row.effective_bits, *ends, *marks))
        return found

    def pair(self, first: str, second: str) -> Pair:
        """Two of them, in whichever order.

        Raises:
            KeyError: no such row.
        """
        for each in self.pairs:
            if {each.first, each.second} == {first, second} and first != second:
                return each
        raise KeyError(f"{first}, {second}")

    def row(self, label: str) -> Row:
        """Raises KeyError where there is none."""
        for row in self.rows:
            if row.label == label:
                return row
        raise KeyError(label)

    def to_json(self) -> str:
        document = {
            "format": FORMAT,
            "settings": dict(self.settings),
            "rows": [row_document(row) for row in self.rows],
            "left_out": [list(each) for each in self.left_out],
        }
        return json.dumps(document, separators=(",", ":"), sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str) -> Contest:
        """Inverse of ``to_json``.

        Raises:
            SpecError: anything else.
        """
        document = parse_json("contest", text)
        if document.get("format") != FORMAT:
            raise SpecError(
                f"contest: expected format {FORMAT}, got {brief(document.get('format'))}"
            )
        try:
            rows = tuple(row_of(each) for each in document["rows"])
            left_out = tuple((str(name), str(why)) for name, why in document["left_out"])
            return Contest(dict(document["settings"]), rows, left_out)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SpecError(f"contest: expected rows as a contest writes them ({error})") from error

    def to_csv(self) -> str:
        """A line per row, the closest first; means and half widths of 95 % intervals."""
        file = io.StringIO()
        writer = csv.DictWriter(file, list(summary(self, self.standing[0])), lineterminator="\n")
        writer.writeheader()
        for row in self.standing:
            writer.writerow(summary(self, row))
        return file.getvalue()

    def pairs_csv(self) -> str:
        """A line per pair: the difference of latent SQNR with its interval, and the test."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("first", "second", "difference_db", "ci95", "probability", "tie"))
        for pair in self.pairs:
            found = pair.difference
            numbers = (rounded(found.mean), rounded(found.half_width), f"{pair.probability:.2g}")
            writer.writerow((pair.first, pair.second, *numbers, pair.tie))
        return file.getvalue()


def rounded(value: float, digits: int = 4) -> float | str:
    return round(value, digits) if abs(value) < float("inf") else ""


def summary(contest: Contest, row: Row) -> dict[str, Any]:
    """A row of the table as plain values; "" where something was not measured."""
    found: dict[str, Any] = {"label": row.label, "method": row.method, "weights": row.weights}
    found |= {"effective_bits": rounded(row.effective_bits), "group_size": row.group_size}
    found |= {"rank": row.rank, "whole_model_bits": rounded(row.whole_model_bits)}
    for measure in MEASURES:
        mean = row.mean(measure) if measure in row.samples else None
        found[measure] = "" if mean is None else rounded(mean.mean)
        found[f"{measure}_ci95"] = "" if mean is None else rounded(mean.half_width)
    found |= {"samples": len(row.samples[MEASURES[0]]), "on_front": row.label in contest.front}
    found |= {"tied_with_best": row.label in contest.leaders}
    for name in ("search_s", "convert_s", "seconds_per_sample", "extra_operations"):
        found[name] = rounded(getattr(row, name))
    return found | {"outside": row.outside}


def row_document(row: Row) -> dict[str, Any]:
    """As JSON has it."""
    document = asdict(row)
    document["samples"] = {
        name: [round(value, DIGITS) for value in values] for name, values in row.samples.items()
    }
    document["recipe"] = pack(Recipe.from_json(row.recipe)) if row.recipe else None
    return document


def row_of(document: Mapping[str, Any]) -> Row:
    """Inverse of ``row_document``; raises what is wrong."""
    values = dict(document)
    samples = {str(name): tuple(each) for name, each in values.pop("samples").items()}
    recipe = values.pop("recipe")
    text = "" if recipe is None else unpack(recipe).to_json()
    return Row(samples=samples, recipe=text, **values)


def rows_with(rows: Sequence[Row], others: Sequence[Row]) -> tuple[Row, ...]:
    """Rows from here and from outside in one table.

    Raises:
        SpecError: a label that is there twice.
    """
    known = {row.label for row in rows}
    again = next((row.label for row in others if row.label in known), None)
    if again is not None:
        raise SpecError(f"outside: expected labels that no contender has, got {brief(again)}")
    return (*rows, *others)
