"""Every writer of the package, ended with SIGKILL at random moments, again and again.

A child process writes version A and version B of the same thing in turn. It is killed in
the middle of a write; what lies there afterwards must be refused or be A or B, whole.

    python tests/writers.py 40

(The journals of ``calibrate`` and ``search`` are killed by tests/test_resume.py, downloads
from the hub by tests/test_hub.py.)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from checkpoint_writers import CHECKPOINT_WRITERS, Writer

REFUSED = "refused"
LIMIT_S = 3600


class Things:
    """Two versions of everything that is written, made once."""

    def __init__(self, folder: Path) -> None:
        from ditas_core.bench.pages import tiny_folder
        from ditas_core.calibration import Calibration, calibrate
        from ditas_core.checkpoints import load_checkpoint
        from ditas_core.conversion import quantize_transformer
        from ditas_core.evaluation.outliers import outlier_atlas
        from ditas_core.search import plain_recipe
        from ditas_core.specs import BitWidths, CalibrationSpec, SamplingSpec
        from ditas_core.ui.stored.precompute import precompute

        self.checkpoint = load_checkpoint(str(tiny_folder(folder / "tiny")))
        self.calibrations: list[Calibration] = []
        for seed in range(2):
            spec = CalibrationSpec(SamplingSpec(steps=2), samples=1, seed=seed, tokens=4)
            found = calibrate(self.checkpoint, spec)
            self.calibrations.append(found)
        self.recipes = [
            plain_recipe(self.checkpoint, BitWidths(bits, 8), "integer") for bits in (4, 8)
        ]
        self.models: list[Any] = []
        for recipe in self.recipes:
            model = quantize_transformer(self.checkpoint, recipe, None)
            self.models.append(model)
        self.atlases = [outlier_atlas(self.checkpoint, each) for each in self.calibrations]
        self.states = [{"w": torch.full((40_000,), float(i)), "b": torch.ones(9)} for i in (1, 2)]
        sampling = SamplingSpec(steps=2, guidance_scale=2.5)
        spec = CalibrationSpec(sampling, samples=1, tokens=4)
        shipped = precompute(self.checkpoint, lambda _: None, spec, sampling, 2, ("W4A8",))
        self.shipped = [shipped, replace(shipped, calibration="another")]
        self.bytes = [bytes([i]) * 200_000 for i in (1, 2)]


def calibration_writer(things: Things) -> Writer:
    from ditas_core.calibration import Calibration

    return Writer(
        lambda version, folder: things.calibrations[version].save(folder / "c.safetensors"),
        lambda folder: [Calibration.load(folder / "c.safetensors").sha256],
    )


def atlas_writer(things: Things) -> Writer:
    from ditas_core.evaluation.outliers import OutlierAtlas

    def load(folder: Path) -> list[str]:
        found = OutlierAtlas.load(folder / "a.safetensors")
        text = "".join(str(group.map().sum().item()) for group in found.groups.values())
        return [hashlib.sha256(text.encode()).hexdigest()]

    return Writer(
        lambda version, folder: things.atlases[version].save(folder / "a.safetensors"), load
    )


def recipe_writer(things: Things) -> Writer:
    from ditas_core.specs import Recipe
    from ditas_core.writing import write_text

    return Writer(
        lambda version, folder: write_text(folder / "r.json", things.recipes[version].to_json()),
        lambda folder: [Recipe.from_json((folder / "r.json").read_text()).to_json()],
    )


def state_writer(suffix: str) -> Callable[[Things], Writer]:
    def make(things: Things) -> Writer:
        from ditas_core.checkpoints.state_files import read_state, write_state

        def load(folder: Path) -> list[str]:
            state = read_state(folder / f"s{suffix}")
            return [f"{state['w'].sum().item()} {state['w'].numel()} {state['b'].sum().item()}"]

        return Writer(
            lambda version, folder: write_state(folder / f"s{suffix}", things.states[version]),
            load,
        )

    return make


def quantized_writer(things: Things) -> Writer:
    """Always a new folder; all of them are looked at."""
    from ditas_core.artifact import load_quantized, save_quantized

    def write(version: int, folder: Path) -> None:
        target = folder / f"q{time.monotonic_ns()}"
        save_quantized(target, things.checkpoint, things.models[version], things.recipes[version])

    def load(folder: Path) -> list[str]:
        found = []
        for target in sorted(folder.iterdir()):
            if not target.name.startswith("q"):
                continue  # hidden: a folder that was not finished
            checkpoint, recipe = load_quantized(target)
            total = sum(p.float().sum().item() for p in checkpoint.transformer.parameters())
            found.append(f"{recipe.to_json()} {total:.3f}")
            shutil.rmtree(target)
        return found

    return Writer(write, load)


def onnx_writer(things: Things) -> Writer:
    """As ``quantized_writer``; the graphs are traced once, before anything is killed."""
    import onnx

    from ditas_core.onnx_runtime import export_onnx, traced, traced_decoder

    traced(things.checkpoint), traced_decoder(things.checkpoint)
    models = [replace(things.checkpoint, transformer=each) for each in things.models]

    def write(version: int, folder: Path) -> None:
        export_onnx(folder / f"o{time.monotonic_ns()}", models[version], things.recipes[version])

    def load(folder: Path) -> list[str]:
        found = []
        for target in sorted(folder.iterdir()):
            if not target.name.startswith("o"):
                continue  # hidden: a folder that was not finished
            for name in ("transformer.onnx", "vae_decoder.onnx"):
                onnx.checker.check_model(str(target / name), full_check=True)
            digest = hashlib.sha256((target / "transformer.onnx").read_bytes()).hexdigest()
            assert "```python" in (target / "README.md").read_text()
            found.append(digest + (target / "recipe.json").read_text())
            shutil.rmtree(target)
        return found

    return Writer(write, load)


def shipped_writer(things: Things) -> Writer:
    from ditas_core.ui.stored.precompute import write
    from ditas_core.ui.stored.results import load_shipped

    def load(folder: Path) -> list[str]:
        found = load_shipped(folder / "precomputed", things.checkpoint.fingerprint)
        latents = found.presets["W4A8"].result.latents
        return [
            f"{found.calibration} {sum(each.float().sum().item() for each in latents.values())}"
        ]

    return Writer(
        lambda version, folder: write(things.shipped[version], folder / "precomputed"), load
    )


def download_writer(things: Things) -> Writer:
    """What the page writes for downloads, and the bundle of all of it."""
    from ditas_core.ui.tabs.takeaway.store import Store

    kept: list[Store] = []

    def write(version: int, folder: Path) -> None:
        store = Store(folder)
        kept.append(store)  # it removes its folder when it is gone
        del kept[:-2]
        place = store.place("one")
        store.write(place / "data.bin", things.bytes[version])
        store.pack(place / "all.zip", {"data.bin": place / "data.bin"})

    def load(folder: Path) -> list[str]:
        found = [hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("data.bin")]
        for path in folder.rglob("all.zip"):
            with zipfile.ZipFile(path) as bundle:
                assert bundle.testzip() is None
                found.append(hashlib.sha256(bundle.read("data.bin")).hexdigest())
        for left in folder.iterdir():
            shutil.rmtree(left)
        return found

    return Writer(write, load)


def recipe_download_writer(things: Things) -> Writer:
    from ditas_core.specs import Recipe
    from ditas_core.ui.tabs.search import draw as search

    def write(version: int, folder: Path) -> None:
        search.FOLDER.name = str(folder)
        search.recipe_file("mine", things.recipes[version])

    return Writer(
        write,
        lambda folder: [
            Recipe.from_json(path.read_text()).to_json() for path in folder.glob("*.json")
        ],
    )


def training_writer(things: Things) -> Writer:
    from training.runs import Run

    def load(folder: Path) -> list[str]:
        state = Run(folder, lambda _: None).restore()
        assert state is not None
        return [f"{state['w'].sum().item()} {state['w'].numel()}"]

    def write(version: int, folder: Path) -> None:
        Run(folder, lambda _: None).save({**things.states[version], "step": 1})

    return Writer(write, load)


WRITERS: dict[str, Callable[[Things], Writer]] = {
    "calibration": calibration_writer,
    "outlier atlas": atlas_writer,
    "recipe": recipe_writer,
    "state dict, safetensors": state_writer(".safetensors"),
    "state dict, pt": state_writer(".pt"),
    "quantized folder": quantized_writer,
    "onnx folder": onnx_writer,
    "shipped results": shipped_writer,
    "downloads": download_writer,
    "recipe download": recipe_download_writer,
    "training state": training_writer,
    **CHECKPOINT_WRITERS,
}


def read(writer: Writer, folder: Path) -> list[str]:
    """What loads; what is refused counts as nothing."""
    try:
        return writer.load(folder)
    except (ValueError, OSError, AssertionError, RuntimeError, KeyError, EOFError) as error:
        return [f"{REFUSED}: {type(error).__name__}"]


def kill_once(writer: Writer, folder: Path, longest: float, chance: random.Random) -> None:
    """A child that writes without end, killed within one write."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(out)
            version = 0
            while True:
                os.write(into, b".")
                writer.write(version % 2, folder)
                version += 1
        finally:
            os._exit(3)
    os.close(into)
    for _ in range(chance.randrange(1, 4)):
        os.read(out, 1)
    time.sleep(chance.uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    _, how = os.waitpid(child, 0)
    os.close(out)
    assert os.WIFSIGNALED(how), "the writer failed before it was killed"


def try_writer(name: str, things: Things, kills: int, folder: Path) -> dict[str, Any]:
    """How many kills left nothing, one version, or something else ("wrong")."""
    writer = WRITERS[name](things)
    folder.mkdir()
    known: set[str] = set()
    seconds = 0.0
    for version in (0, 1):
        began = time.monotonic()
        writer.write(version, folder)
        seconds = max(seconds, time.monotonic() - began)
        known.update(read(writer, folder))
    assert len(known) == 2 and not any(REFUSED in each for each in known), (name, known)
    chance = random.Random(name)
    whole = refused = 0
    wrong: list[str] = []
    for _ in range(kills):
        kill_once(writer, folder, 1.2 * seconds, chance)
        for found in read(writer, folder):
            if found in known:
                whole += 1
            elif found.startswith(REFUSED):
                refused += 1
            else:
                wrong.append(found[:80])
    return {"kills": kills, "whole": whole, "refused": refused, "wrong": wrong}


def kill_all(kills: int, names: list[str] | None = None) -> dict[str, Any]:
    """Every writer, in a process of its own that has no threads yet."""
    tests = Path(__file__).resolve().parent
    path = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "writers", str(kills), *(names or WRITERS)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kills", type=int)
    parser.add_argument("names", nargs="*", help="default: all")
    options = parser.parse_args()
    if unknown := set(options.names) - set(WRITERS):
        parser.error(f"expected {', '.join(WRITERS)}, got {', '.join(sorted(unknown))}")
    if not options.names:
        print(json.dumps(kill_all(options.kills), indent=1))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        things = Things(Path(place))
        report = {
            name: try_writer(name, things, options.kills, Path(place) / name.replace(" ", "-"))
            for name in options.names
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
