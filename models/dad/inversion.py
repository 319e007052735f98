"""Image to image whose noise is computed from the picture and not drawn: a bridge of two models.

Image to image with drawn noise loses what the noise hides, small and pale things first, and the
adapter has to invent them again. Here the base alone carries the picture up to a noisy place of
its own deterministic path (DDIM run backwards), where everything of the picture is still there in
another form, and the base with DaD comes down from that place: what both models see alike stays,
and what DaD has learned otherwise, the look, changes. This is the dual diffusion implicit bridge
of Su et al. (ICLR 2023); the source model is the base, the target model the base with DaD.

What is unusual: nothing is random, so the seed changes nothing, and a weight of 0 for DaD is the
way up and down with one model, nearly the picture itself.

Shape legend: B batch, h w latent positions, C latent channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from models.dad.base import Base

_CLEAN = 20
"""Timestep that the network is asked at about a clean latent: below it, a prediction of noise
says little."""


class Bridge:
    """The places between a clean picture and the noisy end, and the walk over them.

    Args:
        base: Its noise schedule, and what it predicts.
        strength: Where the noisy end is, as a share of the schedule.
        steps: Steps up, and as many down.

    Raises:
        ValueError: The noisy end is not above the place that stands for a clean picture.
    """

    def __init__(self, base: Base, strength: float, steps: int) -> None:
        schedule = base.scheduler.alphas_cumprod
        end = round(len(schedule) * strength)
        self.times = [round(end * (at + 1) / steps) - 1 for at in range(steps)]
        if self.times[0] <= _CLEAN:
            raise ValueError(
                f"inverted noise: {steps} steps to timestep {end - 1} begin with "
                f"{self.times[0]}; the first must lie above {_CLEAN}; take fewer steps or more "
                "strength"
            )
        self._predicts = base.prediction_type
        self._asked = torch.tensor([_CLEAN, *self.times], device=base.device)
        self._kept = [(float(schedule[t].sqrt()), float((1 - schedule[t]).sqrt()))
                      for t in (_CLEAN, *self.times)]  # fmt: skip

    def walk(
        self,
        latents_BChw: Tensor,
        up: Callable[[Tensor, Tensor], Tensor],
        down: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Carry clean latents up with one model and down with the other.

        Args:
            latents_BChw: Clean, scaled latents, float32.
            up: The source's model: latents and timestep to its prediction, once a step in order.
            down: The target's model.

        Returns:
            Clean latents.
        """
        picture, at = latents_BChw, latents_BChw
        for step in range(len(self.times)):
            seen = up(at, self._asked[step])
            # At the first step ``at`` is the clean picture itself.
            other, noise = self._parts(at, seen, step)
            picture = latents_BChw if step == 0 else other
            keep, spread = self._kept[step + 1]
            at = keep * picture + spread * noise
        for step in range(len(self.times), 0, -1):
            picture, noise = self._parts(at, down(at, self._asked[step]), step)
            keep, spread = self._kept[step - 1]
            at = keep * picture + spread * noise
        return picture

    def _parts(self, at: Tensor, seen: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """Split noisy latents into the picture and the noise that the model sees in them."""
        keep, spread = self._kept[place]
        if self._predicts == "v_prediction":
            return keep * at - spread * seen, keep * seen + spread * at
        if self._predicts == "sample":
            return seen, (at - keep * seen) / spread
        return (at - spread * seen) / keep, seen
