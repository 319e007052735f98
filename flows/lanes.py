"""Which stages of a rebuild may run beside its main line, and beside which part of it.

``dvc repro`` runs one stage at a time, and most of a rebuild is training, which keeps one core
busy. What the main line need not wait for (`BESIDE`) runs on another: a second ``dvc repro -s
STAGE``, started when all that the stage depends on is finished. DVC allows two at once: it gives up
the project's lock while a command runs, waits for it with ``--wait-for-lock``, and reads dvc.lock
anew before it adds a stage to it. But it also locks every path that a stage reads or writes, also
of a stage that it only looks at, and *fails* where that is taken. So a main line never names a
stage that may be running beside it, nor one that depends on it; those wait for the next part.

``python -m flows.lanes`` prints the parts that a rebuild of this project would have now.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

import psutil

# What nothing, or for long nothing, waits for; in the order in which it starts.
BESIDE = ("ingest@source", "gap", "evaluate@direct", "evaluate@finetuned-by-test")
# Up to there the main line itself keeps all cores busy: shards go to several workers.
AFTERWARDS = {"gap": "annotate"}
# Memory that has to be free for two stages of the default profile at once.
NEEDED_BYTES = 3 << 30

Needs = Mapping[str, Iterable[str]]


class Graph(TypedDict):
    """What DVC says of a project."""

    needs: dict[str, list[str]]
    """Stage: the stages that it depends on directly."""
    stale: list[str]
    """Stages that have changed by themselves."""


@dataclass(frozen=True)
class Part:
    """A stretch of a rebuild: one call of DVC, and what runs beside it."""

    line: list[str] = field(default_factory=list)
    """Targets of the main call; none: everything."""
    beside: dict[str, list[str]] = field(default_factory=dict)
    """Stage: those of the line, and of what DVC looks at for it, that have to be over before."""


def parts(needs: Needs, stale: Iterable[str], beside: Iterable[str] = BESIDE) -> Iterator[Part]:
    """Cut a rebuild into parts, the last of which is all of it, so that nothing is forgotten.

    Args:
        needs: Stage: the stages that it depends on directly.
        stale: Stages that have changed; those that depend on them may run, others will not.
        beside: Stages that may run beside others, in order.
    """
    late = {s: [*needs[s], of] for s, of in AFTERWARDS.items() if s in needs and of in needs}
    after = _reversed(needs)
    affected = _closure(after, stale)
    waiting = [stage for stage in beside if stage in affected]
    done = set(needs) - affected
    while waiting:
        line = affected - done - _closure(after, waiting)
        passed = _closure(needs, line)  # DVC looks at all of these
        above = {stage: _closure({**needs, **late}, [stage]) - {stage} for stage in waiting}
        starting = {s: sorted(above[s] & passed) for s in waiting if above[s] <= done | line}
        if not line or not starting:
            break
        yield Part(sorted(line), starting)
        done |= line | set(starting)
        waiting = [stage for stage in waiting if stage not in starting]
    yield Part()


def _closure(edges: Needs, first: Iterable[str]) -> set[str]:
    found, new = set[str](), set(first)
    while new:
        found |= new
        new = {after for stage in new for after in edges.get(stage, ())} - found
    return found


def _reversed(edges: Needs) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {stage: set() for stage in edges}
    for stage, others in edges.items():
        for other in others:
            found.setdefault(other, set()).add(stage)
    return found


def whole() -> list[Part]:
    """A rebuild in one part."""
    return [Part()]


def plan() -> list[Part]:
    """Ask DVC what has changed, and cut the rebuild.

    Returns:
        One part, all of it, where two stages at once would not fit: on a GPU, which the main line
        needs whole, on a single core, in little memory. So too if DVC has no answer: the rebuild's
        own call will say why.
    """
    from tasks.runtime import device  # torch: what DVC is asked in does without

    free = psutil.virtual_memory().available
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if device().type != "cpu" or (cores or 1) < 2 or free < NEEDED_BYTES:
        return whole()
    said = subprocess.run(
        [sys.executable, "-m", "flows.lanes", "--json"], capture_output=True, text=True, check=False
    )
    if said.returncode:
        return whole()
    found = json.loads(said.stdout.splitlines()[-1])
    return list(parts(found["needs"], found["stale"]))


def look() -> Graph:
    """Read DVC's graph, and which stages have changed by themselves."""
    from dvc.repo import Repo  # a second, and a process of its own: DVC's logging is its own

    with Repo() as repo, repo.lock:
        graph = repo.index.graph
        needs = {
            stage.addressing: sorted(other.addressing for other in graph.successors(stage))
            for stage in graph
        }
        stale = sorted(stage.addressing for stage in graph if stage.changed())
    return {"needs": needs, "stale": stale}


if __name__ == "__main__":
    if "--json" in sys.argv:
        print(json.dumps(look()))
    else:
        for part in plan():
            print(" ".join(part.line) or "everything", "| beside:", *part.beside)
