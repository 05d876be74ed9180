"""Theme, style sheet and script: system fonts, nothing loaded from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr

SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def build_theme() -> gr.themes.Base:
    """Contrast at least 4.5 : 1 in light and dark."""
    blue = gr.themes.Color(
        c50="#eef6fc",
        c100="#d6eaf8",
        c200="#add4f0",
        c300="#7cb9e4",
        c400="#4398d1",
        c500="#0f79bd",
        c600="#0067a8",
        c700="#00558b",
        c800="#00426d",
        c900="#002f4f",
        c950="#001d33",
    )
    return gr.themes.Base(
        primary_hue=blue,
        secondary_hue=gr.themes.colors.orange,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=SANS,
        font_mono=MONO,
    ).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_text_color="white",
        block_label_text_color="*neutral_700",
        block_info_text_color="*neutral_600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color_dark="*neutral_300",
    )


STATIC = Path(__file__).resolve().parent / "static"
CSS = "".join((STATIC / name).read_text(encoding="utf-8") for name in ("style.css", "dial.css"))


def drawing_scripts() -> list[str]:
    """Addresses, relative to the page, of what draws figures; [] where Gradio renames it."""
    assets = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
    return [f"./assets/{file.name}" for file in sorted(assets.glob("PlotlyPlot-*.js"))]


SCRIPT = "".join((STATIC / name).read_text(encoding="utf-8") for name in ("page.js", "dial.js"))
OUTSIDE = (
    "@media (max-width: 640px) { .gradio-container > .main { padding: 8px 12px !important; } }"
)
"""Styles of what Gradio puts around the page, which its own rules do not let ``CSS`` reach."""
HEAD = (
    f"<style>{OUTSIDE}</style>"
    f"<script>window.ditasScripts = {json.dumps(drawing_scripts())};\n{SCRIPT}</script>"
)
