"""Heatmaps as plain pictures: their pixels are the values, their words say them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ditas_core.figures.encoding import shared_range
from ditas_core.figures.stills import colour_table, map_cells
from ditas_core.ui.page.heat import heat, marks

from .conftest import pictures


def test_each_cell_is_a_pixel_of_one_shared_scale():
    rng = np.random.default_rng(0)
    before = np.exp(rng.normal(size=(5, 12)))
    after = before / 3
    text = heat([("before", before), ("after", after)], [9, 7, 5, 3, 1], quantity="loud", unit="×")
    scale, found = shared_range(before, after, floor_quantile=0.02), pictures(text)
    for pixels, values in zip(found, (before, after), strict=True):
        assert pixels.shape == (5, 12, 3)
        assert (pixels == colour_table()[scale.encode(values)]).all()
    assert found[0].sum() > found[1].sum(), "louder is brighter"


def test_of_more_cells_than_a_screen_shows_the_loudest_stays():
    values = np.ones((100, 4000))
    values[40, 1234] = 100.0
    cells = map_cells(values, shared_range(values))
    assert cells.shape[0] <= 64 and cells.shape[1] <= 512
    assert (cells == colour_table()[-1]).all(-1).sum() == 1


def test_titles_are_escaped_and_said_to_those_who_do_not_see():
    text = heat([("<b>α</b>", np.ones((2, 3)))], [1, 0], quantity="loud")
    assert "<b>" not in text and "&lt;b&gt;α" in text
    assert "2 denoising steps by 3 channels" in text


def test_rows_are_the_timesteps():
    with pytest.raises(ValueError, match="expected 2 rows"):
        heat([("x", np.ones((3, 3)))], [1, 0], quantity="loud")


@pytest.mark.parametrize(("count", "most"), [(1, 4), (2, 4), (5, 4), (256, 5)])
def test_marks_begin_and_end_with_the_first_and_the_last(count, most):
    found = re.findall(r"<span>(\d+)</span>", marks(range(count), most))
    assert found[0] == "0" and found[-1] == str(count - 1) and len(found) <= most
