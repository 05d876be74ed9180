"""End to end on the shipped checkpoint, fixed seeds: what `make results` wrote is found again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ditas_core.checkpoints import Checkpoint
from ditas_core.results import golden

pytestmark = pytest.mark.numeric

SQNR_DB = 1.0
"""Codes near the middle between two fall otherwise on another processor, and steps carry it on:
within 0.2 dB so far."""


@pytest.fixture(scope="module")
def expected() -> Any:
    return json.loads(golden.PATH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(demo_checkpoint: Checkpoint) -> Any:
    return golden.measure(demo_checkpoint)


def test_the_numbers_are_of_the_shipped_checkpoint(
    demo_checkpoint: Checkpoint, expected: Any
) -> None:
    assert expected["checkpoint"] == demo_checkpoint.fingerprint, "run make results"


def test_full_precision_and_what_it_calls_for(found: Any, expected: Any) -> None:
    assert found["latents"] == pytest.approx(expected["latents"], rel=2e-3)
    assert found["absmax"] == pytest.approx(expected["absmax"], rel=5e-3)


def test_every_layers_losses(found: Any, expected: Any) -> None:
    assert list(found["losses"]) == list(expected["losses"])
    for model, groups in expected["losses"].items():
        for group, losses in groups.items():
            assert found["losses"][model][group] == pytest.approx(losses, rel=0.03), (model, group)


def test_pictures_are_as_close_to_full_precision(found: Any, expected: Any) -> None:
    assert found["sqnr"] == pytest.approx(expected["sqnr"], abs=SQNR_DB)
    assert found["sqnr"]["W4A8 ditas"] > found["sqnr"]["W4A8 plain"]
