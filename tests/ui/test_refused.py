"""One wrong value among the usual ones is refused in words, by every tab's public endpoints.

What may be sent at all, and how much of it, is tried in tests/load.
"""

from __future__ import annotations

from typing import Any

import pytest
from gradio_client.exceptions import AppError

from ditas_core.ui.stored.results import DITAS, PLAIN
from ditas_core.ui.tabs.outliers import draw as show
from ditas_core.ui.tabs.search.draw import MAP
from ditas_core.ui.visitors.backend import Backend

from .conftest import bar, bench_of, measured

LAB = [0.5, False, "0.qkv", 4, 8, "integer", True]
ATLAS = ["loudest ÷ median", "both", show.PANELS[0], "0.fc1", show.WHOLE_RUN, show.MAPS]
USUAL: dict[str, list[Any]] = {
    "alpha": LAB,
    "blind_guess": ["left"],
    "compare": [["cat"], 1, 0, 4, 2.5, [PLAIN]],
    "compare_recipes": [[PLAIN]],
    "describe": [],
    "draw_injector": ["0.qkv"],
    "inject_outliers": [3, DITAS, 1, 4, 0],
    "outlier_channel": [*ATLAS, False, False, 0.5, "7"],
    "partial": ["only", "0.qkv", 1, 1, 4, 0],
    "predict_layer": ["0.qkv", 0.5, False, 4, 8],
    "search": ["ditas", "output", 4, 1, False, None, [], None],
    "search_layers": [MAP, "ditas", "output", 4, 1],
    "use_alpha": LAB,
}
NAME, LONG, MARKUP = "nobody's", "x" * 10_000, "<script>alert(1)</script>"
WRONG: dict[str, dict[int, list[Any]]] = {
    "alpha": {
        0: [1.5, None, "0.5"],
        1: [1],
        2: ["9.fc9", LONG, None],
        3: [1, 4.5],
        4: [17, None],
        5: ["integer-g7"],
        6: [None],
    },
    "blind_guess": {0: ["up", "", None, 3, ["left"], LONG]},
    "compare": {
        0: [["no such class"], []],
        1: [1.5],
        3: [None],
        4: [True],
        5: [[], None, [MARKUP], [PLAIN] * 6],
    },
    "compare_recipes": {0: [[NAME]]},
    "describe": {0: ["/etc"], 6: ["yes"], 8: [3]},
    "draw_injector": {8: [0, 201, "60", None, True]},
    "inject_outliers": {0: [2.5], 1: [LONG, None], 2: [True], 4: ["<b>"]},
    "outlier_channel": {
        0: ["loudness"],
        1: [None, ["both"]],
        2: [""],
        3: ["99.qkv"],
        4: ["../x"],
        5: [None],
        6: ["yes"],
        7: [None],
        8: [1.5, None],
        9: ["-1", "9" * 6, "<b>", []],
    },
    "partial": {0: ["half", None], 1: ["9" * 300, None], 2: [2.5, []]},
    "predict_layer": {0: ["99.qkv", None], 1: [None, -0.1, "0.5"], 2: ["yes"], 3: [9], 4: [4.5]},
    "search": {0: ["everything"], 1: [MARKUP, None], 2: [3, True], 3: [1.5], 4: ["yes"]},
    "search_layers": {0: [LONG], 1: [None], 2: ["picture", ["output"]]},
    "use_alpha": {5: ["paper"], 12: [DITAS]},
}
"""What else may not stand at a place, the bar's places after the tab's own."""


@pytest.fixture(scope="module")
def backend(tiny) -> Backend:
    return measured(bench_of(tiny))


@pytest.mark.parametrize("endpoint", USUAL)
def test_hostile_values_are_refused(backend, client, endpoint):
    good = [*USUAL[endpoint], *bar("tiny", recipe=PLAIN)]
    client.predict(PLAIN, *bar("tiny", recipe=PLAIN), api_name="/blind_new")
    wrong = [(place, value) for place, values in WRONG[endpoint].items() for value in values]
    for place, value in wrong:
        changed = [*good[:place], value, *good[place + 1 :]]
        if endpoint == "blind_guess":
            changed = [value]
        with pytest.raises(AppError, match="expected") as caught:
            client.predict(*changed, api_name=f"/{endpoint}")
        assert "Traceback" not in str(caught.value) and len(str(caught.value)) < 1000, value
        assert "<script>" not in str(caught.value)
        assert not backend.queue.locked()
