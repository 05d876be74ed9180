"""The shipped results as one page without a server: what a static site has of them."""

from __future__ import annotations

from ...checkpoints import Checkpoint
from .catalogue import precomputed_folder
from .ladder import Ladder, load_ladder
from .results import Shipped, load_shipped
from .story_page import Tale, story_html

MOST_BYTES = 5_000_000
BITS = "W4A8"


def story_of(checkpoint: Checkpoint) -> str:
    """The page about a checkpoint; "" where no results of it are shipped.

    Raises:
        ValueError: the page would be larger than ``MOST_BYTES``.
    """
    try:
        shipped = load_shipped(precomputed_folder(), checkpoint.fingerprint)
        ladder = load_ladder(precomputed_folder(), checkpoint.fingerprint)
    except ValueError:  # none, or of another checkpoint
        return ""
    page = story_html(tale_of(checkpoint, shipped, ladder))
    if len(page.encode()) > MOST_BYTES:
        raise ValueError(f"story: expected at most {MOST_BYTES} bytes, got {len(page.encode())}")
    return page


def tale_of(checkpoint: Checkpoint, shipped: Shipped, ladder: Ladder) -> Tale:
    """What is told of a checkpoint's shipped results."""
    bits = BITS if BITS in shipped.presets else next(iter(shipped.presets))
    weights = sum(each.numel() for each in checkpoint.transformer.parameters())
    result = shipped.presets[bits].result
    known = result.settings
    facts = (
        ("checkpoint", checkpoint.name),
        ("licence", checkpoint.licence),
        ("size", f"{weights:,} parameters".replace(",", "\u202f")),
        ("pictures", f"{checkpoint.image_size} px, {len(checkpoint.class_names)} classes"),
        ("blocks and width", f"{len({g.block for g in checkpoint.groups})}, {checkpoint.width}"),
        ("convention of the comparison", shipped.convention),
        (
            "comparison",
            f"{len(result.labels)} samples, {known['steps']} {known['scheduler'].upper()} steps, "
            f"guidance {known['guidance']:g}, seed {known['seed']}",
        ),
        ("fingerprint (sha256 of the weights)", checkpoint.fingerprint),
        ("calibration (sha256)", shipped.calibration),
    )
    return Tale(checkpoint.name, bits, shipped, ladder, facts)
