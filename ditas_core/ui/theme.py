"""Theme and style sheet: system fonts, blue and orange, nothing loaded from elsewhere."""

from __future__ import annotations

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


CSS = """
.gradio-container { max-width: 1240px !important; width: 100% !important;
  margin: 0 auto !important; }
#hero { background: linear-gradient(105deg, #0b0822 0%, #3b0f70 38%, #8c2981 66%, #de4968 86%,
  #fe9f6d 100%); border-radius: 14px; padding: 26px 30px 22px; color: #fff; }
#hero h1 { font-size: 30px; line-height: 1.15; margin: 0 0 6px; color: #fff;
  letter-spacing: -.02em; }
#hero p.story { font-size: 17px; line-height: 1.45; max-width: 46em; margin: 0; color: #fff; }
#hero .stats { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 12px;
  margin-top: 18px; }
#hero .stat { background: rgba(8, 4, 28, .62); border-radius: 10px; padding: 10px 14px;
  color: #fff; }
#hero .stat b { display: block; font-size: 22px; line-height: 1.25; color: #fff;
  font-variant-numeric: tabular-nums; }
#hero .stat span { font-size: 13px; line-height: 1.35; display: block; color: #f3eefc; }
#hero .stat i { font-style: normal; color: #fec287; }
.html-container { padding: 0 !important; }
#gallery .grid-wrap, #difference .grid-wrap { max-height: none !important;
  min-height: 0 !important; height: auto !important; overflow: visible !important; }
.status { display: flex; flex-direction: column; gap: 6px; font-size: 14px; min-height: 40px;
  padding: 9px 12px; border-radius: 8px; border-left: 4px solid #8A8F98;
  background: var(--background-fill-secondary); color: var(--body-text-color);
  font-variant-numeric: tabular-nums; }
.status.busy { border-left-color: #0f79bd; } .status.done { border-left-color: #009E73; }
.status.warn { border-left-color: #E69F00; }
.status .track { height: 6px; border-radius: 3px; background: var(--border-color-primary);
  overflow: hidden; }
.status .track div { height: 100%; background: #0f79bd; }
.lead p { font-size: 15px; color: var(--body-text-color); max-width: 62em; }
.js-plotly-plot .plotly .main-svg text, .js-plotly-plot .plotly .infolayer text {
  fill: var(--body-text-color) !important; }
.js-plotly-plot .plotly .hoverlayer text { fill: revert-layer; }
#ab-view img, .pixels img { image-rendering: auto; }
.prose table { font-size: 14px; }
@media (max-width: 640px) {
  #hero { padding: 18px 16px; } #hero h1 { font-size: 24px; } #hero p.story { font-size: 15px; }
  #hero .stats { grid-template-columns: 1fr; gap: 8px; }
  #gallery .grid-container { grid-template-columns: repeat(3, 1fr) !important; }
  .tab-container button { padding-inline: 8px !important; }
}
@media (prefers-reduced-motion: reduce) { * { animation: none !important;
  transition: none !important; } }
"""
