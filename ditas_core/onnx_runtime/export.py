"""A model as a folder of ONNX files, checked and run once before it appears.

transformer.onnx    the graph, full precision or integer products; beyond 2 GB with its weights in
                    transformer.onnx.data
vae_decoder.onnx    latents as sampling ends with them -> images in [0, 1]
scheduler/          as in the checkpoint
classes.json, or captions.safetensors   what the model is conditioned on
recipe.json         of a quantized model
export.json         opset, versions, sizes, what the check found
README.md           licence, and how to load it
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..artifact import parameter_count
from ..checkpoints import Checkpoint, CheckpointError
from ..conversion import quantize_modulation
from ..evaluation import sqnr_db
from ..layers import QuantizedLinear
from ..sampling import decode_latents
from ..specs import Recipe, summarize
from ..writing import check_new_folder, whole_folder
from .card import card_of
from .packages import check_installed, imported, versions
from .rewrite import Rewritten, onnx_model, rewritten
from .session import LARGEST, OnnxTransformer, open_session, save_external
from .trace import LATENTS, TIMESTEP, conditions_of, flat_arguments, traced, traced_decoder

FORMAT = "ditas-onnx-1"
TRANSFORMER, DECODER = "transformer.onnx", "vae_decoder.onnx"
STEPS = ("tracing", "writing", "checking", "tracing the decoder", "checking the decoder")
LAYER_DB, FLOAT_DB, WHOLE_DB = 60.0, 60.0, 10.0
"""What a layer on the same input, a model without rounding, and a whole quantized model must reach:
beyond a layer, codes that lie within their last bit of a tie part the two."""
Told = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Exported:
    """What was written.

    bits              stored bits per parameter of the whole transformer
    sqnr_db           of one forward pass against torch's of the same model, the worst sample
    layer_sqnr_db     of the worst quantized layer on the same input; None without any
    bytes             of each file
    """

    folder: str
    name: str
    modulation: str
    parameters: int
    bits: float
    sqnr_db: float
    layer_sqnr_db: float | None
    decoder_sqnr_db: float
    bytes: dict[str, int]
    versions: dict[str, str]


def export_onnx(
    target: Path,
    checkpoint: Checkpoint,
    recipe: Recipe | None = None,
    modulation: str = "none",
    cache: Path | None = None,
    progress: Told = lambda *_: None,
) -> Exported:
    """Write the folder described above.

    checkpoint  whose transformer may be quantized, with the recipe it was quantized by
    modulation  see ``quantize_modulation``; "none" where the recipe has quantized it
    cache       see ``traced``
    progress    called with what is being done, how much of it is done, and how much there is

    Raises:
        MissingPackage: the extra ``[onnx]`` is not installed.
        FileExistsError: the folder exists and is not empty.
        SpecError: a quantized layer that cannot run as an integer product.
        CheckpointError: a file that does not compute what torch does.
    """
    check_installed()
    check_new_folder(target)
    transformer = quantize_modulation(checkpoint.transformer, modulation)
    if recipe is not None and modulation != "none":
        recipe = replace(recipe, modulation=modulation)
    todo = iter(enumerate(STEPS))

    def begin() -> None:
        done, what = next(todo)
        progress(what, done, len(STEPS))

    with whole_folder(target) as work, torch.no_grad():
        begin()
        graph = traced(checkpoint, cache)
        begin()
        quantized = any(isinstance(each, QuantizedLinear) for each in transformer.modules())
        found = rewritten(graph, transformer, half=quantized)
        size = write_model(found.model, work / TRANSFORMER)
        begin()
        sqnr, layer_sqnr = check_transformer(work / TRANSFORMER, found, checkpoint, transformer)
        begin()
        write_model(onnx_model(traced_decoder(checkpoint, cache), checkpoint.vae, half=True),
                    work / DECODER)  # fmt: skip
        begin()
        decoder_sqnr = check_decoder(work / DECODER, checkpoint)
        parameters = parameter_count(transformer)
        write_settings(work, checkpoint, recipe)
        files = {path.name: path.stat().st_size for path in sorted(work.glob("*.onnx*"))}
        exported = Exported(
            str(target), checkpoint.name,
            modulation if recipe is None else recipe.modulation, parameters, 8 * size / parameters,
            sqnr, layer_sqnr, decoder_sqnr, files, versions(),
        )  # fmt: skip
        about = {
            "format": FORMAT,
            "base": checkpoint.name,
            "fingerprint": checkpoint.fingerprint if recipe is None else recipe.checkpoint,
            "recipe": None if recipe is None else summarize(recipe),
            "licence": checkpoint.licence,
            **{key: value for key, value in asdict(exported).items() if key != "folder"},
        }
        (work / "export.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        (work / "README.md").write_text(card_of(checkpoint, about), encoding="utf-8")
        for path in work.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    progress(STEPS[-1], len(STEPS), len(STEPS))
    return exported


def write_model(model: Any, path: Path) -> int:
    """The file, and another for the weights where one would be too large; bytes of both."""
    if model.ByteSize() < LARGEST:
        path.write_bytes(model.SerializeToString())
    else:
        save_external(model, path)
    imported("onnx").checker.check_model(str(path), full_check=True)
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))


def write_settings(work: Path, checkpoint: Checkpoint, recipe: Recipe | None) -> None:
    """What a sampler needs besides the two networks."""
    (work / "scheduler").mkdir()
    schedule = json.dumps(checkpoint.scheduler, indent=1)
    (work / "scheduler" / "scheduler_config.json").write_text(schedule, encoding="utf-8")
    if checkpoint.captions is not None:
        checkpoint.captions.save(work)
    else:
        names = {str(i): name for i, name in enumerate(checkpoint.class_names)}
        (work / "classes.json").write_text(json.dumps(names, indent=1), encoding="utf-8")
    if recipe is not None:
        (work / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    for path in checkpoint.path.glob("LICEN[CS]E*") if checkpoint.path.is_dir() else ():
        shutil.copyfile(path, work / path.name)


def check_transformer(
    path: Path, found: Rewritten, checkpoint: Checkpoint, transformer: nn.Module
) -> tuple[float, float | None]:
    """SQNR of one guided forward pass of the file, and of its worst layer on the same input.

    Raises:
        CheckpointError: less than it must be.
    """
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, *checkpoint.latent_shape, generator=generator)
    conditions = dict(conditions_of(checkpoint, torch.zeros(1, dtype=torch.long)))
    time = torch.full((2,), 500)
    stock = transformer(latents, timestep=time, return_dict=False, **conditions)[0]
    runtime = OnnxTransformer(path, checkpoint.transformer)
    sample = runtime(latents, timestep=time, return_dict=False, **conditions)[0]
    runtime.close()
    sqnr = float(sqnr_db(stock, sample).min())
    must = FLOAT_DB if not found.layers else WHOLE_DB
    if not sqnr >= must:
        raise CheckpointError(
            f"{TRANSFORMER}: expected what torch computes to {must:g} dB, got {sqnr:.1f} dB"
        )
    feeds = {LATENTS: latents, TIMESTEP: time.float(), **flat_arguments(conditions)}
    worst = [
        (float(sqnr_db(layer_output(transformer, name, x)[None], y[None])), name)
        for name, x, y in layer_values(found, {k: v.numpy() for k, v in feeds.items()})
    ]
    if not worst:
        return sqnr, None
    least, name = min(worst)
    if not least >= LAYER_DB:
        raise CheckpointError(
            f"{TRANSFORMER}: {name}: expected what torch computes to {LAYER_DB:g} dB, got "
            f"{least:.1f} dB"
        )
    return sqnr, least


def layer_output(transformer: nn.Module, path: str, x: Tensor) -> Tensor:
    """What a layer makes of an input."""
    found: Tensor = transformer.get_submodule(path)(x)
    return found


def layer_values(found: Rewritten, feeds: Mapping[str, Any]) -> list[tuple[str, Tensor, Tensor]]:
    """Path, input and output of every quantized layer in one run of the graph."""
    if not found.layers:
        return []
    onnx = imported("onnx")
    looked = onnx.ModelProto()
    looked.CopyFrom(found.model)
    known = {each.name for each in (*looked.graph.input, *looked.graph.output)}
    names = list(dict.fromkeys(name for pair in found.layers.values() for name in pair))
    for name in names:
        if name not in known:
            looked.graph.output.append(onnx.ValueInfoProto(name=name))
    session = open_session(looked, torch.get_num_threads())
    values = dict(zip(names, session.run(names, dict(feeds)), strict=True))
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in values.items()}
    return [(path, tensors[x], tensors[y]) for path, (x, y) in found.layers.items()]


def check_decoder(path: Path, checkpoint: Checkpoint) -> float:
    """SQNR of two decoded images.

    Raises:
        CheckpointError: less than it must be.
    """
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, *checkpoint.latent_shape, generator=generator)
    expected = decode_latents(checkpoint.vae, latents)
    session = open_session(path, torch.get_num_threads())
    images = torch.from_numpy(session.run(None, {"latents": latents.numpy()})[0])
    sqnr = float(sqnr_db(expected, images).min())
    if not sqnr >= FLOAT_DB:
        raise CheckpointError(
            f"{DECODER}: expected what torch computes to {FLOAT_DB:g} dB, got {sqnr:.1f} dB"
        )
    return sqnr
