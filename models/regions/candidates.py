"""Which of many boxes shows what a phrase names: a linear ranking of candidates on the body.

A kind of thing (hair, footwear, ...) has a fixed set of boxes in the normal view
(`models.regions.view`), closed under mirroring. Each is judged by the maps of the picture, in the
box, in strips on either side of its edges, by the edges of the picture under its own, and by how
often such a thing was seen there (the prior of its head noun). The scores make a distribution over
the candidates; the answer is the mean of those that agree with the box of greatest expected
overlap, because many small shares of one place should beat one lucky box elsewhere.

Unusual: sums over a box are linear in the maps, so the maps are summed with their weights first
(seven maps of scores instead of fifty-six features a candidate), and each score is read from an
integral image. `features` is the slow, plain form that the weights are fitted with; a test holds
the two together.

Shapes: P phrases, M candidates, R x C cells of the normal view, E maps, F features, N boxes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.regions.view import ABOVE, CELL, VIEW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Float = NDArray[np.float32]
    Cells = tuple[NDArray[np.int64], ...]

MAPS = ("own", "figure", "hair", "skin", "upper", "lower", "footwear", "colour")
"""Maps that are summed over boxes: the part's own chance, the figure's, those of the parts that
every picture has, and how well the named colour fits (0 where none is named)."""

STRIPS = ("inside", "above", "below", "top", "bottom", "beside", "sides")
"""Where maps are averaged: the box; strips outside of its top, its bottom; inside of these; outside
and inside of its left and right edge."""

FEATURES = (
    *(f"{m} {s}" for s in STRIPS for m in MAPS),
    "edge top", "edge bottom", "edge sides",
    "agreement", "share", "size",
    "on extent", "half on extent", "square on extent",
    "prior",
)  # fmt: skip
"""Names of the features, in order."""

_LINEAR = len(STRIPS) * len(MAPS)
SPREAD = 0.15
"""How fast a seen box's claim on its surroundings fades with 1 - IoU."""


def overlaps(one_N4: Float, other_M4: Float) -> Float:
    """IoU (..., N, M) of boxes v0, v1, u0, u1; leading axes broadcast."""
    a, b = one_N4[..., :, None, :], other_M4[..., None, :, :]
    tall = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    wide = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 2], b[..., 2])
    both = np.maximum(tall, 0) * np.maximum(wide, 0)
    size_a = (a[..., 1] - a[..., 0]) * (a[..., 3] - a[..., 2])
    size_b = (b[..., 1] - b[..., 0]) * (b[..., 3] - b[..., 2])
    out: Float = both / np.maximum(size_a + size_b - both, np.float32(1e-9))
    return out


def nearness(candidates_M4: Float, seen_N4: Float) -> Float:
    """How much each seen box speaks for each candidate (M, N)."""
    out: Float = np.exp((overlaps(candidates_M4, seen_N4) - 1) / np.float32(SPREAD))
    return out


def _cells(v0: Float, v1: Float, u0: Float, u1: Float) -> Cells:
    """First and last row and column of boxes in cells; at least one cell, all in the view."""
    rows, columns = VIEW
    top = np.clip(np.rint((v0 + ABOVE) / CELL).astype(np.int64), 0, rows - 1)
    bottom = np.clip(np.rint((v1 + ABOVE) / CELL).astype(np.int64), top + 1, rows)
    # Halves round to even, and the view has an even number of columns: mirrored boxes agree.
    left = np.rint(u0 / CELL).astype(np.int64) + columns // 2
    right = np.rint(u1 / CELL).astype(np.int64) + columns // 2
    empty = left >= right
    left, right = np.clip(left, 0, columns), np.clip(right, 0, columns)
    thin = empty | (left >= right)
    middle = np.clip((left + right) // 2, 1, columns - 1)
    left, right = np.where(thin, middle - 1, left), np.where(thin, middle + 1, right)
    return top, bottom, left, right


def _area(cells: Cells) -> Float:
    top, bottom, left, right = cells
    return ((bottom - top) * (right - left)).astype(np.float32)


def strips_of(boxes_N4: Float) -> list[list[Cells]]:
    """The cells of each of `STRIPS`: one rectangle, or two, left and right."""
    v0, v1, u0, u1 = boxes_N4.T
    tall, wide = np.clip(0.15 * (v1 - v0), 0.015, 0.06), np.clip(0.15 * (u1 - u0), 0.015, 0.06)
    return [
        [_cells(v0, v1, u0, u1)],
        [_cells(v0 - tall, v0, u0, u1)],
        [_cells(v1, v1 + tall, u0, u1)],
        [_cells(v0, v0 + tall, u0, u1)],
        [_cells(v1 - tall, v1, u0, u1)],
        [_cells(v0, v1, u0 - wide, u0), _cells(v0, v1, u1, u1 + wide)],
        [_cells(v0, v1, u0, u0 + wide), _cells(v0, v1, u1 - wide, u1)],
    ]


def integral(maps: Float) -> Float:
    """Sums (..., R + 1, C + 1) of maps (..., R, C) over everything above and to the left."""
    *lead, rows, columns = maps.shape
    out = np.zeros((*lead, rows + 1, columns + 1), np.float32)
    np.cumsum(maps, axis=-1, out=out[..., 1:, 1:])
    for row in range(2, rows + 1):  # twice as fast as cumsum along the other axis
        out[..., row, :] += out[..., row - 1, :]
    return out


def _sums(total: Float, cells: Cells) -> Float:
    """Sums (..., M) over rectangles from an integral image."""
    top, bottom, left, right = cells
    width = total.shape[-1]
    flat = total.reshape(*total.shape[:-2], -1)
    out: Float = (
        flat.take(bottom * width + right, axis=-1)
        - flat.take(top * width + right, axis=-1)
        - flat.take(bottom * width + left, axis=-1)
        + flat.take(top * width + left, axis=-1)
    )
    return out


def _sums_each(total_P: Float, cells: Cells) -> Float:
    """Sums (P, O) over rectangles (P, O) of each phrase's own integral image."""
    top, bottom, left, right = cells
    width = total_P.shape[-1]
    first = np.arange(len(total_P))[:, None] * (total_P.shape[-2] * width)
    flat = np.ascontiguousarray(total_P).ravel()
    corners = (bottom, right), (top, right), (bottom, left), (top, left)
    a, b, c, d = (flat.take(first + row * width + column) for row, column in corners)
    out: Float = a - b - c + d
    return out


def mean_in(map_NRC: Float, boxes_N4: Float) -> Float:
    """Mean (N,) of each map in its box; NaN boxes count as empty."""
    cells = _cells(*np.nan_to_num(boxes_N4)[:, :, None].swapaxes(0, 1))
    out: Float = (_sums_each(integral(map_NRC), cells) / _area(cells))[:, 0]
    return out


def edge_maps(lab_BRC3: Float) -> tuple[Float, Float]:
    """Strength of the picture's edges as running sums.

    Returns:
        Of those between rows, summed along columns, and of those between columns, summed along
        rows; both (B, R + 1, C + 1).
    """
    batch, rows, columns, _ = lab_BRC3.shape
    across = np.zeros((batch, rows + 1, columns + 1), np.float32)
    down = np.zeros((batch, rows + 1, columns + 1), np.float32)
    across[:, 1:rows, 1:] = np.abs(np.diff(lab_BRC3, axis=1)).sum(axis=3) / 20
    down[:, 1:, 1:columns] = np.abs(np.diff(lab_BRC3, axis=2)).sum(axis=3) / 20
    return np.cumsum(across, axis=2), np.cumsum(down, axis=1)


def _edges(edges: tuple[Float, Float], cells: Cells) -> Float:
    """Mean strength (P, M, 3) of the picture's edges under the top, the bottom and the sides."""
    across, down = edges
    width = across.shape[2]
    top, bottom, left, right = cells
    flat_a, flat_d = (x.reshape(len(x), -1) for x in (across, down))

    def row(at: NDArray[np.int64]) -> Float:
        ends = flat_a.take(at * width + right, axis=1) - flat_a.take(at * width + left, axis=1)
        out: Float = ends / (right - left)
        return out

    def column(at: NDArray[np.int64]) -> Float:
        ends = flat_d.take(bottom * width + at, axis=1) - flat_d.take(top * width + at, axis=1)
        out: Float = ends / (bottom - top)
        return out

    return np.stack([row(top), row(bottom), (column(left) + column(right)) / 2], axis=2)


def _rest(own_PM: Float, total_P: Float, area_M: Float, extent_P4: Float, boxes: Float) -> Float:
    """Features (P, M, 6): how box and mask agree, and box and the mask's extent."""
    total = total_P[:, None]
    agreement = own_PM / np.maximum(area_M[None] + total - own_PM, 1)
    share = own_PM / np.maximum(total, 1)
    size = np.broadcast_to(np.log(area_M)[None], share.shape)
    on = overlaps(extent_P4, boxes)
    return np.stack([agreement, share, size, on, on >= 0.5, on**2], axis=2).astype(np.float32)


def features(
    sums_PE: Float, edges: tuple[Float, Float], extent_P4: Float, candidates_M4: Float
) -> Float:
    """All features but the prior, plainly: (P, M, F - 1).

    Args:
        sums_PE: Integral images (P, E, R + 1, C + 1) of `MAPS`.
        edges: From `edge_maps`, of each phrase's picture.
        extent_P4: Extent of the part's mask, on the body; zeros where it has none.
        candidates_M4: Candidates, on the body.
    """
    found = []
    strips = strips_of(candidates_M4)
    for rectangles in strips:
        means = [_sums(sums_PE, cells) / _area(cells) for cells in rectangles]
        found.append(sum(means) / np.float32(len(means)))
    area = _area(strips[0][0])
    linear = np.moveaxis(np.concatenate(found, axis=1), 1, 2)
    own = linear[..., 0] * area
    rest = _rest(own, sums_PE[:, 0, -1, -1], area, extent_P4, candidates_M4)
    return np.concatenate([linear, _edges(edges, strips[0][0]), rest], axis=2).astype(np.float32)


class Candidates:
    """A kind's boxes with all that does not depend on the picture.

    Args:
        boxes_M4: Candidates, on the body, closed under mirroring.
        weights_F: Weights of `FEATURES`.
    """

    def __init__(self, boxes_M4: Float, weights_F: Float) -> None:
        self.boxes_M4, self.weights_F = boxes_M4, weights_F
        self._strips = strips_of(boxes_M4)
        self._mix = weights_F[:_LINEAR].reshape(len(STRIPS), len(MAPS))
        self._agree = overlaps(boxes_M4, boxes_M4)
        self._gain = np.float32(0.5) * (self._agree >= 0.5) + np.float32(0.5) * self._agree

    def scores(
        self, sums_PE: Float, edges: tuple[Float, Float], extent_P4: Float, prior_PM: Float
    ) -> Float:
        """Score every candidate (P, M); arguments as in `features`."""
        phrases, count, *shape = sums_PE.shape
        mixed = np.matmul(self._mix, sums_PE.reshape(phrases, count, -1))
        mixed = mixed.reshape(phrases, len(STRIPS), *shape)
        score = prior_PM * self.weights_F[-1]
        for n, rectangles in enumerate(self._strips):
            for cells in rectangles:
                score += _sums(mixed[:, n], cells) / (_area(cells) * len(rectangles))
        (inside,) = self._strips[0]
        own, area = _sums(sums_PE[:, 0], inside), _area(inside)
        rest = _rest(own, sums_PE[:, 0, -1, -1], area, extent_P4, self.boxes_M4)
        other = np.concatenate([_edges(edges, inside), rest], axis=2)
        out: Float = score + other @ self.weights_F[_LINEAR:-1]
        return out

    def answer(self, scores_PM: Float) -> tuple[Float, Float]:
        """Mean box (P, 4) about the one of greatest expected overlap, and all chances (P, M)."""
        chance = np.exp(scores_PM - scores_PM.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        best = (chance @ self._gain).argmax(axis=1)
        with_it = self._agree[best]
        near = chance * (with_it >= 0.4) * with_it**2
        mean = near @ self.boxes_M4 / np.maximum(near.sum(axis=1, keepdims=True), 1e-12)
        return mean.astype(np.float32), chance.astype(np.float32)


def cover(boxes_N4: Float, count: int) -> Float:
    """Choose boxes that stand for all: each is the one that the chosen ones cover least.

    Args:
        boxes_N4: Boxes, on the body.
        count: How many at most.
    """
    if len(boxes_N4) <= count:
        return boxes_N4
    chosen = [0]
    best = overlaps(boxes_N4, boxes_N4[:1])[:, 0]
    while len(chosen) < count:
        chosen.append(int(best.argmin()))
        best = np.maximum(best, overlaps(boxes_N4, boxes_N4[chosen[-1:]])[:, 0])
    return boxes_N4[chosen]


def option_features(
    options_PO4: Float,
    sums_PE: Float,
    edges: tuple[Float, Float],
    extent_P4: Float,
    candidates_M4: Float,
    chance_PM: Float,
    named_P: Sequence[bool],
) -> Float:
    """What the confidence in each of several boxes of a phrase is made from: (P, O, F).

    The chance by the ranking that the box overlaps by a half (and its log odds), the expected
    overlap, the overlap with the mask's extent and with the first option, the own mask and the
    named colour in the box, how box and mask agree, whether a colour is named, the box's size, how
    much texture the picture has.
    """
    on = overlaps(options_PO4, candidates_M4)
    half = np.einsum("pom,pm->po", (on >= 0.5).astype(np.float32), chance_PM)
    mean = np.einsum("pom,pm->po", on, chance_PM)
    extent = overlaps(options_PO4, extent_P4[:, None])[..., 0]
    first = overlaps(options_PO4, options_PO4[:, :1])[..., 0]
    cells = _cells(*np.moveaxis(options_PO4, 2, 0))
    area = _area(cells)
    own, colour = (_sums_each(sums_PE[:, k], cells) for k in (0, -1))
    total = sums_PE[:, 0, -1, -1][:, None]
    odds = np.clip(half, 0.01, 0.99)
    texture = edges[0][:, :, -1].mean(axis=1) / VIEW[1]
    return np.stack(
        [
            half, np.log(odds / (1 - odds)) / 4, mean, extent, first, own / area, colour / area,
            own / np.maximum(area + total - own, 1),
            np.broadcast_to(np.array(named_P, np.float32)[:, None], half.shape),
            np.log(area) / 4,
            np.broadcast_to(np.log(texture + 0.01)[:, None], half.shape),
        ],
        axis=2,
    ).astype(np.float32)  # fmt: skip
