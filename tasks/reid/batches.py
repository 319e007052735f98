"""What a step sees: P people by K pictures, as a pure function of seed and step.

Pictures come in rounds. In a round each person's pictures are shuffled and cut into groups of K (a
person with fewer has some of them twice, under other augmentation; what fills no group waits for
the next round), and batches take a group each of P people who have one left, until fewer than P
have. Luo et al.'s sampler does the same. Rounds follow each other without a seam; an epoch is as
many batches as the pictures would fill.

Augmentation: shift, flip, erasing, drawn from a generator that picture, step and place in the batch
seed. So order, workers and a resume change nothing.

Shapes: B pictures of a batch, N of the split, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tasks.augment import DRAWS, crop_and_resize, erase, normalise
from tasks.errors import PedAlignError
from tasks.pictures import Pictures
from tasks.reid.people import People
from tasks.shards import item_seed

Numbers = NDArray[np.int64]
Key = tuple[int, int, int]
"""Step, place in the batch, picture."""


class PeopleBatches(Sampler[list[Key]]):
    """The batches of a training from a step on."""

    def __init__(
        self,
        person: Numbers,
        people: int,
        pictures: int,
        steps: int,
        seed: int,
        start: int = 0,
        *,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """Plan the batches.

        Args:
            person: (N,) who each picture shows, from 0.
            people: P.
            pictures: K.
            steps: Of the whole training.
            seed: Decides everything.
            start: The first step.
            part: Which part of each batch, of how many: a process's own, of several.

        Raises:
            PedAlignError: Fewer people than a batch holds, or a batch that cannot be parted.
        """
        found = np.unique(person)
        if len(found) < people:
            raise PedAlignError(
                f"{len(found)} people to train on, and a batch of {people} of them",
                "a batch holds as many different people as training.batch divided by pictures",
                f"set training.batch to {len(found) * pictures} or less",
            )
        if (people * pictures) % part[1]:
            raise PedAlignError(
                f"a batch of {people * pictures} for {part[1]} processes",
                "every process takes an equal part of each batch",
                f"set the batch to a multiple of {part[1]}, or processes in runtime.yaml to 1",
            )
        self.rows_of = [np.flatnonzero(person == one) for one in found.tolist()]
        self.people, self.pictures, self.steps = people, pictures, steps
        self.seed, self.start, self.part = seed, start, part

    def __len__(self) -> int:
        """Count the batches that are left."""
        return max(0, self.steps - self.start)

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the keys of each batch that is left."""
        step, number = 0, 0
        while step < self.steps:
            for rows in self.round(number):
                if step >= self.steps:
                    return
                if step >= self.start:
                    own, parts = self.part
                    places = range(own * len(rows) // parts, (own + 1) * len(rows) // parts)
                    yield [(step, place, int(rows[place])) for place in places]
                step += 1
            number += 1

    def round(self, number: int) -> Iterator[Numbers]:
        """Give the batches of a round, (P K,) each, the pictures of a person side by side."""
        rng = np.random.default_rng(item_seed("people", self.seed, str(number)))
        left = [list(self._groups(rows, rng)) for rows in self.rows_of]
        while len(some := [at for at, groups in enumerate(left) if groups]) >= self.people:
            chosen = rng.choice(some, self.people, replace=False)
            yield np.concatenate([left[at].pop() for at in chosen])

    def _groups(self, rows: Numbers, rng: np.random.Generator) -> Iterator[Numbers]:
        """A person's pictures in groups of K."""
        order = rng.permutation(rows)
        if len(order) < self.pictures:
            order = np.resize(order, self.pictures)  # again from the start
        for at in range(len(order) // self.pictures):
            yield order[at * self.pictures : (at + 1) * self.pictures]


@dataclass(frozen=True)
class Looks:
    """How a training picture is varied; see `tasks.reid.parameters`."""

    size: tuple[int, int]
    flip: float
    erasing: float
    shift: float
    seed: int


class PeopleDataset(Dataset[dict[str, Tensor]]):
    """Whole batches by their keys."""

    def __init__(self, people: People, pictures: Pictures, looks: Looks) -> None:
        """Bind pictures to how they are varied."""
        self.people, self.pictures, self.looks = people, pictures, looks
        self.uids: list[str] = people.uids.to_pylist()

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        """Make a batch of one."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Make the batch of some keys.

        Returns:
            image (B, 3, H, W) float32, normalised; person (B,) int64.
        """
        looks = self.looks
        rows = np.array([row for _, _, row in keys], dtype=np.int64)
        draws = np.stack(
            [
                np.random.default_rng(
                    item_seed(self.uids[row], looks.seed, f"{step}/{place}")
                ).random(DRAWS)
                for step, place, row in keys
            ]
        )
        image = vary(self.pictures.read(rows), draws, looks)
        return {"image": image, "person": torch.from_numpy(self.people.person[rows])}


def vary(images: list[NDArray[np.uint8]], draws: NDArray[np.float64], looks: Looks) -> Tensor:
    """Shift, flip, resize, normalise and erase a batch.

    Args:
        images: B arrays (h, w, 3).
        draws: (B, DRAWS) uniform in [0, 1); the places are those of `tasks.augment`.
        looks: How.

    Returns:
        (B, 3, H, W) float32.
    """
    sides = np.array([[image.shape[1], image.shape[0]] for image in images], dtype=np.float64)
    corner = np.rint((2 * draws[:, 1:3] - 1) * looks.shift * sides)
    crops = np.concatenate([corner, sides], axis=1)
    pixels = normalise(crop_and_resize(images, crops, draws[:, 5] < looks.flip, looks.size))
    return erase(pixels, draws, looks.erasing) if looks.erasing else pixels


def load(
    dataset: PeopleDataset, batches: PeopleBatches, workers: int = 0
) -> Iterator[dict[str, Tensor]]:
    """Iterate over batches, prepared by so many processes ahead; no result depends on it."""
    return iter(
        DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
        )
    )


def _as_it_is(batch: Any) -> Any:
    return batch
