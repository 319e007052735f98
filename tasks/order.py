"""Which pairs a training sees at which step, and the loader that prepares them ahead.

The order is a pure function of seed and step: a resumed training asks for exactly the batches that
are left, without replaying any, and of several processes each asks for its own part of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from tasks.batches import Batch, PairDataset
from tasks.errors import PedAlignError
from tasks.shards import item_seed


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Full shuffling each epoch, as a pure function of seed and step; the remainder is dropped."""

    def __init__(
        self,
        count: int,
        batch: int,
        epochs: int,
        seed: int,
        start: int = 0,
        *,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """Plan the batches from step ``start`` on.

        Args:
            count: Pairs in all.
            batch: Pairs a step, over all processes.
            epochs: How often each pair comes.
            seed: Decides the order.
            start: The first step.
            part: Which part of each batch, of how many: a process's own, of several.

        Raises:
            PedAlignError: There are fewer pairs than a batch holds, or a batch cannot be parted.
        """
        if batch % part[1]:
            raise PedAlignError(
                f"a batch of {batch} for {part[1]} processes",
                "every process takes an equal part of each batch",
                f"set the batch to a multiple of {part[1]}, or processes in runtime.yaml to 1",
            )
        if count < batch:
            raise PedAlignError(
                f"{count} training pairs for a batch of {batch}",
                "an epoch holds at least one whole batch",
                f"set the batch to {count} or less, or train on more data",
            )
        self.count, self.batch, self.epochs = count, batch, epochs
        self.seed, self.start, self.part = seed, start, part

    @property
    def per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.count // self.batch

    def __len__(self) -> int:
        """Count the batches that are left."""
        return max(0, self.epochs * self.per_epoch - self.start)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the keys (epoch, pair) of each batch that is left."""
        for epoch in range(self.start // self.per_epoch, self.epochs):
            rng = np.random.default_rng(item_seed("order", self.seed, str(epoch)))
            order = rng.permutation(self.count)
            begin = (
                self.start - epoch * self.per_epoch if epoch * self.per_epoch < self.start else 0
            )
            for at in range(begin, self.per_epoch):
                rows = order[at * self.batch : (at + 1) * self.batch]
                own, parts = self.part
                rows = rows[own * len(rows) // parts : (own + 1) * len(rows) // parts]
                yield [(epoch, int(row)) for row in rows]


def _as_it_is(batch: Any) -> Any:
    return batch


def load(dataset: PairDataset, order: EpochBatches, workers: int = 0) -> Iterator[Batch]:
    """Iterate over the batches of an order.

    Args:
        dataset: The pairs.
        order: Which, from which step on.
        workers: Processes that prepare batches ahead; 0 prepares in this one. No result depends
            on it.
    """
    return iter(
        DataLoader(
            dataset,
            batch_sampler=order,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
        )
    )
