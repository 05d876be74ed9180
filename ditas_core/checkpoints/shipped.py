"""The checkpoints that the repository ships: nothing but their folders in ``assets`` names them."""

from __future__ import annotations

from pathlib import Path

from .sources import is_file

ASSETS = Path(__file__).resolve().parents[2] / "assets"


def shipped_folders(assets: Path = ASSETS) -> list[Path]:
    """Folders of ``assets`` that hold a checkpoint, by name.

    The first is the one that the page opens on, and that documentation, examples, measurements
    and tests mean by the shipped checkpoint.
    """
    found = sorted(assets.iterdir()) if assets.is_dir() else []
    return [folder for folder in found if is_file(folder / "model_index.json")]
