"""A GPU that is not there: tensors say that they lie on "cuda" and are computed on the CPU.

What a real one refuses is refused: an operation on tensors of both places (but for single
numbers, copies, and indices of something on the GPU). So the same code runs here, and a
forgotten ``device=`` is found.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda:0")
COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_")


class Memory:
    """Bytes of what is alive there, every storage once, and the most that there were."""

    def __init__(self) -> None:
        self.users: dict[int, int] = {}
        self.now = self.most = 0

    def take(self, tensor: There) -> None:
        storage = tensor.held.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        self.users[key] = self.users.get(key, 0) + 1
        if self.users[key] == 1:
            self.now += size
            self.most = max(self.most, self.now)
        weakref.finalize(tensor, self.give, key, size)

    def give(self, key: int, size: int) -> None:
        self.users[key] -= 1
        if not self.users[key]:
            del self.users[key]
            self.now -= size

    def forget(self) -> None:
        self.most = self.now


MEMORY = Memory()


class There(Tensor):
    """``held`` is where the numbers really are."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        made: Any = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="cpu",  # as the library's own code, below Python, sees it
            requires_grad=False,
        )
        made.held = held
        MEMORY.take(made)
        return made  # type: ignore[no-any-return]

    device = property(lambda _: GPU)
    is_cuda = property(lambda _: True)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        copy = kwargs.pop("copy", False)
        place, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        options = {} if layout is None else {"memory_format": layout}
        found = self.held.to(dtype=dtype or self.dtype, copy=copy, **options)
        if place is not None and place.type != GPU.type:
            return found.to(place, copy=found is self.held)
        return self if found is self.held else There(found)

    def cpu(self) -> Tensor:
        return self.to("cpu")

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of the GPU to numpy; use Tensor.cpu() first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """Sees what makes tensors of nothing, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    owners: dict[int, Any] = {}
    bare_args = undressed(args, owners)
    bare = {key: undressed(value, owners) for key, value in kwargs.items()}
    tensors = [each for each in owners.values() if isinstance(each, Tensor)]
    there = [each for each in tensors if isinstance(each, There)]
    here = [each for each in tensors if not isinstance(each, There) and each.ndim]
    name = func._schema.name
    indexed = name in INDEXED and isinstance(args[0], There)
    if there and here and func not in COPIES and not indexed:
        raise RuntimeError(
            f"{name}: expected all tensors on one device, got {[tuple(x.shape) for x in there]} "
            f"on {GPU} and {[tuple(x.shape) for x in here]} on cpu"
        )
    wanted = kwargs.get("device")
    placed = bool(there) if wanted is None else torch.device(wanted).type == GPU.type
    if placed and wanted is not None:
        bare["device"] = torch.device("cpu")
        if isinstance(kwargs.get("generator"), torch.Generator):
            raise RuntimeError(f"{name}: expected a generator of {GPU}, got one of cpu")
    if there and name == "aten::_int_mm":
        check_product(*args)
    found = func(*bare_args, **bare)
    return dressed(found, owners) if placed else found


def undressed(value: Any, owners: dict[int, Any]) -> Any:
    """The arguments as the CPU takes them; ``owners`` remembers whose they were."""
    if isinstance(value, list | tuple):
        return [undressed(each, owners) for each in value]
    bare = value.held if isinstance(value, There) else value
    owners[id(bare)] = value
    return bare


def dressed(value: Any, owners: dict[int, Any]) -> Any:
    """Results as tensors of the GPU; what was worked on in place is what it was."""
    if isinstance(value, list | tuple):
        return type(value)(dressed(each, owners) for each in value)
    if not isinstance(value, Tensor):
        return value
    return owners[id(value)] if id(value) in owners else There(value)


def check_product(a: Tensor, w: Tensor) -> None:
    """What every version of a GPU's library takes; pytorch's own test__int_mm has the list."""
    (m, k), n = a.shape, w.shape[1]
    if m <= 16 or k % 8 or n % 8 or not a.is_contiguous() or not w.t().is_contiguous():
        raise RuntimeError(f"_int_mm: {m} x {k} x {n}, strides {a.stride()} and {w.stride()}")


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Within the block "cuda" can be asked for on a machine without one."""
    there: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda *_: "pretended",
        "synchronize": lambda *_: None,
        "reset_peak_memory_stats": lambda *_: MEMORY.forget(),
        "max_memory_allocated": lambda *_: MEMORY.most,
    }
    before = {name: getattr(torch.cuda, name) for name in there}
    for name, value in there.items():
        setattr(torch.cuda, name, value)
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a moved one is another
    try:
        with Pretending():
            yield
    finally:
        for name, value in before.items():
            setattr(torch.cuda, name, value)
        torch.__future__.set_overwrite_module_params_on_conversion(False)
