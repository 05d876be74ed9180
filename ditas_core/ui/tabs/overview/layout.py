"""The first tab: the story of the checkpoint in one screen, and what each step would cost."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ...page.bar import BarInputs, Page, View, first_choice
from ...page.glossary import lead
from ...page.tab import Tab
from ...visitors.backend import Backend
from ...visitors.session import Session
from .costs import cost_table
from .draw import card, numbers, samples, worst_layer


def build_overview(backend: Backend, page: Page) -> View:
    """Drawn when the page is built, so that it is there with the page."""
    first, nobody = first_choice(backend), Session("")
    stats = gr.HTML(numbers(backend, first), padding=False, elem_id="numbers")
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            gr.HTML(
                lead(
                    "<b>The same noise, three ways to compute.</b> Every difference between the "
                    "rows is [[rounding]]. Choose other bits above and watch the middle row."
                ),
                padding=False,
            )
            sheet = gr.HTML(samples(backend, first), padding=False, elem_id="samples")
            with gr.Row(equal_height=False):
                about = gr.HTML(card(backend, first), padding=False, elem_id="card", min_width=240)
                cost = gr.HTML(cost_table(backend, first), padding=False, elem_id="cost",
                               min_width=260)  # fmt: skip
        with gr.Column(scale=4, min_width=320):
            gr.HTML(
                lead(
                    "<b>Its worst layer.</b> Each column is one [[channel]], each row one "
                    "[[denoising step]], bright is loud. [[smoothing|Smoothing]] turns the bright "
                    "columns down."
                ),
                padding=False,
            )
            worst = gr.HTML(worst_layer(backend, nobody, first), padding=False, elem_id="worst")
            closer = gr.Button("Look into every layer: Outliers", elem_id="look-closer", size="md")

    def refresh(session: Session, asked: BarInputs) -> tuple[Any, ...]:
        choice = asked.read(backend)
        return (
            numbers(backend, choice),
            samples(backend, choice),
            card(backend, choice),
            cost_table(backend, choice),
            worst_layer(backend, session, choice),
        )

    closer.click(lambda: gr.Tabs(selected="outliers"), None, page.tabs, api_visibility="private")
    page.actions["bits"] = [page.bar.inputs.preset.input]
    return View(refresh, [page.bar.inputs], [stats, sheet, about, cost, worst])


TAB = Tab("overview", "Overview", build_overview)
