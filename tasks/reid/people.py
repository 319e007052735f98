"""Who is seen on which picture by which camera: a split's rows as flat arrays.

A dataset of the format ``market1501`` says in its file names what a picture is for: those below
``query`` are looked for among those below ``bounding_box_test``; there, detections that hit no
person are named -1 and count for nothing, and 0000 are distractors, whom nobody looks for. Of any
other dataset every test picture of a known person is looked for among all the others.

Shapes: N pictures of a split, Q queries, G gallery pictures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.errors import PedAlignError
from tasks.market import FORMAT, GALLERY, JUNK, QUERY
from tasks.pictures import Pictures
from tasks.schemas import OK
from tasks.shards import read_manifest, read_shard

Numbers = NDArray[np.int64]

_COLUMNS = [
    "uid", "split", "person_id", "camera", "source_path", "width", "height", "status", "error",
]  # fmt: skip


@dataclass(frozen=True)
class People:
    """The usable pictures of a split, in uid order, without their pixels."""

    uids: pa.Array
    names: pa.Array
    """(N,) person_id; null where unknown."""
    places: pa.Array
    """(N,) camera; null where unknown."""
    paths: pa.Array
    """(N,) source_path."""
    person: Numbers
    """(N,) identity, numbered from 0 without a gap; -1 where unknown."""
    camera: Numbers
    """(N,) camera from 0; where unknown, a negative number of the picture's own."""
    skipped: Mapping[str, int]
    """Rows left out, by reason."""

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.uids)

    @property
    def count(self) -> int:
        """How many different people are known."""
        return int(self.person.max(initial=-1)) + 1


@dataclass(frozen=True)
class Roles:
    """What the pictures of a test split are for."""

    query: Numbers
    """(Q,) numbers of the pictures that are looked for, ascending."""
    gallery: Numbers
    """(G,) numbers of those among which."""
    counts: Mapping[str, int]
    """``junk``, detections of nobody that are left out, and ``distractors`` in the gallery."""
    protocol: str
    """``query and gallery`` or ``each against the others``."""


def read_people(images: Path, split: str, *, known: bool = False) -> tuple[People, Pictures]:
    """Read a split of a folder of shards.

    Args:
        images: Folder with schema ``images`` or ``restyled``.
        split: Which.
        known: Whether to leave out pictures of nobody known, for training.

    Raises:
        PedAlignError: Nothing is left.
    """
    tables: list[pa.Table] = []
    places: list[Numbers] = []
    skipped: dict[str, int] = {}
    for number, record in enumerate(read_manifest(images).shards):
        table = read_shard(images, record, _COLUMNS, verify=False)
        wanted = pc.equal(table["split"], split)
        usable = pc.equal(table["status"], OK)
        named = pc.is_valid(table["person_id"]) if known else pc.is_valid(table["uid"])
        for reason, mask in (
            ("not usable", pc.and_(wanted, pc.invert(usable))),
            ("nobody known", pc.and_(wanted, pc.and_(usable, pc.invert(named)))),
        ):
            if count := pc.sum(mask).as_py():
                skipped[reason] = skipped.get(reason, 0) + count
        keep = pc.and_(wanted, pc.and_(usable, named)).to_numpy()
        rows = np.flatnonzero(keep)
        tables.append(table.take(pa.array(rows)))
        places.append(np.stack([np.full_like(rows, number), rows], axis=1))
    meta = pa.concat_tables(tables).combine_chunks()
    if not meta.num_rows:
        raise PedAlignError(
            f"{images}: no usable picture in its split {split} ({skipped or 'no row'})",
            "re-identification trains on the people of `train` and looks for those of `test`",
            "name a dataset whose shards have splits and identities",
        )
    names, cameras = (_column(meta, name) for name in ("person_id", "camera"))
    person, camera = _numbered(names), _numbered(cameras)
    alone = -1 - np.arange(len(camera))
    sizes = (meta[side].to_numpy().astype(np.int64) for side in ("height", "width"))
    pictures = Pictures(images, np.concatenate(places), *sizes)
    people = People(
        uids=_column(meta, "uid"),
        names=names,
        places=cameras,
        paths=_column(meta, "source_path"),
        person=person,
        camera=np.where(camera < 0, alone, camera),
        skipped=skipped,
    )
    return people, pictures


def roles(people: People, form: str) -> Roles:
    """Say which pictures are looked for, and among which.

    Args:
        people: A test split.
        form: The dataset's format, as its manifest says.

    Raises:
        PedAlignError: Nobody can be looked for.
    """
    if form == FORMAT:
        paths = [PurePosixPath(path) for path in people.paths.to_pylist()]
        folder = np.array([path.parent.name for path in paths])
        junk = np.array([path.name.startswith(f"{JUNK}_") for path in paths])
        found = Roles(
            query=np.flatnonzero((folder == QUERY) & (people.person >= 0)),
            gallery=np.flatnonzero((folder == GALLERY) & ~junk),
            counts={
                "junk": int(((folder == GALLERY) & junk).sum()),
                "distractors": int(((folder == GALLERY) & ~junk & (people.person < 0)).sum()),
            },
            protocol="query and gallery",
        )
    else:
        found = Roles(
            query=np.flatnonzero(people.person >= 0),
            gallery=np.arange(len(people)),
            counts={"junk": 0, "distractors": int((people.person < 0).sum())},
            protocol="each against the others",
        )
    if not len(found.query) or not len(found.gallery):
        raise PedAlignError(
            f"{len(found.query)} queries for a gallery of {len(found.gallery)} pictures",
            "somebody known is looked for among the pictures of the test split",
            "name a dataset with identities in its test split",
        )
    return found


def check_findable(people: People, part: Roles, split: str) -> None:
    """Refuse a split in which nobody can be found, before anything is computed for it.

    Args:
        people: The split.
        part: What its pictures are for.
        split: Its name.

    Raises:
        PedAlignError: No query has a picture of the same person by another camera.
    """
    seen: dict[int, set[int]] = defaultdict(set)
    for person, camera in zip(
        people.person[part.gallery].tolist(), people.camera[part.gallery].tolist(), strict=True
    ):
        seen[person].add(camera)
    asked = zip(people.person[part.query].tolist(), people.camera[part.query].tolist(), strict=True)
    if not any(seen[person] - {camera} for person, camera in asked):
        raise PedAlignError(
            f"split {split}: none of {len(part.query)} queries has a match",
            "a match is a picture of the same person by another camera; where no camera is known, "
            "any other picture of the person",
            "name a dataset whose people are seen by several cameras, or with several pictures of "
            "each and no cameras",
        )


def _column(table: pa.Table, name: str) -> pa.Array:
    return table[name].combine_chunks()


def _numbered(names: pa.Array) -> Numbers:
    """Numbers from 0 in the order of the names; -1 for null."""
    known = sorted(set(names.drop_null().to_pylist()))
    place = pc.fill_null(pc.index_in(names, pa.array(known, pa.string())), -1)
    found: Numbers = place.to_numpy(zero_copy_only=False).astype(np.int64)
    return found
