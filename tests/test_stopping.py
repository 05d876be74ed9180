"""A run that is ended between two blocks, and leaves everything as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from conftest import build_random_checkpoint

from ditas_core.checkpoints import Checkpoint
from ditas_core.sampling import Stopped, decode_latents, iterate_latents, until_stopped
from ditas_core.sampling.loop import Step
from ditas_core.specs import SamplingSpec

pytestmark = pytest.mark.numeric

SPEC = SamplingSpec(steps=4)


@pytest.fixture()
def checkpoint() -> Checkpoint:
    return build_random_checkpoint()


def steps_of(checkpoint: Checkpoint) -> Iterator[Step]:
    labels = torch.tensor([1, 2])
    shape = checkpoint.latent_shape
    return iterate_latents(checkpoint.transformer, checkpoint.scheduler, labels, shape, SPEC, 3)


def calls_of(module: torch.nn.Module) -> list[str]:
    """Grows by one word with every call of a block."""
    seen: list[str] = []
    for number, block in enumerate(module.transformer_blocks):  # type: ignore[arg-type]
        block.register_forward_hook(lambda *_, n=number: seen.append(f"block {n}"))
    return seen


def hooks_of(module: torch.nn.Module) -> int:
    return sum(len(each._forward_pre_hooks) for each in module.modules())


def test_the_block_under_way_is_the_last(checkpoint: Checkpoint) -> None:
    seen = calls_of(checkpoint.transformer)
    found = []
    with pytest.raises(Stopped):
        for step in until_stopped(steps_of(checkpoint), lambda: len(seen) >= 5):
            found.append(step.index)
    assert found == [0, 1] and seen == ["block 0", "block 1"] * 2 + ["block 0"]
    assert hooks_of(checkpoint.transformer) == 0


def test_asking_changes_nothing(checkpoint: Checkpoint) -> None:
    asked = []
    plain = [step.latents for step in steps_of(checkpoint)]
    watched = until_stopped(steps_of(checkpoint), lambda: bool(asked.append(1)))
    assert all(torch.equal(a, b.latents) for a, b in zip(plain, watched, strict=True))
    assert len(asked) == SPEC.steps * len(checkpoint.transformer.transformer_blocks)


def test_nobody_is_asked_between_events_or_in_another_thread(checkpoint: Checkpoint) -> None:
    asked: list[int] = []
    events = until_stopped(steps_of(checkpoint), lambda: bool(asked.append(threading.get_ident())))
    next(events)
    before = len(asked)
    alone = [step.index for step in steps_of(checkpoint)]
    assert alone == [0, 1, 2, 3] and len(asked) == before
    # somebody else runs the same network in the middle of a step
    other: list[list[int]] = []

    def somebody(*_: object) -> None:
        if not other:
            thread = threading.Thread(
                target=lambda: other.append([step.index for step in steps_of(checkpoint)])
            )
            other.append([])
            thread.start()
            thread.join(30)

    hook = checkpoint.transformer.transformer_blocks[1].register_forward_pre_hook(somebody)
    next(events)
    hook.remove()
    assert other == [[], [0, 1, 2, 3]]
    assert set(asked) == {threading.get_ident()}


def test_a_decoder_is_stopped_too(checkpoint: Checkpoint) -> None:
    latents = torch.randn(2, *checkpoint.latent_shape)

    def pictures() -> Iterator[torch.Tensor]:
        yield decode_latents(checkpoint.vae, latents)

    with pytest.raises(Stopped):
        list(until_stopped(pictures(), lambda: True))
    assert hooks_of(checkpoint.vae) == 0
    (found,) = until_stopped(pictures(), lambda: False)
    assert torch.equal(found, decode_latents(checkpoint.vae, latents))
