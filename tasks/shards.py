"""Tables on disk: a folder of Parquet shards and a manifest written last.

What is unusual here:

- *Which rows share a shard depends on their uids alone.* A uid starts with 64 hashed bits. The
  rows are split by those bits, halving wherever more than ``shard_rows`` fall together, so a
  shard is a leaf of a binary trie and is named after its path (``b010.parquet``). Adding images
  touches only the leaves that they fall into, and lexicographic order of names is uid order.
- *Randomness belongs to the row* (`item_seed`), so order, workers and resumes change nothing.
- *The manifest's presence means complete.* Shards are written to a temporary name and renamed.
- *Nothing about when or where* goes into the bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from tasks.errors import PedAlignError
from tasks.schemas import OK, SCHEMAS, conform

MANIFEST = "manifest.json"
FORMAT = 1
ROW_GROUP = 64
_UID_DIGITS = 16


@dataclass(frozen=True)
class ShardRecord:
    """One shard as the manifest lists it."""

    name: str
    """File name inside the folder."""
    rows: int
    digest: str
    """SHA-256 of the file."""
    first_uid: str
    last_uid: str
    counts: Mapping[str, int]
    """Rows by status, "ok" or the reason's slug."""


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds."""

    schema_name: str
    shards: tuple[ShardRecord, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: parameters, revisions, findings. Never a time, a host or a path."""

    @property
    def rows(self) -> int:
        """Number of rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by status over all shards."""
        total: Counter[str] = Counter()
        for shard in self.shards:
            total.update(shard.counts)
        return dict(sorted(total.items()))

    @property
    def digest(self) -> str:
        """SHA-256 over the shards' digests: the content of the whole folder."""
        return hashlib.sha256("".join(s.digest for s in self.shards).encode()).hexdigest()


# ------------------------------------------------------------------ names and randomness


def image_uid(dataset: str, path: str) -> str:
    """Name an image by its dataset and its path inside it: 16 hex digits, the same everywhere."""
    return hashlib.blake2b(f"{dataset}/{path}".encode(), digest_size=8).hexdigest()


def item_seed(uid: str, seed: int, purpose: str = "") -> int:
    """Derive the 63-bit seed of one row from its uid, the stage's seed and what it is for."""
    text = f"{seed}\0{purpose}\0{uid}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def partition(uids: Sequence[str], shard_rows: int) -> list[tuple[str, np.ndarray]]:
    """Split rows into shards by the hashed bits of their uids.

    Args:
        uids: uids in any order; the first 16 characters are hex digits.
        shard_rows: Largest number of rows in a shard. Rows with the same 64 bits stay together.

    Returns:
        ``(file name, row indices in uid order)`` for every shard, in uid order.
    """
    if shard_rows < 1:
        raise ValueError(f"shard_rows is {shard_rows}; a shard holds at least one row; raise it")
    order = np.argsort(np.asarray(uids, dtype=object), kind="stable")
    bits = np.array([int(uids[i][:_UID_DIGITS], 16) for i in order], dtype=np.uint64)
    shards: list[tuple[str, np.ndarray]] = []
    stack = [("", 0, len(order))]
    while stack:
        path, low, high = stack.pop()
        if low == high:
            continue
        if high - low <= shard_rows or len(path) == 64:
            shards.append((f"b{path}.parquet", order[low:high]))
            continue
        border = np.uint64((int(path + "1", 2)) << (63 - len(path)))
        middle = low + int(np.searchsorted(bits[low:high], border, side="left"))
        stack += [(path + "1", middle, high), (path + "0", low, middle)]
    return shards


# ------------------------------------------------------------------ writing


_LOCAL = frozenset({"", "file", "local"})


def location(text: str | Path) -> Path:
    """A path on this machine, or what behaves like one: ``s3://bucket/shards``, ``memory://x``.

    Whatever fsspec has a driver for; a driver that is not installed is named by its own error.
    """
    found = UPath(text)
    # Others have a class of their own with Path's methods.
    return Path(found.path) if found.protocol in _LOCAL else cast("Path", found)


def is_local(path: Path) -> bool:
    """Whether a location is on a file system of this machine."""
    return isinstance(path, Path)


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file at any location, for reading row groups."""
    return pq.ParquetFile(path if is_local(path) else path.open("rb"))


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file of this machine for writing; it is absent or whole, whenever the process dies."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(path)
    except BaseException:  # a full disk needs every byte
        temporary.unlink(missing_ok=True)
        raise


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file at any location so that it is either absent or whole."""
    if not is_local(path):  # an object store shows an object when it is whole
        path.write_bytes(data)
        return
    with atomic_file(path) as sink:
        sink.write(data)


def shard_bytes(table: pa.Table, schema_name: str) -> bytes:
    """Encode one shard: conforming, row groups of at most 64 rows, the same bytes every time."""
    table = conform(table, schema_name)
    sink = pa.BufferOutputStream()
    # Pictures are compressed already; zstd is for the text beside them.
    compression = {name: "none" if name == "image" else "zstd" for name in table.column_names}
    pq.write_table(table, sink, row_group_size=ROW_GROUP, compression=compression)
    return bytes(sink.getvalue())


def status_counts(table: pa.Table) -> dict[str, int]:
    """Count rows by status: "ok" or the slug before the colon of the reason."""
    slugs = [
        OK if status == OK else str(error).split(":", 1)[0]
        for status, error in zip(
            table["status"].to_pylist(), table["error"].to_pylist(), strict=True
        )
    ]
    return dict(sorted(Counter(slugs).items()))


def describe_shard(name: str, table: pa.Table, data: bytes) -> ShardRecord:
    """Describe encoded shard ``data`` for a manifest."""
    uids = table["uid"]
    return ShardRecord(
        name=name,
        rows=table.num_rows,
        digest=hashlib.sha256(data).hexdigest(),
        first_uid=uids[0].as_py(),
        last_uid=uids[-1].as_py(),
        counts=status_counts(table),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest: the last act of a stage, since its presence means complete."""
    body = {
        "format": FORMAT,
        "schema": manifest.schema_name,
        "rows": manifest.rows,
        "counts": manifest.counts,
        "shards": [asdict(shard) for shard in manifest.shards],
        "meta": manifest.meta,
    }
    text = json.dumps(body, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    atomic_write(folder / MANIFEST, text.encode())


def write_folder(
    folder: Path,
    tables: Iterable[pa.Table],
    schema_name: str,
    meta: Mapping[str, Any] | None = None,
    shard_rows: int | None = None,
    names: Iterable[str] | None = None,
) -> Manifest:
    """Write tables as a folder of shards with its manifest.

    Args:
        folder: Where to; created.
        tables: With ``shard_rows``: any tables, held in memory and split by `partition`.
            Without: one table a shard in uid order, written as they come (flat memory).
        schema_name: Key of `tasks.schemas.SCHEMAS`.
        meta: What the manifest records about the making.
        shard_rows: Largest number of rows in a shard.
        names: File names of the shards where ``shard_rows`` is not given, from `partition`.

    Returns:
        The manifest that was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if shard_rows is not None:
        whole = pa.concat_tables([_in_uid_order(table) for table in tables])
        parts = partition(whole["uid"].to_pylist(), shard_rows)
        names = [name for name, _ in parts]
        tables = (whole.take(pa.array(rows)) for _, rows in parts)
    elif names is None:
        raise ValueError("neither shard_rows nor names is given; one decides the borders; give one")
    records = []
    for name, table in zip(names, tables, strict=True):
        data = shard_bytes(table, schema_name)
        atomic_write(folder / name, data)
        records.append(describe_shard(name, table, data))
    manifest = Manifest(schema_name, tuple(records), dict(meta or {}))
    write_manifest(folder, manifest)
    return manifest


def _in_uid_order(table: pa.Table) -> pa.Table:
    """Sort a table's rows by uid."""
    return table.sort_by("uid")


# ------------------------------------------------------------------ reading


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest.

    Raises:
        PedAlignError: There is none (the stage that writes the folder has not finished), or it
            was written by another format of this program.
    """
    try:
        body = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise PedAlignError(
            f"{folder}: no {MANIFEST}",
            "a folder of shards is complete when its manifest is there",
            "run the stage that writes it: dvc repro",
        ) from None
    except ValueError as error:
        raise PedAlignError(
            f"{folder / MANIFEST}: not JSON ({error})",
            "manifests are written by this program only",
            "delete the folder and run dvc repro",
        ) from error
    if body.get("format") != FORMAT or body.get("schema") not in SCHEMAS:
        raise PedAlignError(
            f"{folder / MANIFEST}: format {body.get('format')!r}, schema {body.get('schema')!r}",
            f"this program reads format {FORMAT} and the schemas {sorted(SCHEMAS)}",
            "delete the folder and run dvc repro",
        )
    shards = tuple(ShardRecord(**shard) for shard in body["shards"])
    return Manifest(body["schema"], shards, body["meta"])


def read_shard(
    folder: Path, record: ShardRecord, columns: Sequence[str] | None = None, *, verify: bool = True
) -> pa.Table:
    """Read one shard.

    Args:
        folder: The folder of shards.
        record: The shard, from the manifest.
        columns: Only these columns.
        verify: Compare the file with the manifest's digest first.

    Raises:
        PedAlignError: The file is missing or its content is not what the manifest says.
    """
    path = folder / record.name
    if not path.exists():
        raise PedAlignError(
            f"{path}: missing",
            f"{MANIFEST} lists it",
            "python -m flows.mending, which drops what has changed, then dvc repro",
        )
    if verify and file_digest(path) != record.digest:
        raise PedAlignError(
            f"{path}: its content has changed since it was written",
            f"{MANIFEST} gives SHA-256 {record.digest[:12]}…",
            "python -m flows.mending, which drops what has changed, then dvc repro",
        )
    with path.open("rb") as source:
        return pq.read_table(source, columns=list(columns) if columns is not None else None)


def read_named(folder: Path, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the shard of a folder that has this file name, verified. See `read_shard`."""
    for record in read_manifest(folder).shards:
        if record.name == name:
            return read_shard(folder, record, columns)
    raise PedAlignError(
        f"{folder}: no shard {name}",
        "side tables have the shards of the images that they belong to",
        "run dvc repro: the two folders come from different runs",
    )


def iter_tables(
    folder: Path, columns: Sequence[str] | None = None, *, verify: bool = True
) -> Iterator[pa.Table]:
    """Read a folder shard by shard in uid order; one shard is in memory at a time."""
    for record in read_manifest(folder).shards:
        yield read_shard(folder, record, columns, verify=verify)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def join_side(images: pa.Table, *sides: pa.Table) -> pa.Table:
    """Put side tables beside their images, row by row.

    Args:
        images: A table with ``uid``.
        *sides: Tables with exactly the same uids. Columns that ``images`` already has are taken
            from the side table instead: later stages overrule earlier ones (captions, status).

    Raises:
        PedAlignError: The uids differ.
    """
    joined = images
    for side in sides:
        left, right = images["uid"], side["uid"]
        if left.length() != right.length() or not pc.all(pc.equal(left, right)).as_py():
            extra = sorted(set(left.to_pylist()) ^ set(right.to_pylist()))
            raise PedAlignError(
                f"{left.length()} images, {right.length()} side rows; differing: {extra[:5]}",
                "a side table holds exactly the uids of its images, in their order",
                "run dvc repro: the two folders come from different runs",
            )
        for column in side.column_names:
            if column == "uid":
                continue
            if column in joined.column_names:
                at = joined.column_names.index(column)
                joined = joined.set_column(at, side.schema.field(column), side[column])
            else:
                joined = joined.append_column(side.schema.field(column), side[column])
    return joined
