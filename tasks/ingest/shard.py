"""One shard of a dataset: what it is made from, what it is called in the store, and its making.

A shard's plan (its rows, and the SHA-256 of every file that they name) is written down before any
picture is decoded. It is all that the shard's bytes depend on besides the code, so the key of the
store's entry is taken from it: a run that was killed finds what it had finished, and a new image
touches only the shard that it falls into. A worker needs nothing but the plan's file and the raw
folder, so it may be another process.

What the dataset as a whole wants to know of a picture (its perceptual hash, why a copy of it is
stored) is seen while the picture is decoded anyway. It is kept as a second entry beside the first,
small and without pictures, so that checks over all pictures decode none.
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.duplicates import hash_thumbnails, hash_to_bytes
from tasks.errors import PedAlignError
from tasks.images import ImageError
from tasks.ingest.lmdb_pictures import open_lmdb
from tasks.ingest.picture import Picture, prepare
from tasks.ingest.plan import PLAN
from tasks.ingest.raw import RawFolder
from tasks.provenance import computation_key, digest
from tasks.schemas import OK, REJECTED, conform

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor
    from contextlib import AbstractContextManager

    from tasks.store import ShardStore

_CONTENT = "content"
# What of a plan reaches a shard: neither the regions of SDA nor the count of captions does.
_COLUMNS = tuple(name for name in PLAN.names if name not in {"announced", "regions"})

EVIDENCE = "evidence"


class Pictures(Protocol):
    """Encoded pictures by their `source_path`; every method raises `ImageError`."""

    def find(self, path: str) -> object:
        """Look whether there is such a picture."""
        ...

    def digest(self, path: str) -> str:
        """Return the SHA-256 of its bytes."""
        ...

    def read(self, path: str) -> bytes:
        """Return its bytes."""
        ...


@dataclass(frozen=True)
class ShardSource:
    """Where one dataset's shards are made from; small, since it goes along with every shard."""

    dataset: str
    """The dataset's name."""
    root: str
    """Its raw folder."""
    plans: str
    """Folder of the shards' plans."""
    min_side: int
    """Shortest side of a usable picture, in pixels."""
    max_side: int
    """Longest side that is stored, in pixels."""
    lmdb: str | None = None
    """The LMDB that holds the pictures; None where they are files in `root`."""

    def pictures(self) -> AbstractContextManager[Pictures]:
        """Open the pictures, for any number of threads."""
        if self.lmdb is None:
            return nullcontext(RawFolder(Path(self.root)))
        return open_lmdb(Path(self.lmdb))


# ------------------------------------------------------------------ plans and keys


def clear_plans(source: ShardSource) -> None:
    """Remove the plans that an earlier run left."""
    shutil.rmtree(source.plans, ignore_errors=True)


def write_plan(source: ShardSource, name: str, rows: pa.Table, pool: Executor) -> str:
    """Write down what one shard is made from.

    Args:
        source: The dataset.
        name: The shard's file name.
        rows: Its rows of the dataset's plan, in uid order.
        pool: Reads the files.

    Returns:
        The key of the shard in the store.
    """

    def content(path: str, error: str | None) -> tuple[str | None, str | None]:
        if error:
            return None, error
        try:
            return pictures.digest(path), None
        except ImageError as fault:
            return None, str(fault)

    paths, errors = rows["source_path"].to_pylist(), rows["error"].to_pylist()
    with source.pictures() as pictures:
        found = list(pool.map(content, paths, errors))
    plan = rows.select(_COLUMNS).drop_columns("error")
    plan = plan.append_column("error", pa.array([fault for _, fault in found], pa.string()))
    plan = plan.append_column(_CONTENT, pa.array([digest for digest, _ in found], pa.string()))
    Path(source.plans).mkdir(parents=True, exist_ok=True)
    pq.write_table(plan, Path(source.plans) / name)
    return shard_key(source, plan)


def shard_key(source: ShardSource, plan: pa.Table) -> str:
    """Name a shard by everything that its bytes depend on.

    Of the dataset's section only what is listed here: the rest has done its work once the rows are
    planned, and a world of one person more leaves the pictures of the others as they are.
    """
    return computation_key(
        "ingest",
        # By Python values: Arrow's bytes differ with its chunks, which no result depends on.
        inputs=[digest(plan.to_pylist())],
        params=[source.dataset, source.min_side, source.max_side],
    )


def evidence_key(key: str) -> str:
    """Name the evidence of a shard by the shard's own key."""
    return f"{key}-{EVIDENCE}"


# ------------------------------------------------------------------ making


def make_shard(name: str, source: ShardSource, store: ShardStore) -> pa.Table:
    """Read and check one shard's pictures, and leave their evidence in the store.

    Args:
        name: The shard's file name.
        source: The dataset.
        store: Where the evidence goes; the caller stores the shard.

    Returns:
        The shard, an ``images`` table with a row for every row of its plan.

    Raises:
        PedAlignError: A file is not the one whose content the plan names.
    """
    plan = pq.read_table(Path(source.plans) / name)
    table, evidence = _see(plan, source)
    store.save(evidence_key(shard_key(source, plan)), name, evidence, EVIDENCE)
    return table


def read_evidence(
    entries: Sequence[tuple[str, str]], source: ShardSource, store: ShardStore
) -> pa.Table:
    """Read what is known of all pictures of a dataset, in uid order.

    Args:
        entries: ``(key, file name)`` of every shard.
        source: The dataset.
        store: Holds the evidence; a piece that has been lost is seen again.

    Returns:
        A table of the schema ``evidence``.
    """
    tables = []
    for key, name in entries:
        if store.find(evidence_key(key)) is None:
            make_shard(name, source, store)
        tables.append(store.read(evidence_key(key)))
    return pa.concat_tables(tables)


def _see(plan: pa.Table, source: ShardSource) -> tuple[pa.Table, pa.Table]:

    def look(path: str, error: str | None, content: str) -> Picture | str:
        if error:
            return error
        data = pictures.read(path)
        if hashlib.sha256(data).hexdigest() != content:
            raise _changed(source, path)
        try:
            return prepare(data, source.min_side, source.max_side)
        except ImageError as fault:
            return str(fault)

    columns = (plan[name].to_pylist() for name in ("source_path", "error", _CONTENT))
    try:
        with source.pictures() as pictures:
            looked = [look(*row) for row in zip(*columns, strict=True)]
    except ImageError as fault:  # of `read`: the file was there when the plan was made
        raise _changed(source, fault.detail) from fault
    seen = [each if isinstance(each, Picture) else None for each in looked]
    count = plan.num_rows
    status = {
        "status": [OK if p else REJECTED for p in seen],
        "error": pa.array([None if isinstance(s, Picture) else s for s in looked], pa.string()),
    }
    table = {
        "uid": plan["uid"],
        "dataset": [source.dataset] * count,
        "split": plan["split"],
        "person_id": plan["person_id"],
        "camera": plan["camera"],
        "image": pa.array([p.data if p else None for p in seen], pa.binary()),
        "width": pa.array([p.width if p else 0 for p in seen], pa.int32()),
        "height": pa.array([p.height if p else 0 for p in seen], pa.int32()),
        "captions": plan["captions"],
        "labels": plan["labels"],
        "source_path": plan["source_path"],
        "parent_uid": pa.nulls(count, pa.string()),
    }
    evidence = {
        "uid": plan["uid"],
        "phash": pa.array(_hashes(seen), pa.binary(24)),
        "copied": pa.array([p.copied if p else None for p in seen], pa.string()),
    }
    return conform(pa.table(table | status), "images"), pa.table(evidence | status)


def _hashes(pictures: Sequence[Picture | None]) -> list[bytes | None]:
    usable = [picture.thumbnail for picture in pictures if picture]
    words = hash_thumbnails(np.stack(usable)) if usable else ()
    hashes = iter(words)
    return [hash_to_bytes(next(hashes)) if picture else None for picture in pictures]


def _changed(source: ShardSource, path: str) -> PedAlignError:
    return PedAlignError(
        f"{source.root}: {path} changed while the dataset was read",
        "a shard's key names the content of its files, so they stay as they are meanwhile",
        "let whatever writes there finish, then run dvc repro again",
    )
