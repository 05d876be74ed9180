"""Clicks on a figure. Gradio has no event for them: the page's script writes them down."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import gradio as gr

from ..serving.errors import refuse


@dataclass(frozen=True)
class Pick:
    """What was clicked: the x and y labels of the point, and the number of its trace."""

    x: str | float
    y: str | float
    trace: int


def picker(plot: str) -> gr.Textbox:
    """A hidden field that gets what is clicked in the gr.Plot with this element id."""
    return gr.Textbox(visible="hidden", elem_id=f"{plot}-pick", label=f"picked in {plot}")


def read_pick(text: object) -> Pick:
    """The field's content.

    Raises:
        gr.Error: anything but what the page's script writes.
    """
    try:
        if not isinstance(text, str) or len(text) > 300:
            raise ValueError
        found = json.loads(text)
        x, y, trace = found["x"], found["y"], found["trace"]
        for value in (x, y):
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise ValueError
            if not isinstance(value, str) and not math.isfinite(value):
                raise ValueError
        if isinstance(trace, bool) or not isinstance(trace, int):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise refuse("click: expected a point of the figure") from None
    return Pick(x, y, trace)
