"""One kill, the rerun, and what of it was lost."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import torch

from benchmarks.reliability.bench import Bench
from benchmarks.reliability.forgetting import forget, forget_raw
from benchmarks.reliability.moments import Kind, Watch
from benchmarks.reliability.plan import WHOLE, Trial
from benchmarks.reliability.processes import end, marked, until_gone
from benchmarks.reliability.project import Entry, Project, Reference, differing

log = logging.getLogger(__name__)

ORPHANS = 30.0
"""Seconds after which an orphan counts as one that does not end."""
LIMIT = 1800.0
RERUNS = 3
"""Calls of ``dvc repro`` at most, where one was told to wait or to mend something."""
_RESUMED = re.compile(r"(?:goes on|continues) at step (\d+) of (\d+)")
_TORN = re.compile(r"YAML file structure is corrupted|dvc\.lock.*(?:corrupted|invalid|validation)")
_LOCKED_OUT = re.compile(r"is being blocked by|another process is writing|Unable to acquire lock")


@dataclass
class Outcome:
    """What a trial showed; a line of results.jsonl and a row of the table."""

    name: str
    profile: str
    stage: str
    moment: str
    kind: Kind
    target: str
    shell: str = ""
    server: bool = True
    runner: str = "threads"
    reached: bool = False
    """Whether the moment came; else nothing was killed and the trial counts for nothing."""
    killed_after: float = 0.0
    """Seconds from the start of the rebuild to the kill."""
    entries: int = 0
    """Shards and trainings of the forgotten stages that were finished at the kill."""
    step: str = ""
    """Steps taken at the kill, as the bar said, of all."""
    checkpoint: int | None = None
    """Step of the running checkpoint at the kill."""
    resumed: int | None = None
    """Step at which the rerun's training went on. An orphan may have written another checkpoint in
    the half second that it lived on, or even have finished."""
    reused: str = ""
    """Shards or trainings that the rerun found in the store, of all."""
    orphans_ended: float | None = None
    """Seconds until the last process of the killed rebuild was gone; None: it was not."""
    orphans: list[str] = field(default_factory=list)
    """Processes that did not end by themselves."""
    reruns: int = 0
    """Calls of ``dvc repro`` after the kill: a second one if the first was told to wait."""
    remedy: str = ""
    """What it took besides ``dvc repro``."""
    rerun_code: int = -1
    rerun_seconds: float = 0.0
    recomputed: list[str] = field(default_factory=list)
    """Entries finished at the kill that were written again."""
    differing: list[str] = field(default_factory=list)
    """Files that are not as in the reference."""
    leftovers: list[str] = field(default_factory=list)
    """Temporary files left in the store, which `pedalign gc` removes."""
    note: str = ""

    @property
    def sound(self) -> bool:
        """Whether nothing was lost."""
        resumed = (
            self.checkpoint is None
            or self.reused == "1/1"
            or (self.resumed is not None and self.resumed >= self.checkpoint)
        )
        return (
            self.reached
            and self.rerun_code == 0
            and not (self.recomputed or self.differing or self.orphans)
            and resumed
        )


def run_trial(trial: Trial, bench: Bench) -> Outcome:
    """Kill one rebuild in a fresh copy of the reference, and run it again."""
    project, reference, moment = bench.fresh(), bench.reference, trial.moment
    outcome = Outcome(
        trial.name, bench.profile, trial.stage, str(moment), moment.kind, trial.target,
        trial.shell, trial.server, trial.runner,
    )  # fmt: skip
    whole = trial.stage == WHOLE
    stages = list(reference.outputs) if whole else [trial.stage]
    own_server = trial.target == "repro"
    with_server = trial.server and not own_server
    project.configure(bench.ports[0 if with_server else 1], trial.runner)
    forget(project, reference, stages)
    for stage in stages if whole or moment.kind == "drawing" else []:
        if stage.startswith("ingest@"):
            forget_raw(project, stage.partition("@")[2])

    mark, first_log = uuid4().hex, bench.logs / f"{trial.name}-killed.log"
    with ExitStack() as held:
        sink = held.enter_context(first_log.open("wb"))
        module, arguments = ("flows.repro", ()) if own_server else ("dvc", ("repro",))
        started = time.monotonic()
        process = project.start(module, *arguments, sink=sink, mark=mark, shell=trial.shell)
        try:
            watch = Watch(
                project, trial.stage, reference.outputs.get(trial.stage, []), first_log, process
            )
            outcome.reached = watch.wait(moment, LIMIT)
            if not outcome.reached:
                process.wait(LIMIT)
                outcome.note = f"ended with exit code {process.returncode} before the moment came"
                return outcome
            _kill(process, trial)
            process.wait()  # a process that nobody waits for would still hold DVC's locks
            killed = time.monotonic()
            outcome.killed_after = round(killed - started, 2)
            finished = {k: v for k, v in project.entries().items() if k not in watch.entries_before}
            outcome.entries = len(finished)
            if (step := watch.step()) and moment.kind in {"step", "checkpoint"}:
                outcome.step = f"{step[0]}/{step[1]}"
            outcome.checkpoint = running_step(project)
            _rerun(outcome, project, mark, killed, bench.logs, trial)
        finally:
            end(mark)
    _compare(outcome, project, reference, finished, rewrite_report=whole)
    return outcome


def _kill(process: subprocess.Popen[bytes], trial: Trial) -> None:
    if trial.target == "group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.kill(process.pid, signal.SIGKILL)


def running_step(project: Project) -> int | None:
    """Step of the newest running checkpoint, or None where a training has none."""
    paths = (project.folder / ".cache" / "runs").glob("*/running.pt")
    try:
        newest = max(paths, key=lambda path: path.stat().st_mtime, default=None)
        if newest is None:
            return None
        return int(torch.load(newest, map_location="cpu", weights_only=True, mmap=True)["step"])
    except FileNotFoundError:  # an orphan has just finished its training
        return None


def _rerun(
    outcome: Outcome, project: Project, mark: str, killed: float, logs: Path, trial: Trial
) -> None:
    """Run ``dvc repro`` to its end, at once; again when it was told that another one runs."""
    path = logs / f"{trial.name}-rerun.log"
    again = uuid4().hex
    with path.open("wb") as sink:
        try:
            for _ in range(RERUNS):
                outcome.reruns += 1
                began = time.monotonic()
                offset = sink.tell()
                process = project.start("dvc", "repro", sink=sink, mark=again, shell=trial.shell)
                if outcome.orphans_ended is None:
                    for _ in until_gone(mark, ORPHANS):
                        pass
                    if marked(mark):
                        outcome.orphans = end(mark)
                    else:
                        outcome.orphans_ended = round(time.monotonic() - killed, 1)
                outcome.rerun_code = process.wait(LIMIT)
                outcome.rerun_seconds = round(time.monotonic() - began, 1)
                said = path.read_bytes()[offset:].decode("utf-8", "replace")
                if outcome.rerun_code and _TORN.search(said):
                    outcome.remedy = "python -m flows.mending"
                    sink.write(project.call("flows.mending").stdout.encode())
                    sink.flush()
                elif outcome.rerun_code == 0 or not _LOCKED_OUT.search(said):
                    break
        except subprocess.TimeoutExpired:
            said = f"the rerun did not end in {LIMIT:.0f} s"
        finally:
            end(again)
    if found := _RESUMED.search(said):
        outcome.resumed = int(found[1])
    if outcome.rerun_code:
        outcome.note = said.strip()[-600:]


def _compare(
    outcome: Outcome,
    project: Project,
    reference: Reference,
    finished: dict[str, Entry],
    *,
    rewrite_report: bool,
) -> None:
    """Say what was computed twice and what differs.

    Args:
        outcome: Takes the findings.
        project: After the rerun.
        reference: The undisturbed run.
        finished: Entries at the kill.
        rewrite_report: The report shows what every stage has cost, which differs by nature: put
            the reference's figures back and have it written again.
    """
    now = project.entries()
    outcome.recomputed = sorted(name for name, entry in finished.items() if now.get(name) != entry)
    outcome.leftovers = project.leftovers()
    note = project.folder / ".cache" / "reuse" / f"{outcome.stage}.json"
    if note.exists():
        record = json.loads(note.read_bytes())
        outcome.reused = f"{record['reused']}/{record['shards']}"
    if rewrite_report:
        put_back_timings(project, reference)
        forget(project, reference, ["report"])
        project.call("dvc", "repro", "report")
    outcome.differing = differing(project.digests(), reference)


def put_back_timings(project: Project, reference: Reference) -> None:
    """Replace the record of what each stage cost by the reference's."""
    for name, text in reference.timings.items():
        (project.folder / ".cache" / "timings" / name).write_text(text, encoding="utf-8")
