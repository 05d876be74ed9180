"""The blind test: chance, the rules, what leaks before the guess, the endpoints."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from ditas_core.evaluation import guessing_probability
from ditas_core.ui.stored.results import DITAS, PLAIN, REFERENCE, Result
from ditas_core.ui.tabs.blind import layout as blind
from ditas_core.ui.tabs.blind.draw import feedback, pair_view, percent, score_table
from ditas_core.ui.tabs.blind.rules import LEFT, NEITHER, RIGHT, BlindTest, Tally, hardest

from .conftest import bar, pictures

SAMPLES = 5
W4A4 = bar(preset="W4A4")


def result(title: str = "model · W4A8") -> Result:
    """Full precision is black, plain rounding white, DiTAS grey; sample i has i in its corner."""
    images = {}
    for name, level in ((REFERENCE, 0), (PLAIN, 255), (DITAS, 128)):
        images[name] = np.full((SAMPLES, 8, 8, 3), level, np.uint8)
        images[name][:, 0, 0, 0] = range(SAMPLES)
    values = {"latent SQNR, dB": [float(10 + i) for i in range(SAMPLES)]}
    return Result(
        title,
        tuple(f"class-{i}" for i in range(SAMPLES)),
        (9, 0),
        images,
        {PLAIN: values, DITAS: values},
        {PLAIN: [1.0, 2.0], DITAS: [1.0, 2.0]},
    )


SHOWN = result()  # a test holds no pictures of its own


def begun(seed: int = 0, variant: str = PLAIN) -> BlindTest:
    return BlindTest("one", SHOWN, variant, random.Random(seed))


def other(side: str) -> str:
    return RIGHT if side == LEFT else LEFT


@pytest.mark.parametrize(
    ("right", "asked", "expected"),
    [
        (0, 0, 1.0),
        (0, 9, 1.0),
        (1, 1, 0.5),
        (5, 7, 29 / 128),
        (10, 10, 1 / 1024),
        (4, 8, 163 / 256),
    ],
)
def test_the_chance_of_guessing_is_exact(right, asked, expected):
    assert guessing_probability(right, asked) == pytest.approx(expected, rel=1e-12)


def test_the_chance_of_guessing_checks_itself():
    assert guessing_probability(2, 2, 1 / 3) == pytest.approx(1 / 9)
    assert guessing_probability(600, 1000) == pytest.approx(1.3642e-10, rel=1e-3)
    for right, asked, chance in ((3, 2, 0.5), (-1, 2, 0.5), (1, 2, 1.5)):
        with pytest.raises(ValueError, match="expected"):
            guessing_probability(right, asked, chance)


def test_sides_are_drawn_evenly_and_every_sample_comes_before_any_comes_again():
    test = begun()
    samples, truths = [], []
    for _ in range(40 * SAMPLES):
        samples.append(test.pair.sample)
        truths.append(test.pair.truth)
        test.draw()
    for first in range(0, len(samples), SAMPLES):
        assert sorted(samples[first : first + SAMPLES]) == list(range(SAMPLES))
    assert all(a != b for a, b in pairwise(samples))
    assert 70 < truths.count(LEFT) < 130


def test_the_score_counts_right_wrong_and_unsure():
    test = begun()
    for answer in ("right", "wrong", "unsure", "right"):
        truth = test.pair.truth
        test.answer({"right": truth, "wrong": other(truth), "unsure": NEITHER}[answer])
        with pytest.raises(ValueError, match="answered"):
            test.answer(truth)
        test.draw()
    assert test.tally == Tally(right=2, decided=3, unsure=1)
    assert test.tally.guessing == pytest.approx(0.5)
    test.show("one", test.result, DITAS)
    assert test.tally == Tally() and len(test.tallies) == 1, "another recipe has its own score"


def test_other_pictures_bring_a_new_pair_and_the_same_ones_keep_it():
    test = begun()
    pair = test.pair
    test.show("one", test.result, PLAIN)
    assert test.pair is pair
    test.show("one", test.result, DITAS)
    assert test.pair is not pair
    pair = test.pair
    another = result("another")
    test.show("two", another, DITAS)
    assert test.pair is not pair and test.result.title == "another"


def test_nothing_tells_the_sides_apart_before_the_guess():
    by_side = {}
    for seed in range(100):
        test = begun(seed)
        page, said = pair_view(test), feedback(test)
        left, right = pictures(page)
        white_is_left = int(left[4, 4, 0]) == 255
        assert white_is_left == (test.pair.truth == LEFT)
        assert int(left[0, 0, 0]) == int(right[0, 0, 0]) == test.pair.sample
        bare = re.sub(r'src="[^"]+"', "", page)
        by_side.setdefault((test.pair.sample, test.pair.truth), set()).add(bare + said)
        for word in (REFERENCE, PLAIN, DITAS, 'quantized"', "reference", "dB"):
            assert word not in bare
    for sample in range(SAMPLES):
        texts = by_side[sample, LEFT] | by_side[sample, RIGHT]
        assert len(texts) == 1, "expected the same page whichever side is quantized"


def test_the_answer_says_which_and_how_far():
    test = begun(3)
    truth = test.pair.truth
    test.answer(truth)
    assert "Right." in feedback(test) and f"The {truth} picture was quantized" in feedback(test)
    assert f"{10 + test.pair.sample:.1f} dB" in feedback(test) and "50 %" in feedback(test)
    page = pair_view(test)
    assert f"{PLAIN}, quantized" in page and f"<figcaption>{REFERENCE}" in page
    test.draw()
    test.answer(other(test.pair.truth))
    assert "Wrong." in feedback(test)
    test.draw()
    test.answer(NEITHER)
    assert "Not told." in feedback(test) and "1 × cannot tell" in feedback(test)


def test_the_table_names_the_hardest_recipe():
    tallies = {("a", PLAIN): Tally(10, 10), ("a", DITAS): Tally(5, 9, 2)}
    assert hardest(tallies) == ("a", DITAS) and hardest({("a", PLAIN): Tally(1, 2)}) is None
    table = score_table(tallies)
    assert "you can tell" in table and "no better than guessing so far" in table
    assert f"<b>{DITAS}</b>" in table and "10 of 10" in table and "less than 0.1 %" in table
    assert percent(0.5) == "50 %" and "&lt;b&gt;" in score_table({("<b>", PLAIN): Tally(1, 1)})


def test_visitors_have_their_own_tests(url, client):
    client.predict(PLAIN, *W4A4, api_name="/blind_new")
    with pytest.raises(AppError, match="New test"):
        Client(url, verbose=False).predict(LEFT, api_name="/blind_guess")
    assert "quantized" in client.predict(LEFT, api_name="/blind_guess")[0]
    with pytest.raises(AppError, match="answered"):
        client.predict(LEFT, api_name="/blind_guess")


def test_the_last_comparison_comes_before_the_shipped_one(backend, client):
    backend.cache.put(("result", "mine"), result("my own"))
    session = backend.sessions.of(client.session_hash)
    session.result = "mine"
    found = client.predict(DITAS, *W4A4, api_name="/draw_blind")
    assert "my own" in found[1] and found[0]["choices"] == [[PLAIN, PLAIN], [DITAS, DITAS]]
    assert pictures(found[2])[0].shape == (8, 8, 3)
    first = found[2]
    assert client.predict(DITAS, *W4A4, api_name="/draw_blind")[2] == first
    session.result = ""
    assert "shipped" in client.predict(DITAS, *W4A4, api_name="/draw_blind")[1]
    assert blind.first_variant(result(), "grid search") == DITAS
    assert blind.first_variant(result(), PLAIN) == PLAIN


def test_bits_without_pictures_say_where_to_make_some(client):
    found = client.predict(DITAS, *bar(preset="custom", weight=3), api_name="/draw_blind")
    assert "Compare tab" in found[2] and "Nothing to guess" in found[3]
    assert all(update["interactive"] is False for update in blind.shown(None)[3:])
