"""The comparison studio: one result as strips for the viewer, a contact sheet, numbers."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from ....evaluation import Interval, interval
from ....figures import Estimate, contact_strip, enlarge, role, to_uint8
from ....sampling import decode_latents
from ...page.pictures import data_uri
from ...stored.results import PLAIN, REFERENCE, SQNR, Result, kept_frames

MOST_FRAMES = 25
MOST_PIXELS = 6_000_000
"""Of all strips of one sample: large pictures get fewer steps."""
SLIDER_SIDE = 448
EMPTY_SHEET = '<p class="contact-empty">The contact sheet appears here.</p>'


def sample_name(result: Result, sample: int) -> str:
    return f"{sample + 1} · {result.labels[sample]}"


def headline(result: Result) -> str:
    """What is on view, in one line."""
    settings, n = result.settings, len(result.labels)
    parts = [result.title, f"{n} sample{'s' if n > 1 else ''}"]
    parts += [f"{text} {settings[name]:g}" for name, text in
              (("seed", "seed"), ("steps", "steps"), ("guidance", "guidance"))
              if name in settings]  # fmt: skip
    return " · ".join([*parts, settings.get("engine", "simulated")])


# ---- the viewer ----------------------------------------------------------------------------


def shown_frames(result: Result) -> tuple[int, ...]:
    """Places in ``result.frames`` that the viewer shows, the last among them."""
    height, width = result.images[REFERENCE].shape[1:3]
    most = MOST_PIXELS // (len(result.images) * height * width)
    return kept_frames(len(result.frames), min(MOST_FRAMES, max(2, most)))


def last_strip(result: Result, name: str, sample: int) -> str:
    """Only the finished picture."""
    return data_uri(result.images[name][sample])


def decoded_strip(vae: AutoencoderKL, result: Result, name: str, sample: int) -> str:
    """The shown steps side by side. The last one is the finished picture itself."""
    places = list(shown_frames(result))[:-1]
    frames = [result.images[name][sample][None]]
    if places:
        latents = result.latents[name][places, sample].float()
        frames.insert(0, to_uint8(decode_latents(vae, latents)))
    return data_uri(np.asarray(contact_strip(np.concatenate(frames))))


def facts(result: Result, name: str, sample: int) -> str:
    """How far one picture of one recipe is from full precision."""
    parts = []
    for metric, values in result.metrics[name].items():
        title, _, unit = metric.partition(", ")
        parts.append(f"{title} {shown(metric, values[sample])}{' ' + unit if unit else ''}")
    return "this picture: " + " · ".join(parts)


def viewer_value(
    key: str, result: Result, sample: int, variant: str, strips: dict[str, str] | None
) -> dict[str, Any]:
    """What viewer.js gets; without ``strips`` the last step only, and it will ask for the rest."""
    places = shown_frames(result)
    frames = [result.frames[place] for place in places] if result.frames else []
    pending = strips is None and len(frames) > 1
    if strips is None:
        frames = [len(result.timesteps) - 1]
        strips = {name: last_strip(result, name, sample) for name in result.images}
    return {
        "key": f"{key}/{sample}",
        "pending": pending,
        "sample": sample_name(result, sample),
        "n": len(result.labels),
        "b": variant,
        "size": int(result.images[REFERENCE].shape[1]),
        "timesteps": list(result.timesteps),
        "frames": frames,
        "variants": [
            {
                "name": name,
                "colour": role(name, at).colour,
                "strip": strips[name],
                "divergence": [round(v, 2) for v in result.divergence.get(name, [])],
                "facts": facts(result, name, sample) if name != REFERENCE else "",
            }
            for at, name in enumerate(ordered(result), start=-1)
        ],
    }


def ordered(result: Result) -> list[str]:
    """Full precision first."""
    return [REFERENCE, *result.variants]


def slider_pair(result: Result, sample: int, variant: str) -> tuple[Image.Image, Image.Image]:
    """Full precision and one recipe, finished."""
    first, second = result.images[REFERENCE][sample], result.images[variant][sample]
    return enlarge(first, SLIDER_SIDE), enlarge(second, SLIDER_SIDE)


# ---- the contact sheet -----------------------------------------------------------------------


def contact_sheet(result: Result, sample: int) -> str:
    """Every sample with every recipe; each picture is a button that chooses it."""
    names = ordered(result)
    parts = [f'<span class="corner">PSNR in dB below · n = {len(result.labels)}</span>']
    parts += [
        f'<span class="name"><i style="background:{role(name, at).colour}"></i>'
        f"{html.escape(name)}</span>"
        for at, name in enumerate(names, start=-1)
    ]
    for number in range(len(result.labels)):
        parts.append(f'<span class="label">{html.escape(sample_name(result, number))}</span>')
        parts += [cell(result, number, name, number == sample) for name in names]
    return (
        f'<div class="contact" role="group" aria-label="Contact sheet: choose a picture" '
        f'style="--recipes:{len(names)};--samples:{len(result.labels)}">{"".join(parts)}</div>'
    )


def cell(result: Result, sample: int, name: str, chosen: bool) -> str:
    psnr = result.metrics.get(name, {}).get("PSNR, dB")
    caption = "reference" if psnr is None else shown("PSNR, dB", psnr[sample])
    alt = html.escape(f"{result.labels[sample]}, {name}")
    return (
        f'<figure><button type="button" data-sample="{sample}" '
        f'data-variant="{html.escape(name)}" aria-pressed="{str(chosen).lower()}">'
        f'<img src="{data_uri(result.images[name][sample])}" alt="{alt}"></button>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


# ---- numbers -----------------------------------------------------------------------------------


def shown(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric == "SSIM" else f"{value:.1f}"


def intervals(result: Result) -> dict[str, dict[str, Interval]]:
    """metric -> recipe -> mean with its 95 % interval."""
    found: dict[str, dict[str, Interval]] = {}
    for name in result.variants:
        for metric, values in result.metrics[name].items():
            found.setdefault(metric, {})[name] = interval(torch.tensor(values))
    return found


def estimates(result: Result) -> dict[str, dict[str, Estimate]]:
    """The same for the figure; of one sample there is no interval."""
    return {
        metric: {name: estimate(found) for name, found in rows.items()}
        for metric, rows in intervals(result).items()
    }


def estimate(found: Interval) -> Estimate:
    half = found.half_width if math.isfinite(found.half_width) else 0.0
    return found.mean, found.mean - half, found.mean + half


def metrics_table(result: Result) -> str:
    """Mean ± 95 % interval of every metric and recipe, n said."""
    found, n = intervals(result), len(result.labels)
    seconds: dict[str, float] = result.settings.get("seconds", {})
    what = f"mean ± 95 % interval over n = {n} samples" if n > 1 else "n = 1: no interval"
    head = "".join(f'<th scope="col">{html.escape(metric)}</th>' for metric in found)
    head += '<th scope="col">seconds a picture</th>' if seconds else ""
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(f"<td>{number(metric, found[metric][name])}</td>" for metric in found)
        + (f"<td>{seconds[name]:.2f}</td>" if name in seconds else "")
        + "</tr>"
        for name in result.variants
    )
    if REFERENCE in seconds:
        rows += (
            f'<tr><th scope="row">{REFERENCE}</th>'
            + "<td>-</td>" * len(found)
            + f"<td>{seconds[REFERENCE]:.2f}</td></tr>"
        )
    return (
        f'<div class="score"><table><caption>Distance to full precision, {what}; '
        f'higher is closer</caption><thead><tr><th scope="col">recipe</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{gains_line(result)}"
    )


def gains_line(result: Result) -> str:
    """How much every recipe gains over plain rounding, paired; a gain within chance is called none.

    "" where there is no plain rounding or a single sample.
    """
    values = {name: torch.tensor(found[SQNR]) for name, found in result.metrics.items()}
    plain = values.pop(PLAIN, None)
    if plain is None or len(plain) < 2 or not values:
        return ""
    parts = []
    for name, each in values.items():
        found = interval(each - plain)
        if not math.isfinite(found.mean):
            said = "not a number"
        elif found.low > 0:
            said = f"{found.mean:.1f} ± {found.half_width:.1f} dB closer"
        elif found.high < 0:
            said = f"{-found.mean:.1f} ± {found.half_width:.1f} dB <b>further away</b>"
        else:
            said = f"<b>no closer</b> beyond chance ({found.mean:+.1f} ± {found.half_width:.1f} dB)"
        parts.append(f"{html.escape(name)}: {said}")
    return f'<p class="gains">Against plain rounding, sample by sample. {"; ".join(parts)}.</p>'


def number(metric: str, found: Interval) -> str:
    half = f" ±\u00a0{shown(metric, found.half_width)}" if found.n > 1 else ""
    return shown(metric, found.mean) + half


def kept(chosen: Iterable[Any] | None, offered: list[str], otherwise: list[str]) -> list[str]:
    """What of a selection is still offered."""
    found = [name for name in chosen or () if isinstance(name, str) and name in offered]
    return found or otherwise
