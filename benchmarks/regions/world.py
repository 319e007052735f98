"""Drawings of the built-in world whose people stand elsewhere and are smaller, with their truth.

The world draws a person as a detector would crop one. Here the person is drawn into a window of a
larger place: the window's size is `SCALE` of the picture's, so people's heights vary by 18 % to
either side of the middle; it is moved sideways by up to `SHIFT` of the width to either side, and
up or down as far as the room goes (at the smallest scale 15 % of the height to either side). The
camera is that of the look and takes the whole picture. Nothing is mirrored or stretched.

Every picture is of a person, a pose and a place that no test and no training draws: their seeds
begin with `STREAM`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.regions.measures import Answers, Floats
from models.regions.proposals import Query, RegionProposer
from tasks.annotate.finding import query_of
from tasks.base.scenes import placed
from tasks.phrases import Phrase, load_parser, parse
from tasks.world.attributes import Person, sample_resident
from tasks.world.captions import compose
from tasks.world.drawing import Box
from tasks.world.looks import SOURCE, TARGET_CAMERAS, Look, random_look, render

STREAM = 20261121
SCALE = (0.70, 1.0)
SHIFT = 0.15
SIZE = (192, 96)

Drawer = Callable[[Person, Look, np.random.Generator], tuple[NDArray[np.uint8], dict[str, Box]]]


def as_drawn(
    person: Person, look: Look, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], dict[str, Box]]:
    """A picture as the world draws it, and the true boxes."""
    drawing = render(person, look, rng, SIZE)
    return drawing.pixels, drawing.boxes


def moved(
    person: Person, look: Look, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], dict[str, Box]]:
    """A picture whose person stands elsewhere and is smaller, and the true boxes."""
    return placed(person, look, rng, SIZE, SCALE, SHIFT)


def spoken(person: Person) -> str:
    """A phrase for each part of a person, colour and kind, as a caption."""
    words = [
        f"{person.hair_length} {person.hair_colour} hair",
        f"a {person.upper_colour} {person.upper_kind}",
        f"{person.shoe_colour} {person.shoe_kind}",
    ]
    if person.lower_kind != "dress":
        words.append(f"{person.lower_colour} {person.lower_kind}")
    if person.hat != "none":
        words.append(f"a {person.hat_colour} {person.hat}")
    if person.bag != "none":
        words.append(f"a {person.bag_colour} {person.bag}")
    return ", ".join(words)


HATS = frozenset({"cap", "beanie", "hat"})
_PARTS = {
    "hair": "hair",
    "upper": "upper",
    "lower": "lower",
    "footwear": "footwear",
    "carried": "bag",
}


def truth_key(group: str, head: str, *, person: bool = False) -> str | None:
    """Key of the true box of a phrase; None for what the world keeps no box of.

    Args:
        group: Group of the phrase.
        head: Its head noun.
        person: Whether the person counts. Mostly it does not: any proposer finds the only one.
    """
    if group == "head":
        return "hat" if head in HATS else {"head": "head"}.get(head)
    if group == "person":
        return "person" if person else None
    return _PARTS.get(group)


@dataclass(frozen=True)
class Scene:
    """Pictures, what is asked of each, and which questions have a true answer."""

    pixels: Sequence[NDArray[np.uint8]]
    phrases: Sequence[Sequence[Phrase]]
    asked: Sequence[Sequence[int]]
    """Of each picture, the phrases with a true box."""
    truths: Sequence[Floats]
    """Of each picture, those boxes (phrases, 4)."""
    people: Floats
    """The true box of each person (pictures, 4)."""

    @property
    def queries(self) -> list[list[Query]]:
        """What a proposer is told."""
        return [[query_of(phrase) for phrase in each] for each in self.phrases]

    def answers(self, proposer: RegionProposer) -> Answers:
        """Ask a proposer and put its answers beside the truth."""
        found = proposer.propose(self.pixels, self.queries)
        pairs = list(zip(self.phrases, self.asked, strict=True))
        groups = [[phrases[i].group for i in asked] for phrases, asked in pairs]
        heads = [[phrases[i].head for i in asked] for phrases, asked in pairs]
        return Answers.join(found, self.truths, groups, heads, self.asked)


def scene(
    count: int,
    *,
    looks: str = "target",
    drawer: Drawer = moved,
    wording: str = "phrases",
    stream: int = STREAM,
) -> Scene:
    """Draw pictures and ask for what their people wear and carry.

    Args:
        count: Number of pictures, each of another person.
        looks: ``target`` (its cameras in turn), ``source`` or ``random``.
        drawer: `moved` or `as_drawn`.
        wording: ``phrases`` asks for every part by colour and kind; ``captions`` takes the
            phrases that the parser finds in the world's own captions, in the target's style.
        stream: Seed; another one gives other people.
    """
    pixels, boxes, captions = [], [], []
    for number in range(count):
        rng = np.random.default_rng([stream, number])
        person = sample_resident(rng, target=looks == "target")
        if looks == "random":
            look = random_look(rng)
        else:
            look = TARGET_CAMERAS[number % len(TARGET_CAMERAS)] if looks == "target" else SOURCE
        picture, truth = drawer(person, look, rng)
        pixels.append(picture)
        boxes.append(truth)
        if wording == "captions":
            captions.append(compose(person, "target", rng).text)
        else:
            captions.append(spoken(person))
    found = parse(load_parser(), captions)
    keys = [[truth_key(phrase.group, phrase.head) for phrase in each] for each in found]
    asked = [
        [i for i, key in enumerate(each) if key in truth]
        for each, truth in zip(keys, boxes, strict=True)
    ]
    truths = [
        np.array([truth[str(each[i])] for i in which], np.float64).reshape(-1, 4)
        for each, which, truth in zip(keys, asked, boxes, strict=True)
    ]
    people = np.array([truth["person"] for truth in boxes])
    return Scene(pixels, found, asked, truths, people)
