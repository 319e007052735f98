"""Outcomes as lines of a file, and as the tables of docs/reliability.md."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.reliability.plan import tally
from benchmarks.reliability.project import Reference
from benchmarks.reliability.trial import Outcome

LIBRARIES = ("dvc", "prefect", "torch", "pyarrow")


@dataclass
class FaultOutcome:
    """What a fault showed; a line of faults.jsonl."""

    name: str
    profile: str
    how: str
    """What was done."""
    seen: str
    """What the run said or did, in a few words."""
    code: int | None
    """Exit code of the run that met the fault."""
    traceback: bool = False
    """Whether the user was shown a traceback."""
    remedy: str = ""
    """What was done then."""
    recomputed: str = ""
    """Entries computed by the rerun, of all."""
    differing: list[str] = field(default_factory=list)
    seconds: float = 0.0
    sound: bool = True
    """Whether it went as it should, as the fault defines it, and ended like the reference."""


def append(path: Path, outcome: Outcome | FaultOutcome) -> None:
    """Add an outcome; the line is whole or absent for whoever reads it next."""
    with path.open("a", encoding="utf-8") as sink:
        sink.write(json.dumps(asdict(outcome)) + "\n")
        sink.flush()
        os.fsync(sink.fileno())


def read(path: Path, kind: type[Any]) -> dict[str, Any]:
    """Read outcomes by name, the newest of a name; a line that was cut off is left out."""
    found: dict[str, Any] = {}
    known = {entry.name for entry in fields(kind)}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[record["name"]] = kind(**{k: v for k, v in record.items() if k in known})
    return found


# ------------------------------------------------------------------ tables


def machine() -> str:
    """What the figures depend on, without naming a machine."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    cores, memory = os.cpu_count(), round(psutil.virtual_memory().total / 2**30)
    return f"{cores} cores, {memory} GB, Python {platform.python_version()}, {libraries}"


def kill_table(outcomes: Sequence[Outcome], reference: Reference) -> str:
    """Render the kills of a profile: a summary, then a row each."""
    done = [outcome for outcome in outcomes if outcome.reached]
    training, publishing = tally([outcome.kind for outcome in done])
    lost = [outcome for outcome in done if not outcome.sound]
    slowest = max((o.orphans_ended or 0.0 for o in done), default=0.0)
    lines = [
        f"{len(done)} kills, {training} inside training, {publishing} between publishing and "
        f"dvc.lock; {len(done) - len(lost)} ended identical to the undisturbed run "
        f"({len(reference.digests)} files, {reference.seconds:.0f} s) with no finished entry "
        f"computed again. Its processes were gone {slowest:.1f} s after a kill at most.",
        "",
        "| # | stage | moment | killed | at s | entries then | computed again | step, checkpoint "
        "→ resumed | orphans gone after s | rerun s | identical |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for at, o in enumerate(done, 1):
        variant = [] if o.server or o.target == "repro" else ["no server"]
        variant += [] if o.runner == "threads" else [o.runner]
        target = "flows.repro" if o.target == "repro" else o.target
        extra = f" ({', '.join(variant)})" if variant else ""
        gone = f"{o.orphans_ended:.1f}" if o.orphans_ended is not None else "never"
        notes = [f"call {o.reruns}"] if o.reruns > 1 else []
        notes += [f"after `{o.remedy}`"] if o.remedy else []
        rerun = f"{o.rerun_seconds:.0f}" + (f" ({', '.join(notes)})" if notes else "")
        same = "yes" if not o.differing and o.rerun_code == 0 else "**no**"
        lines.append(
            f"| {at} | {o.stage} | {o.moment} | {target}{extra} | {o.killed_after:.1f} | "
            f"{o.entries} | {len(o.recomputed)} | {_training(o)} | {gone} | {rerun} | {same} |"
        )
    return "\n".join(lines)


def _training(outcome: Outcome) -> str:
    if not outcome.step and outcome.checkpoint is None:
        return ""
    checkpoint = "none" if outcome.checkpoint is None else str(outcome.checkpoint)
    resumed = "finished" if outcome.reused == "1/1" else str(outcome.resumed or 0)
    return f"{outcome.step or '?'}, {checkpoint} → {resumed}"


def fault_table(outcomes: Sequence[FaultOutcome]) -> str:
    """Render the faults of a profile."""
    lines = [
        "| fault | what was done | what was seen | exit code | then | computed again | identical |",
        "|---|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        code = "" if o.code is None else str(o.code)
        same = "yes" if not o.differing else "**no**"
        wrong = "" if o.sound else " **not as it should be**"
        lines.append(
            f"| {o.name} | {_cell(o.how)} | {_cell(o.seen)}{wrong} | {code} | {_cell(o.remedy)} | "
            f"{o.recomputed} | {same} |"
        )
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def write_section(document: Path, name: str, text: str) -> None:
    """Replace what stands between a document's marks of this name.

    Raises:
        ValueError: The document has no such marks.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    head, found, rest = document.read_text(encoding="utf-8").partition(begin)
    _, closed, foot = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{document}: no {begin} … {end}")
    document.write_text(f"{head}{begin}\n{text}\n{end}{foot}", encoding="utf-8")
