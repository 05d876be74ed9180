"""The last tab: method, words, conventions, licences, what is simulated."""

from __future__ import annotations

import html

import gradio as gr

from ....checkpoints import HUB_SOURCES
from ....specs import CONVENTIONS
from ...page.bar import Page
from ...page.glossary import TERMS
from ...page.tab import Tab
from ...visitors.backend import Backend

METHOD = r"""
### What happens
A diffusion transformer (DiT) turns noise into a picture in some fifty steps. Storing its weights
and activations as 4 or 8 bit integers saves memory, but every layer's input has a few channels
far larger than the rest. They stay in the same channels while their size changes from step to step,
and one rounding scale has to span them all.

DiTAS answers with three training-free steps:

1. **Temporal-aggregated smoothing.** Divide input channel $c$ by one factor for all timesteps and
   multiply the matching weight column, which leaves the product as it was:
   $$ s_c = \frac{(\max_{t}\,\max|X_{t,c}|)^{\alpha}}{(\max|W_{:,c}|)^{1-\alpha}} $$
   $$ XW^\top = (X / s)\,(W s)^\top $$
   The division disappears into the layer before (the modulation of adaLN, the rows of V); only
   the second feed-forward layer divides on the fly.
2. **Grid search of α per layer.**
   $$ \min_\alpha \sum_t \lVert Y_t - Q_a(X_t/s)\,Q_w(Ws)^\top \rVert^2 $$
   on tokens kept from one full-precision run. The identity $s = 1$ takes part and may
   win.
3. **A low-rank branch.** What weight rounding loses is approximated by $LR$ of low rank (8 at
   width 256), found by alternating rounding and a singular value decomposition in the norm of
   the layer's own inputs: the error that counts is the one the inputs see.

$Q(x) = \mathrm{clamp}(\mathrm{round}(x/\Delta) + z,\; q_{min},\; q_{max})$ with step $\Delta$ and
offset $z$.

### What is shown
- **Outliers**: the largest absolute value of each channel at each step, exact, over one guided run.
  "×" is always *times the median channel of the same layer*; before and after share one scale.
- **Alpha lab**: the search's own error on the kept tokens, split into what rounding the activations
  and what rounding the weights contributes.
- **Search**: output error of every candidate α against no smoothing, in dB.
- **Where it breaks**: error energy over output energy of each layer, alone, at several widths.
- **Compare**: latent SQNR $10\log_{10}(\lVert x\rVert^2/\lVert x-y\rVert^2)$ of the final latents,
  PSNR and SSIM of the decoded images; mean ± 95 % interval over the samples.

### Honest limits
Quantized layers run **simulated** unless the bar says **in integers**: rounded numbers are
multiplied in floating point, which shows exactly what rounding does to the picture and makes
nothing faster. In integers the codes themselves are multiplied, as bytes. The bar's milliseconds
are those of the last run on this machine, beside whatever else it did; **no other speed is
claimed**.
Injected outliers are always labelled; they rescale channels exactly and change no output in full
precision.
"""
CONVENTION_TABLE = """
### Conventions
| name | what shares one scale |
|---|---|
"""


def words() -> str:
    """The glossary as a list of definitions."""
    rows = "".join(
        f"<dt>{html.escape(word)}</dt><dd>{html.escape(text)}</dd>"
        for word, text in sorted(TERMS.items(), key=lambda pair: pair[0].lower())
    )
    return f'<h3>Words</h3><dl class="words">{rows}</dl>'


def listed(title: str, lines: list[tuple[str, str]]) -> str:
    """Names and what is told of each, both as text: some stand in files of other people."""
    rows = "".join(
        f"<li><strong>{html.escape(name)}</strong>: {html.escape(told)}</li>"
        for name, told in lines
    )
    return f"<h3>{html.escape(title)}</h3><ul>{rows}</ul>"


def build_about(backend: Backend, page: Page) -> None:
    """Static text."""
    conventions = "".join(f"| {c.name} | {c.summary} |\n" for c in CONVENTIONS.values())
    licences = []
    for entry in backend.entries.values():
        if entry.local and entry.key == backend.default.key:
            checkpoint = backend.checkpoint(backend.default)
            count = sum(p.numel() for p in checkpoint.transformer.parameters()) / 1e6
            told = (
                f"licence {checkpoint.licence}; {count:.1f} M parameters, "
                f"{checkpoint.image_size} px, {len(checkpoint.class_names)} classes, "
                f"fingerprint {checkpoint.fingerprint[:12]}"
            )
            licences.append((entry.key, told))
        elif not entry.local:
            whose = "weights by Meta, non-commercial licence" if entry.repo in HUB_SOURCES else ""
            licences.append((entry.label, whose or "licence on its page"))
    gr.Markdown(
        METHOD,
        latex_delimiters=[
            {"left": "$$", "right": "$$", "display": True},
            {"left": "$", "right": "$", "display": False},
        ],
        elem_id="about",
    )
    gr.HTML(words(), padding=False, elem_id="glossary")
    gr.Markdown(CONVENTION_TABLE + conventions)
    gr.HTML(listed("Checkpoints", licences), padding=False, elem_id="licences")
    gr.Markdown(
        "### Source\nDiTAS: Z. Dong and S. Q. Zhang, *Quantizing Diffusion Transformers via "
        "Enhanced Activation Smoothing*, WACV 2025. DiT: W. Peebles and S. Xie, ICCV 2023."
    )


TAB = Tab("about", "About", build_about)
