"""How a trajectory is sampled."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import SpecError, brief, check_fields, check_whole, choice, number, whole
from .document import parse_json

SCHEDULERS = ("ddim", "ddpm")
SPREADS = ("balanced", "drawn")
"""How images are spread over classes."""
PRECISIONS = ("float32", "bfloat16")
TOKEN_DTYPES = ("float16", "float32")
LARGEST_SEED = 2**31 - 1
MOST_SAMPLES = 256
INFLUENCE_SAMPLES = 4
"""Of which it is measured how far errors reach, where nothing else is asked for."""


@dataclass(frozen=True)
class SamplingSpec:
    """Steps, guidance and scheduler of one guided denoising trajectory.

    guided_channels  classifier-free guidance acts on the first this many latent
                     channels; 0 = all (diffusers); the original DiT uses 3
    """

    steps: int = whole(50, 1, 1000)
    guidance_scale: float = number(1.5, 0, 50)
    guided_channels: int = whole(0, 0, 64)
    scheduler: str = choice("ddim", SCHEDULERS)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class CalibrationSpec:
    """One calibration: the trajectory, how many samples, the seed, tokens kept per step.

    tokens       input tokens kept per layer and step, drawn without replacement from
                 all samples and both guidance halves
    batch        samples in one forward pass; a batch is never cut when the work is
                 spread over processes, so the result does not depend on their number
    precision    dtype the transformer runs in: float32 or bfloat16
    token_dtype  dtype the tokens are kept in: float16 or float32
    """

    sampling: SamplingSpec = SamplingSpec()
    samples: int = whole(8, 1, MOST_SAMPLES)
    seed: int = whole(0, 0, LARGEST_SEED)
    tokens: int = whole(24, 1, 2**20)
    batch: int = whole(4, 1, 256)
    precision: str = choice("float32", PRECISIONS)
    token_dtype: str = choice("float16", TOKEN_DTYPES)

    def __post_init__(self) -> None:
        if not isinstance(self.sampling, SamplingSpec):
            raise SpecError(f"sampling: expected a SamplingSpec, got {brief(self.sampling)}")
        check_fields(self)


def read_timesteps(text: str) -> tuple[int, ...]:
    """The diffusion times that a file names, a JSON list of whole numbers.

    Raises:
        SpecError: anything else.
    """
    times = parse_json("timesteps", text, list)
    for time in times:
        check_whole("timesteps", time, 0, 2**31 - 1)
    return tuple(times)
