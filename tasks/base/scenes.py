"""What the embedded region proposer is fitted on: pictures whose regions are known.

Drawings of the built-in world in its source look and in random others, with people moved and
scaled, a third of their phrases without colour; other drawings, asked for what nobody wears; and,
where somebody has them, photos with labelled regions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.regions.proposals import Query
from tasks.annotate.finding import query_of
from tasks.images import decode
from tasks.ingest.photos import REGIONS_JSON, colour_name
from tasks.phrases import load_parser, parse
from tasks.world.attributes import BAGS, COLOURS, HATS, sample_resident
from tasks.world.backgrounds import background, obstacle
from tasks.world.drawing import draw

# The camera alone, after a person has been put into a larger place.
from tasks.world.looks import SOURCE, random_look, render, through_camera

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.world.attributes import Person
    from tasks.world.drawing import Box
    from tasks.world.looks import Look

    Float = NDArray[np.float32]

IMAGES = 900
"""Drawings that the shipped numbers were fitted on."""
ABSENT = 120
"""Others, whose people are asked for what they do not wear."""
_PLACES = (None, ((0.85, 1.0), 0.10), ((0.65, 1.0), 0.18), ((0.65, 1.0), 0.18))
"""Of equal shares of the drawings: as the world draws them, or `placed` so."""
_NOT_NAMED = frozenset({"person", "skin"})


@dataclass(frozen=True)
class Example:
    """A picture whose regions are known."""

    image: NDArray[np.uint8]
    queries: tuple[Query, ...]
    boxes: Float
    """(P, 4): cx, cy, w, h of each query's thing; NaN where it is not seen."""
    person: Float
    """(4,): cx, cy, w, h of the person."""


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


def unspoken(person: Person, rng: np.random.Generator, silent: float) -> list[str]:
    """Phrases for what is not drawn: garments in a colour that nothing has, a hat, a bag."""
    worn = {
        person.hair_colour, person.upper_colour, person.lower_colour, person.shoe_colour,
        person.hat_colour, person.bag_colour,
    }  # fmt: skip
    others = [name for name in COLOURS if name not in worn]

    def colour() -> str:
        return others[int(rng.integers(len(others)))]

    words = [f"a {colour()} {person.upper_kind}", f"{colour()} {person.shoe_kind}"]
    if person.lower_kind != "dress":
        words.append(f"{colour()} {person.lower_kind}")
    for worn_thing, things in ((person.hat, HATS), (person.bag, BAGS)):
        if worn_thing != "none":  # it is the colour that is wrong
            words.append(f"a {colour()} {worn_thing}")
            continue
        thing = things[1 + int(rng.integers(len(things) - 1))]
        words.append(f"a {thing}" if rng.random() < silent else f"a {colour()} {thing}")
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
    return through_camera(pixels[:, margin : margin + width], look_of, rng), found


def world_examples(images: int = IMAGES, seed: int = 0) -> list[Example]:
    """Draw people of the world: source and random looks, moved and scaled."""
    nlp = load_parser()
    pictures, truths, keys, captions = [], [], [], []
    for number in range(images):
        rng = np.random.default_rng([seed, number])
        person, pixels, boxes = _drawn(rng)
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


def absent_examples(images: int = ABSENT, seed: int = 0) -> list[Example]:
    """Draw other people of the world and ask for what they do not wear: no box is right."""
    pictures, captions = [], []
    for number in range(images):
        rng = np.random.default_rng([seed, number, 1])
        person, pixels, _ = _drawn(rng)
        pictures.append(pixels)
        captions.append(", ".join(unspoken(person, rng, silent=1 / 3)))
    return [
        Example(
            pixels,
            tuple(query_of(p) for p in phrases),
            np.full((len(phrases), 4), np.nan, np.float32),
            np.full(4, np.nan, np.float32),
        )
        for pixels, phrases in zip(pictures, parse(load_parser(), captions), strict=True)
    ]


def _drawn(rng: np.random.Generator) -> tuple[Person, NDArray[np.uint8], dict[str, Box]]:
    """A person in the source look or a random one, the picture, and the true boxes."""
    person = sample_resident(rng, target=False)
    look_of = SOURCE if rng.random() < 0.3 else random_look(rng)
    size = (96, 48) if rng.random() < 0.3 else (192, 96)
    how = _PLACES[int(rng.integers(len(_PLACES)))]
    if how is None:
        drawing = render(person, look_of, rng, size)
        return person, drawing.pixels, drawing.boxes
    return person, *placed(person, look_of, rng, size, *how)


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
