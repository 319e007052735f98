"""What several processes share, and who uses it: each has a lease, a locked file of its own.

    shared = Shared(folder)
    with shared.changing(): ...   # one at a time looks, starts or ends the shared thing
    with shared.using(): ...      # from now on `in_use` says so, until this process ends

A lock is the operating system's and ends with its process, however that ends. `release` ends the
thing, a process that `note` has named, if nobody uses it any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from flows import guard

_NOTE = "process.json"


@dataclass(frozen=True)
class Shared:
    """A process that others share, known by a folder of theirs."""

    folder: Path

    def changing(self) -> FileLock:
        """The right to start or end it, or to begin using it; waits for others."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return FileLock(self.folder / "changing.lock")

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Use it for a while. Begin inside `changing`, or it may just be ending."""
        # Processes in two containers may have one number.
        mine = FileLock(self.folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.user")
        mine.acquire()
        try:
            yield
        finally:
            _drop(mine)

    def in_use(self) -> bool:
        """Say whether a living process uses it; forget the dead."""
        for path in self.folder.glob("*.user"):
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return True
            _drop(lock)
        return False

    def note(self, pid: int) -> None:
        """Remember which process it is."""
        told = {"pid": pid, "created": psutil.Process(pid).create_time()}
        (self.folder / _NOTE).write_text(json.dumps(told))

    def process(self) -> psutil.Process | None:
        """The process that was noted, if it lives."""
        with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
            told = json.loads((self.folder / _NOTE).read_text())
            process = psutil.Process(told["pid"])
            if process.create_time() == told["created"] and guard.lives(process):
                return process
        return None

    def release(self) -> None:
        """End it if nobody uses it and it was noted; what somebody else started is left alone."""
        if not self.folder.is_dir():
            return
        with self.changing():
            if not self.in_use():
                self.end()

    def end(self) -> None:
        """End it; call inside `changing`."""
        if (process := self.process()) is not None:
            members = [process]
            with contextlib.suppress(psutil.Error):
                members += process.children(recursive=True)
                process.terminate()
            deadline = time.monotonic() + 10
            while guard.lives(process) and time.monotonic() < deadline:
                time.sleep(0.1)
            guard.kill(members)
        (self.folder / _NOTE).unlink(missing_ok=True)


def _drop(lock: FileLock) -> None:
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)
