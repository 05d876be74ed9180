"""What this machine has left: memory within every limit that applies, address space, disk."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """Bytes left; None where nothing is known or nothing limits.

    memory         physical memory within the machine's and its control groups' limits
    address_space  within the process's own limit (RLIMIT_AS), file mappings included
    disk           where files would be written
    """

    memory: int | None = None
    address_space: int | None = None
    disk: int | None = None


def this_machine(folder: Path) -> Machine:
    """Now, with the disk that ``folder`` lies (or would lie) on."""
    return Machine(available_memory(), address_space_left(), free_disk(folder))


def available_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Bytes that can be taken without swapping, the least of all limits."""
    known = [amount for amount in (physical(proc), *grouped(proc, cgroups)) if amount is not None]
    return max(0, min(known)) if known else None


def physical(proc: Path) -> int | None:
    return field(proc / "meminfo", "MemAvailable")


def grouped(proc: Path, cgroups: Path) -> list[int]:
    """What each control group above this process leaves, versions 2 and 1."""
    left = []
    for line in lines(proc / "self" / "cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        base = cgroups / "memory" if controllers else cgroups
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else ("memory.max", "memory.current")
        )
        group = base / own.strip().lstrip("/")
        while group.is_relative_to(base):
            limit, used = (number(group / name) for name in names)
            if limit is not None and used is not None and limit < 2**60:
                cached = sum(
                    field(group / "memory.stat", key) or 0 for key in ("inactive_file",)
                )  # the page cache gives way
                left.append(limit - max(0, used - cached))
            group = group.parent
    return left


def address_space_left() -> int | None:
    """Bytes that may still be mapped under RLIMIT_AS."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = field(PROC / "self" / "status", "VmSize")
    if limit == resource.RLIM_INFINITY or used is None:
        return None
    return max(0, limit - used)


def free_disk(folder: Path) -> int | None:
    """Bytes free on the disk of the nearest folder that exists."""
    for place in (folder, *folder.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except (OSError, ValueError):
            continue
    return None


def lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def number(path: Path) -> int | None:
    found = lines(path)
    return int(found[0]) if found and found[0].strip().isdigit() else None


def field(path: Path, key: str) -> int | None:
    """``key 12`` in bytes, or ``key: 12 kB``."""
    for line in lines(path):
        words = line.replace(":", " ").split()
        if len(words) >= 2 and words[0] == key and words[1].isdigit():
            return int(words[1]) * (1024 if words[2:] == ["kB"] else 1)
    return None


def figure(amount: int) -> str:
    """``5.2 GB``, or in MB below one."""
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def processor_name() -> str:
    """As the system calls it."""
    info = PROC / "cpuinfo"
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0].split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
