"""What the story's sections are built of: numbers that can be checked, tables, switches."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ...evaluation import Interval
from ..page.pictures import Pixels, data_uri
from ..tabs.takeaway.report import text

Cell = str | int | float


def number(value: float, digits: int, source: str, unit: str = "") -> str:
    """A number with where it comes from: ``<data value="20.53" data-of="W4A8/DiTAS/...">``.

    source  path of the shipped value, its parts joined by "/"
    """
    return (
        f'<data value="{value!r}" data-digits="{digits}" data-of="{text(source)}">'
        f"{value:.{digits}f}</data>{text(unit)}"
    )


def spread(found: Interval, digits: int, source: str) -> str:
    """``20.5 ± 2.3``, both numbers checkable."""
    mean = number(found.mean, digits, f"{source}/mean")
    return f"{mean} ± {number(found.half_width, digits, f'{source}/half')}"


def section(key: str, title: str, *body: str) -> str:
    return f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{text(title)}</h2>{"".join(body)}</section>'  # noqa: E501


def prose(words: str) -> str:
    return f"<p>{text(words)}</p>"


def listing(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table that scrolls inside itself; cells are HTML already, header and caption texts."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )  # fmt: skip
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        "</table></div>"
    )


def details(summary: str, body: str) -> str:
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def chart(drawing: str, key: str, caption: str) -> str:
    """A chart with its key and what it shows."""
    return f"<figure>{drawing}{key}<figcaption>{text(caption)}</figcaption></figure>"


def switch(name: str, legend: str, panels: Sequence[tuple[str, str]], first: int = 0) -> str:
    """One of several panels, chosen by radio buttons: no script. Printed, all are there.

    The style sheet shows panel n while button n is checked.
    """
    buttons = "".join(
        f'<input type="radio" name="{name}" id="{name}-{at}"{" checked" if at == first else ""}>'
        f'<label for="{name}-{at}">{text(label)}</label>'
        for at, (label, _) in enumerate(panels)
    )
    shown = "".join(f'<div class="panel">{body}</div>' for _, body in panels)
    return (
        f'<fieldset class="switch"><legend>{text(legend)}</legend>{buttons}'
        f'<div class="panels">{shown}</div></fieldset>'
    )


def strip(pixels: Pixels, labels: Sequence[str], variant: str) -> str:
    """Pictures (N, H, W, 3) side by side; each says what it is."""
    cells = "".join(
        f'<img src="{data_uri(each)}" alt="{html.escape(f"{label}, {variant}")}" '
        f'width="{each.shape[1]}" height="{each.shape[0]}">'
        for each, label in zip(pixels, labels, strict=True)
    )
    count = len(labels)
    narrow = 4 if count % 4 == 0 else 3  # on a phone, without a lonely one in the last row
    return f'<div class="strip" style="--count: {count}; --narrow: {narrow}">{cells}</div>'


def row(title: str, note: str, pictures: str) -> str:
    """A line of the contact sheet."""
    return (
        f'<div class="row"><div class="row-title"><b>{text(title)}</b><span>{note}</span></div>'
        f"{pictures}</div>"
    )
