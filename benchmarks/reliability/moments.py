"""When to kill: moments in the life of a stage, recognised from outside.

A watch looks at what anybody can see: the store's entries, the training's bar in the log, the
output folder, dvc.lock and the list of processes, a few hundred times a second.
"""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from benchmarks.reliability.processes import alive, stage_process
from benchmarks.reliability.project import Project

Kind = Literal[
    "started",
    "drawing",
    "entries",
    "step",
    "checkpoint",
    "published",
    "committing",
    "locking",
    "elapsed",
]
TRAINING: tuple[Kind, ...] = ("step", "checkpoint")
PUBLISHING: tuple[Kind, ...] = ("published", "committing")
INTERVAL = 0.003
_BAR = re.compile(rb"\b(\d+)/(\d+) \[[^\]\r]*(?:step/s|s/step)")


@dataclass(frozen=True)
class Moment:
    """A moment of a stage, and how long after it to act."""

    kind: Kind
    count: int = 1
    """Which: of the drawn images, the new store entries, the steps."""
    delay: float = 0.0
    """Seconds to let pass after it."""

    def __str__(self) -> str:
        """Say it in words."""
        words = {
            "started": "process started",
            "drawing": f"image {self.count} drawn",
            "entries": f"store entry {self.count} written",
            "step": f"step {self.count} taken",
            "checkpoint": f"running checkpoint {self.count} written",
            "published": "output published, dvc.lock not written",
            "committing": "process ended, DVC commits, dvc.lock not written",
            "locking": "DVC writes dvc.lock, which is cut off",
            "elapsed": "rebuild started",
        }[self.kind]
        return f"{words}, {self.delay:.2f} s later" if self.delay else words


class Watch:
    """Looks at one stage of a running rebuild."""

    def __init__(
        self,
        project: Project,
        stage: str,
        outputs: list[str],
        log: Path,
        process: subprocess.Popen[bytes],
    ) -> None:
        """Note how things stand before the stage runs."""
        self.project, self.stage, self.log, self.process = project, stage, log, process
        self.outputs = [project.folder / path for path in outputs]
        self.lock = project.folder / "dvc.lock"
        self.lock_before = self._lock_state()
        self.entries_before = set(project.entries())
        self.runner: psutil.Process | None = None
        self.checkpoints: set[int] = set()

    def wait(self, moment: Moment, limit: float) -> bool:
        """Wait for a moment.

        Returns:
            Whether it came: the rebuild may end before.
        """
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.seen(moment):
                time.sleep(moment.delay)
                return self.process.poll() is None and not (
                    moment.kind in PUBLISHING and self.locked()
                )
            time.sleep(INTERVAL)
        return False

    def seen(self, moment: Moment) -> bool:
        """Whether the moment has come."""
        match moment.kind:
            case "elapsed":
                return True
            case "started":
                return self._running() is not None
            case "drawing":
                return self.drawn() >= moment.count
            case "entries":
                return len(self.new_entries()) >= moment.count
            case "step":
                return (self.step() or (0, 0))[0] >= moment.count
            case "checkpoint":
                return self._count_checkpoints() >= moment.count
            case "published":
                return self.published() and not self.locked()
            case "committing":
                runner = self._running()
                return (
                    runner is not None
                    and not alive(runner)
                    and self.published()
                    and not self.locked()
                )

            case "locking":
                # DVC streams it into the open file; forgetting has made it shorter than it gets.
                return self.locked() and self._lock_state()[1] < self.lock_before[1] * 3 // 4

    def _running(self) -> psutil.Process | None:
        self.runner = self.runner or stage_process(self.process.pid)
        return self.runner

    def drawn(self) -> int:
        """Pictures in the raw folder of the dataset that an ``ingest@NAME`` reads."""
        raw = self.project.folder / "data" / "raw" / self.stage.partition("@")[2]
        return sum(1 for _ in raw.rglob("*.jpg")) if raw.exists() else 0

    def new_entries(self) -> set[str]:
        """Store entries that came since the watch began."""
        return set(self.project.entries()) - self.entries_before

    def step(self) -> tuple[int, int] | None:
        """Steps taken and in all, as the last bar in the log says."""
        found = _BAR.findall(tail(self.log))
        return (int(found[-1][0]), int(found[-1][1])) if found else None

    def _count_checkpoints(self) -> int:
        for path in (self.project.folder / ".cache" / "runs").glob("*/running.pt"):
            try:
                self.checkpoints.add(path.stat().st_mtime_ns)
            except FileNotFoundError:
                continue
        return len(self.checkpoints)

    def published(self) -> bool:
        """Whether every output is there, and complete where a manifest says so."""
        shards = any(out.suffix == "" and out.name in _SHARDED for out in self.outputs) or (
            self.stage.startswith("ingest@")
        )
        return all(
            (out / "manifest.json").exists() if shards else _complete(out) for out in self.outputs
        )

    def locked(self) -> bool:
        """Whether DVC has begun to write dvc.lock."""
        return self._lock_state() != self.lock_before

    def _lock_state(self) -> tuple[int, int]:
        try:
            status = self.lock.stat()
        except FileNotFoundError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_size)


_SHARDED = {"restyled", "screened", "captioned", "annotated"}


def _complete(out: Path) -> bool:
    """A report's page is its last file; a checkpoint's folder appears whole."""
    return (out / "index.html").exists() if out.name == "report" else out.exists()


def tail(path: Path, size: int = 4096) -> bytes:
    """The last bytes of a file."""
    with path.open("rb") as source:
        source.seek(0, 2)
        source.seek(max(0, source.tell() - size))
        return source.read()
