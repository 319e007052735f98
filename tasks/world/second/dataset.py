"""Writes the second target to disk, in the official layout of CUHK-PEDES as the first.

Its people are reserved for targets (`attributes.belongs_to_target`), so no shipped model, source or
unlabelled world has them, and none is anybody whom a first target of the same seed could have among
its first `APART` people. Against a first target of another seed nothing is promised: two people
drawn at random agree in all that can be named with a probability of 8 in a million.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from tasks.world.dataset import TWO_EACH, Item, all_different, check_sizes, write_entries
from tasks.world.people import Resident, families, first_people, settle, share_out
from tasks.world.second.cameras import CAMERAS, photograph
from tasks.world.second.wording import describe_at_length

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

APART: Final = 3000
"""People of a first target that the second keeps away from."""

# First words of the seed sequences, beside those of `tasks.world.dataset`.
_PEOPLE_STREAM, _IMAGE_STREAM = 8, 9


def second_residents(people: int | Mapping[str, int], seed: int) -> list[Resident]:
    """Invent the people of the second target; see `people.residents`."""
    row = families(seed, _PEOPLE_STREAM, first_people(seed, APART))
    return share_out(row, people, seed) if isinstance(people, int) else settle(row, people)


def second_item(resident: Resident, shot: int, seed: int, captions: int = 1) -> Item:
    """Draw one image of a person of the second target; see `dataset.target_item`."""
    rng = np.random.default_rng([_IMAGE_STREAM, seed, resident.number, shot])
    camera = CAMERAS[(resident.number * 5 + shot) % len(CAMERAS)]
    drawing = photograph(resident.person, camera, rng)
    said = all_different(captions, lambda: describe_at_length(resident.person, drawing, rng))
    return drawing, camera.name, said


def write_second(
    root: Path,
    people: int | Mapping[str, int],
    images_per_person: int | Mapping[str, int],
    seed: int,
    captions: Mapping[str, int] = TWO_EACH,
) -> None:
    """Write the second target; see `dataset.write_target`."""
    images = check_sizes(people, images_per_person)
    write_entries(
        root,
        [camera.name for camera in CAMERAS],
        second_residents(people, seed),
        images,
        captions,
        partial(second_item, seed=seed),
    )
