"""What the blind test shows; before the guess nothing of it tells the sides apart."""

from __future__ import annotations

import html
from collections.abc import Mapping

from ...page.pictures import picture
from ...serving.errors import status
from ...stored.results import REFERENCE
from .rules import LEFT, NEITHER, RIGHT, BlindTest, Tally, hardest

EMPTY = '<p class="empty">No pictures to compare yet: generate some in the Compare tab.</p>'


def pair_view(test: BlindTest | None) -> str:
    """Two pictures, left and right; captions only once the guess is made."""
    if test is None:
        return EMPTY
    at, pair = test.pair.sample, test.pair
    parts = []
    for side in (LEFT, RIGHT):
        name = test.variant if side == pair.truth else REFERENCE
        caption = ""
        if pair.guess:
            caption = f"{name}, quantized" if side == pair.truth else name
        shown = picture(test.result.images[name][at], f"{side} picture", caption)
        if caption:
            kind = "quantized" if side == pair.truth else "reference"
            shown = shown.replace('class="picture"', f'class="picture {kind}"', 1)
        parts.append(shown)
    label = html.escape(test.result.labels[at])
    return f'<div class="blind-pair" role="group" aria-label="two pictures of {label}">' + (
        "".join(parts) + f'</div><p class="blind-label">{label}</p>'
    )


def chance_text(tally: Tally) -> str:
    """``2 of 3 right; pure guessing does at least as well in 50 % of such tests``."""
    unsure = f", {tally.unsure} × cannot tell" if tally.unsure else ""
    if not tally.decided:
        return f"no guess yet{unsure}"
    return (
        f"{tally.right} of {tally.decided} right{unsure}; pure guessing does at least as well in "
        f"{percent(tally.guessing)} of such tests"
    )


def percent(share: float) -> str:
    return "less than 0.1 %" if share < 0.001 else f"{100 * share:.3g} %"


def feedback(test: BlindTest | None) -> str:
    """Which one it was, and the score so far; before the guess, what to do."""
    if test is None:
        return status("Nothing to guess yet.", "warn")
    pair = test.pair
    if not pair.guess:
        return status("Same noise, same class. Which one is quantized?", "busy")
    fact = (
        f"The {pair.truth} picture was quantized: {test.variant}, latent SQNR "
        f"{test.sqnr:.1f} dB.".replace("-", "−")
    )
    verdict = {NEITHER: "Not told.", pair.truth: "Right."}.get(pair.guess, "Wrong.")
    kind = "done" if pair.guess == pair.truth else "warn"
    return status(f"{verdict} {fact} {test.variant}: {chance_text(test.tally)}.", kind)


def reading(tally: Tally) -> str:
    """What a score says, in words."""
    if tally.guessing < 0.05:
        return "you can tell"
    return "no better than guessing so far" if tally.decided else "no guess yet"


def score_table(tallies: Mapping[tuple[str, str], Tally]) -> str:
    """Every recipe's score, and which is hardest to tell apart."""
    if not tallies:
        return '<p class="empty">Your score for every recipe will stand here.</p>'
    heads = ("Recipe", "Pictures", "Right", "Cannot tell", "Guessing does as well", "Reading")
    rows = []
    for (title, variant), tally in tallies.items():
        guessing = percent(tally.guessing) if tally.decided else "–"
        cells = (
            variant, title, f"{tally.right} of {tally.decided}", str(tally.unsure), guessing,
            reading(tally),
        )  # fmt: skip
        body = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells[1:])
        rows.append(f'<tr><th scope="row">{html.escape(cells[0])}</th>{body}</tr>')
    best = hardest(tallies)
    said = ""
    if best is not None:
        said = (
            f'<p class="blind-label">Hardest to tell from full precision so far: '
            f"<b>{html.escape(best[1])}</b> ({html.escape(best[0])}).</p>"
        )
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    return (
        '<div class="score" role="region" aria-label="your score" tabindex="0"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{said}"
    )
