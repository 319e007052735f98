"""What each change does: an arm beside the arms that it changes further, with the same seeds.

Arms are sets of changes of one profile. Where one arm has all changes of another and some more, the
two differ in these alone. Of the arms below an arm those count that no third one stands between: an
arm may so stand beside several (with regions, without DaD beside either of the two), and besides it
beside the profile as it is. A row with three seeds is set beside the same three of an arm of ten:
seeds are half of what figures differ by, and unequal ones would be read as an effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.ablate.records import EVALUATIONS, MEASURES
from tasks.ablate.results import CLAIM, RESAMPLES, Results, difference, told
from tasks.report.parts import Grid

SHOWN = (("tuned", CLAIM), ("tuned", "mAP"), ("tuned_by_test", CLAIM), ("direct", CLAIM))
"""Evaluation and measure of every column."""


def nearest(changes: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Find for every arm those that it changes further.

    Args:
        changes: Arm to its changes, dotted key to value.

    Returns:
        Arm to the arms whose changes it has all of and more, without those that stand below
        another of them, in the order given; the arm without changes is the last where it is not
        among them. Arms that stand above none are left out.
    """
    below = {
        arm: [
            other
            for other, theirs in changes.items()
            if len(theirs) < len(mine) and all(k in mine and mine[k] == theirs[k] for k in theirs)
        ]
        for arm, mine in changes.items()
    }
    found = {}
    for arm, others in below.items():
        closest = [name for name in others if not any(name in below[third] for third in others)]
        closest += [name for name in others if not changes[name] and name not in closest]
        if closest:
            found[arm] = closest
    return found


def table(results: Results) -> Grid | None:
    """Differences of every arm to the arms that it changes further, by common seeds.

    Returns:
        A row a pair of arms; None where no two of them have a seed in common.
    """
    keys = [key for key in SHOWN if any(evaluation == key[0] for _, evaluation in results.answers)]
    arms = results.experiment.arms
    rows = []
    for name, others in nearest({arm: each.change for arm, each in arms.items()}).items():
        for other in others:
            seeds = results.common([name, other])
            if not seeds or not results.runs[name] or not results.runs[other]:
                continue
            found = [difference(results.answers, name, other, *key, RESAMPLES) for key in keys]
            rows.append([name, other, str(len(seeds)), *map(told, found)])
    if not rows:
        return None
    text = (
        "What a change does: every arm less the arm that it changes further (and less the profile "
        "as it is), points with 95 % intervals over people and the seeds that both have. No claim: "
        "nothing here but the contrasts above was stated beforehand, and of so many intervals some "
        "leave out 0 by chance."
    )
    named = [f"{EVALUATIONS[evaluation]}, {MEASURES[measure]}" for evaluation, measure in keys]
    return Grid(text, ["arm", "less", "seeds", *named], rows, text=frozenset({0, 1}))
