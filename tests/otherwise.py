"""A pytest plugin: torch's results as another processor might round them.

    python -m pytest -p tests.otherwise -m numeric

Kernels differ in the order in which they add, in fused multiplications and in the last bit of
exp and its like; LAPACKs differ in the signs of singular vectors. So after each such operation
the result is moved within what rounding allows: a product A B by at most eps |A| |B|, a sum of
x by at most eps times the sum of |x|, a function by one unit in the last place. In half
precision they add in float32 and round once. What is moved where depends on the operation and
on the shapes and strides of its operands, and on nothing else: equal calls stay equal, as on
one machine, and a call on one row says nothing about the last bit of a call on many, as on some
processors.

What IEEE 754 rounds itself (+, -, *, /, sqrt, comparisons, rounding) stays as it is, and so do
products and sums of whole numbers that single precision holds exactly.
OTHERWISE, any text, chooses other directions.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Any

import pytest

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear", "matmul",
            "convolution", "conv2d", "mkldnn_linear"}  # fmt: skip
SUMS = {"sum", "mean", "cumsum", "linalg_vector_norm", "norm"}
ROWS = {"native_layer_norm", "native_group_norm", "layer_norm", "group_norm", "_softmax",
        "softmax", "_log_softmax", "logsumexp", "var", "std", "var_mean", "std_mean",
        "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_attention_math"}  # fmt: skip
FUNCTIONS = {"exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "tanh",
             "sigmoid", "silu", "gelu", "erf", "rsqrt", "pow", "randn", "normal", "addcmul",
             "addcdiv", "lerp"}  # fmt: skip
SIGNED = {"svd": (0, 2), "linalg_svd": (0, 2), "_linalg_svd": (0, 2), "linalg_qr": (0, 1),
          "linalg_eigh": (1,), "_linalg_eigh": (1,)}  # fmt: skip
"""Factors whose i-th column, or row, may have either sign; the results that it turns."""
BACKWARD_STABLE = {*SIGNED, "linalg_svdvals", "linalg_cholesky_ex", "linalg_solve_ex"}
SINGLE, WHOLE = 2.0**-23, 2.0**24
MOVED = PRODUCTS | SUMS | ROWS | FUNCTIONS | BACKWARD_STABLE


def make_mode() -> Any:
    """The mode; torch is imported here, after the entry point has set its environment."""
    import torch
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode

    kept: dict[tuple[int, int], Tensor] = {}

    def unit(seed: int, shape: torch.Size) -> Tensor:
        """Uniform in [-1, 1], always the same for one seed and size."""
        key = seed, shape.numel()
        if key not in kept:
            if len(kept) > 200:
                kept.clear()
            generator = torch.Generator().manual_seed(seed)
            kept[key] = torch.rand(key[1], generator=generator) * 2 - 1
        return kept[key].reshape(shape)

    def is_float(x: object) -> bool:
        return isinstance(x, Tensor) and x.is_floating_point() and x.device.type == "cpu"

    def is_whole(x: Any) -> bool:
        return not is_float(x) or all(
            bool((part == part.floor()).all()) for part in (x.flatten()[:64], x)
        )

    def positive(x: Any) -> Any:
        return x.abs() if is_float(x) else x

    def turn_(found: Tensor, which: int, seed: int) -> None:
        """Give each column of the left factor, and the same row of the right one, a sign."""
        rank = min(found.shape[-2:])
        signs = torch.ones(found.shape[-1 if which == 0 else -2], dtype=found.dtype)
        signs[:rank] = unit(seed, torch.Size([rank])).sign().to(found.dtype)
        found.mul_(signs if which == 0 else signs[:, None])

    class Otherwise(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            name = func.__name__.split(".")[0]
            plain = name if name in MOVED else name.rstrip("_")
            if plain not in MOVED:
                return func(*args, **kwargs)
            if plain == "pow" and not isinstance(args[1], Tensor) and args[1] == int(args[1]):
                return func(*args, **kwargs)  # the same products everywhere
            told = [(x.shape, x.stride(), x.dtype) for x in args if isinstance(x, Tensor)]
            seed = zlib.crc32(f"{os.environ.get('OTHERWISE')} {plain} {told}".encode())
            size = None
            if plain in PRODUCTS | SUMS and name == plain and "out" not in kwargs:
                more = {key: positive(x) for key, x in kwargs.items()}
                size = func(*map(positive, args), **more)
            result = func(*args, **kwargs)
            whole = is_float(size) and all(map(is_whole, (*args, *kwargs.values())))
            if whole and size.numel() and float(size.amax()) <= WHOLE:
                return result  # sums of whole numbers below this are exact in any order
            several = result if isinstance(result, (list, tuple)) else (result,)
            for i, found in enumerate(several):
                if not is_float(found) or not found.numel():
                    continue
                if i in SIGNED.get(plain, ()):
                    turn_(found, 0 if len(several) == 2 and plain != "linalg_qr" else i, seed)
                if plain in BACKWARD_STABLE:
                    bound = 4 * found.abs().amax()
                elif plain in ROWS and found.ndim:
                    bound = found.abs().amax(-1, keepdim=True)
                else:
                    bound = found.abs() if size is None else size
                eps = torch.finfo(found.dtype).eps
                by = eps * bound
                if eps > SINGLE:  # half precision adds in float32 and rounds the result once
                    by = eps * found.abs() + SINGLE * bound.float()
                moved = found + by * unit(seed + i, found.shape)
                found.copy_(torch.where(torch.isfinite(moved), moved.to(found.dtype), found))
            return result

    return Otherwise()


MODE = pytest.StashKey[Any]()


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[MODE] = mode = make_mode()
    mode.__enter__()


def pytest_sessionfinish(session: pytest.Session) -> None:
    session.config.stash[MODE].__exit__(None, None, None)
