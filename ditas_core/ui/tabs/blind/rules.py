"""The blind test's rules: two pictures of the same noise, one of them quantized; a score."""

from __future__ import annotations

import random
import weakref
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, replace

from ....evaluation import guessing_probability
from ....specs import SpecError
from ...stored.results import Result

LEFT, RIGHT, NEITHER = "left", "right", "neither"
GUESSES = (LEFT, RIGHT, NEITHER)
SQNR = "latent SQNR, dB"


@dataclass(frozen=True)
class Tally:
    """One recipe's answers: ``right`` of ``decided``, and how often nobody could tell."""

    right: int = 0
    decided: int = 0
    unsure: int = 0

    @property
    def guessing(self) -> float:
        """How likely pure guessing scores at least this."""
        return guessing_probability(self.right, self.decided)

    def with_answer(self, guess: str, truth: str) -> Tally:
        if guess == NEITHER:
            return replace(self, unsure=self.unsure + 1)
        return replace(self, right=self.right + (guess == truth), decided=self.decided + 1)


@dataclass
class Pair:
    """One question. ``truth`` is the side of the quantized picture; it stays on the server."""

    sample: int
    truth: str
    guess: str = ""


@dataclass
class BlindTest:
    """One visitor's test. The pictures stay where they are and may make room for others.

    source   which result the pictures are from; another one needs a new pair
    deck     samples still to be shown before any of them comes again
    tallies  (title of the result, recipe) -> answers
    """

    source: str
    first: InitVar[Result]
    variant: str
    chance: random.Random = field(repr=False)
    pair: Pair = field(default_factory=lambda: Pair(-1, LEFT), repr=False)
    deck: list[int] = field(default_factory=list, repr=False)
    tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)
    held: weakref.ref[Result] = field(init=False, repr=False)

    def __post_init__(self, first: Result) -> None:
        self.held = weakref.ref(first)
        self.draw()

    def __bool__(self) -> bool:
        """Whether its owner would miss it."""
        return bool(self.tallies)

    @property
    def result(self) -> Result:
        """What is on view.

        Raises:
            SpecError: the cache has let it go.
        """
        found = self.held()
        if found is None:
            raise SpecError(
                "blind test: expected its pictures, they have made room for newer ones; press "
                "“New test”, or compare once more"
            )
        return found

    def draw(self) -> None:
        """The next question: another sample, its sides by chance."""
        last = self.pair.sample
        if not self.deck:
            self.deck = list(range(len(self.result.labels)))
            self.chance.shuffle(self.deck)
            if len(self.deck) > 1 and self.deck[-1] == last:
                self.deck.reverse()
        self.pair = Pair(self.deck.pop(), self.chance.choice((LEFT, RIGHT)))

    def show(self, source: str, result: Result, variant: str) -> None:
        """Pictures of another result or recipe from now on; the score stays."""
        self.held = weakref.ref(result)
        if (source, variant) == (self.source, self.variant):
            return
        if source != self.source:
            self.deck = []
        self.source, self.variant = source, variant
        self.draw()

    def answer(self, guess: str) -> None:
        """Count an answer.

        Raises:
            ValueError: this pair has been answered.
        """
        if self.pair.guess:
            raise ValueError("this pair has been answered")
        key = (self.result.title, self.variant)
        self.pair.guess = guess
        self.tallies[key] = self.tally.with_answer(guess, self.pair.truth)

    @property
    def tally(self) -> Tally:
        """The score of the recipe on view."""
        return self.tallies.get((self.result.title, self.variant), Tally())

    @property
    def sqnr(self) -> float:
        """Latent SQNR in dB of the quantized picture on view."""
        return self.result.metrics[self.variant][SQNR][self.pair.sample]


def hardest(tallies: Mapping[tuple[str, str], Tally]) -> tuple[str, str] | None:
    """The recipe that is told apart least: the least convincing score of at least two recipes."""
    asked = {key: tally for key, tally in tallies.items() if tally.decided + tally.unsure}
    if len(asked) < 2:
        return None
    return max(asked, key=lambda key: (asked[key].guessing, asked[key].unsure))
