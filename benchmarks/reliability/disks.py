"""Full disks: of the store while shards are computed, while a training is, and of everything."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.reliability.bench import Bench
from benchmarks.reliability.case import SHARDS, TRAINING, Case
from benchmarks.reliability.project import Project
from benchmarks.reliability.results import FaultOutcome

ROOM = 40
"""Percent of a stage's store entries that a full disk has room for."""
SPARE = 48 << 10
"""Bytes left on a full disk that holds everything."""
FULL = r"(?i)no space left|disk is full|full disk"


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a tmpfs at a folder for the while.

    Yields:
        Whether it is there: not every user may mount.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def leave_room(disk: Path, size: int) -> None:
    """Resize a small disk so that ``size`` bytes are free."""
    used = shutil.disk_usage(disk).used
    subprocess.run(["mount", "-o", f"remount,size={used + size}", str(disk)], check=True)


def full_store(bench: Bench) -> FaultOutcome:
    """The disk of ``.cache`` fills up in the middle of a stage of shards."""
    return _full_cache(bench, "full store", SHARDS)


def full_store_in_training(bench: Bench) -> FaultOutcome:
    """The disk of ``.cache`` fills up while a training writes its checkpoint."""
    return _full_cache(bench, "full store in training", TRAINING)


def _full_cache(bench: Bench, name: str, stage: str) -> FaultOutcome:
    case = Case(bench, name)
    cache = case.project.folder / ".cache"
    size = sum(f.stat().st_size for e in case.entries(stage) for f in _files(cache / e))
    case.forget(stage)
    room = size * ROOM // 100
    how = f"`.cache` on a tmpfs with {room // 1024} kB free, `{stage}` to be run"
    aside = cache.rename(bench.folder / "cache-aside")
    with small_disk(cache) as mounted:
        subprocess.run(["cp", "-a", f"{aside}/.", str(cache)], check=True)
        shutil.rmtree(aside)
        if not mounted:
            return case.finish(how=how, seen="not tried: this user may not mount", said=None)
        leave_room(cache, room)
        said = case.run()
        kept = case.entries(stage)
        leave_room(cache, 1 << 30)
        again = case.run()
        now = case.entries(stage)
        twice = sum(now.get(n) != entry for n, entry in kept.items())
        return case.finish(
            how=how,
            seen=said.paragraph(FULL),
            said=said,
            remedy="space made, `dvc repro`",
            recomputed=f"{len(now) - len(kept)} of {len(now)}, {twice} twice",
            sound=said.code != 0 and not said.traceback and again.code == 0 and not twice,
        )


def _files(record: Path) -> list[Path]:
    """The files of a store entry's content."""
    folder = record.with_suffix("")
    return list(folder.rglob("*")) if folder.is_dir() else [record.with_suffix(".parquet")]


def full_project(bench: Bench) -> FaultOutcome:
    """The disk that everything is on fills up: store, outputs, DVC's cache, dvc.lock."""
    how = f"the whole project on a tmpfs with {SPARE // 1024} kB free, `caption` to be run"
    folder = bench.folder / "small" / "project"
    with small_disk(folder) as mounted:
        project = Project(folder, bench.profile)
        project.copy_from(bench.pristine)
        case = Case(bench, "full project", project)
        case.forget("caption")
        if not mounted:
            return case.finish(how=how, seen="not tried: this user may not mount", said=None)
        case.project.call("dvc", "status", "-q")  # its index of the copy's files takes room too
        leave_room(folder, SPARE)
        said = case.run()
        leave_room(folder, 1 << 30)
        mended = case.run("flows.mending")
        again = case.run()
        return case.finish(
            how=how,
            seen=said.paragraph(FULL),
            said=said,
            remedy="space made, `python -m flows.mending`, `dvc repro`",
            sound=said.code != 0 and mended.code == again.code == 0,
        )
