"""Augmentation of a batch of person images that keeps a region in the picture.

Pretraining picks a region, pads the image, crops at random without cutting the region, flips,
resizes, normalises and erases a rectangle (release: dataset/pretrain_dataset.py); fine-tuning does
the same without the crop; evaluation only resizes.

What is unusual: every decision for a whole batch comes from rows of uniform numbers, one drawn from
each item's own seed, and is made at once. Crop, padding and bicubic resize are Pillow's, as in the
release (a tenth of the time that products with the batch's resize matrices take).

Shapes: B items, H x W result, h x w source, P patches. Boxes are x, y, w, h in pixels here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.mra.masking import patch_mask

# Normalisation of CLIP, as MRA uses it.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

ERASED_AREA = (0.02, 0.4)  # share of the image, A6
ERASED_RATIO = (0.3, 1 / 0.3)  # of height to width
_TRIES = 100

DRAWS = 8 + 2 * _TRIES
"""Uniform numbers an image uses: region, x0, y0, x1, y1, flip, erase, place, then the tries."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Recipe:
    """What happens to an image between the file and the model."""

    size: tuple[int, int]
    """Height and width of the result, in pixels."""
    stride: int
    """Pixels a side of the patches in the mask: the total stride of the vision encoder."""
    crop: bool = False
    """Whether to pad and to crop at random around the region."""
    padding: int = 10
    """Black border added before the crop, in pixels of the source."""
    flip: float = 0.0
    """Probability of a horizontal flip."""
    erasing: float = 0.0
    """Probability of erasing a rectangle."""


def region_pixels(boxes: Array, heights: Array, widths: Array) -> Array:
    """Turn boxes (cx, cy, w, h) in [0, 1] into whole pixels (x, y, w, h) inside the image.

    Args:
        boxes: (B, 4).
        heights: (B,) of the source images.
        widths: (B,).

    Returns:
        (B, 4), every side at least one pixel.
    """
    scale = np.stack([widths, heights], axis=1)
    span = np.clip(np.floor(boxes[:, 2:] * scale), 1, scale)
    corner = np.floor(np.clip((boxes[:, :2] - boxes[:, 2:] / 2) * scale, 0, scale - 1))
    return np.concatenate([corner, np.minimum(span, scale - corner)], axis=1)


def draw_crops(
    regions: Array, heights: Array, widths: Array, draws: Array, recipe: Recipe
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Decide crop and flip, and follow the region through them.

    Args:
        regions: (B, 4) x, y, w, h in source pixels.
        heights: (B,).
        widths: (B,).
        draws: (B, DRAWS) uniform in [0, 1).
        recipe: What to do.

    Returns:
        crops (B, 4) as x, y, w, h in source pixels, reaching outside where the border is in it;
        regions (B, 4) in pixels of the result; flips (B,).
    """
    pad = recipe.padding if recipe.crop else 0
    low = regions[:, :2] + pad
    high = low + regions[:, 2:]
    limit = np.stack([widths, heights], axis=1) + 2 * pad
    if recipe.crop:
        # x0 in {0..floor(x)}, x1 in {min(ceil(x + w), W)..W}, uniform; y likewise.
        start = np.floor(draws[:, 1:3] * (np.floor(low) + 1))
        least = np.minimum(np.ceil(high), limit)
        stop = least + np.floor(draws[:, 3:5] * (limit - least + 1))
    else:
        start, stop = np.zeros_like(low), limit
    span = stop - start
    flips = draws[:, 5] < recipe.flip
    inside = low - start
    inside[:, 0] = np.where(flips, span[:, 0] - inside[:, 0] - regions[:, 2], inside[:, 0])
    size = np.array([recipe.size[1], recipe.size[0]], dtype=np.float64)
    scaled = np.concatenate([inside * size / span, regions[:, 2:] * size / span], axis=1)
    return np.concatenate([start - pad, span], axis=1), scaled, flips


# ------------------------------------------------------------------ pixels


def crop_and_resize(
    images: list[NDArray[np.uint8]], crops: Array, flips: NDArray[np.bool_], size: tuple[int, int]
) -> Tensor:
    """Crop, flip and resize (bicubic, antialiased) a batch of differently sized images.

    Args:
        images: B arrays (h, w, 3).
        crops: (B, 4) x, y, w, h in whole source pixels; outside the image is black.
        flips: (B,).
        size: Height and width of the result.

    Returns:
        (B, 3, H, W) uint8.
    """
    out = np.empty((len(images), *size, 3), dtype=np.uint8)
    for at, (image, crop) in enumerate(zip(images, crops, strict=True)):
        x, y, w, h = (int(side) for side in crop)
        picture = Image.fromarray(image)
        if (x, y, w, h) != (0, 0, *picture.size):
            picture = picture.crop((x, y, x + w, y + h))
        if picture.size != size[::-1]:
            picture = picture.resize(size[::-1], Image.Resampling.BICUBIC)
        pixels = np.asarray(picture)
        out[at] = pixels[:, ::-1] if flips[at] else pixels
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def normalise(pixels: Tensor) -> Tensor:
    """Scale 0..255 to the model's input range.

    Args:
        pixels: (B, 3, H, W) in 0..255, of any dtype.

    Returns:
        (B, 3, H, W) float32.
    """
    mean = torch.tensor(MEAN, device=pixels.device)[:, None, None]
    std = torch.tensor(STD, device=pixels.device)[:, None, None]
    # In place on the copy: a batch at this size is larger than the cache.
    return pixels.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)


def erase(images: Tensor, draws: Array, probability: float) -> Tensor:
    """Set one rectangle of some images to 0 (after normalisation), A6.

    Args:
        images: (B, 3, H, W); not changed.
        draws: (B, DRAWS) uniform in [0, 1).
        probability: Of erasing at all.

    Returns:
        (B, 3, H, W).
    """
    height, width = images.shape[-2:]
    tries = draws[:, 8:].reshape(len(draws), _TRIES, 2)
    low, high = ERASED_AREA
    area = (low + tries[..., 0] * (high - low)) * height * width
    ratio = ERASED_RATIO[0] + tries[..., 1] * (ERASED_RATIO[1] - ERASED_RATIO[0])
    tall = np.rint(np.sqrt(area * ratio))
    wide = np.rint(np.sqrt(area / ratio))
    fits = (tall < height) & (wide < width)
    first = fits.argmax(1)
    each = np.arange(len(draws))
    tall, wide = tall[each, first], wide[each, first]
    erased = (draws[:, 6] <= probability) & fits.any(1) & (probability > 0)
    # One number places the rectangle: its whole part picks the row, its fraction the column.
    spot = draws[:, 7] * (height - tall + 1)
    top = np.floor(spot)
    left = np.floor((spot - top) * (width - wide + 1))

    def along(start: Array, span: Array, count: int) -> NDArray[np.bool_]:
        at = np.arange(count)
        return (at >= start[:, None]) & (at < (start + span)[:, None])

    hit = along(top, tall, height)[:, :, None] & along(left, wide, width)[:, None, :]
    hit &= erased[:, None, None]
    return images.masked_fill(torch.from_numpy(hit)[:, None].to(images.device), 0.0)


def augment(
    images: list[NDArray[np.uint8]], boxes: Array, draws: Array, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Take a batch of decoded images to the model's input.

    Args:
        images: B arrays (h, w, 3) uint8.
        boxes: (B, 4) the region of each, (cx, cy, w, h) in [0, 1].
        draws: (B, DRAWS) uniform in [0, 1), from each item's own generator.
        recipe: What to do.

    Returns:
        image (B, 3, H, W) float32, normalised; patch_mask (B, P) int64, 1 inside the region.
    """
    heights = np.array([image.shape[0] for image in images], dtype=np.float64)
    widths = np.array([image.shape[1] for image in images], dtype=np.float64)
    regions = region_pixels(boxes, heights, widths)
    crops, regions, flips = draw_crops(regions, heights, widths, draws, recipe)
    pixels = normalise(crop_and_resize(images, crops, flips, recipe.size))
    if recipe.erasing:
        pixels = erase(pixels, draws, recipe.erasing)
    return pixels, patch_mask(torch.from_numpy(regions), recipe.size, recipe.stride)


def plain(images: list[NDArray[np.uint8]], size: tuple[int, int]) -> Tensor:
    """Resize and normalise a batch without any randomness, for evaluation.

    Args:
        images: B arrays (h, w, 3) uint8.
        size: Height and width of the result.

    Returns:
        (B, 3, H, W) float32.
    """
    crops = np.array([[0, 0, image.shape[1], image.shape[0]] for image in images], np.float64)
    flips = np.zeros(len(images), dtype=np.bool_)
    return normalise(crop_and_resize(images, crops, flips, size))
