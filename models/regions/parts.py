"""What each cell of a picture of a person shows, without a trained model.

The figure against its background, in the picture and again in the normal view
(`models.regions.view`), and its parts there: each an EM over coarse colour bins with a layout
prior, for a whole batch at once.

Shapes: B images, H x W cells of the working grid, R x C cells of the normal view, K parts,
N maps or masks.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

from models.colour import BINS, palette_indices, wanted_by_cell
from models.regions.layout import BODY, PARTS, Place, part_of, place_of, words_of
from models.regions.view import U_C, V_R, VIEW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.regions.proposals import Query

    Float = NDArray[np.float32]

GRID = (96, 48)
"""Rows and columns of the working grid; images are shrunk to it, whatever their shape."""

_FIGURE_ROUNDS, _VIEW_ROUNDS, _PART_ROUNDS = 3, 2, 2
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
    first = np.arange(len(table_BC), dtype=np.int32) * np.int32(table_BC.shape[1])
    out: Float = table_BC.ravel().take(index_BHW + first[:, None, None])
    return out


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


_CROPS = (
    (0.02, 0.96), (0.06, 0.92), (0.02, 0.80), (0.10, 0.90), (0.18, 0.98), (0.25, 0.95),
    (0.10, 0.75),
)  # fmt: skip
"""Top and bottom of people in pictures that are cut in all sorts of ways."""
_AXES = (-0.12, -0.06, 0.0, 0.06, 0.12)
"""How far from the middle they stand, shares of the width."""
_SLACK = 0.05
"""How far a first frame's ends may be wrong, a share of the picture's height."""


def _silhouettes(frame_B3: Float, aspect_B: Float, soft: float) -> Float:
    """Chance (B, H, W) that a cell shows a person who stands in a frame."""
    rows, columns = GRID
    y = (np.arange(rows, dtype=np.float32) + 0.5) / np.float32(rows)
    x = (np.arange(columns, dtype=np.float32) + 0.5) / np.float32(columns)
    top, height, axis = (frame_B3[:, i, None] for i in range(3))
    half = np.interp((y[None] - top) / height, *_SILHOUETTE, left=-0.2, right=-0.2)
    across = np.abs(x[None] - axis) * aspect_B[:, None] / height
    return sigmoid(((half[:, :, None] - across[:, None]) / soft).astype(np.float32))


@cache
def _anywhere(aspect: float) -> Float:
    frames = np.array(
        [(top, bottom - top, 0.5 + axis) for top, bottom in _CROPS for axis in _AXES], np.float32
    )
    aspects = np.full(len(frames), aspect, np.float32)
    out: Float = 0.02 + 0.93 * _silhouettes(frames, aspects, 0.035).mean(axis=0)
    return out


def anywhere(aspect_B: Float) -> Float:
    """Chance (B, H, W) that a cell shows the person, before looking: crops are not exact."""
    return np.stack([_anywhere(float(aspect)) for aspect in aspect_B])


def about(frame_B3: Float, aspect_B: Float) -> Float:
    """Chance (B, H, W) that a cell shows the person, once it is known about where it stands."""
    total = np.zeros((len(frame_B3), *GRID), np.float32)
    moves = [(a, b) for a in (-_SLACK, 0, _SLACK) for b in (-_SLACK, 0, _SLACK)]
    for top, bottom in moves:
        frame = frame_B3 + np.array([top, bottom - top, 0], np.float32)
        total += _silhouettes(frame, aspect_B, 0.05)
    out: Float = 0.02 + 0.93 * total / np.float32(len(moves))
    return out


def find_figure(index_BHW: NDArray[np.int32], prior: Float) -> Float:
    """Foreground probability (B, H, W).

    Args:
        index_BHW: Colour bins.
        prior: From `anywhere` or `about`.
    """
    logit = np.log(prior / (1 - prior))
    mask = prior
    for _ in range(_FIGURE_ROUNDS):
        inside = _histograms(index_BHW, mask)
        outside = _histograms(index_BHW, 1 - mask)
        ratio = _look_up(np.log(inside / outside), index_BHW)
        mask = sigmoid(0.8 * logit + np.float32(_TEMPER * 2) * smooth(ratio, 1.2))
    return mask


@cache
def _standing() -> Float:
    """Chance (R, C) that a cell of the normal view shows the person, before looking."""
    total = np.zeros(VIEW, np.float32)
    ends = [(top, bottom) for top in (-0.02, 0.0, 0.02) for bottom in (0.98, 1.0, 1.02)]
    for top, bottom in ends:
        half = np.interp((V_R - top) / (bottom - top), *_SILHOUETTE, left=-0.2, right=-0.2)
        total += sigmoid(((half[:, None] - np.abs(U_C)[None]) / 0.03).astype(np.float32))
    out: Float = 0.02 + 0.93 * total / np.float32(len(ends))
    return out


def figure_in_view(index_BRC: NDArray[np.int32], inside_BRC: NDArray[np.bool_]) -> Float:
    """Foreground probability (B, R, C) in the normal view; beyond the picture there is none."""
    prior = np.where(inside_BRC, _standing(), np.float32(0.01))
    logit = np.log(prior / (1 - prior))
    seen = inside_BRC.astype(np.float32)
    mask = prior
    for _ in range(_VIEW_ROUNDS):
        inside = _histograms(index_BRC, mask * seen)
        outside = _histograms(index_BRC, (1 - mask) * seen)
        ratio = _look_up(np.log(inside / outside), index_BRC)
        mask = sigmoid(0.8 * logit + np.float32(_TEMPER * 2) * smooth(ratio, 1.2))
    return mask


@cache
def _place_map(place: Place) -> Float:
    """Soft box (R, C) of a place in the normal view."""
    soft, half = np.float32(0.55 * place.soft + 1e-3), np.float32(place.half)
    vertical = sigmoid((V_R - place.top) / soft) * sigmoid((place.bottom - V_R) / soft)
    horizontal = sigmoid((half - np.abs(U_C)) / np.float32(0.022))
    out: Float = (place.weight * vertical[:, None] * horizontal[None]).astype(np.float32)
    return out


def named(
    cells_BRC: NDArray[np.int32], at_N: NDArray[np.int64], wanted: Sequence[list[int]]
) -> Float:
    """Probability (N, R, C) that a cell has one of the wanted colours.

    Args:
        cells_BRC: From `models.colour.name_cells`.
        at_N: Which picture is asked.
        wanted: Places of colours in `models.colour.NAMES`.
    """
    out = np.empty((len(wanted), *cells_BRC.shape[1:]), np.float32)
    for n, (at, colours) in enumerate(zip(at_N.tolist(), wanted, strict=True)):
        out[n] = wanted_by_cell(tuple(colours)).take(cells_BRC[at])
    return out


Wanted = dict[tuple[int, str], list[int]]
"""Image and part -> the colours that every phrase of the part names."""


def _asked(
    batch: int, flat: Sequence[tuple[int, int, Query]]
) -> tuple[list[dict[str, Place]], Wanted]:
    """The places of every image's parts, and the colours that are looked for."""
    places: list[dict[str, Place]] = [
        {k: BODY[k] for k in ("hair", "skin", "upper", "lower", "footwear")} for _ in range(batch)
    ]
    colours: dict[tuple[int, str], set[int]] = {}
    coloured: dict[tuple[int, str], bool] = {}
    for b, _, query in flat:
        part = part_of(query.group, query.head)
        if part is None:
            continue
        found = place_of(part, query.head, words_of(query.text))
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
    return places, {key: sorted(c) for key, c in colours.items() if c and coloured[key]}


def _part_priors(places: Sequence[dict[str, Place]], figure_BRC: Float) -> Float:
    """Chance (B, K, R, C) of each part in each cell, from the layout and the figure."""
    skin, upper, lower, carried = (PART_INDEX[k] for k in ("skin", "upper", "lower", "carried"))
    prior = np.zeros((len(places), len(PARTS), *VIEW), np.float32)
    for b, of in enumerate(places):
        for part, place in of.items():
            prior[b, PART_INDEX[part]] = _place_map(place)
        hem = max(of["upper"].bottom, of["lower"].bottom)
        if hem < 0.8:  # legs show below a skirt
            prior[b, skin] += _place_map(Place(hem - 0.02, 0.95, 0.11, 0.03, 0.7))
    # Legs and arms may be bare wherever there is a garment.
    prior[:, skin] += 0.12 * (prior[:, upper] + prior[:, lower])
    body = prior[:, 1:].sum(axis=1) + 1e-4
    figure = np.clip(figure_BRC, 0.03, 0.97)
    loose = prior[:, carried].copy()
    prior[:, 1:] *= (figure / np.maximum(body, 0.25))[:, None]
    # What is carried hangs beside the figure as often as in front of it.
    prior[:, carried] = np.maximum(prior[:, carried], 0.3 * loose)
    prior[:, 0] = 1 - figure + 0.02
    prior /= prior.sum(axis=1, keepdims=True)
    return prior


def find_parts(
    index_BRC: NDArray[np.int32],
    figure_BRC: Float,
    cells_BRC: NDArray[np.int32],
    flat: Sequence[tuple[int, int, Query]],
) -> Float:
    """Probability (B, K, R, C) of each part in each cell of the normal view."""
    places, wanted = _asked(len(figure_BRC), flat)
    prior = _part_priors(places, figure_BRC)
    present = prior.max(axis=(2, 3)) > 1e-3
    unary = np.log(prior + 1e-5)
    if wanted:
        at = np.array([b for b, _ in wanted])
        match = np.log(named(cells_BRC, at, list(wanted.values())) + 0.04)
        match -= np.log(np.float32(0.2))  # what an arbitrary cell gets
        unary[at, [PART_INDEX[part] for _, part in wanted]] += np.float32(_COLOUR_WEIGHT) * match
    # Evidence for one shoe supports the other: it is mirrored about the body's axis.
    shoes = unary[:, PART_INDEX["footwear"]]
    unary[:, PART_INDEX["footwear"]] = 0.75 * shoes + 0.25 * shoes[:, :, ::-1]
    share = _softmax(unary)
    for _ in range(_PART_ROUNDS):
        likelihood = np.full_like(unary, -20)
        for k in range(len(PARTS)):
            used = np.flatnonzero(present[:, k])
            if len(used):
                table = np.log(_histograms(index_BRC[used], share[used, k]))
                likelihood[used, k] = smooth(_look_up(table, index_BRC[used]), 0.8)
        share = _softmax(unary + np.float32(_PART_TEMPER) * likelihood)
    return share


def _softmax(x: Float) -> Float:
    x = x - x.max(axis=1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=1, keepdims=True)
    return x
