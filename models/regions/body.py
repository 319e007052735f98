"""Regions of phrases without a trained detector: body layout, refined by what the image says.

For machines without weights. A batch of images goes through five steps, each over the whole batch:

1. *Figure*: foreground against background. Colour histograms of both are estimated in turns with
   the mask (an EM over colour bins), from a prior that the person stands in the middle.
2. *Frame*: top, bottom and axis of the figure, the pair of rows that mask, edges and a mean
   silhouette speak for. The picture is cut to it: from here on a place on the body is the same
   cells in every picture.
3. *Parts*: a second EM, over the parts that the phrases name (hair, upper, ...), from the layout
   prior. A colour named in a phrase pulls its part towards pixels of that colour, and what the
   feet of one side show supports the other side.
4. *Boxes*: for each phrase the extent of its part's mask, the answer of a linear ranking of boxes
   that such things take, and the mean of the two; the one that is surest is given.
5. *Confidence*: the chance that the box overlaps the thing by a half, by a logistic function. A
   phrase that the image does not support gets no box.

Unusual: no network; what is fitted are linear weights and the places of things, all of them in
`models.regions.fitted`, made by ``python -m tasks.base.regions`` from drawings of the built-in
world (source and random looks) and from 100 labelled street photos. So the shipped numbers have
seen these photos (and nothing of any target): what is said about the photos is measured with
numbers fitted on other photos.

Shapes: B images, H x W cells of the working grid, R x C cells of the normal view, K parts, C
colour names, P phrases, M candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.colour import bins, corrected, lab, name_cells, palette_indices
from models.regions.candidates import (
    Candidates,
    edge_maps,
    integral,
    mean_in,
    nearness,
    option_features,
)
from models.regions.fitted import Fitted, FrameFit, shipped
from models.regions.layout import SETTLED, Place, kind_of, part_of, place_of, within, words_of
from models.regions.parts import (
    PART_INDEX,
    about,
    anywhere,
    extent,
    figure_in_view,
    find_figure,
    find_parts,
    named,
    shrink,
    sigmoid,
    smooth,
)
from models.regions.proposals import Proposals, Query, check_batch
from models.regions.view import (
    axis_of,
    frame_features,
    frames_of,
    from_view,
    normal_view,
    pair_scores,
    stretched,
    to_image,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Float = NDArray[np.float32]
    Flat = list[tuple[int, int, Query]]

OPTIONS = ("ranked", "extent", "mean")
"""Boxes among which the surest is taken."""

_GUESSED, _SHARED = 2.0, 1.0
"""Weight of the anatomical layout and of the kind's places in a head noun's prior, in phrases."""


@dataclass(frozen=True)
class Seen:
    """What a batch shows, before anything is chosen.

    Attributes:
        figure_BRC: Foreground in the normal view.
        maps_BE: Integral images (B, 6, R + 1, C + 1) of the maps that all phrases share.
        edges: Running sums of edges, from `edge_maps`.
        own_P: Each phrase's own mask (P, R, C).
        colour_P: How well its colour fits (P, R, C), 0 where none is named.
        extent_P4: Extent of its own mask on the body; NaN where it has none.
    """

    figure_BRC: Float
    maps_BE: Float
    edges: tuple[Float, Float]
    own_P: Float
    colour_P: Float
    extent_P4: Float

    def sums(self, rows: NDArray[np.int64], at: NDArray[np.int64]) -> Float:
        """Integral images (N, E, R + 1, C + 1) of some phrases, in the order of `MAPS`."""
        own = integral(np.stack([self.own_P[rows], self.colour_P[rows]], axis=1))
        return np.concatenate([own[:, :1], self.maps_BE[at], own[:, 1:]], axis=1)

    def edges_of(self, at: NDArray[np.int64]) -> tuple[Float, Float]:
        """Edges of the pictures of some phrases."""
        return self.edges[0][at], self.edges[1][at]


class Frames:
    """Finds frames with fitted weights."""

    def __init__(self, fit: FrameFit) -> None:
        self._fit = fit
        self._odds, self._empty = stretched(fit.template)

    def __call__(self, index_BHW: NDArray[np.int32], lab_BHW3: Float, aspect_B: Float) -> Float:
        """Frames (B, 3) of pictures in colour bins and in Lab.

        Found twice: a first frame, found from anywhere, says where to expect the figure.
        """
        first = self.of(find_figure(index_BHW, anywhere(aspect_B)), lab_BHW3, aspect_B)
        return self.of(find_figure(index_BHW, about(first, aspect_B)), lab_BHW3, aspect_B)

    def of(self, figure_BHW: Float, lab_BHW3: Float, aspect_B: Float) -> Float:
        """Frames (B, 3) of figures."""
        axis = axis_of(figure_BHW)
        tops, bottoms, mask = frame_features(figure_BHW, lab_BHW3, aspect_B, axis)
        match = self._fit.match * (mask @ self._odds.T + self._empty)
        return frames_of(pair_scores(tops @ self._fit.top, bottoms @ self._fit.bottom, match), axis)


def look(view: NDArray[np.uint8], inside: NDArray[np.bool_], flat: Flat) -> Seen:
    """See what the normal views (B, R, C, 3) show for some phrases.

    Args:
        view: From `normal_view`.
        inside: From `normal_view`.
        flat: Image, place in the image's list, and query of every phrase.
    """
    lab_BRC3 = lab(view)
    index = bins(lab_BRC3)
    figure = figure_in_view(index, inside)
    cells = name_cells(corrected(lab_BRC3))
    parts_BK = find_parts(index, figure, cells, flat)
    shared = [PART_INDEX[k] for k in ("hair", "skin", "upper", "lower", "footwear")]
    maps = integral(np.concatenate([figure[:, None], parts_BK[:, shared]], axis=1))
    at = np.array([b for b, _, _ in flat])
    wanted = [palette_indices(q.colours) for _, _, q in flat]
    colour = named(cells, at, wanted)
    parts = [part_of(q.group, q.head) for _, _, q in flat]
    own = np.empty_like(colour)
    often: dict[tuple[int, str | None], int] = {}
    for b, part in zip(at.tolist(), parts, strict=True):
        often[b, part] = often.get((b, part), 0) + 1
    for n, (b, part) in enumerate(zip(at.tolist(), parts, strict=True)):
        own[n] = parts_BK[b, PART_INDEX[part]] if part else figure[b]
        if part and often[b, part] > 1 and wanted[n]:
            # A jacket over a shirt: each takes the pixels of its own colour.
            own[n] *= np.minimum(1, colour[n] / 0.3)
    blank = np.array([not w for w in wanted])
    fits = np.clip(np.log(colour + 0.04) - np.log(np.float32(0.2)), -1.7, 1.7)
    fits[blank] = 0
    extents = from_view(extent(smooth(own, 0.6)))
    return Seen(figure, maps, edge_maps(lab_BRC3), own, fits, extents)


def prior(fitted: Fitted, kind: str, query: Query) -> Float:
    """Log prior (M,) of a kind's candidates for a phrase: what was seen, and the layout."""
    fit = fitted.kinds[kind]
    near = _GUESSED * nearness(fit.boxes, guesses(place_for(query))).mean(axis=1)
    near = near + _SHARED * fit.usual
    weight = _GUESSED + _SHARED
    if query.head in fit.heads:
        seen, of_head = fit.heads[query.head]
        near, weight = near + seen * of_head, weight + seen
    out: Float = np.log(near / weight + np.float32(1e-6)).astype(np.float32)
    return out


def place_for(query: Query) -> Place:
    """Where the anatomical layout expects a phrase's thing."""
    part = part_of(query.group, query.head)
    if part:
        return place_of(part, query.head, words_of(query.text))
    return within(query.group, query.head)


def guesses(place: Place) -> Float:
    """Boxes (16, 4) about a place, closed under mirroring: each edge one deviation out or in."""
    signs = np.array(np.meshgrid(*([[-1, 1]] * 4), indexing="ij"), np.float32).reshape(4, -1)
    half, shift = place.half * np.exp(0.2 * signs[2]), 0.02 * signs[3]
    top, bottom = place.top + place.soft * signs[0], place.bottom + place.soft * signs[1]
    bottom = np.maximum(bottom, top + 0.01)
    return np.stack([top, bottom, shift - half, shift + half], axis=1).astype(np.float32)


def options_of(ranked_P4: Float, extent_P4: Float) -> Float:
    """The boxes (P, O, 4) of `OPTIONS`; without an extent all are the ranked one."""
    known = np.isfinite(extent_P4).all(axis=1, keepdims=True)
    found = np.where(known, extent_P4, ranked_P4)
    return np.stack([ranked_P4, found, (ranked_P4 + found) / 2], axis=1)


class BodyProposer:
    """The embedded region proposer.

    Args:
        batch_size: Images computed together; memory grows with it, results do not change.
        fitted: Fitted numbers; the shipped ones where None.
    """

    def __init__(self, *, batch_size: int = 32, fitted: Fitted | None = None) -> None:
        self.batch_size = batch_size
        self.fitted = fitted or shipped()
        self._frames = Frames(self.fitted.frame)
        self._kinds = {k: Candidates(f.boxes, f.weights) for k, f in self.fitted.kinds.items()}
        self._priors: dict[tuple[str, str, str], Float] = {}

    def propose(
        self, images: Sequence[NDArray[np.uint8]], queries: Sequence[Sequence[Query]]
    ) -> list[Proposals]:
        """Find regions; see `models.regions.proposals.RegionProposer`.

        Raises:
            ValueError: See `check_batch`.
        """
        check_batch(images, queries)
        out: list[Proposals] = []
        for at in range(0, len(images), self.batch_size):
            chunk = slice(at, at + self.batch_size)
            out += self._propose(images[chunk], queries[chunk])
        return out

    def _propose(
        self, images: Sequence[NDArray[np.uint8]], queries: Sequence[Sequence[Query]]
    ) -> list[Proposals]:
        flat = [(b, p, q) for b, phrases in enumerate(queries) for p, q in enumerate(phrases)]
        if not flat:
            return [Proposals.none() for _ in images]
        frame_B3, aspect_B = frames_in(images, self._frames)
        seen = look(*normal_view(images, frame_B3), flat)
        boxes, scores = self._boxes(flat, seen)
        at = np.array([b for b, _, _ in flat])
        x0, y0, x1, y1 = to_image(boxes, frame_B3[at], aspect_B[at]).T
        boxes = np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=1)
        rows: list[list[int]] = [[] for _ in images]
        for n, (b, _, _) in enumerate(flat):
            if scores[n] > 0 and np.isfinite(boxes[n]).all():
                rows[b].append(n)
        return [
            Proposals(
                boxes[keep].reshape(-1, 4).astype(np.float32),
                scores[keep],
                np.array([flat[n][1] for n in keep], np.int64),
            )
            for keep in rows
        ]

    def _boxes(self, flat: Flat, seen: Seen) -> tuple[Float, Float]:
        """Boxes (P, 4) on the body and confidences (P,) of all phrases."""
        boxes = np.full((len(flat), 4), np.nan, np.float32)
        scores = np.zeros(len(flat), np.float32)
        groups: dict[str, list[int]] = {}
        for n, (_, _, q) in enumerate(flat):
            if q.group != "scene":  # a scene has no place on a body
                groups.setdefault(kind_of(q.group, q.head), []).append(n)
        for kind, members in groups.items():
            rows = np.array(members)
            at = np.array([flat[n][0] for n in members])
            asked = [flat[n][2] for n in members]
            if kind in self._kinds:
                boxes[rows], scores[rows] = self._ranked(kind, asked, seen, rows, at)
            else:
                boxes[rows], scores[rows] = plainly(self.fitted, kind, asked, seen, rows, at)
        return boxes, scores

    def _ranked(
        self,
        kind: str,
        asked: list[Query],
        seen: Seen,
        rows: NDArray[np.int64],
        at: NDArray[np.int64],
    ) -> tuple[Float, Float]:
        fit, candidates = self.fitted.kinds[kind], self._kinds[kind]
        sums = seen.sums(rows, at)
        found = seen.extent_P4[rows]
        clean = np.nan_to_num(found)
        prior_PM = np.stack([self._prior(kind, q) for q in asked])
        edges = seen.edges_of(at)
        ranked, chance = candidates.answer(candidates.scores(sums, edges, clean, prior_PM))
        options = options_of(ranked, found)
        named_P = [bool(palette_indices(q.colours)) for q in asked]
        values = option_features(options, sums, edges, clean, fit.boxes, chance, named_P)
        pick = np.arange(len(asked))
        best = judged(values, self.fitted.choice, fit.choice).argmax(axis=1)
        sure = sigmoid(judged(values, self.fitted.sure, fit.sure)[pick, best])
        return options[pick, best], sure

    def _prior(self, kind: str, query: Query) -> Float:
        """As `prior`, remembered: captions say the same things."""
        key = (query.group, query.head, query.text)
        if key not in self._priors:
            if len(self._priors) > 5000:  # memory stays flat
                self._priors.clear()
            self._priors[key] = prior(self.fitted, kind, query)
        return self._priors[key]


def judged(values_POF: Float, shared_F: Float, own_2O: Float) -> Float:
    """Log odds (P, O) that options overlap by a half: shared weights, and a kind's own."""
    out: Float = values_POF @ shared_F + own_2O[0] + own_2O[1] * values_POF[..., -1]
    return out


def frames_in(images: Sequence[NDArray[np.uint8]], find: Frames) -> tuple[Float, Float]:
    """Frames (B, 3) and aspects (B,) of pictures."""
    pixels = np.stack([shrink(image) for image in images])
    aspect_B = np.array([im.shape[1] / im.shape[0] for im in images], np.float32)
    lab_BHW3 = lab(pixels)
    return find(bins(lab_BHW3), lab_BHW3, aspect_B), aspect_B


def plainly(
    fitted: Fitted,
    kind: str,
    asked: list[Query],
    seen: Seen,
    rows: NDArray[np.int64],
    at: NDArray[np.int64],
) -> tuple[Float, Float]:
    """Boxes (P, 4) and confidences (P,) of what is not ranked: the person, and mere places."""
    if kind == "person":
        boxes = seen.extent_P4[rows]
    else:
        places = [place_for(q) for q in asked]
        boxes = np.array([[p.top, p.bottom, -p.half, p.half] for p in places], np.float32)
    filled = mean_in(seen.figure_BRC[at], boxes)
    weights = np.array(
        [
            fitted.plain["vague" if kind == "place" and q.head not in SETTLED else kind]
            for q in asked
        ]
    )
    return boxes, sigmoid(weights[:, 0] + weights[:, 1] * filled).astype(np.float32)
