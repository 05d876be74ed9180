"""Memory and disk, weighed before anything is allocated."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from children import growth_of, memory_field, told_by_child
from conftest import DEMO
from safetensors.torch import load_file
from test_original_sizes import random_state

from ditas_core.checkpoints import (
    Architecture,
    CheckpointError,
    Machine,
    Need,
    check_fits,
    load_checkpoint,
    need_of_original,
    preflight,
    read_headers,
    recognise_file,
    this_machine,
    write_state,
)
from ditas_core.checkpoints.files.headers import Headers, TensorHeader
from ditas_core.checkpoints.machine import (
    address_space_left,
    available_memory,
    figure,
    free_disk,
)

GB = 10**9
NEED = Need("model", 3 * GB, 750_000_000, int(5.2e9), int(2.8e9), disk=7 * GB)


def xl(dtype: torch.dtype = torch.float32, latent: int = 32) -> Headers:
    """The header of an original DiT-XL/2 file; there is no file."""
    shapes = Architecture(28, 1152, 16, 2, 4, 8, latent, 1000).shapes()
    tensors = {key: TensorHeader(dtype, shape) for key, shape in shapes.items()}
    return Headers("DiT-XL-2.pt", "archive", sum(t.nbytes for t in tensors.values()), tensors)


def test_figures_of_a_published_model() -> None:
    """Of the smallest free Space's 16 GB and two threads it takes less than half."""
    need = need_of_original(xl(), recognise_file(xl()), None)
    assert need.parameters == pytest.approx(750e6, rel=0.01)  # embedders in every block
    assert need.file_bytes == pytest.approx(2.7e9, rel=0.01) and need.mapped == need.file_bytes
    assert need.float32 == pytest.approx(4 * (675e6 + 750e6) + 0.29e9, rel=0.02)
    assert need.bfloat16 == pytest.approx(2 * (675e6 + 750e6) + 0.29e9, rel=0.02)
    check_fits(need, 16 * GB, 50 * GB)
    check_fits(need, 4 * GB, 50 * GB, torch.bfloat16)
    words = "6.0 GB of memory in float32, 3.2 GB in bfloat16, 4.0 GB are free.* --weights bfloat16"
    with pytest.raises(CheckpointError, match=f"needs {words}"):
        check_fits(need, 4 * GB, 50 * GB)
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(CheckpointError, match="a smaller checkpoint or a larger machine"):
            check_fits(need, GB, 50 * GB, dtype)


@pytest.mark.parametrize(
    ("memory", "disk", "space", "words"),
    [
        (None, 6 * GB, None, "expected 7.0 GB of free disk .* got 6.0 GB"),
        (99 * GB, 99 * GB, 3 * GB, "of address space in float32, .* pass --weights bfloat16"),
        (0, None, None, "0.0 MB are free"),
    ],
)
def test_refusals_carry_the_figures(
    memory: int | None, disk: int | None, space: int | None, words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        check_fits(NEED, memory, disk, address_space=space)
    check_fits(NEED, None, None)
    check_fits(NEED, NEED.float32, NEED.disk, address_space=NEED.float32)


def test_only_two_precisions_are_known() -> None:
    with pytest.raises(CheckpointError, match="float32 or bfloat16"):
        check_fits(NEED, None, None, torch.float16)
    with pytest.raises(CheckpointError, match="float32 or bfloat16"):
        load_checkpoint(DEMO, dtype=torch.int8)


def test_a_folder_that_does_not_fit_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need = preflight(DEMO)
    weights = load_file(DEMO / "transformer" / "diffusion_pytorch_model.safetensors")
    assert need.parameters == sum(tensor.numel() for tensor in weights.values()) and need.disk == 0
    assert need.bfloat16 < need.float32

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("ditas_core.checkpoints.files.folders.iterate_weights", never)
    with pytest.raises(CheckpointError, match=rf"{DEMO.name}: needs .* are free"):
        load_checkpoint(DEMO, machine=Machine(memory=100_000_000))
    with pytest.raises(AssertionError, match="a tensor was read"):
        load_checkpoint(DEMO, machine=Machine(memory=16 * GB, disk=50 * GB))


def test_bfloat16_is_half_as_large_and_close() -> None:
    full, half = (load_checkpoint(DEMO, dtype=d) for d in (torch.float32, torch.bfloat16))
    large, small = (sum(p.nbytes for p in c.transformer.parameters()) for c in (full, half))
    assert large == 2 * small
    assert half.fingerprint != full.fingerprint
    x = torch.randn(2, *full.latent_shape, generator=torch.Generator().manual_seed(0))
    arguments = {"timestep": torch.tensor([500, 20]), "class_labels": torch.tensor([3, 1000])}
    with torch.no_grad():
        expected = full.transformer(x, **arguments).sample
        found = half.transformer(x.bfloat16(), **arguments).sample.float()
    assert (found - expected).norm() < 0.03 * expected.norm()


# What the machine has


def fake(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal: 32000000 kB\nMemFree: 1000 kB\nMemAvailable: 16000000 kB\n"


def test_the_least_limit_counts(tmp_path: Path) -> None:
    proc = fake(tmp_path / "proc", {"meminfo": MEMINFO, "self/cgroup": "0::/app/worker\n"})
    cgroups = tmp_path / "cgroup"
    assert available_memory(proc, cgroups) == 16_000_000 * 1024
    fake(cgroups, {"app/memory.max": "max\n", "app/memory.current": "5\n"})
    assert available_memory(proc, cgroups) == 16_000_000 * 1024
    fake(cgroups, {"app/memory.max": "4000000000\n", "app/memory.current": "1500000000\n"})
    assert available_memory(proc, cgroups) == 2_500_000_000
    fake(cgroups, {"app/memory.stat": "anon 7\ninactive_file 500000000\n"})
    assert available_memory(proc, cgroups) == 3_000_000_000  # the page cache gives way
    fake(cgroups, {"app/worker/memory.max": "10\n", "app/worker/memory.current": "20\n"})
    assert available_memory(proc, cgroups) == 0
    older = fake(tmp_path / "old", {"meminfo": MEMINFO, "self/cgroup": "5:cpu:/a\n4:memory:/b\n"})
    limits = {"memory.limit_in_bytes": "2000000000", "memory.usage_in_bytes": "500000000"}
    fake(cgroups / "memory" / "b", limits)
    assert available_memory(older, cgroups) == 1_500_000_000
    assert available_memory(tmp_path / "none", cgroups) is None
    fake(proc, {"meminfo": "MemAvailable: much kB\n", "self/cgroup": "\0\n::\n"})
    assert available_memory(proc, tmp_path / "none") is None


def test_this_machine_is_known(tmp_path: Path) -> None:
    machine = this_machine(tmp_path / "not" / "there")
    assert machine.memory is not None and machine.memory > 0
    assert machine.disk is not None and machine.disk == pytest.approx(free_disk(tmp_path), rel=0.1)
    assert free_disk(Path("\0")) is None or free_disk(Path("\0")) > 0  # type: ignore[operator]
    assert address_space_left() is None or address_space_left() > 0  # type: ignore[operator]
    assert figure(5_240_000_000) == "5.2 GB" and figure(25_400_000) == "25.4 MB"


@pytest.fixture(scope="module")
def middling(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of 230 MB in either format."""
    model = Architecture(3, 1024, 16, 2, 4, 4, 16, 1000)
    state = random_state(model)
    folder = tmp_path_factory.mktemp("middling")
    files = {suffix: folder / f"model.{suffix}" for suffix in ("safetensors", "pt")}
    for file in files.values():
        write_state(file, state)
    return files


def refused_load(path: Path) -> str:
    """In a child: what is said where 100 MB of address space are left, and what it took."""
    limit = memory_field("VmSize") + 100_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    left = address_space_left()
    assert left is not None and 90_000_000 < left <= 100_000_000
    said = []

    def load() -> None:
        try:
            load_checkpoint(path, like=DEMO, heads=16)
        except CheckpointError as error:
            said.append(str(error))

    grown = growth_of(load)
    return json.dumps([*said, grown])


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_process_with_little_address_space_is_refused_before_it_allocates(
    middling: dict[str, Path], tmp_path: Path, suffix: str
) -> None:
    said, grown = json.loads(told_by_child(refused_load, tmp_path, middling[suffix]))
    assert "address space" in said and "MB" in said
    assert grown < 40_000_000


def load_growth(path: Path, dtype: str) -> str:
    """In a child: bytes that loading takes at most."""
    precision = getattr(torch, dtype.removeprefix("torch."))
    return str(growth_of(lambda: load_checkpoint(path, like=DEMO, heads=16, dtype=precision)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_loading_stays_within_the_figures(
    middling: dict[str, Path], tmp_path: Path, suffix: str, dtype: torch.dtype
) -> None:
    path = middling[suffix]
    headers = read_headers(path)
    need = need_of_original(headers, recognise_file(headers, 16), None).memory(dtype)

    grown = int(told_by_child(load_growth, tmp_path, path, str(dtype)))
    mapped = path.stat().st_size if suffix == "pt" else 0  # counted as resident, but gives way
    assert 0.4 * need < grown < need + mapped
