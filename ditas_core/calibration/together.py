"""Whether a checkpoint, a calibration and a recipe belong together."""

from __future__ import annotations

from ..checkpoints import Checkpoint
from ..models import input_channels
from ..specs import Recipe, RecipeError, SpecError
from .calibration import Calibration


def check_together(
    checkpoint: Checkpoint, calibration: Calibration | None, recipe: Recipe | None = None
) -> None:
    """Raise SpecError (of a recipe RecipeError) unless those that are given are of this checkpoint
    and of each other; a recipe may need a calibration."""
    if recipe is not None:
        check_groups(checkpoint, recipe)
        if recipe.checkpoint != checkpoint.fingerprint:
            raise RecipeError(
                f"recipe: made for another checkpoint ({recipe.checkpoint[:12]}), "
                f"{checkpoint.name} is {checkpoint.fingerprint[:12]}"
            )
        if recipe.needs_calibration and calibration is None:
            raise RecipeError("recipe: needs the calibration it was searched with, got none")
    if calibration is None:
        return
    if recipe is not None and recipe.needs_calibration and recipe.calibration != calibration.sha256:
        raise RecipeError(
            f"calibration: the recipe was searched with {recipe.calibration[:12]}, "
            f"got {calibration.sha256[:12]}"
        )
    if calibration.checkpoint != checkpoint.fingerprint:
        raise SpecError(
            f"calibration: made for checkpoint {calibration.checkpoint[:12]}, "
            f"{checkpoint.name} is {checkpoint.fingerprint[:12]}"
        )


def check_groups(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Raise RecipeError unless the recipe names the checkpoint's groups."""
    names = {group.name for group in checkpoint.groups}
    if set(recipe.layers) != names:
        raise RecipeError(
            f"recipe: expected the {len(names)} groups of {checkpoint.name}, "
            f"got {len(recipe.layers)} others"
        )


def check_channels(checkpoint: Checkpoint, calibration: Calibration) -> None:
    """Raise SpecError unless every group's inputs were recorded, with its channels."""
    for group in checkpoint.groups:
        channels = input_channels(checkpoint.transformer, group)
        statistics = calibration.groups.get(group.name)
        found = 0 if statistics is None else statistics.low.shape[-1]
        if found != channels:
            raise SpecError(
                f"calibration: expected {channels} channels of {group.title}, got {found or 'none'}"
            )
