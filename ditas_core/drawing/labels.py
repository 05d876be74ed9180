"""Which class each image gets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..sampling import spread_labels
from ..specs import SPREADS, check_choice


def labels_for(count: int, classes: Sequence[int], spread: str, seed: int) -> Tensor:
    """int64 (count,), the same whenever it is asked for.

    balanced  each of ``classes`` as often as any other, or once more
    drawn     each image's at random, as ADM's sampling draws them

    A noise has its seed below 2^31; classes are drawn from one above, so that image 0's noise
    and the classes have nothing to do with each other.

    Raises:
        SpecError: another spread.
    """
    check_choice("spread", spread, SPREADS)
    if spread == "balanced":
        chosen = spread_labels(count, len(classes))
    else:
        generator = torch.Generator().manual_seed(2**32 - 1 - seed)  # it reads 32 bits of it
        chosen = torch.randint(len(classes), (count,), generator=generator)
    return torch.tensor(classes, dtype=torch.int64)[chosen]
