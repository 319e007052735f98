"""How pictures are sampled: the settings, the sampler, and its places along the path.

The samplers are diffusers' own; `Path` keeps what a batch needs of one so that no step of the loop
waits for a GPU: the timesteps are on the device beforehand, and the noise of the start is mixed
with two plain numbers.

Shape legend: B batch, h w latent positions, C latent channels.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from models.dad.base import Base

NoiseName = Literal["random", "inverted"]
SamplerName = Literal["ddim", "dpm", "unipc", "euler", "euler_ancestral", "ddpm", "lcm"]

_SAMPLERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "ddpm": DDPMScheduler,
    "lcm": LCMScheduler,
}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are sampled."""

    steps: int
    """Denoising steps of the full path; image to image runs the last ``strength`` of them."""
    strength: float = 1.0
    """Share of the path that image to image runs; 0 is the autoencoder's round trip."""
    guidance: float = 1.0
    """Classifier-free guidance scale; 1 runs no unconditional half."""
    scheduler: SamplerName = "dpm"
    """The sampler; all space their steps from the last timestep down (``trailing``). ``lcm``
    is for bases that were distilled to few steps."""
    noise: NoiseName = "random"
    """Image to image: ``random`` draws the start's noise, ``inverted`` computes it from the picture
    (`models.dad.inversion`), with as many steps up as down, by DDIM alone."""
    negative_prompt: str = ""
    """What the unconditional half is given."""
    control_scale: float = 1.0
    """Weight of the ControlNet; 0 is the base without DaD, and nothing of it runs."""
    match: float = 0.0
    """Image to image: how far the start's channel statistics go to a target picture's; 0 is off."""
    detail: float = 0.0
    """Image to image: share put back of what the autoencoder loses of the source; 0 is off."""
    reuse: int = 1
    """The UNet's deep features are computed at every ``reuse``-th step (DeepCache); 1 is off."""

    def __post_init__(self) -> None:
        """Check what cannot work together."""
        if self.noise == "inverted" and self.scheduler != "ddim":
            raise ValueError(
                f"noise is inverted and the scheduler {self.scheduler}; the way down must be the "
                "way up run backwards, which is DDIM; set scheduler to ddim, or noise to random"
            )

    @property
    def executed(self) -> int:
        """Denoising steps that image to image really runs."""
        return min(int(self.steps * self.strength), self.steps)

    @property
    def guided(self) -> bool:
        """Whether an unconditional half runs, as diffusers decides it."""
        return self.guidance > 1


def make_sampler(base: Base, name: SamplerName) -> Any:
    """Make a sampler for the base's noise schedule.

    Trailing spacing starts at the noisiest timestep, which matters with few steps.
    """
    if name not in _SAMPLERS:
        raise ValueError(
            f"scheduler {name!r}; the samplers are {', '.join(_SAMPLERS)}; choose one of them"
        )
    return _SAMPLERS[name].from_config(base.scheduler.config, timestep_spacing="trailing")


class Path:
    """The places of a sampler's path that are run, and the start at the first of them.

    Args:
        base: Its noise schedule.
        sampling: Which sampler, how many steps.
        executed: How many of them, the last ones.
    """

    def __init__(self, base: Base, sampling: Sampling, executed: int) -> None:
        self._base, self._sampling = base, sampling
        self._first = sampling.steps - executed
        sampler = self.sampler()
        self.times = sampler.timesteps[self._first * sampler.order :]
        """Timesteps as the sampler takes them, on the CPU: it makes plain numbers of them."""
        self.device_times = self.times.to(base.device)
        """The same as the networks take them."""
        self.spread = float(sampler.init_noise_sigma)
        """Deviation of the noise that a picture from words starts from."""
        self._share = self._of_start(sampler, 1.0, 0.0), self._of_start(sampler, 0.0, 1.0)

    def sampler(self) -> Any:
        """Make a sampler that stands at the start: it keeps its place, so every batch has one."""
        made = make_sampler(self._base, self._sampling.scheduler)
        made.set_timesteps(self._sampling.steps, device="cpu")
        if hasattr(made, "set_begin_index"):
            made.set_begin_index(self._first * made.order)
        return made

    def _of_start(self, sampler: Any, picture: float, noise: float) -> float:
        # A start is linear in picture and noise, so two numbers say all. Asking the sampler with
        # a batch on the GPU would make every batch wait for the one before.
        one = torch.ones(1, 1, 1, 1)
        return float(sampler.add_noise(one * picture, one * noise, self.times[:1]))

    def start(self, latents_BChw: Tensor, noise_BChw: Tensor) -> Tensor:
        """Noise latents up to the first place."""
        picture, noise = self._share
        return torch.add(latents_BChw * picture, noise_BChw, alpha=noise)

    def step_options(self, sampler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
        """What the sampler's step takes besides prediction, time and sample, as in diffusers."""
        taken = inspect.signature(sampler.step).parameters
        options = {"generator": list(generators), "eta": 0.0}
        return {name: value for name, value in options.items() if name in taken}


def draw(
    shape: tuple[int, ...], generators: Sequence[torch.Generator], device: torch.device
) -> Tensor:
    """Draw each picture's normal noise from its own generator, on the CPU as diffusers does.

    Args:
        shape: (C, h, w).
        generators: One a picture, on the CPU.
        device: Where to; the copy to a GPU waits for nothing.

    Returns:
        Float32 (B, C, h, w).
    """
    on_gpu = device.type == "cuda"
    noise = torch.empty((len(generators), *shape), pin_memory=on_gpu)
    for row, generator in zip(noise, generators, strict=True):
        torch.randn(shape, generator=generator, out=row)
    return noise.to(device, non_blocking=True)
