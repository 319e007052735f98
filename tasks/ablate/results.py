"""An experiment's records put together: answers lined up, contrasts computed, what is missing.

The claim is one measure, rank-1 after fine-tuning (after direct transfer, where nothing is tuned),
on the contrasts that the experiment states. Everything besides is shown without a p-value.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tasks.ablate.records import (
    EVALUATIONS,
    MEASURES,
    Answers,
    ContrastLike,
    ExperimentLike,
    Record,
    by_arm,
    differing,
    read_answers,
)
from tasks.ablate.statistics import Estimate, contrast, holm

log = logging.getLogger(__name__)

CLAIM = "R1"
LEVEL = 0.05
RESAMPLES = 4000
"""Of intervals that carry no claim."""
BESIDES = (
    ("tuned", "mAP"),
    # What of a difference validation's choice of the epoch makes, which falls on either arm.
    ("tuned_by_test", "R1"),
    ("direct", "R1"),
    ("direct", "mAP"),
)
"""What is shown of each contrast beside the claim."""


@dataclass(frozen=True)
class Compared:
    """A contrast that was stated beforehand, and what came of it."""

    stated: ContrastLike
    found: Estimate | None
    """Of the claim; None where an arm has no run, or the two have no seed in common."""
    adjusted: float
    """Holm's p-value over all that were stated; NaN where there is none."""
    smallest: float
    """The smallest difference found with 80 % power at Holm's first level; NaN without seeds."""
    besides: Mapping[tuple[str, str], Estimate]
    """By evaluation and measure, see `BESIDES`; no claim."""
    planned: int
    """Seeds that both arms are to have."""

    @property
    def seeds(self) -> int:
        """Seeds that both arms have."""
        return self.found.fewest if self.found is not None else 0

    @property
    def verdict(self) -> str:
        """What can be said; nothing before all seeds are in, or one could stop where it suits."""
        if self.found is None:
            return "not computed yet"
        if self.seeds < self.planned:
            return f"interim: {self.seeds} of {self.planned} seeds"
        if math.isnan(self.adjusted):
            return "one seed: nothing can be said"
        if self.adjusted >= LEVEL:
            return "not told apart"
        return "higher" if self.found.value > 0 else "lower: against what was expected"


@dataclass(frozen=True)
class Results:
    """Everything that the pages show."""

    experiment: ExperimentLike
    runs: Mapping[str, Sequence[Record]]
    """By arm, in the order of the experiment; arms without a run too."""
    answers: Mapping[tuple[str, str], Answers]
    """By arm and evaluation."""
    compared: Sequence[Compared]
    differing: Sequence[str]
    """Runs whose figures are not what their queries give."""

    @property
    def planned(self) -> int:
        """Runs that the experiment has."""
        return sum(len(arm.seeds) for arm in self.experiment.arms.values())

    @property
    def finished(self) -> int:
        """Runs that there are."""
        return sum(len(runs) for runs in self.runs.values())

    @cached_property
    def claimed(self) -> str:
        """The evaluation that the claim is about."""
        return claimed(self.runs)

    @property
    def commits(self) -> list[str]:
        """Commits of the runs, the most frequent first."""
        runs = [run for runs in self.runs.values() for run in runs]
        return [commit for commit, _ in Counter(c for r in runs for c in r.commits).most_common()]

    @property
    def devices(self) -> list[str]:
        """Kinds of devices that the runs were computed on."""
        return sorted({r.device for runs in self.runs.values() for r in runs if r.device})

    @property
    def core_seconds(self) -> float:
        """CPU seconds of all runs; a training that several share counts once."""
        spent = {
            run.trainings.get(part) or f"{run.folder} {part}": seconds
            for runs in self.runs.values()
            for run in runs
            for part, seconds in run.core_seconds.items()
        }
        return sum(spent.values())

    @property
    def main(self) -> list[str]:
        """Arms of the group ``main`` that have runs; without such a group all that have."""
        arms = self.experiment.arms
        found = [name for name, runs in self.runs.items() if runs]
        return [name for name in found if arms[name].group == "main"] or found

    def figures(
        self, arm: str, evaluation: str, measure: str, seeds: Container[int] | None = None
    ) -> list[float]:
        """A measure of an arm, by seed; of all seeds that there are, or of those given."""
        return [
            run.figures[evaluation][measure]
            for run in self.runs[arm]
            if evaluation in run.figures and (seeds is None or run.seed in seeds)
        ]

    def common(self, arms: Iterable[str]) -> list[int]:
        """Seeds that all of these arms have; an arm without a run does not count."""
        found = [{run.seed for run in runs} for arm in arms if (runs := self.runs.get(arm))]
        return sorted(set.intersection(*found)) if found else []

    def seeds(self, arm: str) -> str:
        """Say how many of the planned seeds there are."""
        there, planned = len(self.runs[arm]), len(self.experiment.arms[arm].seeds)
        return f"{there}" if there == planned else f"{there} of {planned}"


def gather(
    experiment: ExperimentLike, records: Iterable[Record | Path], *, resamples: int = 20_000
) -> Results:
    """Read the records and compute the contrasts.

    Args:
        experiment: What was planned.
        records: Runs or their folders, as many as there are.
        resamples: Of the bootstrap.

    Raises:
        PedAlignError: A record is damaged, or two runs did not answer the same queries.
    """
    runs = by_arm(experiment, records)
    answers: dict[tuple[str, str], Answers] = {}
    odd: list[str] = []
    for arm, mine in runs.items():
        for evaluation in EVALUATIONS:
            lined_up = read_answers(mine, evaluation)
            if lined_up is not None:
                answers[arm, evaluation] = lined_up
                odd += differing(mine, evaluation, lined_up)
    found = Results(experiment, runs, answers, _compare(experiment, runs, answers, resamples), odd)
    if len(found.devices) > 1:
        odd.append(f"runs were computed on {' and '.join(found.devices)}")
    for line in odd:
        log.warning("%s", line)
    return found


def claimed(runs: Mapping[str, Sequence[Record]]) -> str:
    """Fine-tuned, unless nothing was."""
    tuned = any("tuned" in run.figures for mine in runs.values() for run in mine)
    return "tuned" if tuned else "direct"


def difference(
    answers: Mapping[tuple[str, str], Answers],
    better: str,
    plain: str,
    evaluation: str,
    measure: str,
    resamples: int,
) -> Estimate | None:
    """Estimate how much higher one arm is than another, by the seeds that both have.

    Returns:
        None where they have no seed in common, or one was not evaluated so.
    """
    first, second = answers.get((better, evaluation)), answers.get((plain, evaluation))
    if first is None or second is None or not set(first.seeds) & set(second.seeds):
        return None
    scores = (first.scores(measure), second.scores(measure))
    return contrast(*scores, resamples=resamples, paired=True)


def _compare(
    experiment: ExperimentLike,
    runs: Mapping[str, Sequence[Record]],
    answers: Mapping[tuple[str, str], Answers],
    resamples: int,
) -> list[Compared]:
    stated = list(experiment.contrasts)
    evaluation = claimed(runs)

    def measured(each: ContrastLike, evaluation: str, measure: str) -> Estimate | None:
        return difference(answers, each.better, each.plain, evaluation, measure, resamples)

    found = [measured(each, evaluation, CLAIM) for each in stated]
    seeds = {name: len(arm.seeds) for name, arm in experiment.arms.items()}
    planned = [min(seeds.get(each.better, 0), seeds.get(each.plain, 0)) for each in stated]
    known = [
        math.nan if f is None or f.fewest < max(2, wanted) else f.p
        for f, wanted in zip(found, planned, strict=True)
    ]
    out = []
    for each, estimate, p, wanted in zip(stated, found, holm(known), planned, strict=True):
        smallest = math.nan
        if estimate is not None and estimate.fewest > 1:
            smallest = estimate.smallest(LEVEL / len(stated))
        besides = {
            key: beside
            for key in BESIDES
            if key != (evaluation, CLAIM) and (beside := measured(each, *key)) is not None
        }
        out.append(Compared(each, estimate, p, smallest, besides, wanted))
    return out


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation over seeds; one seed has none."""
    if not values:
        return "–"
    mean = f"{float(np.mean(values)):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {float(np.std(values, ddof=1)):.{digits}f}"


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign; a plain dash where there is none."""
    return "–" if not math.isfinite(value) else f"{value:+.{digits}f}"


def interval(found: Estimate, digits: int = 2) -> str:
    """The 95 % interval over people and seeds; one seed has none."""
    if found.fewest < 2:
        return "–"
    return f"{signed(found.low, digits)} to {signed(found.high, digits)}"


def told(found: Estimate | None) -> str:
    """A difference and, where several seeds give one, its interval."""
    if found is None:
        return "–"
    return signed(found.value) + (f" ({interval(found)})" if found.fewest > 1 else "")


def chance(p: float) -> str:
    """A p-value."""
    if math.isnan(p):
        return "–"
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


__all__ = [
    "BESIDES",
    "CLAIM",
    "MEASURES",
    "Compared",
    "Results",
    "chance",
    "difference",
    "gather",
    "interval",
    "signed",
    "spread",
    "told",
]
