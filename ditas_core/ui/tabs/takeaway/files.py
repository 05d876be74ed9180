"""The files themselves: small ones at once, the report and the bundle as a job."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from .gather import Taken
from .pictures import map_image, png, sheet_image
from .report import report_html
from .snippet import snippet
from .store import Store, slug
from .tables import curves_csv, layers_csv, metrics_csv

SMALL = ("recipe", "layers", "curves", "metrics", "snippet", "sheet", "map")
LARGE = ("report", "zip")
PREVIEW_WIDTH = 900
Progress = tuple[str, float]


def names_of(taken: Taken) -> dict[str, str]:
    """File names that say what is inside."""
    stem = slug(f"{taken.source.name}-{taken.choice.bits}-{taken.choice.convention}")
    if taken.choice.model.injected:
        stem += f"-outliers-x{taken.choice.model.strength:g}"
    layer = slug(taken.layer)
    return {
        "recipe": f"{stem}-recipe-{slug(taken.name)}.json",
        "layers": f"{stem}-layers.csv",
        "curves": f"{stem}-search-curves.csv",
        "metrics": f"{stem}-metrics.csv",
        "snippet": f"{stem.replace('.', '-')}.py",
        "sheet": f"{stem}-contact-sheet.png",
        "map": f"{stem}-layer-{layer}.png",
        "report": f"{stem}-report.html",
        "zip": f"{stem}.zip",
    }


def preview(image: Image.Image) -> bytes:
    """A small JPEG."""
    height = round(image.height * PREVIEW_WIDTH / image.width)
    memory = io.BytesIO()
    image.resize((PREVIEW_WIDTH, height), Image.Resampling.LANCZOS).save(memory, "JPEG", quality=88)
    return memory.getvalue()


class Files:
    """The files of what is on view, in one folder of the store; made once per content.

    ``owner`` keeps visitors apart: a report holds the link of whoever made it, and is gone
    with them.
    """

    def __init__(self, store: Store, taken: Taken, owner: str = "") -> None:
        self.store, self.taken = store, taken
        self.names = names_of(taken)
        self.texts = {
            "recipe": "" if taken.recipe is None else taken.recipe.to_json(),
            "layers": layers_csv(taken),
            "curves": curves_csv(taken),
            "metrics": metrics_csv(taken),
            "snippet": snippet(taken),
        }
        title = "" if taken.result is None else taken.result.title
        labels = [] if taken.result is None else list(taken.result.labels)
        about = [owner, *self.names.values(), title, taken.alphas_of, json.dumps(labels)]
        self.folder = store.place(*about, *self.texts.values(), owner=owner)

    def path(self, name: str) -> Path | None:
        """The file if it has been made."""
        found = self.folder / self.names[name]
        return found if found.is_file() else None

    def make_small(self) -> None:
        """Tables, recipe, code and pictures, as far as there is something to put in them."""
        for name, content in self.texts.items():
            if content and self.path(name) is None:
                self.store.write(self.folder / self.names[name], content)
        for name, draw in (("sheet", sheet_image), ("map", map_image)):
            if self.path(name) is None and (image := draw(self.taken)) is not None:
                self.store.write(self.folder / f"{name}.jpg", preview(image))
                self.store.write(self.folder / self.names[name], png(image))

    def preview(self, name: str) -> bytes | None:
        """The small JPEG of a picture."""
        found = self.folder / f"{name}.jpg"
        return found.read_bytes() if found.is_file() else None

    def make_large(self, link: str) -> Iterator[Progress]:
        """The report, then everything in one file."""
        yield "drawing the pictures", 0.0
        self.make_small()
        sheet = self.path("sheet")
        yield "writing the report", 0.3
        report = report_html(self.taken, None if sheet is None else sheet.read_bytes(), link)
        self.store.write(self.folder / self.names["report"], report)
        yield "packing everything", 0.7
        paths = {self.names[name]: self.path(name) for name in (*SMALL, "report")}
        there = {name: path for name, path in paths.items() if path is not None}
        self.store.pack(self.folder / self.names["zip"], there)
        yield "done", 1.0
