"""Pictures inside HTML: data URIs with a text for those who do not see them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

Pixels = np.ndarray


def data_uri(pixels: Pixels) -> str:
    """(H, W, 3) bytes as a PNG inside an address."""
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(memory.getvalue()).decode()


def picture(pixels: Pixels, alt: str, caption: str = "") -> str:
    """One picture; the style sheet gives it its size."""
    text = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="picture"><img src="{data_uri(pixels)}" alt="{html.escape(alt)}" '
        f'width="{pixels.shape[1]}" height="{pixels.shape[0]}">{text}</figure>'
    )


def picture_rows(
    rows: Sequence[tuple[str, str, Sequence[Pixels]]], labels: Sequence[str], name: str
) -> str:
    """A sheet of pictures: each row has a title, a note and one picture per label."""
    parts = []
    for title, note, pictures in rows:
        cells = "".join(
            picture(pixels, f"{label}, {title}")
            for pixels, label in zip(pictures, labels, strict=True)
        )
        parts.append(
            f'<div class="sheet-row"><div class="sheet-title"><b>{html.escape(title)}</b>'
            f"<span>{html.escape(note)}</span></div>"
            f'<div class="sheet-cells">{cells}</div></div>'
        )
    return (
        f'<div class="sheet" role="group" aria-label="{html.escape(name)}">{"".join(parts)}</div>'
    )
