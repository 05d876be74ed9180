"""A linear layer's product in integers, exactly.

    sum_k (q_x - z_x) (q_w - z_w) = sum_k (a + d_a) (w + d_w)
                                  = sum_k a w + d_a (sum_k w + K d_w) + d_w sum_k a

with the codes q moved into signed bytes, a = q_x - o_x and w = q_w - o_w, and what is left
of the zero points, d = o - z, beside the product. Every term is a whole number, and the sum
stays within 32 bits up to ``MOST_INPUTS`` inputs; then it is scaled once in floating point:

    y = s_x s_w acc

Weights in groups of inputs have one such sum per group. The products are PyTorch's own: of
bytes, ``torch._int_mm``, int8 (M, K) times int8 (K, N) -> int32 (M, N); or, simulated, of the
same whole numbers in single precision, which is exact as long as no sum leaves 24 bits. So
both come to the same numbers, to the bit.

Not every processor multiplies bytes exactly: without VNNI, oneDNN adds the products of pairs
in 16 bits, which saturate. Such a processor is found out (``bytes_are_exact``) and multiplies
in single precision.
"""

from __future__ import annotations

from functools import cache, reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..quantizer import QParams, activation_codes
from ..specs import Granularity, QuantizerSpec, why_not_integer

BYTE = 8
MOST_INPUTS = (2**31 - 1) // (255 * 255)
"""Of one sum of products of 8-bit codes in 32 bits: 33,025."""
EXACT_INPUTS = 2**24 // (128 * 128)
"""Of one sum of products of signed bytes that single precision holds exactly: 1,024."""
CUDA_ROWS, CUDA_MULTIPLE = 17, 8
"""What ``torch._int_mm`` asks of a GPU: more than 16 rows, inputs and outputs in eights."""


class Operand(NamedTuple):
    """A weight's codes, ready for products: G groups of inputs (one where a row has one scale).

    codes   (C_in, C_out), int8, or the same numbers in float32
    sums    int32 (G, C_out): sum_k w + K d_w of each group
    rest    int32 (G, C_out): d_w
    scale   float32 (G, C_out)
    group   inputs per group
    """

    codes: Tensor
    sums: Tensor
    rest: Tensor
    scale: Tensor
    group: int


def moved(bits: int) -> int:
    """o: what codes of so many bits, from 0, are lowered by to lie around it."""
    return int(2 ** (bits - 1))


@cache
def bytes_are_exact() -> bool:
    """Whether ``torch._int_mm`` is, on this processor, for the largest products there are."""
    for left, right in ((-128, -128), (127, 127), (-128, 127), (127, -128)):
        a, w = torch.full((32, 256), left), torch.full((256, 64), right)
        found = torch._int_mm(a.to(torch.int8), w.to(torch.int8))
        if not bool((found == 256 * left * right).all()):
            return False
    return True


def runs_as_integers(weight: QuantizerSpec, activation: QuantizerSpec, inputs: int) -> bool:
    """Whether a layer with these quantizers is a product of bytes; others keep their product in
    floating point."""
    fits = max(weight.bits, activation.bits) <= BYTE and inputs <= MOST_INPUTS
    return fits and not why_not_integer(weight, activation)


def signed_codes(codes: Tensor, bits: int) -> Tensor:
    """uint8 (C_out, C_in), codes from 0 -> int8 (C_in, C_out), rows of the weight in memory."""
    lowered = codes.to(torch.int16) - moved(bits)
    return lowered.to(torch.int8).t()  # (C_in, C_out)


def make_operand(codes: Tensor, params: QParams, spec: QuantizerSpec) -> Operand:
    """From codes uint8 (C_out, C_in) and parameters (C_out, 1), or in groups (C_out, G, 1)."""
    c_out, c_in = codes.shape
    group = spec.group_size if spec.granularity is Granularity.PER_GROUP else c_in
    scale = params.scale.reshape(c_out, -1)  # (C_out, G)
    rest = moved(spec.bits) - params.zero_point.reshape(c_out, -1).int()
    missing = -c_in % group
    lengths = torch.full((scale.shape[1],), group, dtype=torch.int32, device=codes.device)
    lengths[-1] -= missing
    lowered = F.pad(codes.int() - moved(spec.bits), (0, missing))  # (C_out, G group)
    sums = lowered.reshape(c_out, -1, group).sum(2, dtype=torch.int32) + lengths * rest
    return Operand(
        signed_codes(codes, spec.bits).contiguous(),
        sums.t().contiguous(),
        rest.t().contiguous(),
        scale.t().contiguous(),
        group,
    )


def accumulators(a: Tensor, d_a: Tensor, operand: Operand) -> list[Tensor]:
    """sum_k (q_x - z_x) (q_w - z_w) of each group of inputs, int32 (M, C_out).

    a    (M, C_in), of the dtype of the operand's codes
    d_a  int32 (M, 1), or (1, 1)
    """
    found = []
    for index, start in enumerate(range(0, a.shape[1], operand.group)):
        part = a[:, start : start + operand.group]  # (M, K)
        acc = product(part, operand.codes[start : start + operand.group])  # (M, C_out)
        total = part.sum(1, keepdim=True).to(torch.int32)  # (M, 1)
        found.append(acc.addcmul_(d_a, operand.sums[index]).addcmul_(total, operand.rest[index]))
    return found


def product(a: Tensor, w: Tensor) -> Tensor:
    """Signed bytes (M, K) times (K, N), as int8 or float32 -> int32 (M, N)."""
    if a.is_floating_point():
        parts = zip(a.split(EXACT_INPUTS, 1), w.split(EXACT_INPUTS), strict=True)
        return reduce(torch.add, (torch.mm(x, y).to(torch.int32) for x, y in parts))
    return padded_product(a, w) if a.is_cuda else torch._int_mm(a, w)


def padded_product(a: Tensor, w: Tensor) -> Tensor:
    """``torch._int_mm`` as a GPU asks for it: with zeros added, and of the one layout that every
    version of its library has a kernel for, both factors with the inputs side by side."""
    (m, k), n = a.shape, w.shape[1]
    rows, inner, columns = max(0, CUDA_ROWS - m), -k % CUDA_MULTIPLE, -n % CUDA_MULTIPLE
    right = w.t()  # (N, K)
    if rows or inner or columns:
        a, right = F.pad(a, (0, inner, 0, rows)), F.pad(right, (0, inner, 0, columns))
    return torch._int_mm(a.contiguous(), right.contiguous().t())[:m, :n]


def signed_activations(x: Tensor, spec: QuantizerSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Of x (M, C_in): a (M, C_in) in float32, d_a int32 and s_x, both (M, 1) or (1, 1)."""
    codes, params = activation_codes(x, spec)
    a = codes.sub_(moved(spec.bits))  # (M, C_in)
    return a, (moved(spec.bits) - params.zero_point).to(torch.int32), params.scale


def integer_linear(x: Tensor, operand: Operand, spec: QuantizerSpec) -> Tensor:
    """Q_x(x) Q_w^T: x (..., C_in) float32 -> (..., C_out) float32."""
    flat = x.reshape(-1, x.shape[-1])  # (M, C_in)
    a, d_a, scale = signed_activations(flat, spec)
    total = None
    sums = accumulators(a.to(operand.codes.dtype), d_a, operand)
    for acc, by in zip(sums, operand.scale, strict=True):
        part = acc.to(scale.dtype).mul_(by)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total.mul_(scale).reshape(*x.shape[:-1], -1)  # (..., C_out)
