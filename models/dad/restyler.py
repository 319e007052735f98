"""Pictures in the target's look: diffusers' own ControlNet pipelines, batched.

`Restyler.restyle` is image to image (the source picture is noised up to ``strength`` and denoised
through DaD, PAPERS.md 1.1 for the network; image to image is this project's way of keeping the
content), `Restyler.generate` is the paper's text to image. Both are diffusers' pipelines, which
already take finished prompt states, one random generator a picture and do classifier-free guidance
in one pass. Two methods are overridden, with equal results:

- the source pictures are encoded in one batch, where diffusers encodes them one by one as soon as
  every picture has its own generator;
- the white control image stays a batch of one and is broadcast.

One step is this project's own, and off unless ``match`` says so: noise hides details long before it
hides light and colour cast, so image to image keeps the source's light at any strength that keeps
its content. ``match`` moves the mean and deviation of each latent channel towards those of a
target picture before the noise is added; DaD then makes a plausible picture of it.

The noise of a picture comes from its own seed and is drawn on the CPU, so neither order nor batch
nor device changes it; batch size changes a result by floating-point noise only.

Shape legend: B batch, H W pixels, h w latent positions, C latent channels, L tokens, D text width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    UniPCMultistepScheduler,
)
from diffusers.utils.torch_utils import randn_tensor

from models.dad.controlnet import new_controlnet, white_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffusers import ControlNetModel
    from numpy.typing import NDArray
    from torch import Tensor

    from models.dad.base import Base

SamplerName = Literal["ddim", "dpm", "unipc", "euler", "euler_ancestral", "ddpm"]

_SAMPLERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "ddpm": DDPMScheduler,
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
    """The sampler; all space their steps from the last timestep down (``trailing``)."""
    negative_prompt: str = ""
    """What the unconditional half is given."""
    control_scale: float = 1.0
    """Weight of the ControlNet; 0 is the base without DaD."""

    match: float = 0.0
    """Image to image: how far the start's channel statistics go to a target picture's; 0 is off."""

    @property
    def executed(self) -> int:
        """Denoising steps that image to image really runs."""
        return min(int(self.steps * self.strength), self.steps)


def make_sampler(base: Base, name: SamplerName) -> Any:
    """Make a sampler for the base's noise schedule.

    Trailing spacing starts at the noisiest timestep, which matters with few steps.
    """
    if name not in _SAMPLERS:
        raise ValueError(
            f"scheduler {name!r}; the samplers are {', '.join(_SAMPLERS)}; choose one of them"
        )
    return _SAMPLERS[name].from_config(base.scheduler.config, timestep_spacing="trailing")


def match_look(
    latents_BChw: Tensor,
    look_N2C: Tensor,
    seeds: Sequence[int],
    share: float,
) -> Tensor:
    """Move the mean and deviation of each channel towards those of target pictures.

    Args:
        latents_BChw: The start.
        look_N2C: Means and deviations of the target pictures' latents.
        seeds: Choose a target picture for each start.
        share: 0 changes nothing, 1 gives the target picture's statistics exactly.

    Returns:
        Latents (B, C, h, w).
    """
    rows = torch.tensor([seed % len(look_N2C) for seed in seeds])
    mean, deviation = look_N2C[rows].to(latents_BChw)[..., None, None].unbind(1)
    own = latents_BChw.std((2, 3), keepdim=True).clamp_min(1e-6)
    centred = latents_BChw - latents_BChw.mean((2, 3), keepdim=True)
    return torch.lerp(latents_BChw, centred / own * deviation + mean, share)


class _BatchedImg2Img(StableDiffusionControlNetImg2ImgPipeline):
    """Image to image that encodes the whole batch at once.

    Attributes:
        look: Target statistics (N, 2, C) and the share of `match_look`; None to leave the start.
    """

    look: tuple[Tensor, float] | None = None

    def prepare_control_image(self, *args: Any, **kwargs: Any) -> Tensor:
        """Prepare the white control image once for the batch."""
        return super().prepare_control_image(*args, **kwargs)[:1]

    def prepare_latents(
        self,
        image: Tensor,
        timestep: Tensor,
        batch_size: int,
        num_images_per_prompt: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: list[torch.Generator],
    ) -> Tensor:
        """Encode, sample the posterior and add noise; random numbers in diffusers' order."""
        del batch_size, num_images_per_prompt  # one picture a prompt
        posterior = self.vae.encode(image.to(device)).latent_dist
        mean, std = posterior.mean.to(dtype), posterior.std.to(dtype)
        draw = {"generator": generator, "device": device, "dtype": dtype}
        latents = self.vae.config.scaling_factor * (mean + std * randn_tensor(mean.shape, **draw))
        if self.look is not None:
            seeds = [each.initial_seed() for each in generator]
            latents = match_look(latents, self.look[0], seeds, self.look[1])
        return self.scheduler.add_noise(latents, randn_tensor(mean.shape, **draw), timestep)


class _BatchedText2Img(StableDiffusionControlNetPipeline):
    """Text to image with one white control image for the batch."""

    def prepare_image(self, *args: Any, **kwargs: Any) -> Tensor:
        """Prepare the white control image once for the batch."""
        return super().prepare_image(*args, **kwargs)[:1]


class Restyler:
    """A base and its DaD ControlNet, ready to make pictures in batches.

    Args:
        base: The frozen base.
        controlnet: The trained DaD ControlNet; None for the base alone.
        size: Height and width of the pictures, in pixels.
        sampling: How to sample.
        look_N2C: Means and deviations of the target pictures' latents, for ``match``.
        base_revision: What identifies the base, for the rows' lineage.
        dad_digest: What identifies the ControlNet; None without one.

    Raises:
        ValueError: The size does not fit the base, the sampler is unknown, ``strength`` is above
            0 and yet runs no step, or ``match`` has nothing to go to.
    """

    def __init__(
        self,
        base: Base,
        controlnet: ControlNetModel | None,
        size: tuple[int, int],
        sampling: Sampling,
        *,
        look_N2C: Tensor | None = None,
        base_revision: str = "",
        dad_digest: str | None = None,
    ) -> None:
        if any(side % base.scale for side in size):
            raise ValueError(
                f"size {size}; both sides must be multiples of {base.scale}, the pixels a latent "
                f"position of {base.name}; round them"
            )
        if sampling.strength > 0 and sampling.executed == 0:
            raise ValueError(
                f"strength {sampling.strength} of {sampling.steps} steps runs no step at all; "
                f"strength is 0, or at least {1 / sampling.steps:.3g} here; raise steps or strength"
            )
        if sampling.match > 0 and look_N2C is None:
            raise ValueError(
                f"match is {sampling.match} and no target statistics are given; they come with the "
                "ControlNet that adapt trains; set match to 0 or pass that ControlNet"
            )
        self.base, self.size, self.sampling = base, size, sampling
        self.base_revision, self.dad_digest = base_revision, dad_digest
        network = new_controlnet(base).eval() if controlnet is None else controlnet.eval()
        if base.device.type == "cuda":
            network.to(memory_format=torch.channels_last)
            base.unet.to(memory_format=torch.channels_last)
            base.vae.to(memory_format=torch.channels_last)
        parts = {
            "vae": base.vae,
            "text_encoder": base.text_encoder,
            "tokenizer": base.tokenizer,
            "unet": base.unet,
            "controlnet": network,
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
        self._image_to_image = _BatchedImg2Img(
            **parts, scheduler=make_sampler(base, sampling.scheduler)
        )
        if look_N2C is not None and sampling.match > 0:
            self._image_to_image.look = (look_N2C, sampling.match)
        self._text_to_image = _BatchedText2Img(
            **parts, scheduler=make_sampler(base, sampling.scheduler)
        )
        for pipeline in (self._image_to_image, self._text_to_image):
            pipeline.set_progress_bar_config(disable=True)
        self._negative_1LD = base.encode_prompts([sampling.negative_prompt])

    @torch.no_grad()
    def restyle(
        self,
        pixels_BHW3: NDArray[np.uint8],
        words_BLD: Tensor,
        seeds: Sequence[int],
    ) -> NDArray[np.uint8]:
        """Render source pictures in the target's look.

        Args:
            pixels_BHW3: The source pictures.
            words_BLD: Their prompts' states, from `Base.encode_prompts`.
            seeds: One a picture.

        Returns:
            Pictures (B, H, W, 3).
        """
        image = torch.from_numpy(np.ascontiguousarray(pixels_BHW3)).to(self.base.device)
        image = image.permute(0, 3, 1, 2).float() / 255
        if self.sampling.executed == 0:
            mean, _ = self.base.encode_pixels(image * 2 - 1)
            if self._image_to_image.look is not None:
                look, share = self._image_to_image.look
                mean = match_look(mean, look, seeds, share)
            return _to_uint8(self.base.decode_latents(mean) / 2 + 0.5)
        with self.base.autocast():
            made = self._image_to_image(
                image=image,
                control_image=white_image(self.base, self.size),
                strength=self.sampling.strength,
                controlnet_conditioning_scale=self.sampling.control_scale,
                **self._shared(words_BLD, seeds),
            )
        return _to_uint8(made.images)

    @torch.no_grad()
    def generate(self, words_BLD: Tensor, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Make pictures from prompts alone (the paper's way).

        Args:
            words_BLD: The prompts' states, from `Base.encode_prompts`.
            seeds: One a picture.

        Returns:
            Pictures (B, H, W, 3).
        """
        with self.base.autocast():
            made = self._text_to_image(
                image=white_image(self.base, self.size),
                controlnet_conditioning_scale=self.sampling.control_scale,
                **self._shared(words_BLD, seeds),
            )
        return _to_uint8(made.images)

    def _shared(self, words_BLD: Tensor, seeds: Sequence[int]) -> dict[str, Any]:
        words = words_BLD.to(self.base.device)
        return {
            "prompt_embeds": words,
            "negative_prompt_embeds": self._negative_1LD.expand_as(words),
            "num_inference_steps": self.sampling.steps,
            "guidance_scale": self.sampling.guidance,
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "output_type": "pt",
        }


def _to_uint8(images_B3HW: Tensor) -> NDArray[np.uint8]:
    levels = (images_B3HW.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
