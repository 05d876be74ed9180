"""The comparison and the selected layer as PNG files."""

from __future__ import annotations

import io

import torch
from PIL import Image

from ....evaluation import Interval, interval
from ....figures import contact_sheet, map_still
from ...stored.results import Result
from .gather import Taken

LATENT = "latent SQNR, dB"


def png(image: Image.Image) -> bytes:
    memory = io.BytesIO()
    image.save(memory, "PNG")
    return memory.getvalue()


def estimates(result: Result) -> dict[str, dict[str, Interval]]:
    """metric -> variant -> mean and 95 % interval over the samples."""
    metrics = list(next(iter(result.metrics.values()), {}))
    return {
        metric: {
            variant: interval(torch.tensor(values[metric]))
            for variant, values in result.metrics.items()
        }
        for metric in metrics
    }


def spoken(found: Interval, digits: int = 1) -> str:
    """``20.5 ± 2.3``; a single sample has no interval."""
    half = f" ± {found.half_width:.{digits}f}" if found.n > 1 else ""
    return f"{found.mean:.{digits}f}{half}"


def settings_line(result: Result) -> str:
    """How the comparison was sampled."""
    known = result.settings
    parts = [f"n = {len(result.labels)}"]
    parts += [f"seed {known['seed']}"] if "seed" in known else []
    steps = known.get("steps", len(result.timesteps))
    parts.append(f"{steps} {str(known.get('scheduler', 'DDIM')).upper()} steps")
    parts += [f"guidance {known['guidance']:g}"] if "guidance" in known else []
    return " · ".join([*parts, "same noise and classes in every row", "simulated quantization"])


def sheet_image(taken: Taken) -> Image.Image | None:
    """All samples of the comparison."""
    result = taken.result
    if result is None:
        return None
    found = estimates(result).get(LATENT, {})
    captions = {n: f"latent SQNR\n{spoken(each)} dB" for n, each in found.items()}
    return contact_sheet(
        result.images, result.labels, captions, result.title, settings_line(result)
    )


def map_image(taken: Taken) -> Image.Image | None:
    """The selected layer's channels over time, before and after smoothing."""
    if taken.atlas is None:
        return None
    group, alpha = taken.atlas.groups[taken.layer], taken.alphas.get(taken.layer)
    after = "not smoothed (identity)" if alpha is None else f"after smoothing, α = {alpha:g}"
    return map_still(
        [
            ("before smoothing", group.map().numpy()),
            (after, group.smoothed(alpha).map().numpy()),
        ],
        taken.atlas.timesteps,
        f"Layer {taken.layer} · {group.title}",
        footer=f"{taken.choice.title} · α of {taken.alphas_of}",
    )
