"""Where trials are made: the finished reference, and a copy of it for each trial."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.reliability.project import Project, Reference


@dataclass
class Bench:
    """A folder for one profile."""

    profile: str
    folder: Path
    ports: tuple[int, int]
    """Of the Prefect server that is up, and one where none listens."""
    reference: Reference = field(default_factory=lambda: Reference("", 0.0, {}, {}, {}, {}))

    @property
    def project(self) -> Path:
        """The copy in which trials are made, always at the same place."""
        return self.folder / "project"

    @property
    def pristine(self) -> Path:
        """The finished reference, which nothing runs in."""
        return self.folder / "reference"

    @property
    def logs(self) -> Path:
        """What all runs said."""
        return self.folder / "logs"

    def fresh(self) -> Project:
        """A new, exact copy of the finished reference."""
        for disk in psutil.disk_partitions(all=True):  # what an interrupted fault left mounted
            if Path(disk.mountpoint).is_relative_to(self.folder):
                subprocess.run(["umount", "--lazy", disk.mountpoint], check=True)
        project = Project(self.project, self.profile)
        project.copy_from(self.pristine)
        return project
