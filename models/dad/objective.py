"""The training objective of DaD: a frozen base, an adapter that learns, and the denoising loss.

MRA's paper, sec. 3.1: the ordinary mean squared error of what the base predicts. Whoever optimises
it calls it with a batch and gets a loss; whether a ControlNet learns
(`models.dad.controlnet.ControlNetObjective`, the paper's) or a LoRA
(`models.dad.lora.LoraObjective`), and whether the base predicts noise (Stable Diffusion 1.5),
velocity (2.x, the shipped one) or the clean latents, stays in here.

What is unusual: everything runs in evaluation mode, so nothing random happens in here, and a step
follows from its arguments alone.

Shape legend: B batch, H W pixels, h w latent positions, C latent channels, L tokens, D text width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from diffusers import ControlNetModel

    from models.dad.base import Base


class DaDObjective(nn.Module, ABC):
    """An adapter in training on a frozen base, together with its denoising loss.

    Args:
        base: Frozen; not a submodule, so that its weights are neither trained nor saved.
        trained: The network that holds what is trained, and possibly more that is frozen.
        size: Height and width of the pictures, in pixels.
        recompute: Whether activations are computed a second time in the backward pass instead of
            being kept (gradient checkpointing): less memory, more time, the same numbers.
    """

    def __init__(
        self, base: Base, trained: Any, size: tuple[int, int], *, recompute: bool = False
    ) -> None:
        super().__init__()
        if any(side % base.scale for side in size):
            raise ValueError(
                f"size {size}; both sides must be multiples of {base.scale}, the pixels a latent "
                f"position of {base.name}; round them"
            )
        for network in {base.unet, trained}:
            if base.device.type == "cpu" and base.precision != "fp32":
                # Measured: the fused attention's backward takes half of a step there.
                network.set_attn_processor(AttnProcessor())
            if base.device.type == "cuda":
                network.to(memory_format=torch.channels_last)
            if recompute:
                network.enable_gradient_checkpointing()
            else:
                network.disable_gradient_checkpointing()
            network.eval()
        self._base = base

    @property
    def timesteps(self) -> int:
        """Number of diffusion timesteps of the base's training."""
        return int(self._base.scheduler.config.num_train_timesteps)

    @property
    def learned(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {name: each for name, each in self.named_parameters() if each.requires_grad}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the values of `learned`, as an earlier run had them.

        Raises:
            ValueError: The names or shapes are others.
        """
        learned = self.learned
        shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        if shapes != {name: tuple(value.shape) for name, value in learned.items()}:
            raise ValueError(
                f"{len(tensors)} tensors for an adapter of {len(learned)}; names and shapes must "
                "be equal; they belong to another training"
            )
        for name, value in tensors.items():
            learned[name].copy_(value)

    @abstractmethod
    def predict(self, noisy_BChw: Tensor, words_BLD: Tensor, steps_B: Tensor) -> Tensor:
        """Predict noise, velocity or clean latents, whatever the base does (B, C, h, w)."""

    @abstractmethod
    def running(self) -> tuple[Base, ControlNetModel | None]:
        """Return what makes pictures with the adapter as it is now, as `Adapter.applied` does."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the adapter into a folder, for `models.dad.adapters.load_adapter`."""

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
        elif base.prediction_type == "v_prediction":
            target = base.scheduler.get_velocity(latents_BChw, noise_BChw, steps_B)
        else:
            target = latents_BChw
        with base.autocast():
            seen = self.predict(noisy, words_BLD, steps_B)
        return F.mse_loss(seen.float(), target.float())
