"""Pictures that are drawn without a browser: they show what the arrays hold."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from ditas_core.figures import stills
from ditas_core.figures.stills import (
    CELL,
    MARGIN,
    SIDE,
    SPACE,
    colour_table,
    contact_sheet,
    fitting,
    lettering,
    lines_of,
    map_image,
    map_still,
)

RED, GREEN = (200, 20, 30), (10, 180, 60)


def flat(colour: tuple[int, int, int], count: int) -> np.ndarray:
    return np.full((count, 16, 16, 3), colour, np.uint8)


def cells(sheet: Image.Image, rows: int, columns: int) -> list[list[tuple[int, ...]]]:
    """The colour in the middle of every cell."""
    top = MARGIN + 64
    return [
        [
            sheet.getpixel(
                (MARGIN + SIDE + c * (CELL + SPACE) + CELL // 2, top + r * (CELL + SPACE) + 60)
            )
            for c in range(columns)
        ]
        for r in range(rows)
    ]


def test_every_picture_stands_in_its_row_and_column():
    images = {"full precision": flat(RED, 3), "plain": flat(GREEN, 3)}
    images["plain"][2] = (0, 0, 255)
    sheet = contact_sheet(images, ["a", "b", "c"], {"plain": "SQNR\n3.0 dB"}, "title", "footer")
    assert cells(sheet, 2, 3) == [[RED] * 3, [GREEN, GREEN, (0, 0, 255)]]


def test_captions_change_the_sheet_and_long_ones_stay_inside():
    images = {"full precision": flat(RED, 1)}
    bare = contact_sheet(images, ["a"], {}, "t")
    written = contact_sheet(images, ["a"], {"full precision": "x " * 400}, "t " * 400, "f " * 400)
    assert bare.size[0] == written.size[0]
    pixels = np.asarray(written)
    assert (pixels[:, -MARGIN // 2 :] == 255).all(), "nothing may reach the edge"
    assert cells(written, 1, 1) == [[RED]]


def test_wrong_counts_are_refused():
    with pytest.raises(ValueError, match="expected 2 per variant"):
        contact_sheet({"a": flat(RED, 1)}, ["x", "y"], {}, "t")
    with pytest.raises(ValueError, match="expected 2 rows"):
        map_still([("a", np.ones((3, 4)))], (9, 5), "t")
    with pytest.raises(ValueError, match="expected 1 rows"):
        map_still([], (9,), "t")


def test_colours_run_from_dark_to_bright():
    table = colour_table()
    assert table.shape == (256, 3) and table.dtype == np.uint8
    lightness = table.astype(float) @ [0.2126, 0.7152, 0.0722]
    assert lightness[0] < 5 and lightness[-1] > 230
    assert (np.diff(lightness) > -1.5).all()


def test_a_map_keeps_the_loudest_when_it_shrinks():
    from ditas_core.figures.encoding import LogRange

    values = np.ones((4, 3000))
    values[2, 1234] = 100.0
    image = np.asarray(map_image(values, LogRange(1.0, 100.0), (300, 40)))
    bright = np.argwhere((image == colour_table()[255]).all(-1))
    assert {int(v) for v in bright[:, 0]} == set(range(20, 30)), "row 2 of 4"
    assert abs(bright[:, 1].mean() / 300 - 1234 / 3000) < 0.01


def test_both_panels_share_one_scale():
    loud, quiet = np.full((8, 20), 10.0), np.full((8, 20), 1.0)
    pixels = np.asarray(map_still([("before", loud), ("after", quiet)], range(8), "t"))
    table = colour_table()
    panel = 8 * 20 * 100
    assert (pixels == table[255]).all(-1).sum() > panel, "the loud panel is at the top"
    assert (pixels == table[0]).all(-1).sum() > panel, "the quiet one at the bottom"


def test_without_a_system_font_greek_becomes_letters(monkeypatch):
    real = ImageFont.truetype

    def without_dejavu(font: object, *rest: object, **more: object) -> ImageFont.FreeTypeFont:
        if isinstance(font, str):
            raise OSError(font)
        return real(font, *rest, **more)

    monkeypatch.setattr(ImageFont, "truetype", without_dejavu)
    lettering.cache_clear()
    try:
        letters = lettering(14)
        assert not letters.whole
        assert letters.text("α = 0.5, 3×") == "alpha = 0.5, 3x"
        assert stills.contact_sheet({"α": flat(RED, 1)}, ["×"], {}, "÷").size[0] >= 760
    finally:
        lettering.cache_clear()


def test_texts_are_cut_and_broken_at_the_width():
    letters = lettering(13)
    assert fitting("short", letters, 500) == "short"
    cut = fitting("a very long text indeed", letters, 60)
    assert cut.endswith("…") and letters.width(cut) <= 61
    lines = lines_of("grid search of every layer", letters, 70)
    assert len(lines) > 1 and all(letters.width(line) <= 70 for line in lines)
    assert " ".join(lines) == "grid search of every layer"
