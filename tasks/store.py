"""The store of finished work beside DVC: a shard or a training is computed once.

DVC decides which stages run; this store decides which of their shards are missing. An entry is
named by a digest over everything that its bytes depend on (input content, parameters, model
revisions, seed, code, device class, library versions) and keeps the SHA-256 of its content, which
is compared again before it is reused. Publishing links exactly the wanted entries into the
stage's output and writes the manifest last, so an interrupted stage leaves no output and loses at
most the shard in flight.

A second, shared store may stand behind the local one (runtime.yaml, ``store``): any location that
fsspec can reach. What is computed goes to both; what is missing here is fetched from there, so
workers on several machines, or colleagues, compute a shard once between them.

Layout, in ``.cache``, which neither git nor DVC tracks, and the same in the shared store::

    shards/<key>.parquet   a finished shard      shards/<key>.json   its record
    runs/<key>/            a training's running checkpoints
    trainings/<key>/       a finished training   trainings/<key>.json  its files' digests
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from tasks.errors import PedAlignError
from tasks.provenance import folder_digest
from tasks.shards import (
    Manifest,
    ShardRecord,
    atomic_write,
    describe_shard,
    file_digest,
    location,
    shard_bytes,
    write_manifest,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardStore:
    """Finished shards by key."""

    root: Path
    """Usually ``.cache/shards``."""
    shared: str = ""
    """Location of the store behind it, or empty; a text, so that a store can be sent anywhere."""

    def path(self, key: str) -> Path:
        """Where an entry's Parquet file is."""
        return self.root / f"{key}.parquet"

    def find(self, key: str) -> ShardRecord | None:
        """Look an entry up, here and then in the shared store, and verify its content.

        Returns:
            The record, or None where the entry is absent or its bytes have changed; then it is
            removed, so that it is computed again.
        """
        found = self._find_in(self.root, key)
        if found is not None or not self.shared:
            return found
        behind = location(self.shared)
        found = self._find_in(behind, key)
        if found is not None:
            self._put(self.root, key, (behind / f"{key}.parquet").read_bytes(), found)
        return found

    @staticmethod
    def _find_in(root: Path, key: str) -> ShardRecord | None:
        try:
            record = ShardRecord(**json.loads((root / f"{key}.json").read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        path = root / f"{key}.parquet"
        if path.exists() and file_digest(path) == record.digest:
            return record
        if path.exists():
            log.warning("store entry %s… has changed in %s; it is computed again", key[:12], root)
            path.unlink()
        return None

    @staticmethod
    def _put(root: Path, key: str, data: bytes, record: ShardRecord) -> None:
        """Write the file first, the record that makes it count last."""
        root.mkdir(parents=True, exist_ok=True)
        atomic_write(root / f"{key}.parquet", data)
        atomic_write(root / f"{key}.json", json.dumps(asdict(record)).encode())

    def save(self, key: str, name: str, table: pa.Table, schema_name: str) -> ShardRecord:
        """Store a finished shard, in the shared store too where there is one."""
        data = shard_bytes(table, schema_name)
        record = describe_shard(name, table, data)
        for root in (self.root, *([location(self.shared)] if self.shared else [])):
            self._put(root, key, data, record)
        return record

    def read(self, key: str) -> pa.Table:
        """Read an entry that `find` or `save` has vouched for."""
        return pq.read_table(self.path(key))

    def publish(
        self,
        folder: Path,
        schema_name: str,
        entries: Sequence[tuple[str, str, ShardRecord]],
        meta: Mapping[str, Any],
    ) -> Manifest:
        """Make a folder hold exactly some entries, and write its manifest last.

        Args:
            folder: The stage's output. Whatever else is in it is removed.
            schema_name: Key of `tasks.schemas.SCHEMAS`.
            entries: ``(key, file name, record)`` in uid order.
            meta: What the manifest records about the making.
        """
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        records = []
        for key, name, record in entries:
            link_or_copy(self.path(key), folder / name)
            records.append(replace(record, name=name))
        manifest = Manifest(schema_name, tuple(records), dict(meta))
        write_manifest(folder, manifest)
        return manifest


@dataclass(frozen=True)
class TrainingStore:
    """Finished trainings by key, and the folders of running ones."""

    root: Path
    """Usually ``.cache``."""
    shared: str = ""
    """Location of the store behind it, or empty. Running checkpoints stay here."""

    def running(self, key: str) -> Path:
        """The folder for a training's running checkpoints; created."""
        folder = self.root / "runs" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def find(self, key: str) -> Path | None:
        """The folder of a finished training whose files are as they were written, or None."""
        folder = self._find_in(self.root, key)
        if folder is not None or not self.shared:
            return folder
        behind = self._find_in(location(self.shared), key)
        if behind is None:
            return None
        fetched = self.root / "trainings" / f".{key}.{os.getpid()}.tmp"
        copy_folder(behind, fetched)
        return self._keep(key, fetched)

    @staticmethod
    def _find_in(root: Path, key: str) -> Path | None:
        folder, note = root / "trainings" / key, root / "trainings" / f"{key}.json"
        try:
            digest = json.loads(note.read_bytes())["digest"]
        except (FileNotFoundError, ValueError, KeyError):
            return None
        if folder.exists() and digest == folder_digest(folder):
            return folder
        log.warning("training %s… has changed in %s; it is trained again", key[:12], root)
        note.unlink()
        return None

    def save(self, key: str, finished: Path) -> Path:
        """Move a finished training's folder into the store and drop its running checkpoints."""
        folder = self._keep(key, finished)
        if self.shared:
            behind = location(self.shared) / "trainings"
            copy_folder(folder, behind / key)
            atomic_write(behind / f"{key}.json", (folder.parent / f"{key}.json").read_bytes())
        shutil.rmtree(self.root / "runs" / key, ignore_errors=True)
        return folder

    def _keep(self, key: str, finished: Path) -> Path:
        """Move a folder into the local store: its files first, the note that counts last."""
        folder = self.root / "trainings" / key
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        note = json.dumps({"digest": folder_digest(finished)}).encode()
        finished.replace(folder)
        atomic_write(folder.parent / f"{key}.json", note)
        return folder

    def publish(self, key: str, folder: Path) -> None:
        """Make a stage's output hold exactly a finished training's files."""
        if folder.exists():
            shutil.rmtree(folder)
        source = self.root / "trainings" / key
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.copytree(source, partial, copy_function=link_or_copy)
        partial.replace(folder)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder's files between any two locations."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(source).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(copy, path.read_bytes())


def link_or_copy(source: str | Path, target: str | Path) -> str:
    """Hard-link a file, or copy it where the file system does not allow that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return str(target)


def output_lock(folder: Path, root: Path) -> FileLock:
    """Take the right to write a stage's output; held until the lock is released.

    Raises:
        PedAlignError: Another living process holds it.
    """
    (root / "locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / "locks" / (folder.as_posix().strip("/").replace("/", "-") + ".lock"))
    try:
        lock.acquire(timeout=5)
    except Timeout:
        raise PedAlignError(
            f"{folder}: another process is writing it",
            "one process at a time writes a stage's output",
            "wait for the other dvc repro to end, or stop it",
        ) from None
    return lock
