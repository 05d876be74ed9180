"""Deliberately slow: quantization and the search loss, one element at a time.

Single precision throughout, as in the library, but nothing shared with it.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from ditas_core.specs import BitWidths, Convention, Granularity, QuantizerSpec

F32 = np.float32


def groups_of(shape: tuple[int, ...], spec: QuantizerSpec) -> list[list[int]]:
    """Flat indices of the elements that share one scale, group by group."""
    count = int(np.prod(shape))
    groups: dict[object, list[int]] = {}
    for flat, index in enumerate(product(*(range(n) for n in shape))):
        match spec.granularity:
            case Granularity.PER_TENSOR:
                key: object = 0
            case Granularity.PER_TOKEN | Granularity.PER_CHANNEL:
                key = index[:-1]
            case Granularity.PER_INPUT_CHANNEL:
                key = index[-1]
            case Granularity.PER_GROUP:
                key = (*index[:-1], index[-1] // spec.group_size)
            case Granularity.PER_STRIDED_GROUP:
                key = flat % (count // spec.group_size)
        groups.setdefault(key, []).append(flat)
    return list(groups.values())


def scale_and_zero(lo: F32, hi: F32, spec: QuantizerSpec) -> tuple[F32, F32]:
    """One group's scale and zero point."""
    if spec.symmetric:
        scale = max(abs(lo), abs(hi)) / F32(2 ** (spec.bits - 1) - 1)
        return (scale, F32(0)) if scale > 0 else (F32(1), F32(0))
    if spec.include_zero:
        lo, hi = min(lo, F32(0)), max(hi, F32(0))
    levels = 2**spec.bits if spec.power_of_two_steps else 2**spec.bits - 1
    scale = (hi - lo) / F32(levels)
    if scale == 0:
        scale = abs(lo) if lo != 0 else F32(1)
    zero = -nearest(lo / scale, spec.ties_to_even)
    if spec.include_zero:
        zero = min(max(zero, F32(0)), F32(2**spec.bits - 1))
    return scale, zero


def nearest(x: F32, even: bool) -> F32:
    """The nearest integer, ties upwards or to even."""
    return np.rint(x) if even else np.floor(x + F32(0.5))


def round_one(x: F32, scale: F32, zero: F32, spec: QuantizerSpec) -> F32:
    """Quantize and dequantize one number."""
    top = 2 ** (spec.bits - 1) - 1 if spec.symmetric else 2**spec.bits - 1
    bottom = -top if spec.symmetric else 0
    if spec.offset_form:
        offset = -zero * scale
        code = nearest((x - offset) / scale, spec.ties_to_even)
        return min(max(code, F32(bottom)), F32(top)) * scale + offset
    code = nearest(x / scale, spec.ties_to_even) + zero
    return (min(max(code, F32(bottom)), F32(top)) - zero) * scale


def slow_fake_quantize(x: np.ndarray, spec: QuantizerSpec) -> np.ndarray:
    """Quantize and dequantize an array group by group."""
    flat = [F32(v) for v in x.reshape(-1)]
    out = np.zeros(len(flat), dtype=F32)
    for group in groups_of(x.shape, spec):
        values = [flat[i] for i in group]
        scale, zero = scale_and_zero(min(values), max(values), spec)
        for i in group:
            out[i] = round_one(flat[i], scale, zero, spec)
    return out.reshape(x.shape)


def slow_scales(x: np.ndarray, spec: QuantizerSpec) -> np.ndarray:
    """Every element's own scale."""
    flat = [F32(v) for v in x.reshape(-1)]
    out = np.zeros(len(flat), dtype=F32)
    for group in groups_of(x.shape, spec):
        values = [flat[i] for i in group]
        out[group] = scale_and_zero(min(values), max(values), spec)[0]
    return out.reshape(x.shape)


def slow_smoothing_factor(
    absmax: list[float], weights: list[np.ndarray], alpha: float | None
) -> list[float]:
    """s per channel by the formula, with its clamps."""
    factors = []
    for c, largest in enumerate(absmax):
        if alpha is None:
            factors.append(1.0)
            continue
        w = max(abs(float(row[c])) for weight in weights for row in weight)
        value = max(largest, 1e-4) ** alpha / max(w, 1e-4) ** (1 - alpha)
        factors.append(max(value, 1e-4))
    return factors


def slow_group_loss(
    tokens: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    weights: list[np.ndarray],
    convention: Convention,
    bits: BitWidths,
    alpha: float | None,
) -> float:
    """sum over steps of mean over tokens and outputs of |Y - Q_a(X / s) Q_w(W s)^T|^2, no branch.

    tokens (T, K, C); low and high (T, 2, C); each weight (C_out, C). The released
    convention rounds the group's weights as one, before smoothing, and takes s from them.
    """
    weight_spec, activation_spec = convention.quantizers(bits)
    steps, kept, channels = tokens.shape
    absmax = [float(max(abs(low[..., c]).max(), abs(high[..., c]).max())) for c in range(channels)]
    whole = np.concatenate(weights)
    source = weights
    if convention.name == "released":
        rounded_first = slow_fake_quantize(whole, weight_spec)
        source = [rounded_first]
    s = np.array(slow_smoothing_factor(absmax, source, alpha), dtype=F32)
    rounded = np.zeros((steps, kept, channels), dtype=F32)
    for t in range(steps):
        if activation_spec.granularity is Granularity.PER_TENSOR:
            bounds = [
                F32(v) / s[c] for half in (low, high) for h in half[t] for c, v in enumerate(h)
            ]
            scale, zero = scale_and_zero(min(bounds), max(bounds), activation_spec)
            for k in range(kept):
                for c in range(channels):
                    x = F32(tokens[t, k, c]) / s[c]
                    rounded[t, k, c] = round_one(x, scale, zero, activation_spec)
        else:
            rounded[t] = slow_fake_quantize(tokens[t].astype(F32) / s, activation_spec)
    if convention.name == "released":
        quantized = rounded_first * s
    else:
        quantized = np.concatenate([slow_fake_quantize(w * s, weight_spec) for w in weights])
    total = 0.0
    for t in range(steps):
        errors = []
        for k in range(kept):
            for o in range(len(whole)):
                exact = sum(float(tokens[t, k, c]) * float(whole[o, c]) for c in range(channels))
                got = sum(float(rounded[t, k, c]) * float(quantized[o, c]) for c in range(channels))
                errors.append((got - exact) ** 2)
        total += sum(errors) / len(errors)
    return total


def slow_objective(
    objective: str, error: np.ndarray, output: np.ndarray, steps: int, influence: np.ndarray
) -> float:
    """An objective of a search, of errors and outputs (M, C_out), one element at a time."""
    rows, outputs = error.shape
    kept, total = rows // steps, 0.0
    for t in range(steps):
        mine = range(t * kept, (t + 1) * kept)
        square = sum(float(error[m, c]) ** 2 for m in mine for c in range(outputs))
        energy = sum(float(output[m, c]) ** 2 for m in mine for c in range(outputs))
        total += (
            square / (kept * outputs) if objective == "output" else influence[t] * square / energy
        )
    return total
