"""Where the body is in a picture, and the picture brought to the body: the normal view.

`find_frames` weighs every pair of a top and a bottom row: the strips of the figure's mask and the
edges around both, and how well a mean silhouette stretched between them covers the mask, summed
with fitted weights (`models.regions.fitted`). `normal_view` cuts the picture to such a frame, so
that a place on the body is the same cells in every picture, and a small or wide picture costs no
resolution on the person.

A frame is (top, height, axis): top and height of the body as shares of the picture's height, axis
as a share of its width. Coordinates on the body are v (down from the top of the head) and u
(right of the axis), both in body heights; a box on the body is (v0, v1, u0, u1).

Shapes: B images, H x W cells of the picture's grid, R x C cells of the normal view, S places of a
head or of feet, N boxes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Float = NDArray[np.float32]

VIEW = (96, 56)
"""Rows R and columns C of the normal view; its cells are square."""

CELL = 1.12 / VIEW[0]
"""Side of a cell of the normal view, body heights."""

ABOVE = 0.06
"""What the normal view shows above the head, body heights."""

V_R = ((np.arange(VIEW[0]) + 0.5) * CELL - ABOVE).astype(np.float32)
U_C = ((np.arange(VIEW[1]) + 0.5 - VIEW[1] / 2) * CELL).astype(np.float32)

_ROWS = 96
_TOPS = np.arange(0, 33)
_BOTTOMS = np.arange(61, 97)
"""Edges of rows of the picture's grid that may be the top or the bottom of a body."""
_PAIRS = np.array([(t, b) for t in _TOPS for b in _BOTTOMS])
_COLUMNS = ((np.arange(24) + 0.5) / 24 * 0.66 - 0.33).astype(np.float32)
"""Columns about the axis, in picture heights."""
TEMPLATE = (61, 24)
"""Rows (v from -0.1 to 1.1) and columns of the mean silhouette."""
_STRIPS = ((-8, -3), (-3, 0), (0, 3), (3, 8))


def axis_of(figure_BHW: Float) -> Float:
    """Column (B,), a share of the width, that halves the figure."""
    columns = figure_BHW.shape[2]
    total = np.cumsum((figure_BHW * (figure_BHW > 0.5)).sum(axis=1) + 1e-6, axis=1)
    axis = ((total < total[:, -1:] / 2).sum(axis=1) + 0.5) / columns
    return np.clip(axis, 0.2, 0.8).astype(np.float32)


def about_axis(x_BHW: Float, aspect_B: Float, axis_B: Float) -> Float:
    """Resample columns (B, H, 24) to steps about the axis; 0 outside of the picture."""
    width = x_BHW.shape[2]
    at = np.floor((_COLUMNS / aspect_B[:, None] + axis_B[:, None]) * width).astype(np.int64)
    inside = (at >= 0) & (at < width)
    at = np.clip(at, 0, width - 1)[:, None, :]
    return np.take_along_axis(x_BHW, at, axis=2) * inside[:, None, :].astype(np.float32)


def _strips(mask_BHW: Float, edge_BHW: Float, rows_S: NDArray[np.int64]) -> Float:
    """Features (B, S, F) of a body ending at each row: mask around it, edges at it, the row."""
    near, wide = np.abs(_COLUMNS) < 0.07, np.abs(_COLUMNS) < 0.16
    middle = mask_BHW[:, :, wide]
    profiles = (
        mask_BHW[:, :, near].mean(axis=2),
        middle.mean(axis=2),
        np.minimum(middle[:, :, 1:], middle[:, :, :-1]).max(axis=2),  # two cells side by side
        (middle > 0.5).mean(axis=2, dtype=np.float32),
    )
    found = []
    for profile in profiles:
        total = np.pad(np.cumsum(profile, axis=1), ((0, 0), (1, 0)))
        for low, high in _STRIPS:
            start, end = np.clip(rows_S + low, 0, _ROWS), np.clip(rows_S + high, 0, _ROWS)
            found.append((total[:, end] - total[:, start]) / np.maximum(end - start, 1))
    border = (rows_S == 0) | (rows_S == _ROWS)
    for columns in (wide, near):
        strength = edge_BHW[:, :, columns].mean(axis=2)
        found.append(strength[:, np.clip(rows_S, 0, _ROWS - 1)] * ~border)
    share = rows_S / _ROWS
    for value in (share, share**2, border):
        found.append(np.broadcast_to(value, found[0].shape))
    return np.stack(found, axis=2).astype(np.float32)


def stretched(template: Float) -> tuple[Float, Float]:
    """The mean silhouette between every pair of rows.

    Args:
        template: Mean mask, of shape `TEMPLATE`.

    Returns:
        Log odds (pairs, 96 * 24) and the score (pairs,) of an empty mask.
    """
    rows = (np.arange(_ROWS) + 0.5) / _ROWS
    top, bottom = _PAIRS[:, :1] / _ROWS, _PAIRS[:, 1:] / _ROWS
    at = ((rows[None] - top) / (bottom - top) + 0.1) / 1.2 * (TEMPLATE[0] - 1)
    below = np.clip(np.floor(at).astype(np.int64), 0, TEMPLATE[0] - 2)
    part = np.clip(at - below, 0, 1)[..., None]
    mask = template[below] * (1 - part) + template[below + 1] * part
    mask = np.where(((at >= 0) & (at <= TEMPLATE[0] - 1))[..., None], mask, 0.01)
    mask = np.clip(mask, 0.01, 0.99).reshape(len(_PAIRS), -1)
    odds: Float = np.log(mask / (1 - mask)).astype(np.float32)
    return odds, np.log1p(-mask).sum(axis=1).astype(np.float32)


def frame_features(
    figure_BHW: Float, lab_BHW3: Float, aspect_B: Float, axis_B: Float
) -> tuple[Float, Float, Float]:
    """What frames are judged by.

    Returns:
        Features of tops and of bottoms (B, S, F), and the mask about the axis (B, 96 * 24).
    """
    edge = np.zeros(figure_BHW.shape, np.float32)
    edge[:, 1:] = np.abs(np.diff(lab_BHW3, axis=1)).sum(axis=3) / 20
    mask = about_axis(figure_BHW, aspect_B, axis_B)
    edge = about_axis(edge, aspect_B, axis_B)
    flat = mask.reshape(len(mask), -1)
    return _strips(mask, edge, _TOPS), _strips(mask, edge, _BOTTOMS), flat


def pair_scores(tops_BS: Float, bottoms_BS: Float, match_BP: Float) -> Float:
    """Scores (B, pairs) from those of tops, of bottoms and of the silhouettes."""
    out: Float = (
        tops_BS[:, _PAIRS[:, 0] - _TOPS[0]] + bottoms_BS[:, _PAIRS[:, 1] - _BOTTOMS[0]] + match_BP
    )
    return out


def pair_targets(top_B: Float, bottom_B: Float, tau: float = 0.012) -> Float:
    """How near each pair (B, pairs) is to the truth, as a distribution."""
    distance = np.abs(top_B[:, None] - _PAIRS[None, :, 0] / _ROWS)
    distance = distance + np.abs(bottom_B[:, None] - _PAIRS[None, :, 1] / _ROWS)
    near = np.exp(-distance / tau)
    out: Float = (near / np.maximum(near.sum(axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return out


def frames_of(scores_BP: Float, axis_B: Float) -> Float:
    """Frames (B, 3) from the scores of pairs: the median of each end."""
    chance = np.exp(scores_BP - scores_BP.max(axis=1, keepdims=True))
    chance = chance.reshape(-1, len(_TOPS), len(_BOTTOMS))
    chance /= chance.sum(axis=(1, 2), keepdims=True)
    top = _TOPS[(np.cumsum(chance.sum(axis=2), axis=1) < 0.5).sum(axis=1)] / _ROWS
    last = len(_BOTTOMS) - 1
    at = np.minimum((np.cumsum(chance.sum(axis=1), axis=1) < 0.5).sum(axis=1), last)
    bottom = _BOTTOMS[at] / _ROWS
    return np.stack([top, bottom - top, axis_B], axis=1).astype(np.float32)


def normal_view(
    images: Sequence[NDArray[np.uint8]], frames_B3: Float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Cut pictures to their frames.

    Args:
        images: uint8 (H, W, 3), of any sizes.
        frames_B3: From `find_frames`.

    Returns:
        uint8 (B, R, C, 3), continued beyond the picture's border by its last cells; and which
        cells (B, R, C) lie in the picture.
    """
    rows, columns = VIEW
    out = np.empty((len(images), rows, columns, 3), np.uint8)
    inside = np.zeros((len(images), rows, columns), bool)
    for n, (image, frame) in enumerate(zip(images, frames_B3.tolist(), strict=True)):
        height, width = image.shape[:2]
        top, tall, axis = frame
        side = tall * height * CELL  # pixels a cell
        y, x = (top - ABOVE * tall) * height, axis * width - columns / 2 * side
        i0, i1 = _cells(y, side, height, rows)
        j0, j1 = _cells(x, side, width, columns)
        left, upper = (
            min(max(0.0, x + j0 * side), width - 0.5),
            min(max(0.0, y + i0 * side), height - 0.5),
        )
        box = (left, upper, min(width, x + j1 * side), min(height, y + i1 * side))
        piece = Image.fromarray(image).resize(
            (j1 - j0, i1 - i0), Image.Resampling.BILINEAR, box=box
        )
        pad = ((i0, rows - i1), (j0, columns - j1), (0, 0))
        out[n] = np.pad(np.asarray(piece), pad, mode="edge")
        inside[n, i0:i1, j0:j1] = True
    return out, inside


def _cells(start: float, side: float, length: int, count: int) -> tuple[int, int]:
    """First and one past the last cell of a row of cells that lie in the picture; at least one."""
    first = min(max(0, int(np.ceil(-start / side - 1e-6))), count - 1)
    last = max(min(count, int(np.floor((length - start) / side + 1e-6))), first + 1)
    return first, last


def to_image(boxes_N4: Float, frames_N3: Float, aspect_N: Float) -> Float:
    """Boxes on the body to boxes (N, 4) x0, y0, x1, y1 in the picture, cut to it."""
    top, height, axis = frames_N3.T
    across = height / aspect_N
    v0, v1, u0, u1 = boxes_N4.T
    corners = [axis + u0 * across, top + v0 * height, axis + u1 * across, top + v1 * height]
    return np.clip(np.stack(corners, axis=1), 0, 1).astype(np.float32)


def to_body(boxes_N4: Float, frames_N3: Float, aspect_N: Float) -> Float:
    """Boxes cx, cy, w, h in the picture to boxes (N, 4) on the body."""
    top, height, axis = frames_N3.T
    across = height / aspect_N
    cx, cy, w, h = boxes_N4.T
    edges = [
        (cy - h / 2 - top) / height, (cy + h / 2 - top) / height,
        (cx - w / 2 - axis) / across, (cx + w / 2 - axis) / across,
    ]  # fmt: skip
    return np.stack(edges, axis=1).astype(np.float32)


def from_view(boxes_N4: Float) -> Float:
    """Boxes x0, y0, x1, y1 as shares of the normal view to boxes (N, 4) on the body."""
    rows, columns = VIEW
    x0, y0, x1, y1 = boxes_N4.T
    tall, wide = rows * CELL, columns * CELL
    edges = [y0 * tall - ABOVE, y1 * tall - ABOVE, (x0 - 0.5) * wide, (x1 - 0.5) * wide]
    return np.stack(edges, axis=1).astype(np.float32)


def mirrored(boxes_N4: Float) -> Float:
    """Boxes on the body as a mirror shows them."""
    out: Float = boxes_N4[:, [0, 1, 3, 2]] * np.array([1, 1, -1, -1], np.float32)
    return out
