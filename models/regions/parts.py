"""What each cell of a picture of a person shows, without a trained model.

Steps 1 to 3 of `models.regions.body`: the figure against its background, its frame, its parts,
each an EM over coarse colour bins with a layout prior, for a whole batch at once.

Shapes: B images, H x W cells of the working grid, K parts, C colour names, N maps or masks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

from models.colour import BINS, palette_indices
from models.regions.layout import BODY, PARTS, Place, part_of, place_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.regions.proposals import Query

    Float = NDArray[np.float32]

GRID = (96, 48)
"""Rows and columns of the working grid; images are shrunk to it, whatever their shape."""

_FIGURE_ROUNDS, _PART_ROUNDS = 3, 2
_TEMPER = 0.55
_PART_TEMPER = 1.4
_COLOUR_WEIGHT = 1.1
_OUTSIDE = 0.007
"""Quantile of the mask's mass that a box may leave outside on a side."""

PART_INDEX = {name: i for i, name in enumerate(PARTS)}
"""Part -> its place on the axis K."""


def sigmoid(x: Float) -> Float:
    """Logistic function, safe for large arguments."""
    out: Float = np.float32(1) / (np.float32(1) + np.exp(-np.clip(x, -30, 30)))
    return out


def smooth(x: Float, sigma: float) -> Float:
    """Blur the last two axes."""
    out: Float = ndimage.gaussian_filter(x, (0,) * (x.ndim - 2) + (sigma, sigma), truncate=2.5)
    return out


def _histograms(index_BHW: NDArray[np.int32], weight_BHW: Float) -> Float:
    """Smoothed, normalised colour histograms (B, BINS**3) of weighted pixels."""
    batch, size = index_BHW.shape[0], BINS**3
    flat = (index_BHW + (np.arange(batch, dtype=np.int32) * size)[:, None, None]).ravel()
    counts = np.bincount(flat, weight_BHW.ravel(), batch * size).reshape(batch, BINS, BINS, BINS)
    counts = ndimage.gaussian_filter(counts.astype(np.float32), (0, 0.7, 0.7, 0.7), truncate=2.0)
    counts = counts.reshape(batch, size) + np.float32(0.02)
    out: Float = counts / counts.sum(axis=1, keepdims=True)
    return out


def _look_up(table_BC: Float, index_BHW: NDArray[np.int32]) -> Float:
    batch = index_BHW.shape[0]
    flat = np.take_along_axis(table_BC, index_BHW.reshape(batch, -1), axis=1)
    return flat.reshape(index_BHW.shape)


def extent(mask_NHW: Float) -> Float:
    """Boxes (N, 4) as x0, y0, x1, y1 in [0, 1] of soft masks; NaN for an empty one.

    A connected piece counts if it has a fifth of the largest one's mass, so both shoes of a pair
    do and specks do not; of what is left, a small quantile may lie outside.
    """
    count, rows, columns = mask_NHW.shape
    if count == 0:
        return np.zeros((0, 4), np.float32)
    on = mask_NHW > 0.5
    structure = np.zeros((3, 3, 3), bool)
    structure[1] = True  # neighbours within an image, never across the batch
    labels, pieces = ndimage.label(on, structure)
    mass = np.bincount(labels.ravel(), mask_NHW.ravel(), pieces + 1)
    owner = np.zeros(pieces + 1, np.int64)
    where = np.nonzero(on)
    owner[labels[where]] = where[0]
    mass[0] = 0
    largest = np.zeros(count)
    np.maximum.at(largest, owner[1:], mass[1:])
    good = mass >= np.maximum(0.2 * largest[owner], 2.0)
    good[0] = False
    kept = np.where(good[labels], mask_NHW, 0).astype(np.float32)
    out = np.full((count, 4), np.nan, np.float32)
    total = kept.sum(axis=(1, 2))
    some = total > 0
    for axis, (low, high), length in ((1, (0, 2), columns), (2, (1, 3), rows)):
        profile = np.cumsum(kept.sum(axis=axis), axis=1)[some] / total[some, None]
        out[some, low] = (profile < _OUTSIDE).sum(axis=1) / length
        out[some, high] = ((profile < 1 - _OUTSIDE).sum(axis=1) + 1) / length
    return out


def shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring an image (H, W, 3) to the working grid; its aspect is kept apart."""
    if image.shape[:2] == GRID:
        return image
    picture = Image.fromarray(image)
    small = picture.resize((GRID[1], GRID[0]), Image.Resampling.BOX)
    return np.asarray(small)


_SILHOUETTE = (
    (0.0, 0.05, 0.12, 0.17, 0.21, 0.45, 0.60, 0.90, 1.0),
    (0.075, 0.075, 0.07, 0.09, 0.145, 0.15, 0.13, 0.12, 0.135),
)
"""Half width of a standing person by height from the top, both in body heights."""


def _figure_prior(aspect_B: Float) -> Float:
    """Chance (B, H, W) that a cell shows the person, before looking.

    The mean of silhouettes at several places of the head and the feet: crops are not exact.
    """
    rows, columns = GRID
    y = (np.arange(rows, dtype=np.float32) + 0.5) / np.float32(rows)
    x = np.abs((np.arange(columns, dtype=np.float32) + 0.5) / np.float32(columns) - 0.5)
    total = np.zeros((len(aspect_B), rows, columns), np.float32)
    ends = [(top, bottom) for top in (0.02, 0.06, 0.11) for bottom in (0.92, 0.96, 0.99)]
    for top, bottom in ends:
        v = (y - top) / (bottom - top)
        half = np.interp(v, *_SILHOUETTE, left=-0.2, right=-0.2)[None, :, None]
        u = x[None, None] * aspect_B[:, None, None] / np.float32(bottom - top)
        total += sigmoid(((half - u) / 0.035).astype(np.float32))
    out: Float = 0.02 + 0.93 * total / np.float32(len(ends))
    return out


def find_figure(index_BHW: NDArray[np.int32], aspect_B: Float) -> Float:
    """Foreground probability (B, H, W)."""
    prior = _figure_prior(aspect_B)
    logit = np.log(prior / (1 - prior))
    mask = prior
    for _ in range(_FIGURE_ROUNDS):
        inside = _histograms(index_BHW, mask)
        outside = _histograms(index_BHW, 1 - mask)
        ratio = _look_up(np.log(inside / outside), index_BHW)
        mask = sigmoid(0.8 * logit + np.float32(_TEMPER * 2) * smooth(ratio, 1.2))
    return mask


def body_frame(figure_BHW: Float) -> Float:
    """Body frames (B, 3): top and height as shares of the height, axis as a share of the width."""
    box = extent(figure_BHW)
    columns = GRID[1]
    box = np.where(np.isfinite(box), box, np.array([0.2, 0.05, 0.8, 0.96], np.float32))
    # A figure hardly ever leaves these bounds; an estimate beyond them is a background.
    top = np.clip(box[:, 1], 0.0, 0.22)
    bottom = np.clip(box[:, 3], 0.80, 1.0)
    weight = figure_BHW * (figure_BHW > 0.5)
    across = weight.sum(axis=1) + 1e-6
    total = np.cumsum(across, axis=1)
    axis = ((total < total[:, -1:] / 2).sum(axis=1) + 0.5) / columns
    axis = np.clip(axis, 0.3, 0.7)
    return np.stack([top, bottom - top, axis], axis=1).astype(np.float32)


def _place_maps(places: Sequence[Place], frame_N3: Float, aspect_N: Float) -> Float:
    """Soft boxes (N, H, W) of places in body frames."""
    rows, columns = GRID
    y = (np.arange(rows, dtype=np.float32) + 0.5) / rows
    x = (np.arange(columns, dtype=np.float32) + 0.5) / columns
    top, height, axis = (frame_N3[:, i, None] for i in range(3))
    v = (y[None] - top) / height
    u = (x[None] - axis) * aspect_N[:, None] / height
    value = np.array([[p.top, p.bottom, p.half, p.soft, p.weight] for p in places], np.float32)
    p_top, p_bottom, p_half, p_soft, p_weight = (value[:, i, None] for i in range(5))
    soft = np.float32(0.55) * p_soft + np.float32(1e-3)
    vertical = sigmoid((v - p_top) / soft) * sigmoid((p_bottom - v) / soft)
    horizontal = sigmoid((p_half - np.abs(u)) / np.float32(0.022))
    out: Float = p_weight[..., None] * vertical[:, :, None] * horizontal[:, None, :]
    return out


def named(names_BHWC: Float, at_N: NDArray[np.int64], wanted: Sequence[list[int]]) -> Float:
    """Probability (N, H, W) that a cell has one of the wanted colours."""
    choice = np.zeros((len(wanted), names_BHWC.shape[-1]), np.float32)
    for n, colours in enumerate(wanted):
        choice[n, colours] = 1
    out: Float = np.einsum("nhwc,nc->nhw", names_BHWC[at_N], choice, optimize=True)
    return out


def find_parts(
    index_BHW: NDArray[np.int32],
    figure_BHW: Float,
    frame_B3: Float,
    aspect_B: Float,
    names_BHWC: Float,
    flat: Sequence[tuple[int, int, Query]],
) -> Float:
    """Probability (B, K, H, W) of each part in each cell."""
    batch, count = len(aspect_B), len(PARTS)
    places: list[dict[str, Place]] = [
        {k: BODY[k] for k in ("hair", "skin", "upper", "lower", "footwear")} for _ in range(batch)
    ]
    colours: dict[tuple[int, str], set[int]] = {}
    coloured: dict[tuple[int, str], bool] = {}
    for b, _, query in flat:
        part = part_of(query.group, query.head)
        if part is None:
            continue
        found = place_of(part, query.head, frozenset(query.text.lower().replace("-", " ").split()))
        old = places[b].get(part)
        if old is None or old is BODY[part] or found.bottom > old.bottom:
            places[b][part] = found
        wanted = palette_indices(query.colours)
        colours.setdefault((b, part), set()).update(wanted)
        coloured[b, part] = coloured.get((b, part), True) and bool(wanted)
    for of in places:  # what reaches lower starts what is below it
        if of["upper"].bottom > 0.58 and of["lower"] is BODY["lower"]:
            lower = of["lower"]
            of["lower"] = Place(of["upper"].bottom - 0.05, lower.bottom, lower.half, 0.04, 0.8)
    prior = np.zeros((batch, count, *GRID), np.float32)
    keys = [(b, part) for b in range(batch) for part in places[b]]
    rows = np.array([b for b, _ in keys])
    maps = _place_maps([places[b][part] for b, part in keys], frame_B3[rows], aspect_B[rows])
    prior[rows, [PART_INDEX[part] for _, part in keys]] = maps
    bare = [b for b in range(batch) if _hem(places[b]) < 0.8]
    if bare:  # legs show below a skirt
        legs = [Place(_hem(places[b]) - 0.02, 0.95, 0.11, 0.03, 0.7) for b in bare]
        prior[bare, PART_INDEX["skin"]] += _place_maps(legs, frame_B3[bare], aspect_B[bare])
    # Legs and arms may be bare wherever there is a garment.
    prior[:, PART_INDEX["skin"]] += 0.12 * (
        prior[:, PART_INDEX["upper"]] + prior[:, PART_INDEX["lower"]]
    )
    body = prior[:, 1:].sum(axis=1) + 1e-4
    figure = np.clip(figure_BHW, 0.03, 0.97)
    loose = prior[:, PART_INDEX["carried"]].copy()
    prior[:, 1:] *= (figure / np.maximum(body, 0.25))[:, None]
    # What is carried hangs beside the figure as often as in front of it.
    prior[:, PART_INDEX["carried"]] = np.maximum(prior[:, PART_INDEX["carried"]], 0.3 * loose)
    prior[:, 0] = 1 - figure + 0.02
    prior /= prior.sum(axis=1, keepdims=True)
    unary = np.log(prior + 1e-5)
    wanted_colours = [(key, sorted(c)) for key, c in colours.items() if c and coloured[key]]
    if wanted_colours:
        at = np.array([b for (b, _), _ in wanted_colours])
        match = np.log(named(names_BHWC, at, [c for _, c in wanted_colours]) + 0.04)
        match -= np.log(np.float32(0.2))  # what an arbitrary cell gets
        unary[at, [PART_INDEX[part] for (_, part), _ in wanted_colours]] += (
            np.float32(_COLOUR_WEIGHT) * match
        )
    _pair(unary, frame_B3)
    share = _softmax(unary)
    present = prior.max(axis=(2, 3)) > 1e-3
    for _ in range(_PART_ROUNDS):
        likelihood = np.empty_like(unary)
        for k in range(count):
            used = present[:, k]
            if not used.any():
                likelihood[:, k] = -20
                continue
            table = np.log(_histograms(index_BHW[used], share[used, k]))
            likelihood[used, k] = smooth(_look_up(table, index_BHW[used]), 0.8)
            likelihood[~used, k] = -20
        share = _softmax(unary + np.float32(_PART_TEMPER) * likelihood)
    return share


def _hem(places: dict[str, Place]) -> float:
    """Where the garments end above the feet, in body heights."""
    return max(places["upper"].bottom, places["lower"].bottom)


def _pair(unary: Float, frame_B3: Float) -> None:
    """Let evidence for one shoe support the other: mirror it about the body's axis, in place."""
    k, columns = PART_INDEX["footwear"], GRID[1]
    at = np.arange(columns)[None] + 0.5
    mirrored = np.clip(2 * frame_B3[:, 2, None] * columns - at, 0, columns - 1).astype(np.int64)
    other = np.take_along_axis(unary[:, k], mirrored[:, None, :], axis=2)
    unary[:, k] = 0.75 * unary[:, k] + 0.25 * other


def _softmax(x: Float) -> Float:
    x = x - x.max(axis=1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=1, keepdims=True)
    return x
