"""The target's light and colour as numbers, and moving pictures or latents towards them.

A row of statistics is the mean and the standard deviation over all positions of each channel of
one target picture: of latents for ``match``, of RGB levels for the mode ``colours``. Which target
picture a row goes to follows from the row's seed, so a set of pictures gets the target's spread of
light and not its average.

Shape legend: B batch, H W pixels, h w latent positions, C latent channels, N target pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor


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
    rows = torch.tensor(_chosen(seeds, len(look_N2C)))
    chosen = look_N2C[rows]
    if latents_BChw.device.type == "cuda":
        chosen = chosen.pin_memory()  # so that the copy waits for nothing
    chosen = chosen.to(latents_BChw.device, latents_BChw.dtype, non_blocking=True)
    mean, deviation = chosen[..., None, None].unbind(1)
    own = latents_BChw.std((2, 3), keepdim=True).clamp_min(1e-6)
    centred = latents_BChw - latents_BChw.mean((2, 3), keepdim=True)
    return torch.lerp(latents_BChw, centred / own * deviation + mean, share)


def match_colours(
    pixels_BHW3: NDArray[np.uint8],
    look_N23: NDArray[np.float32],
    seeds: Sequence[int],
    share: float = 1.0,
) -> NDArray[np.uint8]:
    """Give each picture's RGB channels the mean and deviation of a target picture's.

    The plain way of changing a look, without any model: Reinhard et al. 2001, in RGB. A channel
    without any deviation of its own gets the mean.

    Args:
        pixels_BHW3: The pictures.
        look_N23: Means and deviations of the target pictures' channels, levels of 0 to 255.
        seeds: Choose a target picture for each.
        share: How far levels go there: 0 changes nothing.

    Returns:
        Pictures (B, H, W, 3), cut to 0..255.
    """
    levels = pixels_BHW3.astype(np.float32)
    mean, deviation = np.moveaxis(look_N23[_chosen(seeds, len(look_N23))], 1, 0)[:, :, None, None]
    own = np.maximum(levels.std((1, 2), keepdims=True), 1e-6)
    made = (levels - levels.mean((1, 2), keepdims=True)) / own * deviation + mean
    made = levels + share * (made - levels)
    return np.rint(made.clip(0, 255)).astype(np.uint8)


def put_back(made_BHW3: Tensor, trip_BHW3: Tensor, source_BHW3: Tensor, share: float) -> Tensor:
    """Put back what the autoencoder loses of the source: thin stripes, straps, edges.

    The difference between the source and its way through the autoencoder, in the contrast that the
    made picture has: each channel is scaled by the deviation of the made picture over that of the
    source's way through.

    Args:
        made_BHW3: What was made of the source, levels of 0 to 255.
        trip_BHW3: The source through the autoencoder and nothing else.
        source_BHW3: The source.
        share: How much: 0 changes nothing; with nothing made, 1 gives the source itself.

    Returns:
        Levels, uint8 (B, H, W, 3).
    """
    made, trip = made_BHW3.float(), trip_BHW3.float()
    contrast = made.std((1, 2), keepdim=True) / trip.std((1, 2), keepdim=True).clamp_min(1.0)
    found = made + share * contrast * (source_BHW3.float() - trip)
    return found.clamp(0, 255).round().to(torch.uint8)


def _chosen(seeds: Sequence[int], targets: int) -> list[int]:
    return [seed % targets for seed in seeds]
