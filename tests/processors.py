"""The numeric tests on every set of instructions that this processor has: ``make processors``.

    python tests/processors.py          all settings, several minutes each
    python tests/processors.py --two    the two that lie furthest from an ordinary run

torch chooses its kernels by the processor: its own by ATEN_CPU_CAPABILITY, oneDNN's by
ONEDNN_MAX_CPU_ISA, MKL's by MKL_CBWR; more threads split sums elsewhere. Each setting is a run
of the tests marked ``numeric`` in a process of its own; what this processor lacks is said, and
settings that come to the same kernels are run once. For the processors that are not at hand,
the last setting rounds otherwise in software (tests/otherwise.py).

PROCESSORS_PYTEST passes more options to pytest, for example "-k quantizer".
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOOK = """
import torch
print("aten", torch.backends.cpu.get_cpu_capability())
with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
    torch.nn.functional.conv2d(torch.ones(4, 16, 32, 32), torch.ones(16, 16, 3, 3))
"""
CHOSEN = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "OTHERWISE")
ATEN = ["DEFAULT", "AVX2", "AVX512"]
ONEDNN = {
    "SSE41": "Intel SSE4.1",
    "AVX2": "Intel AVX2",
    "AVX512_CORE_VNNI": "Intel AVX-512 with Intel DL Boost",
}
"""What oneDNN calls itself under each limit, where the processor has as much."""
PLAINEST = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
}


@dataclass(frozen=True)
class Setting:
    """Environment variables, threads, and whether results are moved in software."""

    variables: dict[str, str] = field(default_factory=dict)
    threads: int = 2
    otherwise: bool = False

    def __str__(self) -> str:
        told = [f"{name}={value}" for name, value in self.variables.items()]
        told += ["rounded otherwise (simulated)"] if self.otherwise else []
        return ", ".join([*(told or ["as it is"]), f"threads={self.threads}"])

    @property
    def environment(self) -> dict[str, str]:
        left = {name: value for name, value in os.environ.items() if name not in CHOSEN}
        return {**left, **self.variables, "OMP_NUM_THREADS": str(self.threads)}


OLDER = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
"""Beside torch's kernels for processors without AVX512: where oneDNN has AMX and they do not know
it, which is so on no processor, torch's attention in bfloat16 ends with "pack_vnni2"."""
SETTINGS = [
    *(Setting(threads=n) for n in (2, 1)),
    *(
        Setting({"ATEN_CPU_CAPABILITY": name.lower(), **({} if name == "AVX512" else OLDER)}, n)
        for name in ATEN
        for n in (2, 1)
    ),
    *(Setting({"ONEDNN_MAX_CPU_ISA": name}, n) for name in ONEDNN for n in (2, 1)),
    Setting(PLAINEST, 1),
    Setting(threads=1, otherwise=True),
]
TWO = SETTINGS[-2:]


def kernels(setting: Setting) -> tuple[str, str]:
    """What torch and oneDNN say that they use under this setting."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env=setting.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    aten = re.search(r"^aten (\S+)", done.stdout, re.M)
    onednn = re.search(r"cpu,isa:(.+)", done.stdout)
    return (aten[1] if aten else "unknown", onednn[1].strip() if onednn else "none")


def lacking(setting: Setting, here: tuple[str, str], found: tuple[str, str]) -> str:
    """What this processor would need for the setting; "" where it has it."""
    aten = setting.variables.get("ATEN_CPU_CAPABILITY", "default").upper()
    # torch believes a capability that it is told to have, and would die of the first instruction
    if here[0] in ATEN and ATEN.index(aten) > ATEN.index(here[0]):
        return f"this processor has no {aten}: torch uses {here[0]} here"
    wanted = ONEDNN.get(setting.variables.get("ONEDNN_MAX_CPU_ISA", ""), found[1])
    if found[1] != wanted:
        return f"this processor has no {wanted}: oneDNN uses {here[1]} here"
    return ""


def numeric_files() -> list[str]:
    """The files with a test of this mark, so that no other has to be imported."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [file for file in files if "mark.numeric" in file.read_text(encoding="utf-8")]
    return [str(file.relative_to(ROOT)) for file in marked]


def run(setting: Setting) -> bool:
    """Prints one line, and what failed below it; whether all passed."""
    plugin = ["-p", "tests.otherwise"] if setting.otherwise else []
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", *plugin,
             "-m", "numeric and not slow and not gpu", *numeric_files(),
             *shlex.split(os.environ.get("PROCESSORS_PYTEST", ""))]  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(
        words, cwd=ROOT, env=setting.environment, stdout=subprocess.PIPE, text=True
    )
    seconds = time.monotonic() - started
    lines = done.stdout.strip().splitlines() or ["nothing"]
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped)", lines[-1])
    print(f"{setting}: {', '.join(counts) or lines[-1]} in {seconds:.0f} s", flush=True)
    if done.returncode:
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        print("\n".join(f"  {line}" for line in failed or lines[-20:]), flush=True)
    return done.returncode == 0


def main(words: list[str]) -> int:
    """The number of settings under which a test failed."""
    if words not in ([], ["--two"]):
        sys.exit(f"processors: expected nothing or --two, got {' '.join(words)}")
    here = kernels(Setting())
    print(f"torch's kernels: {here[0]}; oneDNN's: {here[1]}; cores: {os.cpu_count()}", flush=True)
    known: dict[tuple[object, ...], Setting] = {}
    chosen: list[Setting] = []
    for setting in TWO if words else SETTINGS:
        found = kernels(setting)
        missing = lacking(setting, here, found)
        key = (*found, setting.variables.get("MKL_CBWR"), setting.threads, setting.otherwise)
        if missing:
            print(f"{setting}: not run, {missing}", flush=True)
        elif key in known:
            print(f"{setting}: the same kernels as {known[key]!s}", flush=True)
        else:
            known[key] = setting
            chosen.append(setting)
    # of one thread each, as many at once as there are cores
    at_once = min(2, os.cpu_count() or 1) if words else 1
    with ThreadPoolExecutor(at_once) as pool:
        return sum(not passed for passed in pool.map(run, chosen))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
