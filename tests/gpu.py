"""What only a GPU can show, in one command and one JSON object: ``python -m tests.gpu``.

Equality of the backends, strengths found on the CPU and there, forward passes of DiT-XL/2, and
the whole pipeline. No more than six minutes on one GPU; ``--device cpu --small`` runs the same
code on small models. What does not fit into the budget is named, an error is a text.
"""

from __future__ import annotations

import argparse
import copy
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn

from ditas_core.bench import scale
from ditas_core.bench.machine import DEMO, describe
from ditas_core.bench.models import random_model
from ditas_core.calibration import calibrate
from ditas_core.checkpoints import Checkpoint, load_checkpoint
from ditas_core.conversion import quantize_transformer
from ditas_core.evaluation import sqnr_db
from ditas_core.layers import QuantizedLinear, accumulators, run_as_, signed_activations
from ditas_core.search import LayerDone, SearchSpec, plain_recipe, search
from ditas_core.smoothing import ALPHA_GRID
from ditas_core.specs import BitWidths, CalibrationSpec, LayerRecipe, LowRankSpec, SamplingSpec

BUDGET_S = 330.0
TRIALS = 30
RESERVE_S = 15.0
"""Kept for measuring what is compiled."""
Found = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """Where, how small, and when it has to be over (``time.monotonic``)."""

    device: torch.device
    small: bool
    ends: float

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block once they are over."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not finished within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def machine(settings: Settings) -> Found:
    found: Found = dict(describe())
    if settings.on_gpu:
        properties = torch.cuda.get_device_properties(settings.device)
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
        found |= {
            "gpu": properties.name,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "driver": driver.stdout.strip().split("\n")[0],
        }
    return found


def demo_on(settings: Settings) -> Checkpoint:
    checkpoint = load_checkpoint(DEMO)
    _ = checkpoint.fingerprint
    checkpoint.transformer.to(settings.device)
    return checkpoint


def inputs_of(checkpoint: Checkpoint, batch: int, device: torch.device) -> tuple[Tensor, ...]:
    """Latents, times and classes, drawn on the CPU."""
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, *checkpoint.latent_shape, generator=draw)
    times = torch.randint(0, 1000, (batch,), generator=draw)
    labels = torch.randint(0, len(checkpoint.class_names), (batch,), generator=draw)
    return latents.to(device), times.to(device), labels.to(device)


def twice(layer: QuantizedLinear, x: Tensor) -> bool:
    """Whether both backends' accumulators are the same whole numbers."""
    flat = x.reshape(-1, x.shape[-1]).to(layer.bias.dtype)
    flat = flat if layer.smoothing is None else flat / layer.smoothing
    a, d_a, _ = signed_activations(flat, layer.activation_spec)
    sums = []
    for backend in ("simulated", "integer"):
        run_as_(layer, backend)
        operand = layer.operand
        sums.append(accumulators(a.to(operand.codes.dtype), d_a, operand))
    return all(torch.equal(x, y) for x, y in zip(*sums, strict=True))


def compared(layers: list[QuantizedLinear], run: Callable[[], Any]) -> list[bool]:
    """Of each layer on what it gets in one pass, see ``twice``."""
    same: list[bool] = []

    def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, QuantizedLinear)
        same.append(twice(layer, given[0]))

    hooks = [layer.register_forward_pre_hook(hook) for layer in layers]
    run()
    for each in hooks:
        each.remove()
    return same


@torch.no_grad()
def backends(settings: Settings) -> Found:
    """One forward pass of the quantized demo, simulated and in integers."""
    checkpoint, found = demo_on(settings), dict[str, Any]()
    inputs = inputs_of(checkpoint, 4, settings.device)
    for convention in ("integer", "integer-tensor", "integer-g64"):
        for bits in ("W8A8", "W4A8"):
            recipe = plain_recipe(checkpoint, BitWidths.parse(bits), convention)
            model = quantize_transformer(checkpoint, recipe)
            want = model(*inputs).sample
            run_as_(model, "integer")
            got = model(*inputs).sample
            layers = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
            same = compared([m for m in layers if m.multiplies_codes], partial(model, *inputs))
            equal = torch.equal(want, got)
            db = None if equal else round(float(sqnr_db(want, got).min()), 1)
            result = {"equal": equal, "db": db, "layers": len(same)}
            found[f"{bits} {convention}"] = {**result, "accumulators_equal": all(same)}
    return found


def losses_of(layer: LayerDone) -> dict[float | None, float]:
    """What the choice was made among, relative."""
    quick = ((None, layer.identity), *zip(layer.grid, layer.losses, strict=True))
    return {alpha: loss / layer.energy for alpha, loss in (layer.refined or quick)}


def alphas(settings: Settings) -> Found:
    """A W4A8 search on one calibration, on the CPU and there."""
    grid = (0.2, 0.5, 0.8) if settings.small else ALPHA_GRID
    size = SamplingSpec(steps=2 if settings.small else 10)
    spec = SearchSpec(BitWidths(4, 8), method="search" if settings.small else "ditas", grid=grid)
    here = load_checkpoint(DEMO)
    calibration = calibrate(here, CalibrationSpec(size, samples=2, tokens=8))
    runs: list[dict[str, LayerDone]] = []
    seconds = []
    for checkpoint in (here, demo_on(settings)):
        layers: dict[str, LayerDone] = {}

        def listen(event: object, layers: dict[str, LayerDone] = layers) -> None:
            if isinstance(event, LayerDone):
                layers[event.group] = event

        started = time.perf_counter()
        search(checkpoint, calibration, spec, progress=listen)
        seconds.append(round(time.perf_counter() - started, 1))
        runs.append(layers)
    other, largest = [], 0.0
    for name, one in runs[0].items():
        two = runs[1][name]
        curves = losses_of(one), losses_of(two)
        apart = [abs(curves[1][a] - loss) / loss for a, loss in curves[0].items() if a in curves[1]]
        largest = max(largest, *apart)
        if one.alpha != two.alpha:
            chosen = {"layer": name, "cpu": one.alpha, "there": two.alpha}
            chosen["losses"] = [[curve.get(a) for a in (one.alpha, two.alpha)] for curve in curves]
            other.append(chosen)
    result = {"layers": len(runs[0]), "equal": not other, "different": other}
    result["largest_relative_difference_of_losses"] = largest
    return {**result, "seconds": dict(zip(("cpu", "there"), seconds, strict=True))}


def pipeline(settings: Settings) -> Found:
    """``bench scale``, there."""
    parser = argparse.ArgumentParser()
    scale.add_arguments(parser)
    small = "--model DiT-S/2 --blocks 1 --steps 2 --samples 1 --tokens 4 --images 1"
    words = small if settings.small else "--model DiT-XL/2 --images 4"
    return scale.run(parser.parse_args([*words.split(), "--device", settings.device.type]))


def variants(
    checkpoint: Checkpoint, device: torch.device
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names and how each model is made, in the order of what is wanted most."""
    half = torch.bfloat16

    def ours(bits: str, convention: str, rank: int = 0) -> Any:
        recipe = plain_recipe(checkpoint, BitWidths.parse(bits), convention)
        layer = LayerRecipe(BitWidths.parse(bits), None, LowRankSpec(rank, 1, "none"))
        for name in recipe.layers if rank else ():
            recipe = recipe.with_layer(name, layer)
        model = quantize_transformer(checkpoint, recipe).requires_grad_(False)
        run_as_(model, "integer")
        return nn.Module.to(model, device, half)

    def torchao() -> Any:
        library: Any = import_module("torchao.quantization")
        paths = {path for group in checkpoint.groups for path in group.layers}
        model = nn.Module.to(copy.deepcopy(checkpoint.transformer), half)
        config = library.Int8DynamicActivationInt8WeightConfig()
        library.quantize_(model, config, filter_fn=lambda _, name: name in paths)
        return model

    yield "bfloat16", lambda: nn.Module.to(copy.deepcopy(checkpoint.transformer), half)
    yield "W8A8 per token", lambda: ours("W8A8", "integer")
    yield "W4A8 per token", lambda: ours("W4A8", "integer")
    yield "W8A8 per tensor", lambda: ours("W8A8", "integer-tensor")
    yield "W4A8 per tensor", lambda: ours("W4A8", "integer-tensor")
    yield "torchao int8 dynamic", torchao
    yield "W4A8 per token, rank 32", lambda: ours("W4A8", "integer", 32)


def milliseconds(run: Callable[[], Any], settings: Settings) -> float:
    if not settings.on_gpu:
        started = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - started)
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    run()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after))


def replayed(run: Callable[[], Any]) -> Callable[[], Any] | str:
    """The same work as one graph, without the time that its launches take; or why not."""
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay
    except RuntimeError as error:
        return one_line(error)


def run_of(model: Any, inputs: tuple[Tensor, ...], settings: Settings) -> Callable[[], Tensor]:
    """Compiled block by block: one graph serves all of them. On small models it is traced only."""
    for block in model.transformer_blocks:
        block.compile(fullgraph=True, backend="aot_eager" if settings.small else "inductor")

    def run() -> Tensor:
        output: Tensor = model(*inputs).sample
        return output

    return run


@torch.no_grad()
@torch._dynamo.config.patch(recompile_limit=64)  # the variants share their blocks' code
def forward(settings: Settings) -> Found:
    """Batch 2 x 8 at 256 px, medians of interleaved runs.

    ms           as called; replayed_ms as one CUDA graph
    ratio        of compiled bfloat16's to this one's: above 1 is faster
    sqnr_db      of the output, against float32 as it is
    """
    name, blocks, batch = ("DiT-S/2", 2, 4) if settings.small else ("DiT-XL/2", 0, 16)
    checkpoint = random_model(name, blocks, str(settings.device))
    latents, times, labels = inputs_of(checkpoint, batch, settings.device)
    want = checkpoint.transformer(latents, times, labels).sample.float()
    found: dict[str, Found] = {}
    runs: dict[str, Callable[[], Any]] = {}
    graphs: dict[str, Callable[[], Any]] = {}
    for kind, make in variants(checkpoint, settings.device):
        missing = kind.startswith("torchao") and find_spec("torchao") is None
        if missing or settings.left < 2 * RESERVE_S:
            found[kind] = {"not_run": "no torchao here" if missing else "no time left"}
            continue
        started = time.perf_counter()
        try:
            with within(settings.left - RESERVE_S):
                run = run_of(make(), (latents.to(torch.bfloat16), times, labels), settings)
                got = run().float()
                milliseconds(run, settings)
            found[kind] = {
                "sqnr_db": round(float(sqnr_db(want, got).mean()), 1),
                "ready_s": round(time.perf_counter() - started, 1),
            }
            runs[kind] = run
            if settings.on_gpu:
                graph = replayed(run)
                if isinstance(graph, str):
                    found[kind]["not_replayed"] = graph
                else:
                    graphs[kind] = graph
            say(f"  {kind}: ready after {found[kind]['ready_s']} s")
        except Exception as error:  # a TimeoutError, too
            found[kind] = {"error": one_line(error)}
            say(f"  {kind}: {found[kind]['error']}")
    for key, each in (("ms", runs), ("replayed_ms", graphs)):
        medians = interleaved(each, settings)
        for kind, median in medians.items():
            found[kind][key] = round(median, 3)
            if "bfloat16" in medians:
                ratio = key.replace("ms", "ratio")
                found[kind][ratio] = round(medians["bfloat16"] / median, 3)
    return {"model": checkpoint.name, "batch": batch, "variants": found}


def interleaved(runs: dict[str, Callable[[], Any]], settings: Settings) -> dict[str, float]:
    """Medians, one of each in turn."""
    times: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(TRIALS if settings.on_gpu else 3):
        for kind, run in runs.items():
            times[kind].append(milliseconds(run, settings))
    return {kind: statistics.median(each) for kind, each in times.items()}


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


PARTS: dict[str, tuple[Callable[[Settings], Found], float]] = {
    "machine": (machine, 30),
    "backends": (backends, 60),
    "pipeline": (pipeline, 120),
    "alphas": (alphas, 90),
    "forward": (forward, BUDGET_S),
}
"""What is done, and the most seconds that each may take."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small models, for the CPU")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds (%(default)s)")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        say("tests.gpu: expected a GPU, found none; --device cpu --small runs the same code here")
        return 2
    started = time.monotonic()
    device = torch.device("cuda:0" if args.device == "cuda" else "cpu")
    settings = Settings(device, args.small, started + args.budget)
    found: Found = {}
    seconds: dict[str, float] = {}
    for name, (part, most) in PARTS.items():
        begun = time.monotonic()
        if settings.left < 5:
            found[name] = {"not_run": "no time left"}
            continue
        try:
            with within(min(most, settings.left)):
                found[name] = part(settings)
        except Exception as error:
            found[name] = {"error": one_line(error)}
        seconds[name] = round(time.monotonic() - begun, 1)
        say(f"{name}: {seconds[name]} s")
    found["part_seconds"] = seconds
    found["total_seconds"] = round(time.monotonic() - started, 1)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
