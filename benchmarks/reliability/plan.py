"""Which kills: stages and moments spread over the pipeline, details drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.reliability.moments import PUBLISHING, TRAINING, Kind, Moment

Target = Literal["group", "dvc", "repro"]
Shell = Literal["/bin/sh", "/bin/bash"]

WHOLE = "(all)"
"""Stands for a rebuild of which nothing is there."""


@dataclass(frozen=True)
class Trial:
    """One kill."""

    name: str
    stage: str
    moment: Moment
    target: Target
    """``group``: dvc and all below it at once. ``dvc``: that process alone. ``repro``: the process
    of ``python -m flows.repro`` alone, which has a Prefect server and dvc below it."""
    shell: Shell
    """What DVC starts stages with; bash and dash treat ``sh -c`` differently."""
    server: bool
    """Whether a Prefect server is up; else each stage starts a short-lived one of its own."""
    runner: Literal["threads", "processes"]
    """Who computes shards."""


# (stage, kind of moment, range of the count, range of the delay in seconds)
Row = tuple[str, Kind, tuple[int, int], tuple[float, float]]
NOW = (0.0, 0.0)
ONE = (1, 1)

MICRO: list[Row] = [
    ("pretrain", "step", (1, 3), (0.0, 0.2)),
    ("restyle", "entries", (1, 3), (0.0, 0.1)),
    ("ingest@target", "drawing", (5, 40), NOW),
    ("screen", "published", ONE, (0.0, 0.5)),
    ("finetune@target", "step", (1, 4), (0.0, 0.2)),
    ("caption", "entries", (1, 3), (0.0, 0.1)),
    ("adapt", "step", (1, 8), (0.0, 0.1)),
    ("annotate", "entries", (1, 3), (0.0, 0.1)),
    ("pretrain", "committing", ONE, (0.0, 0.1)),
    ("evaluate@direct", "started", ONE, (0.5, 6.0)),
    ("ingest@source", "entries", (1, 3), NOW),
    ("report", "published", ONE, (0.0, 0.3)),
    ("finetune@target", "checkpoint", ONE, (0.0, 0.3)),
    ("restyle", "committing", ONE, (0.0, 0.1)),
    ("gap", "entries", (1, 3), (0.0, 0.1)),
    ("pretrain", "checkpoint", ONE, (0.0, 0.3)),
    ("screen", "entries", (1, 3), NOW),
    ("evaluate@finetuned", "published", ONE, (0.0, 0.3)),
    ("adapt", "published", ONE, (0.0, 0.5)),
    (WHOLE, "elapsed", ONE, (15.0, 60.0)),
]
TINY: list[Row] = [
    ("pretrain", "step", (10, 60), (0.0, 1.0)),
    ("restyle", "entries", (2, 7), (0.0, 3.0)),
    ("annotate", "committing", ONE, (0.0, 0.1)),
    ("finetune@target", "checkpoint", (1, 2), (0.0, 3.0)),
    ("adapt", "step", (100, 300), (0.0, 1.0)),
    ("ingest@target", "drawing", (100, 1000), NOW),
    ("pretrain", "checkpoint", (2, 3), (0.0, 5.0)),
    ("caption", "published", ONE, (0.0, 0.5)),
    ("finetune@target", "step", (60, 120), (0.0, 1.0)),
    ("restyle", "published", ONE, (0.0, 0.5)),
]
REPRO: list[Row] = [
    ("pretrain", "step", (1, 3), (0.0, 0.2)),
    ("restyle", "entries", (1, 3), (0.0, 0.1)),
    ("caption", "started", ONE, (0.5, 5.0)),
]
"""Kills of ``python -m flows.repro``, beyond those that were asked for."""
LOCKS: list[Row] = [("screen", "locking", ONE, NOW), ("annotate", "locking", ONE, NOW)]
"""Kills while DVC writes dvc.lock, which it does not do atomically: `flows.mending`."""


def make_plan(profile: str, kills: int, seed: int) -> list[Trial]:
    """Lay out the kills of a profile; the same for the same arguments.

    Args:
        profile: ``micro`` or ``tiny``.
        kills: How many of ``dvc repro``; on ``micro`` some of ``flows.repro`` and in the middle of
            dvc.lock follow.
        seed: Decides counts, delays and which trial has which target.
    """
    rows = MICRO if profile == "micro" else TINY
    rng = np.random.default_rng(seed)
    trials = []
    for at in range(kills):
        row = rows[at % len(rows)]
        # The second time round a row has the other target.
        target: Target = "group" if (at + at // len(rows) + seed) % 2 else "dvc"
        trials.append(_trial(f"{profile}-{seed}-{at:02}", row, target, at, rng))
    if profile == "micro":
        for at, row in enumerate(REPRO):
            trials.append(_trial(f"{profile}-{seed}-r{at}", row, "repro", 1, rng))
        for at, row in enumerate(LOCKS):
            target = "dvc" if at % 2 else "group"
            trials.append(_trial(f"{profile}-{seed}-l{at}", row, target, 1, rng))
    return trials


def _trial(name: str, row: Row, target: Target, at: int, rng: np.random.Generator) -> Trial:
    stage, kind, (low, high), delays = row
    count, delay = int(rng.integers(low, high + 1)), round(float(rng.uniform(*delays)), 2)
    return Trial(
        name=name,
        stage=stage,
        moment=Moment(kind, count, delay),
        target=target,
        shell="/bin/bash" if at % 3 == 2 else "/bin/sh",
        server=at % 4 != 3,
        runner="processes" if at % 5 == 1 else "threads",
    )


def tally(kinds: list[Kind]) -> tuple[int, int]:
    """How many of some moments lie inside training, and between publishing and dvc.lock."""
    return sum(k in TRAINING for k in kinds), sum(k in PUBLISHING for k in kinds)
