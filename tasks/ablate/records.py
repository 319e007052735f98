"""What runs leave: ``result.json`` and a row a query, read back and lined up over seeds.

A run is one arm with one seed. Its folder holds its figures and, of every evaluation, a Parquet
table of the queries (`EVALUATIONS`). Runs may be missing: whatever is there is read, and everybody
who shows it says how many of how many seeds it is.

Shapes: S seeds, Q queries.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.ablate.statistics import Scores
from tasks.errors import PedAlignError
from tasks.report.records import read_json

log = logging.getLogger(__name__)

MEASURES = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "mAP": "mAP", "mINP": "mINP"}
"""Names in a record to names in tables."""
EVALUATIONS = {
    "direct": "direct transfer",
    "tuned": "fine-tuned",
    "tuned_by_test": "fine-tuned, epoch chosen on the test split",
}
TOLERANCE = 0.02
"""Percentage points by which result.json may differ from its queries: it is rounded."""


class ArmLike(Protocol):
    """What is shown of an arm."""

    @property
    def seeds(self) -> Sequence[int]:
        """Planned."""

    @property
    def change(self) -> Mapping[str, Any]:
        """Dotted key of the profile to its value; none in the profile as it is."""

    @property
    def group(self) -> str:
        """Rows of one group stand together; ``main`` is drawn everywhere."""

    @property
    def curves(self) -> Mapping[str, float]:
        """Abscissa by the curve that it is a point of (``beta``, ``scale``)."""

    @property
    def note(self) -> str:
        """A line, or nothing."""


class ContrastLike(Protocol):
    """A comparison stated before anything was computed: better less plain."""

    @property
    def name(self) -> str:
        """As tables call it."""

    @property
    def better(self) -> str:
        """The arm expected to be higher."""

    @property
    def plain(self) -> str:
        """The arm that it is compared with."""


class ExperimentLike(Protocol):
    """What is shown of an experiment (`tasks.ablate.experiment` has more)."""

    @property
    def name(self) -> str:
        """Of the file."""

    @property
    def note(self) -> str:
        """A sentence, or nothing."""

    @property
    def arms(self) -> Mapping[str, ArmLike]:
        """In the order of the tables."""

    @property
    def contrasts(self) -> Sequence[ContrastLike]:
        """All that were stated."""


@dataclass(frozen=True)
class Record:
    """One run."""

    folder: Path
    arm: str
    seed: int
    commits: Sequence[str]
    """Of the code that trained and measured it, that of the measuring first."""
    device: str
    """Kind of device that it was computed on; empty where it does not say."""
    trainings: Mapping[str, str]
    """Key of each training that it may share with others, by part of ``core_seconds``."""
    core_seconds: Mapping[str, float]
    figures: Mapping[str, Mapping[str, float]]
    """Measures in percent by evaluation (`EVALUATIONS`), of those that there are."""
    curve: Sequence[Mapping[str, Any]]
    """By epoch: ``epoch``, ``val`` and ``test`` (measures, or nothing)."""


@dataclass(frozen=True)
class Answers:
    """What every query found with every seed of one arm, in one order for all arms."""

    seeds: tuple[int, ...]
    uids: tuple[str, ...]
    captions: tuple[str, ...]
    people: tuple[str, ...]
    rank_SQ: NDArray[np.float64]
    """Of the first match, from 1; infinite where the gallery has none."""
    ap_SQ: NDArray[np.float64]
    inp_SQ: NDArray[np.float64]
    tops: tuple[tuple[tuple[str, ...], ...], ...] = field(repr=False)
    """By seed and query: the first pictures' uids."""

    def values(self, measure: str) -> NDArray[np.float64]:
        """Every query's part of a measure, (S, Q), in percent."""
        if measure == "mAP":
            return np.asarray(100 * self.ap_SQ, dtype=np.float64)
        if measure == "mINP":
            return np.asarray(100 * self.inp_SQ, dtype=np.float64)
        return np.asarray(100 * (self.rank_SQ <= int(measure[1:])), dtype=np.float64)

    def scores(self, measure: str, chosen: NDArray[np.bool_] | None = None) -> Scores:
        """The measure by person, of some queries or of all that have a match."""
        kept = np.isfinite(self.rank_SQ[0]) if chosen is None else chosen
        people = [name for name, keep in zip(self.people, kept, strict=True) if keep]
        return Scores.of(people, self.values(measure)[:, kept], self.seeds)

    def cmc(self, length: int) -> NDArray[np.float64]:
        """R@k for k from 1, in percent, by seed: (S, length)."""
        found = self.rank_SQ[:, np.isfinite(self.rank_SQ[0])]
        steps = np.arange(1, length + 1)
        percent: NDArray[np.float64] = 100 * (found[:, None, :] <= steps[:, None]).mean(2)
        return percent


def read_record(folder: Path) -> Record:
    """Read a run's result.json.

    Raises:
        PedAlignError: It is no JSON, or lacks what a record has.
    """
    body = read_json(folder / "result.json")
    try:
        return Record(
            folder=folder,
            arm=str(body["arm"]),
            seed=int(body["seed"]),
            commits=tuple(
                dict.fromkeys(
                    str(commit)
                    for commit in (body.get("commit"), *(body.get("made_by") or ()))
                    if commit
                )
            ),
            device=str(body.get("device") or ""),
            trainings=dict(body.get("trainings") or {}),
            core_seconds={k: float(v) for k, v in (body.get("core_seconds") or {}).items()},
            figures={
                name: {m: float(body[name][m]) for m in MEASURES}
                for name in EVALUATIONS
                if body.get(name)
            },
            curve=tuple(body.get("curve") or ()),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PedAlignError(
            f"{folder / 'result.json'}: {type(error).__name__} {error}",
            f"a record has arm, seed and the measures {', '.join(MEASURES)} of each evaluation",
            "delete the folder and run the experiment again: the run is computed anew",
        ) from error


def by_arm(experiment: ExperimentLike, records: Iterable[Record | Path]) -> dict[str, list[Record]]:
    """Sort runs by arm (in the experiment's order, arms without a run too) and seed."""
    found: dict[str, dict[int, Record]] = {name: {} for name in experiment.arms}
    for item in records:
        if isinstance(item, Path) and not (item / "result.json").exists():
            continue
        record = read_record(item) if isinstance(item, Path) else item
        if record.arm not in found or record.seed not in experiment.arms[record.arm].seeds:
            log.warning("%s: no run of %s; it is left out", record.folder, experiment.name)
        else:
            found[record.arm][record.seed] = record
    return {name: [runs[seed] for seed in sorted(runs)] for name, runs in found.items()}


def read_answers(records: Sequence[Record], evaluation: str) -> Answers | None:
    """Line up the queries of an arm's runs; None where no run has that evaluation.

    Raises:
        PedAlignError: Two runs were not asked the same queries.
    """
    runs = [r for r in records if (r.folder / f"{evaluation}.parquet").exists()]
    tables = [_table(run, evaluation) for run in runs]
    if not tables:
        return None
    first = tables[0]
    for run, table in zip(runs, tables, strict=True):
        if table["key"] != first["key"]:
            raise PedAlignError(
                f"{run.folder / evaluation}.parquet: {len(table['key'])} queries that are not the "
                f"{len(first['key'])} of {runs[0].folder}",
                "all runs of an experiment answer the same queries",
                "delete the records that an earlier version of the profile left",
            )
    return Answers(
        seeds=tuple(run.seed for run in runs),
        uids=tuple(uid for uid, _ in first["key"]),
        captions=tuple(caption for _, caption in first["key"]),
        people=tuple(first["person_id"]),
        rank_SQ=np.asarray([table["rank"] for table in tables], dtype=float),
        ap_SQ=np.asarray([table["ap"] for table in tables], dtype=float),
        inp_SQ=np.asarray([table["inp"] for table in tables], dtype=float),
        tops=tuple(table["top"] for table in tables),
    )


def _table(run: Record, evaluation: str) -> dict[str, Any]:
    """A run's queries in an order that depends on the queries alone."""
    table = pq.read_table(run.folder / f"{evaluation}.parquet").sort_by(
        [("uid", "ascending"), ("caption", "ascending")]
    )
    ranks = [float(r) if r and r > 0 else np.inf for r in table["rank_of_first"].to_pylist()]
    return {
        "key": list(zip(table["uid"].to_pylist(), table["caption"].to_pylist(), strict=True)),
        "person_id": [str(person) for person in table["person_id"].to_pylist()],
        "rank": ranks,
        "ap": [value or 0.0 for value in table["ap"].to_pylist()],
        "inp": [value or 0.0 for value in table["inp"].to_pylist()],
        "top": tuple(tuple(uids or ()) for uids in table["top"].to_pylist()),
    }


def differing(records: Sequence[Record], evaluation: str, answers: Answers) -> list[str]:
    """Say where a run's figures are not what its queries give."""
    said = []
    found = np.isfinite(answers.rank_SQ[0])
    counted = {name: answers.values(name)[:, found].mean(1) for name in MEASURES}
    for record in records:
        if record.seed not in answers.seeds or evaluation not in record.figures:
            continue
        row = answers.seeds.index(record.seed)
        for measure, name in MEASURES.items():
            told, here = record.figures[evaluation][measure], float(counted[measure][row])
            if abs(told - here) > TOLERANCE:
                said.append(
                    f"{record.arm}, seed {record.seed}, {EVALUATIONS[evaluation]}: result.json "
                    f"says {name} {told:.2f}, its queries {here:.2f}"
                )
    return said
