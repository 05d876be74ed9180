"""How a trajectory is sampled."""

from __future__ import annotations

from dataclasses import dataclass

from .quantization import SpecError

SCHEDULERS = ("ddim", "ddpm")
NULL_CLASS = 1000
"""The unconditional class; stock DiTPipeline has no other."""


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
        if not 1 <= self.steps <= 1000:
            raise SpecError(f"steps: expected 1 to 1000, got {self.steps}")
        if not 0.0 <= self.guidance_scale <= 50.0:
            raise SpecError(f"guidance_scale: expected 0 to 50, got {self.guidance_scale}")
        if not 0 <= self.guided_channels <= 64:
            raise SpecError(f"guided_channels: expected 0 to 64, got {self.guided_channels}")
        if self.scheduler not in SCHEDULERS:
            raise SpecError(
                f"scheduler: expected one of {', '.join(SCHEDULERS)}, got {self.scheduler!r}"
            )


@dataclass(frozen=True)
class CalibrationSpec:
    """One calibration: the trajectory, how many samples, the seed, tokens kept per step.

    ``tokens`` input tokens are kept per layer and step, drawn without
    replacement from all samples and both guidance halves.
    """

    sampling: SamplingSpec = SamplingSpec()
    samples: int = 8
    seed: int = 0
    tokens: int = 24

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= 256:
            raise SpecError(f"samples: expected 1 to 256, got {self.samples}")
        if not 1 <= self.tokens <= 4096:
            raise SpecError(f"tokens: expected 1 to 4096, got {self.tokens}")
        if not 0 <= self.seed < 2**31:
            raise SpecError(f"seed: expected 0 to 2^31 - 1, got {self.seed}")
