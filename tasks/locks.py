"""Who may write: one stage an output, one process an entry, nobody while the store is freed.

All are locks of the operating system on files in ``.cache``, so they end with their process,
however it ends. The files themselves stay; they mean nothing.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.errors import PedAlignError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def writing(root: Path, key: str) -> Iterator[None]:
    """Take turns with other processes that write an entry of the same key."""
    folder = root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{key[:2]}.lock"):
        yield


@contextlib.contextmanager
def training(root: Path, key: str) -> Iterator[None]:
    """Train alone: an experiment of the same parameters waits, and finds the training finished."""
    folder = root / "trainings" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{key}.training")
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        log.info("another process trains the same; waiting for it to end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def output_lock(folder: Path, root: Path) -> FileLock:
    """Take the right to write a stage's output; held until the lock is released.

    Waits for `nobody_writes` of another process to end.

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
    # First the output, then the gate: whoever holds the gate looks at the outputs after that, so
    # either it sees this one held, or this waits.
    gate = _gate(root)
    try:
        gate.acquire(timeout=0.2)
    except Timeout:
        log.info("waiting for `pedalign gc` to end")
        gate.acquire()
    gate.release()
    return lock


def _gate(root: Path) -> FileLock:
    return FileLock(root / "locks" / "collecting")


@contextlib.contextmanager
def nobody_writes(root: Path) -> Iterator[None]:
    """Stand where no stage of this ``.cache`` runs; those that start meanwhile wait.

    Raises:
        PedAlignError: A living process writes an output, or is in here itself.
    """
    (root / "locks").mkdir(parents=True, exist_ok=True)
    gate = _gate(root)
    try:
        gate.acquire(timeout=2)
    except Timeout:
        raise PedAlignError(
            f"{root}: another `pedalign gc` is at work",
            "one at a time frees the store",
            "wait for it to end",
        ) from None
    try:
        for path in sorted((root / "locks").glob("*.lock")):
            try:
                with FileLock(path).acquire(timeout=0):
                    pass
            except Timeout:
                raise PedAlignError(
                    f"{path.stem}: a stage is writing it",
                    "the store is freed while nothing runs: a stage holds entries that no "
                    "manifest names yet",
                    "wait for dvc repro to end, or stop it",
                ) from None
        yield
    finally:
        gate.release()
