"""``python -m tasks.base.regions [--photos data/raw/photos]``: fits the embedded region proposer.

Writes models/tiny/regions: the numbers of `models.regions.fitted` and training.json, the record of
how they came about. Half a minute of one core, from

- drawings of the built-in world in its source look and in random others, never the target's, with
  people moved and scaled; a third of the phrases do not say their colour;
- with ``--photos``, a folder of photos with labelled regions (`tasks.ingest.photos`): what people
  wear there, and where. One photo's phrase counts as `PHOTO` phrases of the world.

Three things are fitted in turn: where bodies begin and end, a ranking of
candidate boxes by kind of thing, and the confidence, on halves that the ranking has not seen.

    world, photos = world_examples(600, seed=0), photo_examples(root)
    frame = fit_frame(world, photos)
    fitted = fit(measure(world, frame), measure(photos, frame), frame)
    BodyProposer(fitted=fitted)
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.colour import bins, lab
from models.regions.body import Frames, Seen, frames_in, look
from models.regions.fitted import SHIPPED, Fitted, FrameFit
from models.regions.layout import KINDS
from models.regions.parts import about, anywhere, find_figure, shrink
from models.regions.proposals import Query
from models.regions.view import (
    TEMPLATE,
    axis_of,
    frame_features,
    normal_view,
    pair_scores,
    pair_targets,
    stretched,
    to_body,
)
from tasks.base.ranking import descend, fit_kinds, fit_plain
from tasks.base.scenes import (
    IMAGES,
    Example,
    absent_examples,
    photo_examples,
    world_examples,
)

# The camera alone, after a person has been put into a larger place.

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Float = NDArray[np.float32]

log = logging.getLogger(__name__)

PHOTO = 8.0
"""Weight of a photo's phrase; a drawing's is 1."""
FRAME_PHOTO = 1.5
"""The same for where bodies begin and end."""
_CHUNK = 64


@dataclass(frozen=True)
class Measured:
    """What the proposer sees in an example before anything that `fit` chooses."""

    queries: tuple[Query, ...]
    seen: Seen
    frame: Float
    """(3,)"""
    aspect: float
    boxes: Float
    """(P, 4) in the picture: cx, cy, w, h."""
    body: Float
    """(P, 4) on the body: v0, v1, u0, u1."""


def fit_frame(
    world: Sequence[Example], photos: Sequence[Example] = (), strength: float = 3.0
) -> FrameFit:
    """Fit where bodies begin and end in figures.

    First in figures that are found from anywhere, then in these and in those that are found about
    the first frame (`models.regions.body.Frames`).

    Args:
        world: Drawings.
        photos: Photos; each counts as `FRAME_PHOTO` drawings.
        strength: Of the pull of the weights to zero.
    """
    examples = [*world, *photos]
    weight = np.append(np.ones(len(world)), np.full(len(photos), FRAME_PHOTO)).astype(np.float32)
    person = np.stack([e.person for e in examples])
    first = _figures(examples, None)
    frames = Frames(_fit_ends(*first, person, weight, strength))
    second = _figures(examples, frames)
    top, bottom, mask = (np.concatenate(pair) for pair in zip(first, second, strict=True))
    return _fit_ends(top, bottom, mask, np.tile(person, (2, 1)), np.tile(weight, 2), strength)


def _figures(examples: Sequence[Example], frames: Frames | None) -> tuple[Float, Float, Float]:
    """What frames are judged by, in figures found from anywhere or about first frames."""
    found = []
    for at in range(0, len(examples), _CHUNK):
        images = [e.image for e in examples[at : at + _CHUNK]]
        aspect = np.array([im.shape[1] / im.shape[0] for im in images], np.float32)
        colours = lab(np.stack([shrink(image) for image in images]))
        index = bins(colours)
        figure = find_figure(index, anywhere(aspect))
        if frames:
            figure = find_figure(index, about(frames.of(figure, colours, aspect), aspect))
        found.append(frame_features(figure, colours, aspect, axis_of(figure)))
    top, bottom, mask = (np.concatenate(x) for x in zip(*found, strict=True))
    return top, bottom, mask


def _fit_ends(
    top: Float, bottom: Float, mask: Float, person: Float, weight: Float, strength: float
) -> FrameFit:
    """Fit a frame's weights to what `_figures` gave, N figures in all."""
    half = person[:, 3] / np.float32(2)
    begin, end = person[:, 1] - half, person[:, 1] + half
    template = _mean_silhouette(mask.reshape(len(mask), -1, TEMPLATE[1]), begin, end, weight)
    odds, empty = stretched(template)
    match = (mask @ odds.T + empty) / 1000
    targets = pair_targets(begin, end)
    scale_t, scale_b = top.std(axis=(0, 1)) + 1e-4, bottom.std(axis=(0, 1)) + 1e-4
    count, total = len(scale_t), float(weight.sum())
    share = weight[:, None] / np.float32(total)

    def loss(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = x.astype(np.float32)
        a, b, of_match = weights[:count] / scale_t, weights[count:-1] / scale_b, weights[-1]
        score = pair_scores(top @ a, bottom @ b, of_match * match)
        score -= score.max(axis=1, keepdims=True)
        odd = np.log(np.exp(score).sum(axis=1, keepdims=True))
        error = (np.exp(score - odd) - targets) * share
        pairs = error.reshape(len(top), top.shape[1], bottom.shape[1])
        slope = np.concatenate(
            [
                np.einsum("bs,bsf->f", pairs.sum(axis=2), top) / scale_t,
                np.einsum("bs,bsf->f", pairs.sum(axis=1), bottom) / scale_b,
                [(error * match).sum()],
            ]
        ) + 2 * strength / total * x * (np.arange(len(x)) < len(x) - 1)
        value = -(share * targets * (score - odd)).sum()
        value += strength / total * (x[:-1] ** 2).sum()
        return float(value), slope.astype(np.float64)

    x = descend(loss, np.append(np.zeros(2 * count), 1.0), 80)
    return FrameFit(
        template, float(x[-1] / 1000), (x[:count] / scale_t).astype(np.float32),
        (x[count:-1] / scale_b).astype(np.float32),
    )  # fmt: skip


def _mean_silhouette(masks: Float, begin: Float, end: Float, weight: Float) -> Float:
    """Mean mask (of shape `TEMPLATE`) between the true ends, the same on both sides."""
    rows = np.linspace(-0.1, 1.1, TEMPLATE[0])
    at = rows[None] * (end - begin)[:, None] + begin[:, None]
    at = np.clip((at * masks.shape[1]).astype(np.int64), 0, masks.shape[1] - 1)
    mean = np.average(np.take_along_axis(masks, at[:, :, None], axis=1), axis=0, weights=weight)
    return np.clip((mean + mean[:, ::-1]) / 2, 0.02, 0.98).astype(np.float32)


def measure(examples: Sequence[Example], frame: FrameFit) -> list[Measured]:
    """See what examples show; about 4 ms each, and 0.4 MB.

    Args:
        examples: Of the world or photos.
        frame: From `fit_frame`.
    """
    find = Frames(frame)
    found = []
    for at in range(0, len(examples), _CHUNK):
        chunk = examples[at : at + _CHUNK]
        frames, aspects = frames_in([e.image for e in chunk], find)
        view, inside = normal_view([e.image for e in chunk], frames)
        for n, example in enumerate(chunk):
            flat = [(0, p, q) for p, q in enumerate(example.queries)]
            count = len(flat)
            if not count:
                continue
            seen = look(view[n : n + 1], inside[n : n + 1], flat)
            where = np.repeat(frames[n : n + 1], count, axis=0)
            body = to_body(example.boxes, where, np.repeat(aspects[n], count))
            found.append(
                Measured(example.queries, seen, frames[n], float(aspects[n]), example.boxes, body)
            )
    return found


def fit(
    world: Sequence[Measured],
    photos: Sequence[Measured],
    frame: FrameFit,
    absent: Sequence[Measured] = (),
) -> Fitted:
    """Fit ranking and confidence.

    Args:
        world: From `measure`.
        photos: From `measure`; may be empty.
        frame: What all were measured with.
        absent: Phrases that the pictures do not support, from `measure`; the confidence alone
            learns from them.

    Returns:
        Numbers for `models.regions.body.BodyProposer`; fitting them does not depend on chance.
    """
    weights = np.concatenate([np.ones(len(world)), np.full(len(photos), PHOTO)])
    everything = [*world, *photos]
    kinds, choice, sure = fit_kinds(
        everything, weights.astype(np.float32), len(world), KINDS, absent
    )
    return Fitted(frame, kinds, choice, sure, fit_plain(world))


def main(arguments: list[str] | None = None) -> None:
    """Fit, and write models/tiny/regions."""
    parser = argparse.ArgumentParser(description="fit the embedded region proposer")
    parser.add_argument(
        "--photos", type=Path, help="folder with regions.json; the world alone else"
    )
    parser.add_argument("--images", type=int, default=IMAGES, help="drawings of the world")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=SHIPPED.parent)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    drawn = world_examples(args.images, args.seed)
    photos = photo_examples(args.photos) if args.photos else []
    absent = absent_examples(seed=args.seed)
    frame = fit_frame(drawn, photos)
    fitted = fit(measure(drawn, frame), measure(photos, frame), frame, measure(absent, frame))
    fitted.save(args.out / SHIPPED.name)
    command = f"python -m tasks.base.regions --seed {args.seed} --images {args.images}"
    record = {
        "command": command + (" --photos data/raw/photos" if args.photos else ""),
        "seed": args.seed,
        "looks": ["source", "random"],
        "images": len(drawn) + len(absent),
        "people": "residents of the world, none of a written target dataset",
        "photos": {
            "images": len(photos),
            "phrases": sum(len(e.queries) for e in photos),
            "weight": PHOTO,
            "source": "Clothing Co-Parsing, 100 photos; all were seen" if photos else None,
        },
        "numbers": {k: len(f.heads) for k, f in fitted.kinds.items()},
    }
    (args.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    log.info("%s", args.out / SHIPPED.name)


if __name__ == "__main__":
    main()
