"""Figures that change where they stand: a new value of a gr.Plot would build it anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.utils import PlotlyJSONEncoder

MOVE = """(text) => {
  const moves = Object.entries(JSON.parse(text || "{}"));
  const plot = (id) => document.querySelector(`#${id} .js-plotly-plot`);
  const ready = async () => {  // the first figures may still be loading what draws them
    for (let i = 0; i < 200 && !moves.every(([id]) => plot(id)?._fullLayout); i++)
      await new Promise((go) => setTimeout(go, 100));
  };
  const apply = () => {
    for (const [id, { data, layout, patch }] of moves) {
      if (!plot(id)) continue;
      if (!data) {
        window.Plotly.relayout(plot(id), patch);
        continue;
      }
      const next = layout ?? { ...plot(id).layout };
      for (const [key, value] of Object.entries(patch ?? {}))
        next[key] = value?.constructor === Object ? { ...next[key], ...value } : value;
      window.Plotly.react(plot(id), data, next, { responsive: true });
    }
  };
  window.ditasMoves = (window.ditasMoves ?? Promise.resolve()).then(ready).then(apply);
}"""
"""In the browser: what ``packed`` wrote, in the order of the moves."""


def packed(figures: Mapping[str, Any]) -> str:
    """All figures or moves as one JSON object, by the element id of their gr.Plot.

    A figure replaces data and layout; ``{"data", "patch"}`` data and some of the layout;
    ``{"patch"}`` only some of the layout.
    """
    parts = {n: f.to_plotly_json() if isinstance(f, go.Figure) else f for n, f in figures.items()}
    return json.dumps(parts, cls=PlotlyJSONEncoder, separators=(",", ":"))
