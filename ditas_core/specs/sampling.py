"""How a trajectory is sampled."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import SpecError, check_choice, check_number, check_whole, show
from .document import parse_json

SCHEDULERS = ("ddim", "ddpm")
PRECISIONS = ("float32", "bfloat16")
TOKEN_DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class SamplingSpec:
    """Steps, guidance and scheduler of one guided denoising trajectory.

    guided_channels  classifier-free guidance acts on the first this many latent
                     channels; 0 = all (diffusers); the original DiT uses 3
    """

    steps: int = 50
    guidance_scale: float = 1.5
    guided_channels: int = 0
    scheduler: str = "ddim"

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1, 1000)
        check_number("guidance_scale", self.guidance_scale, 0, 50)
        check_whole("guided_channels", self.guided_channels, 0, 64)
        check_choice("scheduler", self.scheduler, SCHEDULERS)


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
    samples: int = 8
    seed: int = 0
    tokens: int = 24
    batch: int = 4
    precision: str = "float32"
    token_dtype: str = "float16"

    def __post_init__(self) -> None:
        if not isinstance(self.sampling, SamplingSpec):
            raise SpecError(f"sampling: expected a SamplingSpec, got {show(self.sampling)}")
        check_whole("samples", self.samples, 1, 256)
        check_whole("tokens", self.tokens, 1, 2**20)
        check_whole("seed", self.seed, 0, 2**31 - 1)
        check_whole("batch", self.batch, 1, 256)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("token_dtype", self.token_dtype, TOKEN_DTYPES)


def read_timesteps(text: str) -> tuple[int, ...]:
    """The diffusion times that a file names, a JSON list of whole numbers.

    Raises:
        SpecError: anything else.
    """
    times = parse_json("timesteps", text, list)
    for time in times:
        check_whole("timesteps", time, 0, 2**31 - 1)
    return tuple(times)
