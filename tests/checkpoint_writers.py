"""Writers of whole checkpoints and of what lies beside them, for the kills of writers.py."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Writer:
    """``write(version, folder)``; ``load(folder)`` -> what can be read back, each as a text."""

    write: Callable[[int, Path], None]
    load: Callable[[Path], list[str]]


def captions_writer(_: Any) -> Writer:
    from tiny_pixart import tiny_captions

    from ditas_core.checkpoints import Captions

    both = [tiny_captions(seed) for seed in (3, 4)]
    return Writer(
        lambda version, folder: both[version].save(folder) and None,
        lambda folder: [Captions.load(folder).sha256],
    )


def converted_writer(_: Any) -> Writer:
    """Pickles of the hub as safetensors, always in a new folder; all of them are looked at."""
    import tempfile

    from hub_server import build_repository

    from ditas_core.checkpoints import load_folder
    from ditas_core.checkpoints.hub.pickled_folder import convert_folder

    home = tempfile.TemporaryDirectory()
    sources = [Path(home.name) / str(version) for version in range(2)]
    for source in sources:
        build_repository(source)
    index = sources[1] / "model_index.json"
    index.write_text(index.read_text().replace("cat", "lynx"))

    def write(version: int, folder: Path) -> None:
        for _ in convert_folder(sources[version], folder / f"c{time.monotonic_ns()}"):
            pass

    def load(folder: Path) -> list[str]:
        found = []
        for target in sorted(folder.iterdir()):
            if target.name.startswith("."):
                continue  # hidden: a folder that was not finished
            checkpoint = load_folder(target)
            found.append(f"{checkpoint.fingerprint} {checkpoint.class_names} {home.name}")
            shutil.rmtree(target)
        return found

    return Writer(write, load)


def exported_writer(things: Any) -> Writer:
    """A trained checkpoint that takes another one's place: the old one, the new one, or none."""
    from ditas_core.checkpoints import load_folder
    from ditas_core.writing import whole_folder

    def write(version: int, folder: Path) -> None:
        with whole_folder(folder / "model", replaces=True) as part:
            shutil.copytree(things.checkpoint.path, part, dirs_exist_ok=True)
            card = f"---\nlicense: number-{version}\n---\n"
            (part / "README.md").write_text(card, encoding="utf-8")

    def load(folder: Path) -> list[str]:
        checkpoint = load_folder(folder / "model")
        return [f"{checkpoint.fingerprint} {checkpoint.licence}"]

    return Writer(write, load)


def picture_writer(_: Any) -> Writer:
    """The contact sheets of the training's report."""
    from training.evaluate import save_image

    both = [Image.effect_noise((160, 160), 40.0 + version) for version in range(2)]

    def load(folder: Path) -> list[str]:
        with Image.open(folder / "sheet.png") as image:
            return [hashlib.sha256(image.tobytes()).hexdigest()]

    return Writer(lambda version, folder: save_image(both[version], folder / "sheet.png"), load)


CHECKPOINT_WRITERS: dict[str, Callable[[Any], Writer]] = {
    "captions": captions_writer,
    "converted checkpoint": converted_writer,
    "exported checkpoint": exported_writer,
    "pictures of the training": picture_writer,
}
