"""Free what no kept state of the project needs from ``.cache``: the work behind ``pedalign gc``.

    with nobody_writes(cache):
        needs = Needs.of_workspace(root) | Needs.of_revisions(root, revisions(root))
        collect(leftovers(cache, needs, keep_days=1, keep_running_days=14))

A state is the workspace or a commit. It needs the store entries that its manifests name, by the
digest of their content (``shards``, and ``meta["entries"]`` where a folder was made from other
entries than it holds), and the trainings whose files its checkpoints are. Commits are read through
DVC, from its cache or its remote; nothing is checked out.

What is unusual: nothing here may count half. A record goes before the file that it vouches for, so
a kill in between leaves a file that nobody counts, and that the next call frees. And a file may
have several names, in the store, in a published folder and in DVC's cache, all hard links of one
inode: its bytes are free when the last name goes, which `freed` works out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil
from ruamel.yaml import YAML
from upath import UPath

from tasks.disk import Inodes, files_of
from tasks.shards import MANIFEST, is_local
from tasks.store import read_note, read_record, read_schema, remove

log = logging.getLogger(__name__)

Contents = frozenset[tuple[str, str]]
"""The files of a folder: relative path and MD5, which is DVC's name for content."""

_DAY = 86_400.0
_TEMPORARY = re.compile(r"^\..+\.(\d+)\.tmp$")
_CHECKPOINTS = "data/checkpoints"


# ------------------------------------------------------------------ what is needed


@dataclass(frozen=True)
class Needs:
    """What some states of the project need from the store."""

    shards: frozenset[str] = frozenset()
    """SHA-256 of every shard that a manifest names."""
    trainings: frozenset[Contents] = frozenset()
    """The files of every folder below data/checkpoints."""
    unread: tuple[str, ...] = ()
    """A text a commit: the outputs of which neither DVC's cache nor its remote has the manifest or
    the list of files, so that what they need is not known."""

    def __or__(self, other: Needs) -> Needs:
        """Need what either needs."""
        return Needs(
            self.shards | other.shards,
            self.trainings | other.trainings,
            self.unread + other.unread,
        )

    @classmethod
    def of_workspace(cls, project: Path) -> Needs:
        """Read what lies below ``data`` now, whether DVC knows it or not."""
        data = project / "data"
        shards: set[str] = set()
        for path in sorted(data.rglob(MANIFEST)):
            shards |= _named(path.read_bytes())
        files = {
            path.relative_to(project).as_posix(): file_md5(path)
            for path in sorted((project / _CHECKPOINTS).rglob("*"))
            if path.is_file()
        }
        return cls(frozenset(shards), folders(files))

    @classmethod
    def of_revisions(cls, project: Path, names: Iterable[str | None]) -> Needs:
        """Read what commits need, each dvc.lock once: the same one has the same outputs.

        Args:
            project: The project's folder.
            names: Anything that git resolves to a commit; None stands for the workspace's dvc.lock.
        """
        # Half a second to import, which the rest of the command line need not wait for.
        from dvc.api import DVCFileSystem

        needs, seen = cls(), set()
        for name in names:
            is_hash = name is not None and re.fullmatch("[0-9a-f]{40}", name)
            title = "dvc.lock" if name is None else name[:10] if is_hash else name
            options = {"rev": name} if name else {}
            try:
                tree = DVCFileSystem(os.fspath(project), **options)
                lock = tree.read_text("dvc.lock")
            except FileNotFoundError:  # no output was ever committed
                continue
            except Exception as error:  # DVC promises no common ancestor of its errors
                log.debug("%s cannot be read", title, exc_info=True)
                needs |= cls(unread=(f"{title}: everything ({type(error).__name__})",))
                continue
            outputs = locked_outputs(lock)
            if name is None:  # what is there, `of_workspace` reads, whatever DVC has of it
                outputs = [path for path in outputs if not (project / path).exists()]
            elif lock in seen:
                continue
            else:
                seen.add(lock)
            needs |= cls._of_tree(tree, outputs, title)
        return needs

    @classmethod
    def _of_tree(cls, tree: Any, outputs: Iterable[str], title: str) -> Needs:
        files: dict[str, str] = {}
        shards: set[str] = set()
        unread: list[str] = []
        for output in outputs:
            try:
                listed = tree.find(output, detail=True)
                if not listed:
                    raise FileNotFoundError(output)
                for path, info in listed.items():
                    if path.rpartition("/")[2] == MANIFEST:
                        shards |= _named(tree.read_bytes(path))
                    if path.startswith(_CHECKPOINTS):
                        files[path] = str(info.get("md5"))
            except Exception as error:  # as above
                log.debug("%s of %s: %s", output, title, error)
                unread.append(output)
        told = (f"{title}: {', '.join(unread)}",) if unread else ()
        return cls(frozenset(shards), folders(files), told)


def locked_outputs(lock: str) -> list[str]:
    """List the outputs below ``data`` that a dvc.lock names.

    Raises:
        YAMLError: It is no YAML.
    """
    body = YAML(typ="safe", pure=True).load(lock) or {}
    return sorted(
        str(out["path"])
        for stage in body.get("stages", {}).values()
        for out in stage.get("outs", [])
        if str(out["path"]).startswith("data/")
    )


def revisions(
    project: Path, *, tags: bool = True, branches: bool = False, all_commits: bool = False
) -> list[str]:
    """List the commits whose needs are kept; none where there is no git."""
    from dvc.api import all_branches, all_tags
    from dvc.api import all_commits as all_of_them
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    wanted = ((tags, all_tags), (branches, all_branches), (all_commits, all_of_them))
    try:
        found = [name for chosen, names in wanted if chosen for name in names(os.fspath(project))]
    except (DvcException, SCMError, AttributeError):  # the last: a project without git has no tags
        return []
    return list(dict.fromkeys(found))


def _named(manifest: bytes) -> set[str]:
    """Digests of the entries that a folder's manifest names; of another program's, none."""
    try:
        body = json.loads(manifest)
        shards = {str(shard["digest"]) for shard in body.get("shards", ())}
        return shards | {str(digest) for digest in body.get("meta", {}).get("entries", ())}
    except (ValueError, AttributeError, KeyError, TypeError):
        return set()


def folders(files: Mapping[str, str]) -> frozenset[Contents]:
    """List the contents of every folder that holds some of these files, however deep.

    Args:
        files: Path to MD5.
    """
    inside: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for path, md5 in files.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            inside["/".join(parts[:depth])].add(("/".join(parts[depth:]), md5))
    return frozenset(frozenset(found) for found in inside.values())


_hashed: dict[tuple[int, int, int], str] = {}


def file_md5(path: Path) -> str:
    """MD5 of a file; of several names of one inode, only the first is read."""
    status = path.stat()
    key = (status.st_dev, status.st_ino, status.st_mtime_ns)
    if key not in _hashed or not is_local(path):
        with path.open("rb") as source:
            _hashed[key] = hashlib.file_digest(source, _new_md5).hexdigest()
    return _hashed[key]


def _new_md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


# ------------------------------------------------------------------ what goes


@dataclass(frozen=True)
class Leftover:
    """Something that goes, whole."""

    kind: str
    """What it is, in a word or two: "restyled", "training", "running checkpoints"."""
    name: str
    """Its key."""
    paths: tuple[Path, ...]
    """Files and folders, in the order in which they go."""
    size: int
    """Bytes of its files."""


def leftovers(
    cache: Path,
    needs: Needs,
    *,
    keep_days: float,
    keep_running_days: float,
    now: float | None = None,
) -> list[Leftover]:
    """List what nobody needs in a ``.cache`` or a shared store.

    Args:
        cache: ``.cache``, or the location of a shared store.
        needs: What is kept.
        keep_days: Finished entries younger than this are kept.
        keep_running_days: Running checkpoints younger than this are kept, unless their training
            is finished.
        now: Seconds since 1970, for the age.
    """
    now = time.time() if now is None else now
    newest = now - keep_days * _DAY
    return [
        *_shards(cache / "shards", needs, newest),
        *_trainings(cache, needs, newest),
        *(_runs(cache, now - keep_running_days * _DAY) if is_local(cache) else ()),
        *(_half_written(cache) if is_local(cache) else ()),
    ]


def _entries(folder: Path, suffix: str) -> tuple[set[str], set[str]]:
    """Names of the files (or folders) of a store, and of their records."""
    found, records = set(), set()
    for path in folder.iterdir() if folder.exists() else ():
        if path.name.startswith(".") or path.name == "locks":
            continue
        if path.name.endswith(".json"):
            records.add(path.name.removesuffix(".json"))
        elif path.name.endswith(suffix):
            found.add(path.name.removesuffix(suffix))
    return found, records


def _shards(folder: Path, needs: Needs, newest: float) -> Iterator[Leftover]:
    files, notes = _entries(folder, ".parquet")
    kept = set()
    for key in sorted(files | notes):
        path, note = folder / f"{key}.parquet", folder / f"{key}.json"
        record = read_record(folder, key) if key in files and key in notes else None
        if record is None:
            yield _leftover("half an entry", key, [note, path])
        elif (
            record.digest in needs.shards
            or written(path) > newest
            # What belongs to an entry is named after it: <key>-evidence. "-" comes before letters
            # and digits, "<key>" before "<key>-".
            or key.partition("-")[0] in kept
        ):
            kept.add(key)
        else:
            yield _leftover(read_schema(folder, key) or "shard", key, [note, path])


def _trainings(cache: Path, needs: Needs, newest: float) -> Iterator[Leftover]:
    folder = cache / "trainings"
    found, notes = _entries(folder, "")
    for key in sorted(found | notes):
        path, note = folder / key, folder / f"{key}.json"
        if not (key in found and read_note(cache, key)):
            yield _leftover("half a training", key, [note, path])
        elif written(note) <= newest and _contents(path) not in needs.trainings:
            yield _leftover("training", key, [note, path])


def _contents(folder: Path) -> Contents:
    return frozenset(
        (path.relative_to(folder).as_posix(), file_md5(path))
        for path in folder.rglob("*")
        if path.is_file()
    )


def _runs(cache: Path, newest: float) -> Iterator[Leftover]:
    for folder in sorted((cache / "runs").glob("*")):
        finished = read_note(cache, folder.name) and (cache / "trainings" / folder.name).exists()
        last = max((written(path) for path in [folder, *folder.rglob("*")]), default=0.0)
        if finished or last <= newest:
            yield _leftover("running checkpoints", folder.name, [folder])


def _half_written(cache: Path) -> Iterator[Leftover]:
    """List what a process was writing when it was killed."""
    for path in sorted(cache.rglob(".*.tmp")):
        found = _TEMPORARY.match(path.name)
        inside = any(_TEMPORARY.match(parent.name) for parent in path.parents)
        if found and not inside and path.exists() and not _alive(int(found[1]), path):
            yield _leftover("half written", path.name, [path])


def _alive(process: int, path: Path) -> bool:
    """Whether the process that began to write a file still runs; its number may have a new one."""
    try:
        return psutil.Process(process).create_time() <= path.stat().st_mtime
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def written(path: Path) -> float:
    """When a file was written, in seconds since 1970; now, where a location does not tell."""
    if is_local(path):
        return path.stat().st_mtime
    try:
        # UPath's own `stat` knows the time with some of fsspec's drivers only.
        elsewhere = cast("UPath", path)
        return float(elsewhere.fs.modified(elsewhere.path).timestamp())
    except NotImplementedError:
        return time.time()


def _leftover(kind: str, name: str, paths: Iterable[Path]) -> Leftover:
    there = tuple(path for path in paths if path.exists())
    return Leftover(kind, name, there, sum(path.stat().st_size for path in files_of(there)))


def freed(items: Iterable[Leftover]) -> int:
    """Count the bytes that come free: those of the inodes whose last name goes."""
    files = list(files_of(path for item in items for path in item.paths))
    elsewhere = sum(path.stat().st_size for path in files if not is_local(path))
    return elsewhere + Inodes(path for path in files if is_local(path)).own


def collect(items: Iterable[Leftover]) -> None:
    """Remove what was listed, record before file; call it where `nobody_writes`."""
    for item in items:
        for path in item.paths:
            remove(path)
