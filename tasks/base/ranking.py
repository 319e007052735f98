"""Fits the ranking of candidate boxes and the confidence: `tasks.base.regions` says of what.

Both are convex: a softmax over candidates whose targets are nearness to the truth, and a logistic
function of "overlaps by a half", each with a pull of the weights to zero, by L-BFGS from zero.
The confidence is fitted on answers of rankings that have not seen the example: one half of the
examples answers with what was fitted on the other.

Shapes: N phrases, M candidates, F features, O options.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import minimize

from models.colour import palette_indices
from models.regions.body import OPTIONS, guesses, options_of, place_for, prior
from models.regions.candidates import (
    FEATURES,
    Candidates,
    cover,
    features,
    mean_in,
    nearness,
    option_features,
    overlaps,
)
from models.regions.fitted import Fitted, FrameFit, KindFit
from models.regions.layout import kind_of, known_places
from models.regions.view import mirrored, to_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from models.regions.proposals import Query
    from tasks.base.regions import Measured

    Float = NDArray[np.float32]

_COVER = 60
"""Candidates from the world, from photos and from the layout, before mirroring; of the layout half
as many."""
_MOST = 150
"""Phrases of a kind that are taken from the world."""
_IN_VAIN = 3
"""Phrases of a kind that are seen, in the world, for one that is not."""
_IN_VAIN_WEIGHT = 0.25
"""What one of these counts: captions are mostly right, and confidence should be."""
_TAU = 0.1
_PULL = 5.0
_SURE_PULL = 1.5
_SURE_MOST = 1.0
"""Most that a phrase counts for the confidence: there photos must not outweigh the world."""


class Case(NamedTuple):
    """A phrase with a truth."""

    measured: Measured
    row: int
    photo: bool
    weight: float

    @property
    def query(self) -> Query:
        """What is looked for."""
        return self.measured.queries[self.row]

    @property
    def body(self) -> Float:
        """The true box on the body."""
        out: Float = self.measured.body[self.row]
        return out


def descend(
    loss: Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]],
    start: NDArray[np.float64],
    steps: int = 60,
) -> NDArray[np.float64]:
    """Minimise a smooth loss given with its slope."""
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": steps})
    out: NDArray[np.float64] = found.x
    return out


def cases_of(
    everything: Sequence[Measured], weights: Float, drawings: int, kind: str
) -> list[Case]:
    """The phrases of a kind whose thing is seen: not too many of the world, all of photos."""
    world: list[Case] = []
    photos: list[Case] = []
    for n, one in enumerate(everything):
        for row, query in enumerate(one.queries):
            if kind_of(query.group, query.head) == kind and np.isfinite(one.body[row]).all():
                to = photos if n >= drawings else world
                to.append(Case(one, row, n >= drawings, float(weights[n])))
    return [*world[:_MOST], *photos]


def _absent(everything: Sequence[Measured], kind: str) -> list[Case]:
    """Phrases of a kind that are not seen; some for each `_MOST` that are."""
    cases = [
        Case(one, row, photo=False, weight=1.0)
        for one in everything
        for row, query in enumerate(one.queries)
        if kind_of(query.group, query.head) == kind
    ]
    return cases[: _MOST // _IN_VAIN]


def candidate_boxes(cases: Sequence[Case], kind: str) -> Float:
    """Boxes that things of a kind take, closed under mirroring."""
    layout = np.concatenate([guesses(place) for place in known_places(kind)])
    sets = [(layout, _COVER // 2)]
    for photo in (False, True):
        own = [case.body for case in cases if case.photo is photo]
        if own:
            sets.append((np.stack(own), _COVER))
    chosen = np.concatenate([cover(_upright(boxes), count) for boxes, count in sets])
    chosen = np.round(chosen, 4)
    return np.concatenate([chosen, mirrored(chosen)]).astype(np.float32)


def _upright(boxes: Float) -> Float:
    """Those mirrored that lie to the left: their mirrors are candidates all the same."""
    left = (boxes[:, 2] + boxes[:, 3]) < 0
    return np.where(left[:, None], mirrored(boxes), boxes).astype(np.float32)


def _seen(boxes: Float, cases: Sequence[Case]) -> tuple[float, Float]:
    """Weight of some phrases, and how near they are to each candidate, on either side."""
    true = np.stack([case.body for case in cases])
    weight = np.array([case.weight for case in cases], np.float32)
    near = (nearness(boxes, true) + nearness(boxes, mirrored(true))) @ weight / 2
    return float(weight.sum()), near.astype(np.float32)


def _inputs(cases: Sequence[Case]) -> tuple[Float, tuple[Float, Float], Float]:
    """Integral images, edges and extents of phrases, for `models.regions.candidates`."""
    first = np.zeros(1, np.int64)
    sums = np.concatenate([c.measured.seen.sums(np.array([c.row]), first) for c in cases])
    edges = tuple(np.concatenate([c.measured.seen.edges[k] for c in cases]) for k in (0, 1))
    extent = np.stack([c.measured.seen.extent_P4[c.row] for c in cases])
    return sums, (edges[0], edges[1]), extent


def fit_kind(cases: Sequence[Case], kind: str, frame: FrameFit) -> KindFit:
    """Fit candidates, what was seen, and the ranking of one kind.

    Without any case the prior alone ranks.
    """
    boxes = candidate_boxes(cases, kind)
    flat = np.zeros(len(boxes), np.float32)
    weights = np.append(np.zeros(len(FEATURES) - 1), 1.0).astype(np.float32)
    own = np.zeros((2, len(OPTIONS)), np.float32)
    if not cases:
        return KindFit(boxes, weights, flat, {}, own, own)
    total, near = _seen(boxes, cases)
    heads: dict[str, tuple[float, Float]] = {}
    for head in sorted({case.query.head for case in cases}):
        heads[head] = _seen(boxes, [case for case in cases if case.query.head == head])
    fit = KindFit(boxes, weights, near / total, heads, own, own)
    x = _features(cases, fit, kind, frame)
    scale = x.std(axis=(0, 1)) + 1e-4
    x = (x - x.mean(axis=(0, 1))) / scale
    true = overlaps(np.stack([case.body for case in cases]), boxes)
    target = np.exp((true - true.max(axis=1, keepdims=True)) / _TAU)
    target /= target.sum(axis=1, keepdims=True)
    share = np.array([case.weight for case in cases], np.float32)[:, None]
    share, pull = share / share.sum(), _PULL / share.sum()
    start = np.zeros(x.shape[2])
    start[-1] = scale[-1]  # the prior as it is

    def loss(b: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        score = x @ b.astype(np.float32)
        score -= score.max(axis=1, keepdims=True)
        odd = np.log(np.exp(score).sum(axis=1, keepdims=True))
        error = (np.exp(score - odd) - target) * share
        slope = error.ravel() @ x.reshape(-1, x.shape[2]) + 2 * pull * (b - start)
        value = -(share * target * (score - odd)).sum() + pull * ((b - start) ** 2).sum()
        return float(value), slope.astype(np.float64)

    weights = (descend(loss, start, 40) / scale).astype(np.float32)
    return KindFit(boxes, weights, fit.usual, heads, own, own)


def _priors(cases: Sequence[Case], fit: KindFit, kind: str, frame: FrameFit) -> Float:
    """Log priors (N, M) by the proposer's own rule."""
    fitted = Fitted(frame, {kind: fit}, np.zeros(0, np.float32), np.zeros(0, np.float32), {})
    known: dict[tuple[str, str], Float] = {}
    for case in cases:
        key = (case.query.head, case.query.text)
        if key not in known:
            known[key] = prior(fitted, kind, case.query)
    return np.stack([known[case.query.head, case.query.text] for case in cases])


def _features(cases: Sequence[Case], fit: KindFit, kind: str, frame: FrameFit) -> Float:
    """All features (N, M, F)."""
    found = []
    for at in range(0, len(cases), 100):
        sums, edges, extent = _inputs(cases[at : at + 100])
        found.append(features(sums, edges, np.nan_to_num(extent), fit.boxes))
    return np.concatenate(
        [np.concatenate(found), _priors(cases, fit, kind, frame)[..., None]], axis=2
    )


def _answers(
    cases: Sequence[Case], fit: KindFit, kind: str, frame: FrameFit
) -> tuple[Float, NDArray[np.bool_]]:
    """Features (N, O, F) of the options of phrases, and which overlap the truth by a half."""
    values, right = [], []
    ranking = Candidates(fit.boxes, fit.weights)
    priors = _priors(cases, fit, kind, frame)
    for at in range(0, len(cases), 100):
        some = cases[at : at + 100]
        sums, edges, extent = _inputs(some)
        clean = np.nan_to_num(extent)
        ranked, chance = ranking.answer(
            ranking.scores(sums, edges, clean, priors[at : at + len(some)])
        )
        options = options_of(ranked, extent)
        coloured = [bool(palette_indices(case.query.colours)) for case in some]
        values.append(option_features(options, sums, edges, clean, fit.boxes, chance, coloured))
        right.append(_right(options, some))
    return np.concatenate(values), np.concatenate(right)


def _right(options: Float, cases: Sequence[Case]) -> NDArray[np.bool_]:
    """Which options (N, O) overlap the truth by a half, in the picture."""
    frames = np.stack([case.measured.frame for case in cases])
    aspects = np.array([case.measured.aspect for case in cases], np.float32)
    cx, cy, w, h = np.stack([case.measured.boxes[case.row] for case in cases]).T
    truth = np.stack([cy - h / 2, cy + h / 2, cx - w / 2, cx + w / 2], axis=1)[:, None]
    found = np.stack(
        [to_image(options[:, o], frames, aspects) for o in range(options.shape[1])], axis=1
    )[..., [1, 3, 0, 2]]
    return overlaps(found, truth)[..., 0] >= 0.5


def fit_kinds(
    everything: Sequence[Measured],
    weights: Float,
    drawings: int,
    kinds: Sequence[str],
    absent: Sequence[Measured] = (),
) -> tuple[dict[str, KindFit], Float, Float]:
    """Fit all kinds, and the confidence in their options.

    Args:
        everything: Drawings, then photos.
        weights: How much each counts.
        drawings: How many are drawings.
        kinds: Names of the kinds.
        absent: Drawings asked for what is not there; to these no answer is right.

    Returns:
        The kinds, and the weights of `option_features` for choosing and for the confidence.
    """
    frame = FrameFit(np.zeros(0, np.float32), 0, np.zeros(0, np.float32), np.zeros(0, np.float32))
    fits: dict[str, KindFit] = {}
    values, right, of_kind, counts = [], [], [], []
    vain, vain_kind = [], []
    for number, kind in enumerate(kinds):
        cases = cases_of(everything, weights, drawings, kind)
        fits[kind] = fit_kind(cases, kind, frame)
        for half in (0, 1):
            # Neighbours in the list alternate: every picture's phrases of a kind are few.
            here, there = cases[half::2], cases[1 - half :: 2]
            if here and there:
                x, y = _answers(here, fit_kind(there, kind, frame), kind, frame)
                values.append(x)
                right.append(y)
                of_kind.append(np.full(len(here), number))
                counts.append(np.array([case.weight for case in here], np.float32))
        asked = _absent(absent, kind)
        if asked and cases:
            vain.append(_answers(asked, fits[kind], kind, frame)[0])
            vain_kind.append(np.full(len(asked), number))
    x, y, k, w = (np.concatenate(part) for part in (values, right, of_kind, counts))
    choice, of_choice = _fit_sure(x, y, k, w, len(kinds))
    w = np.minimum(w, np.float32(_SURE_MOST))
    if vain:
        more = sum(map(len, vain))
        x, k = np.concatenate([x, *vain]), np.concatenate([k, *vain_kind])
        y = np.concatenate([y, np.zeros((more, y.shape[1]), bool)])
        w = np.append(w, np.full(more, _IN_VAIN_WEIGHT, np.float32))
    sure, of_sure = _fit_sure(x, y, k, w, len(kinds))
    for number, kind in enumerate(kinds):
        fits[kind] = replace(fits[kind], choice=of_choice[number], sure=of_sure[number])
    return fits, choice, sure


def _fit_sure(
    x: Float, y: NDArray[np.bool_], kind: NDArray[np.int64], weight: Float, kinds: int
) -> tuple[Float, Float]:
    """Logistic regression.

    Returns:
        Weights shared by all; and by kind and option, intercepts and what is added to the
        weight of the last feature, the picture's texture: some readings suffer from it more.
    """
    _, options, width = x.shape
    mean, scale = x.mean(axis=(0, 1)), x.std(axis=(0, 1)) + 1e-4
    z = ((x - mean) / scale).astype(np.float64)
    share = weight[:, None].astype(np.float64)
    texture = z[..., -1]

    def loss(b: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        shared, own = b[:width], b[width:-1].reshape(kinds, 2, options)
        score = z @ shared + own[kind, 0] + own[kind, 1] * texture + b[-1]
        chance = 1 / (1 + np.exp(-np.clip(score, -30, 30)))
        error = (chance - y) * share
        by_kind = np.zeros_like(own)
        np.add.at(by_kind[:, 0], kind, error)
        np.add.at(by_kind[:, 1], kind, error * texture)
        slope = np.concatenate([np.einsum("no,nof->f", error, z), by_kind.ravel(), [error.sum()]])
        slope[:-1] += 2 * _SURE_PULL * b[:-1]
        value = -(share * np.where(y, np.log(chance), np.log1p(-chance))).sum()
        return float(value + _SURE_PULL * (b[:-1] ** 2).sum()), slope

    b = descend(loss, np.zeros(width + kinds * 2 * options + 1), 300)
    shared, own = b[:width] / scale, b[width:-1].reshape(kinds, 2, options).copy()
    own[:, 1] /= scale[-1]
    own[:, 0] += b[-1] - mean @ shared - own[:, 1] * mean[-1]
    return shared.astype(np.float32), own.astype(np.float32)


def fit_plain(world: Sequence[Measured]) -> dict[str, tuple[float, float]]:
    """Confidence in the person's box and in places, by how full of figure they are.

    The head stands for all settled places. What is small or moves is less sure, by judgement: the
    world does not draw it.
    """
    out: dict[str, tuple[float, float]] = {}
    for kind, head in (("person", "person"), ("place", "head")):
        cases = [
            Case(one, row, photo=False, weight=1.0)
            for one in world
            for row, query in enumerate(one.queries)
            if query.head == head and np.isfinite(one.body[row]).all()
        ]
        place = guesses(place_for(cases[0].query)).mean(axis=0)
        found = np.stack(
            [c.measured.seen.extent_P4[c.row] if kind == "person" else place for c in cases]
        )
        figure = np.concatenate([c.measured.seen.figure_BRC for c in cases])
        filled = mean_in(figure, found)[:, None, None]
        right = _right(found[:, None], cases)
        slope, start = _fit_sure(
            filled, right, np.zeros(len(cases), np.int64), np.ones(len(cases), np.float32), 1
        )
        out[kind] = float(start[0, 0, 0]), float(slope[0] + start[0, 1, 0])
    out["vague"] = out["place"][0] - 2.0, out["place"][1]
    return out
