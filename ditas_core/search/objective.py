"""What a search minimises: how a layer's output error E (M, C_out) becomes one number.

    loss = sum over steps t of w_t mean over tokens and outputs of E_t^2

    output     w_t = 1: the sum over steps of the mean square error (DiTAS)
    influence  w_t = S_t / mean Y_t^2: each step's error over the layer's output Y at that step,
               times what noise on the prediction of that step does to the final latents

with S_t of ``Influence``. The sum of the first is ruled by the steps with the largest outputs; a
step's error reaches the picture by its share of the output, and early steps' errors most.
"""

from __future__ import annotations

from torch import Tensor

from ..calibration import Calibration
from ..specs import OBJECTIVES, SpecError, check_choice

TINY = 1e-30


def check_objective(objective: str, calibration: Calibration) -> None:
    """Raise SpecError unless it is one, and the calibration holds what it reads."""
    check_choice("objective", objective, OBJECTIVES)
    if objective != "output" and calibration.influence is None:
        raise SpecError(
            f"calibration: expected one with influence for the objective {objective}, got none; "
            "measure_influence measures it, calibrate --influence 4 keeps it"
        )


def influence_of(objective: str, calibration: Calibration) -> Tensor | None:
    """S_t, (T,), where the objective reads it.

    Raises:
        SpecError: an unknown objective, or a calibration without what it reads.
    """
    check_objective(objective, calibration)
    found = calibration.influence
    return None if objective == "output" or found is None else found.steps


def weights_of(influence: Tensor, energy: Tensor) -> Tensor:
    """w_t of S_t and mean Y_t^2, (T,) each; of a step without output 0 errors weigh anything."""
    return influence.to(energy) / energy.clamp(min=TINY)
