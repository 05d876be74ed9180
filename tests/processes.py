"""The command line in processes of its own that can be killed, and that start at once.

They are forked from one process that has imported everything and computed nothing, so
a command takes a fraction of a second; ``python -m ditas_core`` takes five.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from children import imported

LIMIT_S = 120.0
"""No command of the tests may take longer, however busy the machine is."""


@dataclass(frozen=True)
class Death:
    """SIGKILL from inside ``before`` or ``after`` the n-th "rename", "sync" or "forward"."""

    call: str
    number: int
    when: str = "before"


@dataclass
class Ended:
    """Exit code (negative: the signal), what was written, how often the model ran."""

    code: int
    out: str
    err: str
    forwards: int

    @property
    def report(self) -> dict[str, Any]:
        """The JSON object on the last line."""
        assert self.code == 0, self.err
        return json.loads(self.out.strip().splitlines()[-1])


@dataclass
class Running:
    """A command that was started; ``end`` waits for it."""

    process: BaseProcess
    folder: Path
    started: float = field(default_factory=time.monotonic)

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def until(self, condition: Callable[[], bool]) -> None:
        """Poll; an error if the process ends or nothing happens for long."""
        while not condition():
            assert self.process.is_alive(), (self.folder / "err").read_text()
            assert time.monotonic() - self.started < LIMIT_S
            time.sleep(0.001)

    def end(self, limit: float = LIMIT_S) -> Ended:
        self.process.join(limit)
        late = self.process.exitcode is None
        if late:
            self.process.kill()
            self.process.join(LIMIT_S)
        out, err = ((self.folder / name).read_text() for name in ("out", "err"))
        assert not late, f"not finished after {limit:g} s: {err}"
        assert self.process.exitcode is not None
        forwards = (self.folder / "forwards").stat().st_size
        return Ended(self.process.exitcode, out, err, forwards)


def start(
    arguments: list[str],
    folder: Path,
    death: Death | None = None,
    pause: float = 0.0,
    environment: dict[str, str] | None = None,
) -> Running:
    """``ditas ARGUMENTS``; ``pause`` seconds are slept in every forward pass.

    folder  for its output; made here
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("out", "err", "forwards"):
        (folder / name).write_bytes(b"")
    process = imported().Process(
        target=command, args=(arguments, str(folder), death, pause, environment or {})
    )
    process.start()
    return Running(process, folder)


def run(arguments: list[str], folder: Path, death: Death | None = None) -> Ended:
    """Start and wait."""
    return start(arguments, folder, death).end()


def command(
    arguments: list[str],
    folder: str,
    death: Death | None,
    pause: float,
    environment: dict[str, str],
) -> None:
    """In the process itself."""
    os.environ.update(environment)
    # a shell's background job ignores SIGINT, and so would everything it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_APPEND), number)
    import torch
    from diffusers import DiTTransformer2DModel

    from ditas_core.cli import main

    torch.set_num_threads(1)
    count = os.open(f"{folder}/forwards", os.O_WRONLY | os.O_APPEND)
    forward = DiTTransformer2DModel.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        time.sleep(pause)
        result = forward(*args, **kwargs)
        os.write(count, b".")
        return result

    DiTTransformer2DModel.forward = counted
    if death is not None:
        owner = DiTTransformer2DModel if death.call == "forward" else os
        name = {"forward": "forward", "rename": "replace", "sync": "fsync"}[death.call]
        setattr(owner, name, deadly(getattr(owner, name), death))
    sys.exit(main(arguments))


def deadly(call: Callable[..., Any], death: Death) -> Callable[..., Any]:
    """``call`` that ends its process at the n-th time."""
    times = 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal times
        times += 1
        if times == death.number and death.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*args, **kwargs)
        if times == death.number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapper


def free_port() -> int:
    """A port of the loopback that nobody listens on, below those that the system hands out:
    an outgoing connection of the tests beside these could take one before it is used.
    """
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("100 ports of the loopback are in use")


def launch(
    arguments: list[str],
    folder: Path,
    world: int,
    deaths: dict[int, Death] | None = None,
) -> list[Running]:
    """One process per rank, with the environment that ``torchrun`` gives them."""
    shared = {
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return [
        start(
            arguments,
            folder / f"rank-{rank}",
            (deaths or {}).get(rank),
            environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]


def ended(running: list[Running], limit: float = LIMIT_S) -> list[Ended]:
    """All of them; none is left running if one does not end in time."""
    try:
        return [one.end(limit) for one in running]
    finally:
        for one in running:
            if one.process.is_alive():
                one.process.kill()
