"""What is made from the shipped checkpoints: a command a step, in the order they are made in."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from ..bench.machine import ROOT
from ..ui.stored.catalogue import TWIN_STRENGTH, showcase, twin_folder

MEASUREMENTS = Path("assets/measurements")
"""Reports of measurements, a JSON file each; ``pages`` turns them into tables."""
PRECOMPUTED = Path("assets/precomputed")
SITE = Path("site")
CONTESTS = PRECOMPUTED.with_name("contests")
SHIPPED_CONTESTS = (("W4A8", 5.0), ("W8A8", 9.0), ("W4A4", 5.0), ("W3A8", 4.0))
"""Bits, and the most effective bits per weight that a contender may take."""


PARTS = ("model", "contests")
"""What tells of the model; and what holds methods against each other on it."""


@dataclass(frozen=True)
class Step:
    """One command.

    makes    for people
    words    the command
    outputs  files that are there afterwards, relative to the repository
    report   the command's standard output, JSON, is kept in the one output
    after    steps that have to be done before
    fresh    a folder that the command wants to be absent: it is removed first
    alone    it measures time, or draws with a browser: nothing else runs, on all cores; every
             other command has one thread, and two run at once
    part     of PARTS
    """

    name: str
    makes: str
    words: tuple[str, ...]
    outputs: tuple[Path, ...]
    report: bool = False
    after: tuple[str, ...] = ()
    alone: bool = False
    fresh: Path | None = None
    part: str = "model"


def python(module: str, *words: str | Path) -> tuple[str, ...]:
    return (sys.executable, "-m", f"ditas_core{module}", *map(str, words))


def opened(folder: Path) -> str:
    """The class that stands first wherever the model is shown."""
    index = json.loads((ROOT / folder / "model_index.json").read_text("utf-8"))
    return showcase(list(index["id2label"].values()), 1)[0]


def measurement(
    name: str, makes: str, words: str, alone: bool = False, part: str = PARTS[0]
) -> Step:
    """A verb of the command line whose report is kept."""
    command, output = python("", *words.split(), "--json"), MEASUREMENTS / f"{name}.json"
    return Step(name, makes, command, (output,), True, alone=alone, part=part)


def stored(folder: Path, target: Path, part: str, makes: str, file: str, after: str = "") -> Step:
    """A part of the stored results of a checkpoint, or of its twin."""
    words = python(".ui.stored.precompute", folder, "--out", target, "--only", part)
    if target == PRECOMPUTED:
        return Step(part, makes, words, (target / file,), after=(after,) if after else ())
    words += ("--inject", f"{TWIN_STRENGTH:g}")
    return Step(f"{part}-injected", makes, words, (target / file,), after=(after,) if after else ())


def contest_name(bits: str, strength: float) -> str:
    """Of its files."""
    return bits if strength <= 1 else f"{bits}-injected"


def contests(makes: str, strength: float = 1.0) -> Step:
    """All that are shipped, of the checkpoint or of its twin."""
    name = "contests" if strength <= 1 else "contests-injected"
    words = ("--inject", f"{strength:g}") if strength > 1 else ()
    files = [CONTESTS / f"{contest_name(bits, strength)}.json" for bits, _ in SHIPPED_CONTESTS]
    outputs = (MEASUREMENTS / f"{name}.json", *files)
    return Step(name, makes, python(".results.contests", *words), outputs, part="contests")


def recommended_name(strength: float) -> str:
    """Of its report and figure."""
    return "recommended" if strength <= 1 else "recommended-injected"


def recommended(makes: str, strength: float = 1.0) -> Step:
    """The recommended method against DiTAS, of the checkpoint or of its twin."""
    name = recommended_name(strength)
    words = ("--inject", f"{strength:g}") if strength > 1 else ()
    outputs = tuple(MEASUREMENTS / f"{name}.{kind}" for kind in ("json", "svg"))
    return Step(name, makes, python(".results.recommended", *words), outputs, part="contests")


def steps(shipped: list[Path]) -> list[Step]:
    """All of them.

    shipped  folders relative to the repository, the one that the page opens on first; of its
             twin with injected outliers only the dial is made

    Each part takes about an hour on two cores, reckoned from what its steps took. Half
    of the model's are the two dials.
    """
    demo = shipped[0]
    return [
        Step("graphs", "graphs that the package ships", python(".onnx_runtime.ship", *shipped),
             (Path("ditas_core/onnx_runtime/graphs"),)),
        stored(demo, PRECOMPUTED, "dial", "convention, every stop, 8 classes of 20 steps",
               "dial.json"),
        stored(demo, PRECOMPUTED, "results", "atlas, recipes, comparisons of 8 classes, 50 steps",
               "results.json", "dial"),
        stored(demo, PRECOMPUTED, "ladder", "injected outliers, 9 strengths, 4 classes",
               "ladder.json", "results"),
        Step("speeds", "the dial's stops in integers", python(".ui.stored.speeds", demo),
             (PRECOMPUTED / "speeds.json",), after=("dial",), alone=True),
        stored(demo, twin_folder(PRECOMPUTED), "dial", "its twin's, with injected outliers",
               "dial.json", "dial"),
        Step("golden", "the numbers that the golden tests expect", python(".results.golden"),
             (MEASUREMENTS / "golden.json",)),
        measurement("methods", "plain and DiTAS, 16 samples of 20 steps",
                    f"compare {demo} --ablation W8A8,W4A8,W4A4 --methods plain,ditas "
                    "--samples 16 --steps 20"),
        Step("formats", "number formats, the error of every layer", python(".results.formats"),
             (MEASUREMENTS / "formats.json",)),
        measurement("backends", "three backends, 16 samples of 20 steps",
                    f"compare {demo} --ablation W8A8,W4A8 --methods ditas "
                    "--backend simulated,integer,onnx --samples 16 --steps 20"),
        measurement("modulation", "the modulation in few bits, 16 samples of 20 steps",
                    f"compare {demo} --ablation W8A8,W4A8 --methods ditas "
                    "--modulation none,w8,w8a8,w4 --backend onnx --samples 16 --steps 20"),
        measurement("smoothing", "the search alone, per tensor, 64 samples of 20 steps",
                    f"compare {demo} --ablation W8A8,W8A6 --methods plain,search "
                    "--convention integer-tensor --samples 64 --steps 20"),
        measurement("injected", "the same with injected outliers",
                    f"compare {demo} --inject {TWIN_STRENGTH:g} --ablation W8A8,W8A6 --methods "
                    "plain,search --convention integer-tensor --samples 64 --steps 20"),
        measurement("conventions", "conventions by bits, 8 samples of 20 steps",
                    "bench conventions --conventions integer,integer-tensor,paper,released "
                    "--bits W8A8,W4A8,W4A4"),
        Step("exports", "what the formats of torchao and sdnq cost, 8 samples of 20 steps",
             python(".results.exports"), (MEASUREMENTS / "exports.json",)),
        Step("tokens", "how many stored tokens a search needs",
             python("", "bench", "tokens", "--out", "assets/token-study"),
             (Path("assets/token-study/study.json"),)),
        measurement("search", "the released procedure and one pass, one run each",
                    "bench search --model demo --runs 1", alone=True),
        measurement("forward", "one forward pass in every way",
                    "bench forward --eager --rounds 9", alone=True),
        Step("site", "the phone's site",
             python("", "export", demo, "--to", "web", "--open", opened(demo), "--out", SITE),
             (SITE / "manifest.json",), after=("graphs", "ladder"), alone=True, fresh=SITE),
        Step("site-bench", "what the site weighs, how soon it draws",
             python("", "bench", "site", "--site", SITE, "--json"),
             (MEASUREMENTS / "site-bench.json",), True, ("site",), True),
        Step("page", "how quickly the page answers", python("", "bench", "page", "--json"),
             (MEASUREMENTS / "page.json",), True, ("ladder",), True),
        Step("pictures", "screenshots, and the animation of the README",
             (sys.executable, "tests/browser/pictures.py"),
             tuple(Path("assets/screenshots") / name for name in
                   ("tour.webp", "outliers.png", "lab.png", "compare.png", "breaking.png",
                    "device.webp")),
             after=("ladder", "site"), alone=True),
        contests("methods at equal bits, 8 samples of 20 steps"),
        contests("the same with injected outliers", TWIN_STRENGTH),
        recommended("the recommended method against DiTAS at equal bits, 32 and 8 samples"),
        recommended("the same with injected outliers", TWIN_STRENGTH),
        measurement("ranking", "what predicts closeness, 52 recipes, 8 samples of 20 steps",
                    "bench ranking --samples 8", part="contests"),
        measurement("stock", "torchao, sdnq and quanto, where installed, 8 samples of 20 steps",
                    "bench stock --samples 8", part="contests"),
    ]  # fmt: skip
