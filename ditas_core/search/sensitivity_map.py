"""How much every smoothing group suffers at every bit-width, and what it would cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..specs import (
    FULL_PRECISION_BITS,
    LEFT_ALONE,
    NEAREST,
    NONE,
    BitWidths,
    LayerRecipe,
    LowRankSpec,
    Part,
    Recipe,
    Rounding,
    SpecError,
    get_convention,
    read_parts,
)

MAP_FORMAT = "ditas-sensitivity-1"
NOBODY = -1


@dataclass(frozen=True, eq=False)
class SensitivityMap:
    """L smoothing groups in execution order by B bit-widths.

    error       energy of the error over that of the signal, no unit, (L, B) float64: of the
                group's output (predicted), or of the final latents (``measured``)
    alphas      the strength that each cell has, None = identity, L tuples of B
    stored      bits on disk of the group as each cell has it, (L, B) float64
    division    bits that come on top where the group's rows are divided by another
                group's factor (V by the output projection's), (L, B) float64
    divided_by  the row of that other group, -1 = nobody's, L
    weights     how many weights each group has, L
    low_rank, rounding  the branch of every cell with fewer than 16 weight bits, and how the rest
                of its weights is rounded
    rotation, aggregation  of every cell's inputs, but for those that are left alone
    """

    checkpoint: str
    calibration: str
    convention: str
    low_rank: LowRankSpec
    groups: tuple[str, ...]
    bits: tuple[BitWidths, ...]
    alphas: tuple[tuple[float | None, ...], ...]
    divided_by: tuple[int, ...]
    weights: tuple[int, ...]
    error: Tensor
    stored: Tensor
    division: Tensor
    measured: bool = False
    rounding: Rounding = NEAREST
    rotation: Part = NONE
    aggregation: Part = NONE

    def __post_init__(self) -> None:
        get_convention(self.convention)
        rows, columns = len(self.groups), len(self.bits)
        if not rows or not columns or len(set(self.groups)) < rows or len(set(self.bits)) < columns:
            raise SpecError("sensitivity: expected at least one group and width, each once")
        for name in ("error", "stored", "division"):
            tensor: Tensor = getattr(self, name)
            fits = tuple(tensor.shape) == (rows, columns) and tensor.dtype == torch.float64
            if not fits or not bool(torch.isfinite(tensor).all() and (tensor >= 0).all()):
                raise SpecError(f"{name}: expected {rows} x {columns} finite numbers from 0")
        lengths = {len(self.alphas), len(self.divided_by), len(self.weights)}
        if lengths != {rows} or {len(row) for row in self.alphas} != {columns}:
            raise SpecError(f"sensitivity: expected {rows} rows of {columns} everywhere")
        for row, other in enumerate(self.divided_by):
            whole = isinstance(other, int) and NOBODY <= other < rows and other != row
            if not whole or (other != NOBODY and self.divided_by[other] != NOBODY):
                raise SpecError(f"divided_by: expected the row of another group, got {other!r}")
        if not all(isinstance(count, int) and count > 0 for count in self.weights):
            raise SpecError("weights: expected whole numbers from 1")

    def column(self, bits: BitWidths) -> int:
        """Where a bit-width lies in the map.

        Raises:
            SpecError: the map does not have it.
        """
        if bits not in self.bits:
            raise SpecError(f"bits: expected one of {', '.join(map(str, self.bits))}, got {bits}")
        return self.bits.index(bits)

    def columns(self, allocation: Mapping[str, BitWidths]) -> list[int]:
        """The column of every group, L.

        Raises:
            SpecError: other groups than the map's, or widths that it does not have.
        """
        if set(allocation) != set(self.groups):
            raise SpecError(
                f"allocation: expected the map's {len(self.groups)} groups, got {len(allocation)}"
            )
        return [self.column(allocation[name]) for name in self.groups]

    def bits_stored(self, allocation: Mapping[str, BitWidths]) -> float:
        """Bits on disk of the converted layers, all groups together."""
        chosen = self.columns(allocation)
        total = 0.0
        for row, column in enumerate(chosen):
            total += float(self.stored[row, column])
            other = self.divided_by[row]
            if other != NOBODY and self.alphas[other][chosen[other]] is not None:
                total += float(self.division[row, column])
        return total

    def bits_per_weight(self, allocation: Mapping[str, BitWidths]) -> float:
        """``bits_stored`` over the number of weights."""
        return self.bits_stored(allocation) / sum(self.weights)

    def total_error(self, allocation: Mapping[str, BitWidths]) -> float:
        """The sum over groups of their errors."""
        columns = enumerate(self.columns(allocation))
        return math.fsum(float(self.error[row, column]) for row, column in columns)

    def uniform(self, bits: BitWidths) -> dict[str, BitWidths]:
        """The same width for every group."""
        self.column(bits)
        return dict.fromkeys(self.groups, bits)

    def recipe(self, allocation: Mapping[str, BitWidths], name: str = "mixed") -> Recipe:
        """Each group at its width, with the map's alphas and branch."""
        layers: dict[str, LayerRecipe] = {}
        for row, column in enumerate(self.columns(allocation)):
            bits = self.bits[column]
            branch, rounding = self.low_rank, self.rounding
            if bits.weight_bits >= FULL_PRECISION_BITS:
                branch, rounding = LowRankSpec(), NEAREST
            alpha, of_inputs = self.alphas[row][column], (self.rotation, self.aggregation)
            layer = LayerRecipe(bits, alpha, branch, rounding, *of_inputs)
            layers[self.groups[row]] = LEFT_ALONE if bits == LEFT_ALONE.bits else layer
        return Recipe(name, self.convention, self.checkpoint, layers, self.calibration)

    def to_json(self) -> str:
        """Numbers are written so that they read back to the bit."""
        fields = {
            name: value.tolist() if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }
        fields["low_rank"] = asdict(self.low_rank)
        for part in ("rounding", "rotation", "aggregation"):
            fields[part] = getattr(self, part).document()
        fields["bits"] = [width.document() for width in self.bits]
        return json.dumps({"format": MAP_FORMAT, **fields}, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str) -> SensitivityMap:
        """Inverse of ``to_json``; raises SpecError on anything unexpected."""
        try:
            document: dict[str, Any] = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"sensitivity: expected JSON, got text that is not ({error})") from None
        if not isinstance(document, dict) or document.pop("format", None) != MAP_FORMAT:
            raise SpecError(f"sensitivity: expected a map of format {MAP_FORMAT}")
        try:
            document["low_rank"] = LowRankSpec(**document["low_rank"])
            document |= read_parts("sensitivity", document)
            document["bits"] = tuple(BitWidths(**width) for width in document["bits"])
            document["alphas"] = tuple(
                tuple(LayerRecipe(LEFT_ALONE.bits, alpha).alpha for alpha in row)
                for row in document["alphas"]
            )
            for name in ("groups", "divided_by", "weights"):
                document[name] = tuple(document[name])
            for name in ("error", "stored", "division"):
                document[name] = torch.tensor(document[name], dtype=torch.float64)
            return SensitivityMap(**document)
        except SpecError:
            raise
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise SpecError(f"sensitivity: a field is missing or unknown ({error})") from None


def stacked_rows(rows: Sequence[Sequence[float]]) -> Tensor:
    """(L, B) float64."""
    return torch.tensor(rows, dtype=torch.float64)
