"""The folder of a site, whole or not at all.

index.html, *.css, *.js   the page: plain files, as they lie in ``static``
manifest.json             all the page knows: classes, schedule, models, decoder, runtime
models/                   ONNX graphs, compressed, their names with a part of their hash
runtime/                  onnxruntime-web
worker-files.js           what the service worker keeps for later, and the site's version
story.html                recorded results, where there are any
README.md                 front matter and headers of a static Space
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..calibration import Calibration, check_together
from ..checkpoints import Checkpoint, CheckpointError
from ..evaluation import psnr_db
from ..models import null_class
from ..onnx_runtime import (
    ABSMAX,
    Traced,
    check_installed,
    check_transformer,
    onnx_model,
    open_session,
    traced,
    traced_decoder,
    write_model,
)
from ..sampling import decode_latents, sample_latents, spread_labels
from ..smoothing import ALPHA_GRID
from ..specs import BitWidths, SamplingSpec, SpecError, get_convention, summarize
from ..writing import check_new_folder, whole_folder
from .card import readme
from .offers import FULL, METHODS, Offer, graph_of, loud_group, offers_of, transformer_of
from .runtime import BINARY, FILES, PACKAGE, VERSION
from .tables import look_of, schedule_tables

FORMAT, STORY = "ditas-site-1", "story.html"
STATIC = Path(__file__).parent / "static"
DRAWN = 16
"""Pictures that the quick look is fitted to and the decoder's loss is measured on."""
DECODER_DB = 45.0
"""PSNR that the decoder in 8 bits must reach; below it is stored in half precision."""
LARGEST_FULL = 2**30
"""Bytes of a full-precision transformer that a browser is offered."""
Told = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Settings:
    """What a site offers.

    bits        of weights and activations, W4A8 and so on
    grid        strengths of smoothing that the searches try
    opened      class that the page opens on, as are the first bits and the three numbers
    """

    bits: tuple[str, ...] = ("W4A8", "W8A8", "W3A8")
    convention: str = "integer"
    grid: tuple[float, ...] = ALPHA_GRID
    opened: str = "0"
    guidance_scale: float = 2.5
    steps: int = 20
    seed: int = 7

    def __post_init__(self) -> None:
        if not self.widths:
            raise SpecError("bits: expected at least one width such as W4A8, got none")
        reason = get_convention(self.convention).why_simulated(self.widths)
        if reason:
            raise SpecError(f"site: expected models that run in integers, got some: {reason}")
        SamplingSpec(self.steps, self.guidance_scale)

    @property
    def widths(self) -> tuple[BitWidths, ...]:
        return tuple(BitWidths.parse(each) for each in dict.fromkeys(self.bits))


@dataclass(frozen=True)
class Made:
    """What was written; bytes as they are downloaded.

    models        bytes by key
    sqnr_db       of one forward pass of each file against torch's of the same model
    decoder_psnr  of drawn pictures, against the decoder in full precision
    code          bytes of page and runtime before any compression
    """

    folder: str
    name: str
    version: str
    models: dict[str, int]
    sqnr_db: dict[str, float]
    decoder: int
    decoder_psnr: float
    code: int


def check_site(checkpoint: Checkpoint, settings: Settings) -> None:
    """Raise CheckpointError where no such site can be made of a checkpoint, before long work."""
    if checkpoint.captions is not None:
        raise CheckpointError(
            "site: expected a model of classes, got one of captions, whose text encoder is larger "
            "than what a page can load"
        )
    checkpoint.class_index(settings.opened)
    offered = schedule_tables(checkpoint)["steps"]
    if str(settings.steps) not in offered:
        raise CheckpointError(
            f"steps: expected one of {', '.join(offered)}, which the page offers, got "
            f"{settings.steps}"
        )


def make_site(
    target: Path,
    checkpoint: Checkpoint,
    calibration: Calibration,
    runtime: Path,
    settings: Settings = Settings(),
    cache: Path | None = None,
    story: str = "",
    progress: Told = lambda *_: None,
) -> Made:
    """Write the folder described above.

    calibration  of the checkpoint, which the searches use
    runtime      folder of ``fetch_runtime``
    cache        keeps traced graphs, see ``traced``
    story        a page of recorded results
    progress     called with what is being done, how much of it is done, and how much there is

    Raises:
        MissingPackage: the extra ``[onnx]`` is not installed.
        FileExistsError: the folder exists and is not empty.
        CheckpointError: a model that no site can be made of, or a file that differs from torch.
    """
    check_installed()
    check_new_folder(target)
    check_site(checkpoint, settings)
    check_together(checkpoint, calibration)
    total, done = 2 * len(settings.widths) + 5, 0

    def begin(what: str) -> None:
        nonlocal done
        progress(what, done, total)
        done += 1

    with whole_folder(target) as work, torch.no_grad():
        (work / "models").mkdir()
        begin("tracing")
        graph = traced(checkpoint, cache)
        begin("searching")
        offers = []
        for offer in offers_of(
            checkpoint, calibration, settings.widths, settings.convention, settings.grid
        ):
            offers.append(offer)
            if offer.method == "plain":
                begin(f"searching {offer.bits}")
        if full_bytes(checkpoint) > LARGEST_FULL:
            offers = [offer for offer in offers if offer.key != FULL]
        group = loud_group(checkpoint, calibration, offers)
        models, sqnr = [], {}
        for index, offer in enumerate(offers):
            if index % 2 == 0:
                begin(f"writing {offer.key}")
            entry, sqnr[offer.key] = write_offer(
                work, checkpoint, calibration, graph, offer, group.layers[0]
            )
            models.append(entry)
        begin("drawing")
        latents = drawn(checkpoint, settings)
        images = decode_latents(checkpoint.vae, latents)
        begin("writing the decoder")
        decoder = write_decoder(
            work, checkpoint, traced_decoder(checkpoint, cache), latents, images
        )
        manifest = {
            **about(checkpoint, settings),
            "runtime": copied(work, runtime),
            "look": look_of(latents, images),
            "watched": {"title": group.title, "channels": models[0]["channels"]},
            "models": models,
            "decoder": decoder,
            "story": STORY if story else None,
        }
        if story:
            (work / STORY).write_text(story, encoding="utf-8")
        code = finish(work, checkpoint, manifest)
    progress("done", total, total)
    return Made(
        str(target),
        checkpoint.name,
        version_of(manifest),
        {entry["key"]: entry["bytes"] for entry in models},
        sqnr,
        decoder["bytes"],
        decoder["psnr"],
        code,
    )


def full_bytes(checkpoint: Checkpoint) -> int:
    return 4 * sum(each.numel() for each in checkpoint.transformer.parameters())


def write_offer(
    work: Path,
    checkpoint: Checkpoint,
    calibration: Calibration,
    graph: Traced,
    offer: Offer,
    path: str,
) -> tuple[dict[str, Any], float]:
    """One model's file, checked against torch; what the manifest says of it, and dB."""
    group = next(each for each in checkpoint.groups if path in each.layers)
    transformer = transformer_of(checkpoint, calibration, offer)
    found, model = graph_of(graph, transformer, group)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        file = Path(folder) / "transformer.onnx"
        write_model(model, file)
        sqnr, _ = check_transformer(file, found, checkpoint, transformer)
        content = file.read_bytes()
    entry = {
        "key": offer.key,
        "bits": offer.bits,
        "method": offer.method,
        "title": METHODS.get(offer.method, "full precision"),
        "recipe": None if offer.recipe is None else summarize(offer.recipe),
        "channels": int(transformer.get_submodule(path).in_features),
        "absmax": ABSMAX,
        **stored(work, offer.key, content),
    }
    return entry, sqnr


def write_decoder(
    work: Path, checkpoint: Checkpoint, graph: Traced, latents: Tensor, images: Tensor
) -> dict[str, Any]:
    """The decoder in 8 bits where that is close enough, else in half precision."""
    for bits in (8, 16):
        model = onnx_model(graph, checkpoint.vae, half=True, eighth=bits == 8)
        session = open_session(model, torch.get_num_threads())
        found = torch.from_numpy(session.run(None, {"latents": latents.numpy()})[0])
        closeness = float(psnr_db(images, found).min())
        if closeness >= DECODER_DB:
            break
    return {
        "bits": bits,
        "psnr": min(closeness, 200.0),
        **stored(work, "decoder", model.SerializeToString()),
    }


def stored(work: Path, name: str, content: bytes) -> dict[str, Any]:
    """Write a model compressed: bytes to download, and as the runtime takes it."""
    packed = gzip.compress(content, 9, mtime=0)
    file = f"models/{name}.{hashlib.sha256(content).hexdigest()[:10]}.onnx.gz"
    (work / file).write_bytes(packed)
    return {"file": file, "bytes": len(packed), "unpacked": len(content)}


def drawn(checkpoint: Checkpoint, settings: Settings) -> Tensor:
    """Final latents of some classes, (N, C, h, w)."""
    spec = SamplingSpec(settings.steps, settings.guidance_scale)
    labels = spread_labels(DRAWN, len(checkpoint.class_names))
    return sample_latents(
        checkpoint.transformer,
        checkpoint.scheduler,
        labels,
        checkpoint.latent_shape,
        spec,
        settings.seed,
    )


def about(checkpoint: Checkpoint, settings: Settings) -> dict[str, Any]:
    """The manifest without its files."""
    names = checkpoint.class_names
    return {
        "format": FORMAT,
        "name": checkpoint.name,
        "licence": checkpoint.licence,
        "fingerprint": checkpoint.fingerprint,
        "classes": list(names),
        "null": null_class(checkpoint.transformer),
        "latent": list(checkpoint.latent_shape),
        "pixels": checkpoint.image_size,
        "open": {
            "class": checkpoint.class_index(settings.opened),
            "bits": str(settings.widths[0]),
            "guidance": settings.guidance_scale,
            "steps": settings.steps,
            "seed": settings.seed,
        },
        "convention": settings.convention,
        "schedule": schedule_tables(checkpoint),
    }


def copied(work: Path, runtime: Path) -> dict[str, Any]:
    """The page, and the runtime with its binary compressed; what the manifest says of it."""
    for file in sorted(STATIC.iterdir()):
        shutil.copyfile(file, work / file.name)
    (work / "runtime").mkdir()
    packed = work / "runtime" / f"{BINARY}.gz"
    packed.write_bytes(gzip.compress((runtime / BINARY).read_bytes(), 9, mtime=0))
    for name in set(FILES) - {BINARY}:
        shutil.copyfile(runtime / name, work / "runtime" / name)
    return {
        "name": PACKAGE,
        "version": VERSION,
        "binary": f"runtime/{packed.name}",
        "bytes": packed.stat().st_size,
    }


def finish(work: Path, checkpoint: Checkpoint, manifest: dict[str, Any]) -> int:
    """Manifest, list of files and card; bytes of code and runtime before any compression."""
    (work / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    files = sorted(
        path.relative_to(work).as_posix()
        for path in work.rglob("*")
        if path.is_file() and path.parent.name != "models" and path.name != STORY
    )
    models = [entry["file"] for entry in (*manifest["models"], manifest["decoder"])]
    kept = {"version": version_of(manifest), "files": ["./", *files], "models": models}
    (work / "worker-files.js").write_text(f"self.SITE = {json.dumps(kept)};\n", encoding="utf-8")
    (work / "README.md").write_text(readme(checkpoint, manifest), encoding="utf-8")
    for path in checkpoint.path.glob("LICEN[CS]E*") if checkpoint.path.is_dir() else ():
        shutil.copyfile(path, work / path.name)
    for path in work.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return code_bytes(work)


def version_of(manifest: dict[str, Any]) -> str:
    """Changes with the manifest and every file of the page."""
    digest = hashlib.sha256(json.dumps(manifest).encode())
    for path in pages(STATIC):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def pages(folder: Path) -> Sequence[Path]:
    return sorted(folder / file.name for file in STATIC.iterdir())


def code_bytes(site: Path) -> int:
    """Page and runtime, as they are before any compression."""
    runtime = 0
    for path in (site / "runtime").iterdir():
        packed = path.suffix == ".gz"
        runtime += len(gzip.decompress(path.read_bytes())) if packed else path.stat().st_size
    return runtime + sum(path.stat().st_size for path in pages(site))
