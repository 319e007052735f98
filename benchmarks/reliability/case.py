"""A fresh copy of the project in which one fault is made, and what a user sees of it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from uuid import uuid4

from benchmarks.reliability.bench import Bench
from benchmarks.reliability.forgetting import forget
from benchmarks.reliability.processes import end
from benchmarks.reliability.project import Entry, Project, differing
from benchmarks.reliability.results import FaultOutcome

LIMIT = 1800.0
SHARDS, TRAINING = "restyle", "pretrain"
"""The stages that stand for the two kinds of work."""


@dataclass
class Said:
    """What a run said, and how it ended."""

    code: int
    text: str
    seconds: float

    @property
    def traceback(self) -> bool:
        """Whether it showed the user a traceback."""
        return "Traceback (most recent call last)" in self.text

    def paragraph(self, pattern: str) -> str:
        """The last line that matches, without folders, or what stands in for it."""
        for line in reversed(re.split(r"[\r\n]+", self.text)):
            if re.search(pattern, line):
                said = line.rpartition(" | ")[2].strip()  # without a log's time and level
                return re.sub(r"(?<![\w.])/\S*/(?=[\w.-]+)", "", said)[:200]
        return "no such message"


class Case:
    """A fresh copy in which one fault is made."""

    def __init__(self, bench: Bench, name: str, project: Project | None = None) -> None:
        """Copy the reference, and say which log is this fault's."""
        self.bench, self.name = bench, name
        self.project = project or bench.fresh()
        self.project.configure(bench.ports[0])
        self.log = bench.logs / f"fault-{name.replace(' ', '-')}.log"
        self.log.unlink(missing_ok=True)
        self.started = time.monotonic()
        self.before = self.project.entries()

    def forget(self, stage: str, *, store: bool = True) -> None:
        """Make the copy forget a stage."""
        forget(self.project, self.bench.reference, [stage], store=store)

    def run(self, *command: str) -> Said:
        """Run a command of the project to its end, ``dvc repro`` if none is given."""
        return self.together(command or ("dvc", "repro"))[0]

    def together(self, *commands: tuple[str, ...]) -> list[Said]:
        """Start commands at the same time, and wait for all of them."""
        mark = uuid4().hex
        running = []
        try:
            for at, (module, *arguments) in enumerate(commands):
                path = self.log.with_suffix(f".{at}.part")
                with path.open("wb") as sink:
                    process = self.project.start(module, *arguments, sink=sink, mark=mark)
                running.append((process, path, time.monotonic()))
            said = []
            for process, path, began in running:
                code = process.wait(LIMIT)
                text = path.read_bytes().decode("utf-8", "replace")
                said.append(Said(code, text, time.monotonic() - began))
                with self.log.open("a", encoding="utf-8") as sink:
                    sink.write(f"{text}\n=== exit code {code}\n")
                path.unlink()
            return said
        finally:
            end(mark)

    def entries(self, stage: str | None = None) -> dict[str, Entry]:
        """Finished store entries, of one stage or of all."""
        return self._of(stage, self.project.entries())

    def recomputed(self, stage: str | None = None) -> tuple[int, int]:
        """Store entries that are other files than before the fault, and how many there were."""
        now, before = self.entries(stage), self._of(stage, self.before)
        return sum(now.get(name) != entry for name, entry in before.items()), len(before)

    def _of(self, stage: str | None, entries: dict[str, Entry]) -> dict[str, Entry]:
        owners = self.bench.reference.owners
        return {n: e for n, e in entries.items() if stage in {None, owners.get(n)}}

    def finish(
        self,
        *,
        how: str,
        seen: str,
        said: Said | None,
        remedy: str = "",
        recomputed: str = "",
        sound: bool = True,
    ) -> FaultOutcome:
        """Compare with the reference and write up."""
        wrong = differing(self.project.digests(), self.bench.reference)
        return FaultOutcome(
            name=self.name,
            profile=self.bench.profile,
            how=how,
            seen=seen,
            code=said.code if said else None,
            traceback=bool(said and said.traceback),
            remedy=remedy,
            recomputed=recomputed,
            differing=wrong,
            seconds=round(time.monotonic() - self.started, 1),
            sound=sound and not wrong,
        )
