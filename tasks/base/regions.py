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
from tasks.annotate.finding import query_of
from tasks.base.ranking import descend, fit_kinds, fit_plain
from tasks.images import decode
from tasks.ingest.photos import REGIONS_JSON, colour_name
from tasks.phrases import load_parser, parse
from tasks.world.attributes import sample_resident
from tasks.world.backgrounds import background, obstacle
from tasks.world.drawing import draw

# The camera alone, after a person has been put into a larger place.
from tasks.world.looks import SOURCE, _camera, random_look, render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tasks.world.attributes import Person
    from tasks.world.drawing import Box
    from tasks.world.looks import Look

    Float = NDArray[np.float32]

log = logging.getLogger(__name__)

IMAGES = 600
"""Drawings that the shipped numbers were fitted on."""
PHOTO = 8.0
"""Weight of a photo's phrase; a drawing's is 1."""
_NOT_NAMED = frozenset({"person", "skin"})
FRAME_PHOTO = 3.0
"""The same for where bodies begin and end."""
_PLACES = (None, ((0.85, 1.0), 0.10), ((0.65, 1.0), 0.18), ((0.65, 1.0), 0.18))
"""Of equal shares of the drawings: as the world draws them, or `placed` so."""
_CHUNK = 64


@dataclass(frozen=True)
class Example:
    """A picture whose regions are known."""

    image: NDArray[np.uint8]
    queries: tuple[Query, ...]
    boxes: Float
    """(P, 4): cx, cy, w, h of each query's thing; NaN where it is not seen."""
    person: Float
    """(4,): cx, cy, w, h of the person."""


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


def spoken(person: Person, rng: np.random.Generator, silent: float) -> dict[str, str]:
    """Phrases for what is drawn, by the key of its true box; a share of them without colour."""

    def colour(name: str) -> str:
        return "" if rng.random() < silent else f"{name} "

    words = {
        "hair": f"{person.hair_length} {colour(person.hair_colour)}hair",
        "upper": f"a {colour(person.upper_colour)}{person.upper_kind}",
        "footwear": f"{colour(person.shoe_colour)}{person.shoe_kind}",
    }
    if person.lower_kind != "dress":
        words["lower"] = f"{colour(person.lower_colour)}{person.lower_kind}"
    if person.hat != "none":
        words["hat"] = f"a {colour(person.hat_colour)}{person.hat}"
    if person.bag != "none":
        words["bag"] = f"a {colour(person.bag_colour)}{person.bag}"
    return words


def placed(
    person: Person,
    look_of: Look,
    rng: np.random.Generator,
    size: tuple[int, int],
    scale: tuple[float, float],
    shift: float,
) -> tuple[NDArray[np.uint8], dict[str, Box]]:
    """Draw a person into a window of a larger place; nothing is mirrored or stretched.

    Args:
        person: Who.
        look_of: Camera and place; the camera takes the whole picture.
        rng: Source of all randomness.
        size: Height and width, pixels.
        scale: Least and greatest size of the window, shares of the picture's. Up and down it is
            moved as far as the room goes.
        shift: How far it is moved sideways at most, a share of the width.

    Returns:
        uint8 (H, W, 3), and part -> (cx, cy, w, h), cut at the picture's border.
    """
    height, width = size
    share = rng.uniform(*scale)
    window = round(height * share), round(width * share)
    top = round(rng.uniform(0, height - window[0]))
    left = round((width - window[1]) / 2 + rng.uniform(-shift, shift) * width)
    margin = round(shift * width) + 1  # the window may reach out of the picture
    place = look_of.places[int(rng.integers(len(look_of.places)))]
    pixels = background(place, rng, (height, width + 2 * margin), look_of.softness).copy()
    at = (slice(top, top + window[0]), slice(left + margin, left + margin + window[1]))
    front = obstacle(rng, window) if rng.random() < look_of.clutter else []
    pitch = max(0.0, look_of.pitch + float(rng.uniform(-4, 4))) if look_of.pitch > 0 else 0.0
    drawing = draw(person, rng, window, backdrop=pixels[at], pitch=pitch, foreground=front)
    pixels[at] = drawing.pixels
    found: dict[str, Box] = {}
    for part, (cx, cy, w, h) in drawing.boxes.items():
        middle, half = np.array([cx, cy]), np.array([w, h]) / 2
        low, high = (
            np.clip((edge * window[::-1] + (left, top)) / (width, height), 0, 1)
            for edge in (middle - half, middle + half)
        )
        if (high > low).all():
            (x0, y0), (x1, y1) = low.tolist(), high.tolist()
            found[part] = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
    return _camera(pixels[:, margin : margin + width], look_of, rng), found


def world_examples(images: int = IMAGES, seed: int = 0) -> list[Example]:
    """Draw people of the world: source and random looks, moved and scaled."""
    nlp = load_parser()
    pictures, truths, keys, captions = [], [], [], []
    for number in range(images):
        rng = np.random.default_rng([seed, number])
        person = sample_resident(rng, target=False)
        look_of = SOURCE if rng.random() < 0.3 else random_look(rng)
        size = (96, 48) if rng.random() < 0.3 else (192, 96)
        how = _PLACES[int(rng.integers(len(_PLACES)))]
        if how is None:
            drawing = render(person, look_of, rng, size)
            pixels, boxes = drawing.pixels, drawing.boxes
        else:
            pixels, boxes = placed(person, look_of, rng, size, *how)
        words = spoken(person, rng, silent=1 / 3)
        pictures.append(pixels)
        truths.append(boxes)
        keys.append(list(words))
        captions.append(", ".join(words.values()))
    nowhere = (np.nan,) * 4
    extra = (Query("a person", "person", "person"), Query("the head", "head", "head"))
    examples = []
    for pixels, boxes, named, phrases in zip(
        pictures, truths, keys, parse(nlp, captions), strict=True
    ):
        if len(named) != len(phrases):
            continue
        sought = [*(boxes.get(key, nowhere) for key in named), boxes["person"], boxes["head"]]
        examples.append(
            Example(
                pixels,
                (*(query_of(p) for p in phrases), *extra),
                np.array(sought, np.float32),
                np.array(boxes["person"], np.float32),
            )
        )
    return examples


def photo_examples(root: Path) -> list[Example]:
    """Read photos with labelled regions; a phrase is colour name and label ("red bag")."""
    nlp = load_parser()
    examples = []
    for entry in json.loads((root / REGIONS_JSON).read_text(encoding="utf-8")):
        named = [r for r in entry["regions"] if r["label"] not in _NOT_NAMED]
        texts = [f"{colour_name(r['median_rgb'])} {r['label']}" for r in named]
        found = [(p[0], r) for p, r in zip(parse(nlp, texts), named, strict=True) if p]
        person = next(r["box"] for r in entry["regions"] if r["label"] == "person")
        examples.append(
            Example(
                np.asarray(decode((root / entry["image"]).read_bytes())),
                tuple(query_of(p) for p, _ in found),
                np.array([r["box"] for _, r in found], np.float32).reshape(-1, 4),
                np.array(person, np.float32),
            )
        )
    return examples


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


def fit(world: Sequence[Measured], photos: Sequence[Measured], frame: FrameFit) -> Fitted:
    """Fit ranking and confidence.

    Args:
        world: From `measure`.
        photos: From `measure`; may be empty.
        frame: What both were measured with.

    Returns:
        Numbers for `models.regions.body.BodyProposer`; fitting them does not depend on chance.
    """
    weights = np.concatenate([np.ones(len(world)), np.full(len(photos), PHOTO)])
    everything = [*world, *photos]
    kinds, choice, sure = fit_kinds(everything, weights.astype(np.float32), len(world), KINDS)
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
    frame = fit_frame(drawn, photos)
    world = measure(drawn, frame)
    fitted = fit(world, measure(photos, frame), frame)
    fitted.save(args.out / SHIPPED.name)
    command = f"python -m tasks.base.regions --seed {args.seed} --images {args.images}"
    record = {
        "command": command + (" --photos data/raw/photos" if args.photos else ""),
        "seed": args.seed,
        "looks": ["source", "random"],
        "images": len(drawn),
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
