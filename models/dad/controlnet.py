"""The trainable half of DaD: a ControlNet fed with a white image, and its training objective.

MRA's paper, sec. 3.1: copies of the base's encoder blocks are trained, the base stays
frozen, and the control image is always completely white. So the control says nothing about the
picture; the copies learn what every picture of the target domain has in common, its look.

What is unusual: because all control images are equal, one white image stands for the batch and is
broadcast.

Shape legend: B batch, H W pixels, h w latent positions, C latent channels, L tokens, D text width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from diffusers import ControlNetModel
from torch import Tensor

from models.dad.objective import DaDObjective

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
        ValueError: Its widths are not those of the base, or tensors are missing.
    """
    controlnet, found = ControlNetModel.from_pretrained(
        folder, torch_dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    if missing := sorted(found["missing_keys"]):  # diffusers would leave them at random
        raise ValueError(
            f"{folder}: the ControlNet lacks {len(missing)} tensors, e.g. {missing[:2]}; a "
            "ControlNet is complete; run adapt again"
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


class ControlNetObjective(DaDObjective):
    """A ControlNet in training on a frozen base (paper section 3.1); see `DaDObjective`."""

    def __init__(
        self,
        base: Base,
        controlnet: ControlNetModel,
        size: tuple[int, int],
        *,
        recompute: bool = False,
    ) -> None:
        super().__init__(base, controlnet, size, recompute=recompute)
        self.controlnet = controlnet
        self._white = white_image(base, size)

    def predict(self, noisy_BChw: Tensor, words_BLD: Tensor, steps_B: Tensor) -> Tensor:
        """Run the ControlNet beside the base."""
        skips, middle = self.controlnet(
            noisy_BChw, steps_B, words_BLD, controlnet_cond=self._white, return_dict=False
        )
        seen: Tensor = self._base.unet(
            noisy_BChw,
            steps_B,
            words_BLD,
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        return seen

    def running(self) -> tuple[Base, ControlNetModel | None]:
        """Return the base and the ControlNet."""
        return self._base, self.controlnet

    def save(self, folder: Path) -> None:
        """Write the ControlNet as diffusers does."""
        self.controlnet.save_pretrained(folder)
