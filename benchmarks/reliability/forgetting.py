"""Make a project forget what a stage made, so that ``dvc repro`` runs that stage and no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.reliability.project import Project, Reference


def forget(
    project: Project, reference: Reference, stages: Iterable[str], *, store: bool = True
) -> None:
    """Remove every trace of some stages' results.

    Args:
        project: A copy of the finished reference.
        reference: Which says whose the store's entries are.
        stages: Their names, as dvc.lock has them.
        store: Whether the store's entries go too; else the stages find all of their shards.
    """
    chosen = set(stages)
    lock = project.lock()
    forgotten = {stage: lock.pop(stage) for stage in chosen}
    objects = project.folder / ".dvc" / "cache" / "files" / "md5"
    kept = {digest for entry in lock.values() for digest in _objects(objects, entry)}
    for entry in forgotten.values():
        for digest in set(_objects(objects, entry)) - kept:
            (objects / digest[:2] / digest[2:]).unlink(missing_ok=True)
        for out in entry.get("outs", []):
            _remove(project.folder / out["path"])
    commands = {entry["cmd"] for entry in forgotten.values()}
    for path in (project.folder / ".dvc" / "cache" / "runs").glob("*/*/*"):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        if first.removeprefix("cmd: ") in commands:
            path.unlink()
            if not any(path.parent.iterdir()):  # DVC fails at an empty folder
                path.parent.rmdir()
    project.write_lock(lock)
    cache = project.folder / ".cache"
    for stage in chosen:
        for folder in ("timings", "reuse"):
            (cache / folder / f"{stage}.json").unlink(missing_ok=True)
        if store:
            for name in (n for n, owner in reference.owners.items() if owner == stage):
                record = cache / name
                for path in (record, record.with_suffix(".parquet"), record.with_suffix("")):
                    _remove(path)


def forget_raw(project: Project, dataset: str) -> None:
    """Remove a drawn dataset, so that it is drawn again."""
    _remove(project.folder / "data" / "raw" / dataset)


def _objects(objects: Path, entry: dict[str, Any]) -> Iterator[str]:
    """Digests of the objects in DVC's cache that hold a stage's outputs."""
    for out in entry.get("outs", []):
        digest = out.get("md5", "")
        yield digest
        if digest.endswith(".dir"):
            listing = objects / digest[:2] / digest[2:]
            if listing.exists():
                yield from (file["md5"] for file in json.loads(listing.read_bytes()))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
