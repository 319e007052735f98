"""Colours of pixels: CIE Lab, names, and coarse bins, for a batch at once.

Cameras tint and dim, so names are judged after a partial correction: brightness is stretched
towards the picture's own brightest part, and half of its median tint is taken away. A name is a
probability over `PALETTE`, never a hard label.

Shapes: B images, H x W pixels, C names of the palette.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Float = NDArray[np.float32]

PALETTE: dict[str, tuple[tuple[int, int, int], ...]] = {
    "black": ((15, 15, 18), (45, 45, 48)),
    "white": ((250, 250, 250), (225, 225, 228)),
    "gray": ((90, 90, 92), (130, 130, 132), (170, 170, 172)),
    "red": ((200, 25, 35), (140, 20, 30)),
    "orange": ((240, 130, 30),),
    "yellow": ((245, 220, 60), (215, 175, 50)),
    "green": ((45, 140, 60), (30, 80, 45), (140, 190, 90)),
    "blue": ((40, 80, 200), (90, 120, 170), (25, 35, 85), (130, 170, 220)),
    "purple": ((120, 50, 165), (90, 50, 100), (170, 130, 200)),
    "pink": ((245, 150, 190), (230, 80, 140), (250, 200, 210)),
    "brown": ((105, 65, 35), (75, 50, 35), (145, 100, 70)),
    "beige": ((220, 200, 170), (190, 170, 140)),
}
"""Colour name -> typical sRGB values, 0-255."""

_SAME = {
    "grey": "gray",
    "navy": "blue",
    "tan": "beige",
    "khaki": "beige",
    "cream": "beige",
    "ivory": "white",
    "nude": "beige",
    "camel": "beige",
    "maroon": "red",
    "burgundy": "red",
    "crimson": "red",
    "scarlet": "red",
    "wine": "red",
    "rust": "orange",
    "coral": "orange",
    "peach": "orange",
    "salmon": "pink",
    "rose": "pink",
    "magenta": "pink",
    "fuchsia": "pink",
    "teal": "green",
    "turquoise": "blue",
    "cyan": "blue",
    "aqua": "blue",
    "indigo": "blue",
    "violet": "purple",
    "lavender": "purple",
    "lilac": "purple",
    "plum": "purple",
    "gold": "yellow",
    "golden": "yellow",
    "mustard": "yellow",
    "blonde": "yellow",
    "blond": "yellow",
    "silver": "gray",
    "charcoal": "gray",
    "olive": "green",
    "mint": "green",
    "brunette": "brown",
    "chestnut": "brown",
    "auburn": "brown",
    "bronze": "brown",
    "copper": "brown",
    "mahogany": "brown",
}

NAMES = tuple(PALETTE)

BINS = 8
"""Bins an axis of the colour histograms; 512 in all."""

_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ],
    np.float32,
)
_WHITE = np.array([0.95047, 1.0, 1.08883], np.float32)
_LINEAR = np.array(
    [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.arange(256) / 255],
    np.float32,
)
_CUBE_ROOT = np.array(
    [t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in np.arange(4097) / 4096],
    np.float32,
)


def lab(pixels: NDArray[np.uint8]) -> Float:
    """Convert sRGB to CIE Lab (D65).

    Args:
        pixels: uint8 (..., 3).

    Returns:
        float32 (..., 3): L in [0, 100], a and b about [-100, 100]; exact to 0.3 units (the cube
        root is a table).
    """
    xyz = _LINEAR[pixels] @ (_TO_XYZ.T / _WHITE)
    f = _CUBE_ROOT[np.clip(xyz * 4096 + 0.5, 0, 4096).astype(np.int32)]
    out = np.empty_like(f)
    out[..., 0] = 116 * f[..., 1] - 16
    out[..., 1] = 500 * (f[..., 0] - f[..., 1])
    out[..., 2] = 200 * (f[..., 1] - f[..., 2])
    return out


_ANCHORS = [(i, rgb) for i, name in enumerate(NAMES) for rgb in PALETTE[name]]
_ANCHOR_LAB = lab(np.array([rgb for _, rgb in _ANCHORS], np.uint8))
_ANCHOR_NAME = np.array([i for i, _ in _ANCHORS])
# Brightness is what a camera changes most, so it counts for less.
_WEIGHTS = np.array([0.6, 1.0, 1.0], np.float32)


def corrected(lab_BHW3: Float) -> Float:
    """Undo part of a camera's dimness and tint, a picture at a time."""
    batch = lab_BHW3.shape[0]
    flat = lab_BHW3.reshape(batch, -1, 3)[:, ::5]
    top = np.percentile(flat[..., 0], 97, axis=1).astype(np.float32)
    tint = np.median(flat[..., 1:], axis=1).astype(np.float32)
    out = lab_BHW3.copy()
    out[..., 0] *= (np.clip(92 / np.maximum(top, 20), 0.9, 2.2) ** 0.7)[:, None, None]
    out[..., 1:] -= 0.5 * np.clip(tint, -16, 16)[:, None, None]
    return out


_STEP = np.array([4, 6, 6], np.float32)
_LOW = np.array([0, -90, -90], np.float32)
_CELLS = (26, 31, 31)


def name_probabilities(lab_BHW3: Float) -> Float:
    """How well each name of the palette describes each pixel.

    Args:
        lab_BHW3: From `corrected`.

    Returns:
        float32 (B, H, W, C), summing to one over C. Looked up in a table of 4 x 6 x 6 Lab units.
    """
    found: Float = _name_table().take(name_cells(lab_BHW3), axis=0)
    return found


def name_cells(lab_BHW3: Float) -> NDArray[np.int32]:
    """Where each pixel (B, H, W) stands in the table of names; see `wanted_by_cell`."""
    cell = ((lab_BHW3 - _LOW) / _STEP + np.float32(0.5)).astype(np.int32)
    np.clip(cell, 0, np.array(_CELLS, np.int32) - 1, out=cell)
    out: NDArray[np.int32] = (cell[..., 0] * _CELLS[1] + cell[..., 1]) * _CELLS[2] + cell[..., 2]
    return out


@cache
def wanted_by_cell(names: tuple[int, ...]) -> Float:
    """How well any of some names describes each entry of the table of names.

    Args:
        names: Places in `NAMES`; without any nothing is wanted and all is 0.
    """
    out: Float = np.ascontiguousarray(_name_table()[:, list(names)].sum(axis=1))
    return out


@cache
def _name_table(sharpness: float = 14.0) -> Float:
    """Probabilities (cells, C) of names; `sharpness` is the distance that a name's claim fades."""
    cells = np.stack(np.meshgrid(*map(np.arange, _CELLS), indexing="ij"), axis=-1)
    x = (cells.astype(np.float32) * _STEP + _LOW) * _WEIGHTS
    anchors = _ANCHOR_LAB * _WEIGHTS
    flat = x.reshape(-1, 3)
    square = (
        (flat**2).sum(1, keepdims=True) - 2 * flat @ anchors.T + (anchors**2).sum(1)[None]
    ).astype(np.float32)
    closeness = np.exp(-np.maximum(square, 0) / (2 * sharpness**2)) + 1e-6
    out = np.empty((flat.shape[0], len(NAMES)), np.float32)
    for i in range(len(NAMES)):
        out[:, i] = closeness[:, i == _ANCHOR_NAME].max(axis=1)
    out /= out.sum(axis=1, keepdims=True)
    return out


def palette_indices(colours: Iterable[str]) -> list[int]:
    """Places in `NAMES` of colour words such as "navy" or "dark blue"; unknown words drop out."""
    found = []
    for colour in colours:
        word = colour.split()[-1]
        name = _SAME.get(word, word)
        if name in PALETTE:
            found.append(NAMES.index(name))
    return sorted(set(found))


def bins(lab_BHW3: Float) -> NDArray[np.int32]:
    """Coarse colour bins, with edges at each picture's own spread.

    Args:
        lab_BHW3: Lab pixels.

    Returns:
        int32 (B, H, W) in [0, BINS**3).
    """
    batch = lab_BHW3.shape[0]
    flat = lab_BHW3.reshape(batch, -1, 3)
    low, high = np.percentile(flat[:, ::5], [2, 98], axis=1).astype(np.float32)
    # A picture without colour must not have its noise spread over all bins.
    spread = np.maximum(high - low, np.array([40, 24, 24], np.float32))
    middle = (high + low) / 2
    scaled = (lab_BHW3 - (middle - spread / 2)[:, None, None]) / spread[:, None, None]
    index = np.clip((scaled * BINS).astype(np.int32), 0, BINS - 1)
    return (index[..., 0] * BINS + index[..., 1]) * BINS + index[..., 2]
