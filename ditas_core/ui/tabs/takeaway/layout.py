"""Take away: recipe, tables, pictures, a report, code and a link, all of what is on view."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from ....specs import summarize
from ...page.bar import BarInputs, Page, View
from ...page.glossary import lead
from ...page.tab import Tab
from ...serving.errors import status
from ...serving.inputs import Inputs
from ...visitors.backend import Backend
from ...visitors.running import Finished, Progress, build_controls, wire_job
from ...visitors.session import Session
from .exports import ExportInputs, build_exports, made_already, offered, wire_exports
from .files import LARGE, SMALL, Files
from .gather import Taken, gather
from .pictures import settings_line
from .store import Store

LEAD = (
    "<b>Everything on view, for your own work.</b> Numbers as tables, pictures with captions, the "
    "[[recipe]], and a Python program that repeats the comparison: on the same machine to the "
    "printed digit. The report is one file that opens anywhere, without a network. All of it "
    "follows the bar above, the layer chosen in Outliers, and your last comparison."
)
LABELS = {
    "recipe": "Recipe (JSON)",
    "layers": "Layers (CSV)",
    "curves": "Search curves (CSV)",
    "metrics": "Metrics (CSV)",
    "snippet": "Program (Python)",
    "sheet": "Contact sheet (PNG)",
    "map": "Layer heatmap (PNG)",
    "report": "Report (HTML, 6 MB)",
    "zip": "Everything (zip, 4 MB)",
}
IDLE = "About a second. The report holds plotly.js (5 MB) and so needs no network."
MADE = "Ready: the report and the bundle belong to what is on view now."


@dataclass(frozen=True)
class TakeInputs(Inputs):
    """Fields of other tabs, where the page has them, that decide what is taken."""

    layer: Any
    measure: Any
    half: Any
    bar: BarInputs

    def read(self, backend: Backend, session: Session) -> Taken:
        """What is on view."""
        choice = self.bar.read(backend)
        return gather(backend, session, choice, self.layer, self.measure, self.half)


def summary(taken: Taken) -> str:
    """What the files are about, and what there is none of."""
    recipe = f"{taken.name}: not searched at these settings yet"
    if taken.recipe is not None:
        recipe = f"{taken.name}: {summarize(taken.recipe)}"
    curves = f"{len(taken.curves)} layers" if taken.curves else "not known for this recipe"
    comparison = "none at these settings: make one in Compare"
    if taken.result is not None:
        comparison = f"{taken.result.title}: {settings_line(taken.result)}"
    rows = {
        "view": taken.choice.title,
        "recipe": recipe,
        "layer": taken.layer or "outliers not measured yet",
        "search curves": curves,
        "comparison": comparison,
    }
    cells = "".join(f"<dt>{k}</dt><dd>{html.escape(v)}</dd>" for k, v in rows.items())
    return f'<dl class="card">{cells}</dl>'


def shown_picture(data: bytes | None, alt: str, missing: str) -> str:
    if data is None:
        return f'<div class="empty">{html.escape(missing)}</div>'
    code = base64.b64encode(data).decode()
    return (
        f'<figure class="picture"><img src="data:image/jpeg;base64,{code}" '
        f'alt="{html.escape(alt)}"></figure>'
    )


def sheet_view(files: Files) -> str:
    result = files.taken.result
    names = "" if result is None else f"{', '.join(result.images)}; {', '.join(result.labels)}"
    missing = "No comparison at these settings yet."
    return shown_picture(files.preview("sheet"), f"Contact sheet: {names}", missing)


def map_view(files: Files) -> str:
    alt = f"Channels of layer {files.taken.layer} over time, before and after smoothing"
    return shown_picture(files.preview("map"), alt, "The outliers have not been measured yet.")


def button(name: str, size: Literal["md", "lg"] = "md") -> gr.DownloadButton:
    return gr.DownloadButton(
        LABELS[name], interactive=False, size=size, elem_id=f"take-{name}", min_width=170
    )


def build_takeaway(backend: Backend, page: Page) -> View | None:
    """Lay out the tab."""
    gr.HTML(lead(LEAD), padding=False)
    about = gr.HTML(padding=False, elem_id="take-about")
    buttons: dict[str, gr.DownloadButton] = {}
    gr.HTML('<h3 class="card-title">Numbers and code</h3>', padding=False)
    with gr.Row():
        for name in ("recipe", "layers", "curves", "metrics", "snippet"):
            buttons[name] = button(name)
    gr.HTML('<h3 class="card-title">Report</h3>', padding=False)
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            controls = build_controls("takeaway", "Make the report", IDLE)
        with gr.Column(min_width=300), gr.Row():
            for name in LARGE:
                buttons[name] = button(name, "lg")
    exports = build_exports()
    gr.HTML('<h3 class="card-title">Pictures</h3>', padding=False)
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            sheet = gr.HTML(padding=False, elem_id="take-sheet-view")
            buttons["sheet"] = button("sheet")
        with gr.Column(min_width=300):
            heatmap = gr.HTML(padding=False, elem_id="take-map-view")
            buttons["map"] = button("map")
    gr.HTML('<h3 class="card-title">Link and program</h3>', padding=False)
    page.link = gr.Textbox(
        label="Link to this view",
        info="the bar and what the tabs show; your own recipes are not in it: take them as JSON",
        interactive=False,
        lines=1,
        max_lines=3,
        buttons=["copy"],
        elem_id="link",
    )
    code = gr.Code(
        language="python",
        label="Program that repeats what is on view",
        interactive=False,
        show_line_numbers=False,
        max_lines=24,
        buttons=["copy"],
        elem_id="snippet",
    )
    store = Store(Path(code.GRADIO_CACHE))
    backend.sessions.watchers.append(store.keep_only)
    layer, measure, half = (page.fields.get(name) for name in ("layer", "measure", "half"))
    inputs = TakeInputs(layer, measure, half, page.bar.inputs)
    wanted = exports.inputs(page.bar.inputs)
    small, large = [buttons[name] for name in SMALL], [buttons[name] for name in LARGE]

    def refresh(session: Session, asked: TakeInputs, exported: ExportInputs) -> tuple[Any, ...]:
        files = Files(store, asked.read(backend, session), session.key)
        files.make_small()
        made = files.path("report") is not None
        return (
            summary(files.taken),
            files.texts["snippet"],
            sheet_view(files),
            map_view(files),
            status(MADE, "done") if made else status(IDLE),
            *(offered(files.path(name)) for name in (*SMALL, *LARGE)),
            offered(made_already(backend, session, store, exported)),
        )

    def work(session: Session, link: Any, asked: TakeInputs) -> Iterator[Progress | Finished]:
        files = Files(store, asked.read(backend, session), session.key)
        address = link if isinstance(link, str) and len(link) < 2000 else ""
        for text, fraction in files.make_large(address):
            yield Progress(text, fraction)
        yield Finished(MADE, tuple(offered(files.path(name)) for name in LARGE))

    running = wire_job(backend, controls, work, [page.link, inputs], large, api_name="takeaway")
    exporting = wire_exports(backend, exports, store, page.bar.inputs)
    taken = [exports.button, *buttons.values()]
    page.actions["takeaway"] = [
        running.success,
        exporting.success,
        *(each.click for each in taken),
    ]
    shown = [about, code, sheet, heatmap, controls.line, *small, *large, exports.button]
    return View(refresh, [inputs, wanted], shown)


TAB = Tab("takeaway", "Take away", build_takeaway)
