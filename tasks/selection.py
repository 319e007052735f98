"""Which epoch's weights a fine-tuning keeps, and which people say so.

The honest choice is made on people who neither train nor test: on the dataset's ``val`` split or,
where it has none, on a share of the train people, held out. ``last`` chooses nothing. ``test``
chooses on the test split, as the released MRA and APTM did for every published number; it is there
to reproduce them, and its own figures on that split are optimistic.

What is unusual: who is held out follows from a hash of each person's name alone, so it is the same
on every machine and in every order, and a person who joins or leaves the dataset moves nobody else.
The test split's pictures are opened only where a choice on it was asked for.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.batches import Pairs, read_pairs
from tasks.errors import PedAlignError
from tasks.pictures import Pictures
from tasks.shards import read_manifest, read_shard

log = logging.getLogger(__name__)

Select = Literal["last", "val", "test"]
Judge = Literal["val", "held-out", "test"]
Choice = Literal["last", "val", "held-out", "test"]

WATCHED = ("R5", "R10", "mAP", "mINP")
"""Measures of an epoch that are written down beside R1 and choose nothing."""
BY_TEST = "by-test"
"""Folder, inside a checkpoint, of the weights that the test split chose."""


def held_out(people: pa.Array | pa.ChunkedArray, share: float) -> NDArray[np.bool_]:
    """Say which rows show a person who is held out.

    Args:
        people: (N,) person_id; null, where the person is unknown, is never held out.
        share: About which share of the people; each is held out or not by a hash of the name.

    Returns:
        (N,) whether the row's person is held out.
    """
    column = people.combine_chunks() if isinstance(people, pa.ChunkedArray) else people
    coded = column.dictionary_encode()
    limit = share * 2.0**64
    out = np.array([_place(name) < limit for name in coded.dictionary.to_pylist()], dtype=np.bool_)
    rows = pc.fill_null(coded.indices, len(out)).to_numpy(zero_copy_only=False)
    return np.append(out, [False])[rows]


def _place(person: str) -> int:
    """A person's place below 2**64, which ``printf holdout/NAME | b2sum -l 64`` gives as well."""
    digest = hashlib.blake2b(f"holdout/{person}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def not_held_out(people: pa.Array | pa.ChunkedArray, share: float) -> NDArray[np.bool_]:
    """The other rows."""
    return ~held_out(people, share)


@dataclass(frozen=True)
class Selection:
    """What chooses the epoch, and what else is watched."""

    chosen_on: Choice
    judges: tuple[Judge, ...]
    """On whom every epoch is ranked."""
    share: float = 0.0
    """Of the train people, held out; 0 trains on all."""

    @property
    def trains(self) -> Callable[[pa.Array], NDArray[np.bool_]] | None:
        """Who of the train split trains; None: all."""
        return partial(not_held_out, share=self.share) if self.share else None

    def read(self, images: Path, judge: Judge) -> tuple[Pairs, Pictures]:
        """Read the queries and the gallery of a judge, as an evaluation does.

        Raises:
            PedAlignError: It has none.
        """
        if judge != "held-out":
            return read_pairs(images, split=judge, identity="person", bare=True)
        held = partial(held_out, share=self.share)
        return read_pairs(images, split="train", identity="person", people=held, bare=True)

    def record(
        self, judged: Mapping[Judge, Pairs], scores: Mapping[str, list[float]], *, reranked: bool
    ) -> dict[str, Any]:
        """Say for training.json on whom every epoch was ranked, and how well it did.

        Args:
            judged: The queries by judge; where ``held-out`` is one, they did not train.
            scores: R@1 of every epoch by judge, percent, and what `named` gave besides.
            reranked: Whether the fusion encoder took part.
        """
        chose = {judge: each for judge, each in scores.items() if "/" not in judge}
        return {
            "measure": "R@1 after re-ranking" if reranked else "R@1 by features alone",
            "judges": {
                judge: {"people": len(set(pairs.person.tolist())), "pairs": len(pairs)}
                for judge, pairs in judged.items()
            },
            "scores": {judge: [round(one, 4) for one in each] for judge, each in chose.items()},
            "curve": curve(scores),
        }


def named(judge: Judge, measures: Mapping[str, float]) -> dict[str, float]:
    """Measures of an epoch as scores of a training: R1 under the judge's name, which chooses.

    The others are under names with a slash ("val/mAP"): `tasks.training` carries them through an
    interruption like any score, and keeps no weights for them.
    """
    return {judge: measures["R1"]} | {f"{judge}/{name}": measures[name] for name in WATCHED}


def curve(scores: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Every epoch's measures by judge, in percent: what `named` took apart.

    Args:
        scores: Score to its value after every epoch.

    Returns:
        A mapping an epoch: ``epoch`` from 1, ``val`` and ``test`` (null where nobody asked them),
        and ``held-out`` where train people were held out.
    """
    judges = [name for name in scores if "/" not in name]
    rows: list[dict[str, Any]] = []
    for at in range(max((len(each) for each in scores.values()), default=0)):
        row: dict[str, Any] = {"epoch": at + 1, "val": None, "test": None}
        for judge in judges:
            told = {"R1": scores[judge], **{m: scores.get(f"{judge}/{m}") for m in WATCHED}}
            row[judge] = {name: round(each[at], 4) for name, each in told.items() if each}
        rows.append(row)
    return rows


def plan_selection(
    images: Path, select: Select, holdout: float, *, keep_test_choice: bool
) -> Selection:
    """Settle how a training on a dataset chooses its epoch.

    Args:
        images: The dataset's shards.
        select: What was asked for.
        holdout: Share of the train people to hold out where the choice is validation's and the
            dataset has no ``val`` split.
        keep_test_choice: Whether to keep the test split's choice as well.

    Raises:
        PedAlignError: Validation has nobody, or both choices cannot come from one training.
    """
    if select == "last":
        return Selection("last", ("test",) if keep_test_choice else ())
    if select == "test":
        log.warning(
            "%s: the epoch is chosen on the TEST split, as for published numbers; figures on that "
            "split are optimistic, and `select: val` gives fair ones",
            images,
        )
        return Selection("test", ("test",))
    if has_split(images, "val"):
        return Selection("val", ("val", "test") if keep_test_choice else ("val",))
    if not holdout:
        raise PedAlignError(
            f"{images}: no val split, and `holdout` is 0",
            "`select: val` chooses the epoch on people who do not train",
            "set holdout to a share of the train people such as 0.05, or select to last",
        )
    if keep_test_choice:
        raise PedAlignError(
            f"{images}: no val split, so {holdout:g} of the train people are held out, and "
            "`keep_test_choice` is true",
            "the published protocol, which chooses on test, trains on all of the train split",
            "set keep_test_choice to false, and add a second entry to finetune.datasets with the "
            "same images and select: test",
        )
    people = pc.unique(_column(images, "person_id", "train")).drop_null()
    apart = int(held_out(people, holdout).sum())
    if apart in {0, len(people)}:
        raise PedAlignError(
            f"{images}: a holdout of {holdout:g} takes {apart} of {len(people)} train people",
            "some people train, and some others choose the epoch",
            f"{'lower' if apart else 'raise'} holdout, or set select to last",
        )
    return Selection("held-out", ("held-out",), holdout)


def has_split(images: Path, split: str) -> bool:
    """Whether a dataset's shards have a row of that split."""
    return len(_column(images, "uid", split)) > 0


def _column(images: Path, name: str, split: str) -> pa.ChunkedArray:
    """Read a column of a split's rows."""
    parts = [
        read_shard(images, record, [name, "split"], verify=False)
        for record in read_manifest(images).shards
    ]
    table = pa.concat_tables(parts)
    return table.filter(pc.equal(table["split"], split))[name]
