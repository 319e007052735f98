"""The store of finished work beside DVC: a shard or a training is computed once.

DVC decides which stages run; this store decides which of their shards are missing. An entry is
named by a digest over everything that its bytes depend on (input content, parameters, model
revisions, seed, code, device class, library versions) and keeps the SHA-256 of its content, which
is compared again before it is reused. Publishing links exactly the wanted entries into the
stage's output and writes the manifest last, so an interrupted stage leaves no output and loses at
most the shard in flight. Of two processes that compute the same entry the first one's stays.

A second, shared store may stand behind the local one (runtime.yaml, ``store``): any location that
fsspec can reach. What is computed, or found here only, goes to both; what is missing here is
fetched from there and verified, so workers on several machines, or colleagues, compute a shard
once between them. A shared store that cannot be used stops the stage: work that silently stays
here would be computed again by everyone else.

Layout, in ``.cache``, which neither git nor DVC tracks, and the same in the shared store::

    shards/<key>.parquet   a finished shard      shards/<key>.json   its record
    runs/<key>/            a training's running checkpoints
    trainings/<key>/       a finished training   trainings/<key>.json  its files' digests

`tasks.collecting` frees what nothing needs any more (``pedalign gc``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from tasks.errors import PedAlignError
from tasks.locks import writing
from tasks.provenance import folder_digest
from tasks.shards import (
    MANIFEST,
    Manifest,
    ShardRecord,
    atomic_write,
    describe_shard,
    file_digest,
    is_local,
    location,
    shard_bytes,
    write_manifest,
)

log = logging.getLogger(__name__)

_RECORD_FIELDS = frozenset(each.name for each in fields(ShardRecord))


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
            removed here, so that it is computed again.

        Raises:
            PedAlignError: The shared store cannot be used.
        """
        found = self._verified(key)
        if found is None:
            return self._fetch(key) if self.shared else None
        if self.shared:
            self._share(key, found)
        return found

    def _verified(self, key: str) -> ShardRecord | None:
        record, path = read_record(self.root, key), self.path(key)
        if record is None or not path.exists():
            return None
        if file_digest(path) == record.digest:
            return record
        with writing(self.root, key):
            # Looked at again: another process may have put it right, or be in the middle of that.
            record = read_record(self.root, key)
            if record is not None and path.exists() and file_digest(path) == record.digest:
                return record
            log.warning("store entry %s… has changed; it is computed again", key[:12])
            (self.root / f"{key}.json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        return None

    def _fetch(self, key: str) -> ShardRecord | None:
        with _using(self.shared):
            behind = location(self.shared)
            record = read_record(behind, key)
            if record is None:
                return None
            try:
                data = (behind / f"{key}.parquet").read_bytes()
            except FileNotFoundError:
                return None
        if hashlib.sha256(data).hexdigest() != record.digest:
            # Or it is being replaced this very moment. The next `save` puts it right.
            log.warning("store entry %s… has changed in %s; not used", key[:12], self.shared)
            return None
        kind = read_schema(behind, key)
        with writing(self.root, key):
            self._put(self.root, key, data, record, kind)
        return record

    def _share(self, key: str, record: ShardRecord) -> None:
        """Put an entry into the shared store unless it is there already."""
        with _using(self.shared):
            behind = location(self.shared)
            theirs = read_record(behind, key)
            if theirs == record and (behind / f"{key}.parquet").exists():
                return
            make_shared(behind)
            self._put(behind, key, self.path(key).read_bytes(), record, read_schema(self.root, key))

    @staticmethod
    def _put(root: Path, key: str, data: bytes, record: ShardRecord, kind: str) -> None:
        """Write the file first, the record that makes it count last."""
        root.mkdir(parents=True, exist_ok=True)
        atomic_write(root / f"{key}.parquet", data)
        atomic_write(root / f"{key}.json", json.dumps(asdict(record) | {"schema": kind}).encode())

    def save(self, key: str, name: str, table: pa.Table, schema_name: str) -> ShardRecord:
        """Store a finished shard, in the shared store too where there is one.

        Returns:
            Its record; that of another process's where one was faster.

        Raises:
            PedAlignError: The shared store cannot be used; the shard is kept here all the same.
        """
        data = shard_bytes(table, schema_name)
        record = describe_shard(name, table, data)
        with writing(self.root, key):
            theirs = read_record(self.root, key)
            if theirs and self.path(key).exists() and file_digest(self.path(key)) == theirs.digest:
                record = theirs
            else:
                self._put(self.root, key, data, record, schema_name)
        if self.shared:
            self._share(key, record)
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

        Raises:
            PedAlignError: An entry has vanished since it was found.
        """
        # First the manifest: a folder whose clearing was cut short does not count as whole.
        (folder / MANIFEST).unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        records = []
        for key, name, record in entries:
            try:
                link_or_copy(self.path(key), folder / name)
            except FileNotFoundError as error:
                raise PedAlignError(
                    f"{self.path(key)}: gone while its stage ran",
                    "the store's entries stay until the stages that use them have ended",
                    "run the same command again; only `pedalign gc` removes entries safely",
                ) from error
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
        """The folder of a finished training whose files are as they were written, or None.

        Raises:
            PedAlignError: The shared store cannot be used.
        """
        folder, expected = self.root / "trainings" / key, read_note(self.root, key)
        if expected is not None:
            if folder.exists() and folder_digest(folder) == expected:
                if self.shared:
                    self._share(key, expected)
                return folder
            log.warning("training %s… has changed; it is trained again", key[:12])
            (self.root / "trainings" / f"{key}.json").unlink(missing_ok=True)
        return self._fetch(key) if self.shared else None

    def _fetch(self, key: str) -> Path | None:
        fetched = self.root / "trainings" / f".{key}.{os.getpid()}.tmp"
        with _using(self.shared):
            behind = location(self.shared)
            expected = read_note(behind, key)
            if expected is None:
                return None
            shutil.rmtree(fetched, ignore_errors=True)
            fetched.mkdir(parents=True)
            copy_folder(behind / "trainings" / key, fetched)
        if folder_digest(fetched) != expected:
            log.warning("training %s… has changed in %s; not used", key[:12], self.shared)
            shutil.rmtree(fetched)
            return None
        return self._keep(key, fetched)

    def _share(self, key: str, expected: str) -> None:
        with _using(self.shared):
            behind = location(self.shared) / "trainings"
            if read_note(behind.parent, key) == expected and (behind / key).exists():
                return
            make_shared(behind)
            remove(behind / f"{key}.json")
            remove(behind / key)  # what another version left would be foreign there
            copy_folder(self.root / "trainings" / key, behind / key)
            atomic_write(behind / f"{key}.json", json.dumps({"digest": expected}).encode())

    def save(self, key: str, finished: Path) -> Path:
        """Move a finished training's folder into the store and drop its running checkpoints.

        Raises:
            PedAlignError: The shared store cannot be used; the training is kept here all the same.
        """
        folder = self._keep(key, finished)
        shutil.rmtree(self.root / "runs" / key, ignore_errors=True)
        if self.shared:
            self._share(key, read_note(self.root, key) or "")
        return folder

    def _keep(self, key: str, finished: Path) -> Path:
        """Move a folder into the local store: its files first, the note that counts last."""
        folder = self.root / "trainings" / key
        digest = folder_digest(finished)
        with writing(folder.parent, key):
            theirs = read_note(self.root, key)
            if theirs is not None and folder.exists() and folder_digest(folder) == theirs:
                shutil.rmtree(finished)  # another process was faster
                return folder
            (folder.parent / f"{key}.json").unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            finished.replace(folder)
            atomic_write(folder.parent / f"{key}.json", json.dumps({"digest": digest}).encode())
        return folder

    def publish(self, key: str, folder: Path) -> None:
        """Make a stage's output hold exactly a finished training's files, all at once."""
        # Put together in .cache: left beside the output by a kill, it would stand among the files
        # of a folder that DVC hashes.
        partial = self.root / "trainings" / f".{folder.name}.{os.getpid()}.tmp"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(self.root / "trainings" / key, partial, copy_function=link_or_copy)
        if folder.exists():
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(partial, folder)  # a rename, or a copy where data is on another disk


# ------------------------------------------------------------------ records and files


def read_record(root: Path, key: str) -> ShardRecord | None:
    """Read an entry's record; None where there is none or it is damaged."""
    try:
        body = json.loads((root / f"{key}.json").read_bytes())
        return ShardRecord(**{name: body[name] for name in body if name in _RECORD_FIELDS})
    except (FileNotFoundError, ValueError, TypeError):
        return None


def read_schema(root: Path, key: str) -> str:
    """Read the schema of an entry, which its record names; empty where it does not."""
    try:
        return str(json.loads((root / f"{key}.json").read_bytes()).get("schema", ""))
    except (FileNotFoundError, ValueError, AttributeError):
        return ""


def read_note(root: Path, key: str) -> str | None:
    """Read the digest of a finished training's files; None where there is none."""
    try:
        return str(json.loads((root / "trainings" / f"{key}.json").read_bytes())["digest"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def remove(path: Path) -> None:
    """Remove a file or a folder at any location, if it is there."""
    if is_local(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    elif path.exists():
        # UPath's own calls differ between drivers; fsspec's do not.
        elsewhere = cast("UPath", path)
        elsewhere.fs.rm(elsewhere.path, recursive=True)


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


def make_shared(folder: Path) -> None:
    """Create ``shards`` or ``trainings`` in a shared store, and the store in a folder that exists.

    Raises:
        FileNotFoundError: It does not: a disk that is not mounted must not become a folder here.
    """
    if is_local(folder) and not folder.parent.parent.is_dir():
        raise FileNotFoundError(f"no folder {folder.parent.parent}")
    folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _using(shared: str) -> Iterator[None]:
    """Turn whatever a driver raises into a paragraph.

    Raises:
        PedAlignError: The shared store cannot be read or written.
    """
    try:
        yield
    except Exception as error:  # every driver of fsspec has errors of its own
        raise PedAlignError(
            f"the shared store {shared}: {type(error).__name__}: {error}",
            "`store` in runtime.yaml is a location that can be read and written; the folder that "
            "holds it exists",
            "mount or repair it, or take `store` out of runtime.yaml; then run the same command "
            "again: what was finished is kept in .cache and handed on then",
        ) from error
