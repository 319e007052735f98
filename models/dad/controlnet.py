"""The trainable half of DaD: a ControlNet fed with a white image, and its training objective.

PAPERS.md 1.1 (paper section 3.1): copies of the base's encoder blocks are trained, the base stays
frozen, and the control image is always completely white. So the control says nothing about the
picture; the copies learn what every picture of the target domain has in common, its look.

What is unusual: because all control images are equal, one white image stands for the batch and is
broadcast. The objective is model plus loss in one module, so the loop does not know which of
them it trains: noise prediction for a base that predicts noise (Stable Diffusion 1.5), velocity
for one that predicts velocity (2.x, the shipped one).

Shape legend: B batch, H W pixels, h w latent positions, C latent channels, L tokens, D text width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

if TYPE_CHECKING:
    from pathlib import Path

    from models.dad.base import Base

_HINT_CHANNELS = (16, 32, 96, 256)


def new_controlnet(base: Base, seed: int = 0) -> ControlNetModel:
    """Copy the base's encoder and middle block; all outputs go through zero convolutions.

    Until it is trained, the ControlNet changes nothing. Its hint encoder halves the control image
    as often as the autoencoder does: eight times smaller for Stable Diffusion, as published.

    Args:
        base: What is copied.
        seed: Of the hint encoder, the one part that starts from random weights.

    Returns:
        A trainable ControlNet on the base's device.
    """
    halvings = base.scale.bit_length() - 1
    channels = _HINT_CHANNELS[: halvings + 1]
    if len(channels) != halvings + 1:
        raise ValueError(
            f"{base.name}: the autoencoder shrinks {base.scale} times; ControlNet's hint encoder "
            f"is known for at most {2 ** (len(_HINT_CHANNELS) - 1)}; take another base"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        controlnet = ControlNetModel.from_unet(
            base.unet, conditioning_embedding_out_channels=channels
        )
    return controlnet.requires_grad_(requires_grad=True).to(base.device)


def load_controlnet(folder: Path, base: Base) -> ControlNetModel:
    """Load a trained DaD ControlNet, frozen, and check that it belongs to the base.

    Args:
        folder: Written by `ControlNetModel.save_pretrained`; safetensors.
        base: The base that it was trained on.

    Raises:
        ValueError: Its widths are not those of the base.
    """
    controlnet = ControlNetModel.from_pretrained(
        folder, torch_dtype=torch.float32, use_safetensors=True
    )
    for key in ("block_out_channels", "cross_attention_dim", "in_channels", "layers_per_block"):
        has, needs = controlnet.config[key], base.unet.config[key]
        if has != needs and list(_flat(has)) != list(_flat(needs)):
            raise ValueError(
                f"{folder}: the ControlNet's {key} is {has} and that of {base.name} is {needs}; "
                "a ControlNet only fits the base it was trained on; run adapt for this base"
            )
    return controlnet.eval().requires_grad_(requires_grad=False).to(base.device)


def _flat(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def white_image(base: Base, size: tuple[int, int]) -> Tensor:
    """Return the control image: ones (1, 3, H, W), white in ControlNet's range [0, 1]."""
    return torch.ones(1, 3, *size, device=base.device)


class DaDObjective(nn.Module):
    """A ControlNet on a frozen base together with its denoising loss (paper section 3.1).

    Args:
        base: Frozen; not a submodule, so that its weights are neither trained nor saved.
        controlnet: Trained.
        size: Height and width of the pictures, in pixels.
    """

    def __init__(self, base: Base, controlnet: ControlNetModel, size: tuple[int, int]) -> None:
        super().__init__()
        if any(side % base.scale for side in size):
            raise ValueError(
                f"size {size}; both sides must be multiples of {base.scale}, the pixels a latent "
                f"position of {base.name}; round them"
            )
        if base.device.type == "cpu" and base.precision != "fp32":
            # Measured: the fused attention's backward takes half of a step there.
            for network in (base.unet, controlnet):
                network.set_attn_processor(AttnProcessor())
        self.controlnet = controlnet
        self._base = base
        self._white = white_image(base, size)

    @property
    def timesteps(self) -> int:
        """Number of diffusion timesteps of the base's training."""
        return int(self._base.scheduler.config.num_train_timesteps)

    def forward(
        self,
        latents_BChw: Tensor,
        words_BLD: Tensor,
        noise_BChw: Tensor,
        steps_B: Tensor,
    ) -> Tensor:
        """Return the mean squared error of the denoiser's prediction.

        Args:
            latents_BChw: Clean, scaled latents.
            words_BLD: Text states; the empty prompt's where the prompt is dropped.
            noise_BChw: Standard normal.
            steps_B: Diffusion timesteps, integers.

        Returns:
            A scalar, float32.
        """
        base = self._base
        noisy = base.scheduler.add_noise(latents_BChw, noise_BChw, steps_B)
        if base.prediction_type == "epsilon":
            target = noise_BChw
        else:
            target = base.scheduler.get_velocity(latents_BChw, noise_BChw, steps_B)
        with base.autocast():
            skips, middle = self.controlnet(
                noisy, steps_B, words_BLD, controlnet_cond=self._white, return_dict=False
            )
            seen = base.unet(
                noisy,
                steps_B,
                words_BLD,
                down_block_additional_residuals=skips,
                mid_block_additional_residual=middle,
                return_dict=False,
            )[0]
        return F.mse_loss(seen.float(), target.float())
