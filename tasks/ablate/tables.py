"""The tables of an ablation: arms, contrasts, the paper's rows and ours, what varies, the cost.

Each is a `tasks.report.parts.Grid`, drawn in the page and written as Markdown by
`tasks.ablate.pages`. Percent throughout; ± is the standard deviation over seeds, not an interval.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from tasks.ablate import paper
from tasks.ablate.records import EVALUATIONS, MEASURES
from tasks.ablate.results import LEVEL, Compared, Results, chance, interval, signed, spread, told
from tasks.ablate.statistics import contrast, smallest_detectable
from tasks.report.figures import duration
from tasks.report.parts import Grid


def arms(results: Results) -> list[Grid]:
    """Fine-tuned with the choice on the test split beside it, and direct transfer."""
    grids = []
    if results.claimed == "tuned":
        header = ["arm", "seeds", *MEASURES.values(), "test-chosen R@1", "test-chosen mAP"]
        rows = []
        for name in results.runs:
            tuned = [spread(results.figures(name, "tuned", m)) for m in MEASURES]
            by_test = [
                spread(results.figures(name, "tuned_by_test", measure)) for measure in ("R1", "mAP")
            ]
            rows.append([name, results.seeds(name), *tuned, *by_test])
        text = (
            "Fine-tuned, percent, mean ± standard deviation over seeds of pretraining and "
            "fine-tuning. The epoch is chosen on validation; test-chosen, as published figures "
            "are, is the epoch that ranks best on the test split itself, and no fair figure. "
            "Epochs are compared by fine-tuning's own protocol (features alone unless the profile "
            "says otherwise), figures are by the evaluation's, so test-chosen may be the lower."
        )
        grids.append(Grid(text, header, rows))
    rows = [
        [name, results.seeds(name), *(spread(results.figures(name, "direct", m)) for m in MEASURES)]
        for name in results.runs
    ]
    text = "Direct transfer, percent: what pretraining alone can do on the target's test people."
    grids.append(Grid(text, ["arm", "seeds", *MEASURES.values()], rows))
    return grids


def notes(results: Results) -> Grid | None:
    """What each arm is, where the experiment says so."""
    rows = [
        [name, arm.group, arm.note] for name, arm in results.experiment.arms.items() if arm.note
    ]
    if not rows:
        return None
    return Grid("What the arms are.", ["arm", "group", ""], rows, text=frozenset({0, 1, 2}))


def contrasts(results: Results) -> list[Grid]:
    """The claims, and beside them the same contrasts in other measures."""
    if not results.compared:
        return []
    count = len(results.compared)
    rows = [_claim(each) for each in results.compared]
    text = (
        f"The {count} contrasts stated beforehand: difference of R@1, "
        f"{EVALUATIONS[results.claimed]}, in points, with its 95 % interval over people and seeds; "
        f"p over all {count} by Holm; the smallest true difference that this design finds in 80 % "
        f"of cases at Holm's first level ({LEVEL / count:.4f}). The interval is 95 % by itself and "
        "the verdict is Holm's, so an interval may leave out 0 and yet the two are not told apart. "
        "It covers other test people and other seeds of the same trainings; it does not cover "
        "another world, another DaD or other pictures made by it, which all runs share."
    )
    header = ["contrast", "better − plain", "difference", "95 %", "p", "p (Holm)"]
    header += ["smallest detectable", "seeds", "people", ""]
    grids = [Grid(text, header, rows, text=frozenset({0, 1, 9}))]
    keys = list(dict.fromkeys(key for each in results.compared for key in each.besides))
    if keys:
        named = [f"{EVALUATIONS[evaluation]}, {MEASURES[measure]}" for evaluation, measure in keys]
        rows = [
            [each.stated.name, *(told(each.besides.get(key)) for key in keys)]
            for each in results.compared
        ]
        text = "The same contrasts in other measures, points with 95 % intervals. No claim."
        grids.append(Grid(text, ["contrast", *named], rows))
    return grids


def _claim(each: Compared) -> list[str]:
    stated, found = each.stated, each.found
    said = [stated.name, f"{stated.better} − {stated.plain}"]
    if found is None:
        return [*said, "–", "–", "–", "–", "–", "0", "–", each.verdict]
    return [
        *said,
        signed(found.value),
        interval(found),
        chance(found.p if each.seeds >= max(2, each.planned) else math.nan),
        chance(each.adjusted),
        f"{each.smallest:.2f}" if math.isfinite(each.smallest) else "–",
        str(each.seeds) if each.seeds >= each.planned else f"{each.seeds} of {each.planned}",
        f"{found.people:,}",
        each.verdict,
    ]


def varying(results: Results) -> Grid | None:
    """What the differences consist of, and what a larger design would find."""
    rows = []
    level = LEVEL / max(1, len(results.compared))
    for each in results.compared:
        if each.found is None or each.found.fewest < 2:
            continue
        found = each.found
        parts, people, seeds = found.components, found.people, found.seeds[0]
        sizes = ((people, seeds), (people, 2 * seeds), (2 * people, seeds))
        shares = [
            value**2 / number
            for value, number in (
                (parts.seed, seeds),
                (parts.person, people),
                (parts.rest, seeds * people),
            )
        ]
        whole = sum(shares) or 1.0
        cells = [
            f"{value:.2f} ({100 * share / whole:.0f} %)"
            for value, share in zip((parts.seed, parts.person, parts.rest), shares, strict=True)
        ]
        wanted = [
            f"{smallest_detectable(parts.error(*size), parts.freedom(*size), level):.2f}"
            for size in sizes[1:]
        ]
        rows.append([each.stated.name, *cells, f"{each.smallest:.2f}", *wanted])
    if not rows:
        return None
    text = (
        "Where the uncertainty of each difference comes from: standard deviations in points, and "
        "their share of the variance of the mean; then the smallest detectable difference of this "
        "design, of one with twice the seeds, and of one with twice the people. 0.00 is an "
        "estimate below 0, which no variance can be."
    )
    header = ["contrast", "between seeds", "between people", "person with seed", "this design"]
    return Grid(text, [*header, "twice the seeds", "twice the people"], rows)


def beside(results: Results, where: str) -> Iterator[Grid]:
    """The paper's tables, and after each one the same rows of this experiment.

    Args:
        results: What there is.
        where: What ours are measured on, in words.
    """
    for table in paper.TABLES:
        theirs = [
            [row.label, *(_plain(v) for v in (row.r1, row.r5, row.r10, row.map))]
            for row in table.rows
        ]
        text = f"Theirs: {table.title.lower()}. {paper.NAME}, on {paper.CORPUS}. {table.note}"
        yield Grid(text, ["row", "R@1", "R@5", "R@10", "mAP"], theirs, narrow=True)
        rows = list(_ours(results, table))
        text = (
            f"Ours: {table.title.lower()}. Measured {where}; not to be set against theirs. Means "
            f"of the seeds that all rows have; all seeds of an arm are in the tables above."
            + (f" {table.ours}" if table.ours else "")
        )
        header = ["row", "arm", "seeds", "R@1", "R@5", "R@10", "mAP"]
        yield Grid(text, header, rows, text=frozenset({0, 1}))
    rows = [
        [each.stated.name, f"{each.stated.better} − {each.stated.plain}", said]
        for each in results.compared
        if (said := paper.GAINS.get((each.stated.better, each.stated.plain)))
    ]
    if rows:
        text = (
            f"Theirs, for the contrasts stated here: {paper.NAME}, points of R@1 on "
            f"{paper.CORPUS}; without an interval, of how many runs it does not say."
        )
        header = ["contrast", "", "in the paper"]
        yield Grid(text, header, rows, text=frozenset({0, 1, 2}), narrow=True)


def _ours(results: Results, table: paper.PaperTable) -> Iterator[list[str]]:
    measures = ("R1", "R5", "R10", "mAP")
    pairs = [(row.label, row.ours) for row in table.rows if row.ours]
    if table.curve:
        points = sorted(
            (arm.curves[table.curve], name)
            for name, arm in results.experiment.arms.items()
            if table.curve in arm.curves
        )
        unit = "{:g} %" if table.curve == "scale" else table.curve + " {:g}"
        pairs = [(unit.format(at), name) for at, name in points]
    common = results.common(name for _, name in pairs)
    for label, name in pairs:
        if name not in results.runs:
            yield [label, "not in this experiment", "", "", "", "", ""]
            continue
        found = [results.figures(name, results.claimed, m, common) for m in measures]
        yield [label, name, str(len(found[0])), *(spread(each) for each in found)]


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def cost(results: Results) -> Grid:
    """CPU time by arm and stage."""
    stages = list(
        dict.fromkeys(s for runs in results.runs.values() for r in runs for s in r.core_seconds)
    )
    rows = []
    for name, runs in results.runs.items():
        each = [sum(run.core_seconds.get(stage, 0.0) for run in runs) for stage in stages]
        rows.append([name, results.seeds(name), *(duration(s) for s in each), duration(sum(each))])
    text = (
        "CPU time of the runs, by arm. What two arms share is computed once, but counted in each; "
        "the data stages before pretraining are not in it."
    )
    return Grid(text, ["arm", "seeds", *stages, "together"], rows)


def measures_csv(results: Results, resamples: int = 4000) -> str:
    """Every mean of every arm with its interval over people and seeds, a row a measure."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["arm", "evaluation", "measure", "seeds", "mean", "sd", "low", "high"])
    for (arm, evaluation), answers in results.answers.items():
        for measure in MEASURES:
            found = contrast(answers.scores(measure), resamples=resamples)
            means = answers.scores(measure).means
            sd = f"{means.std(ddof=1):.4f}" if len(means) > 1 else ""
            ends = (found.low, found.high) if len(means) > 1 else ()
            numbers = [f"{v:.4f}" for v in (found.value, *ends)] + [""] * (2 - len(ends))
            writer.writerow([arm, evaluation, measure, len(means), numbers[0], sd, *numbers[1:]])
    return sink.getvalue()


def runs_csv(results: Results) -> str:
    """A row a run: its figures, CPU seconds and commit."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    names = [(evaluation, measure) for evaluation in EVALUATIONS for measure in MEASURES]
    header = [f"{evaluation} {measure}" for evaluation, measure in names]
    writer.writerow(["arm", "seed", *header, "core seconds", "commit"])
    for runs in results.runs.values():
        for run in runs:
            cells = [run.figures.get(evaluation, {}).get(measure) for evaluation, measure in names]
            seconds = f"{sum(run.core_seconds.values()):.1f}"
            writer.writerow([run.arm, run.seed, *cells, seconds, " ".join(run.commits)])
    return sink.getvalue()


def queries_csv(results: Results) -> str:
    """A row a query and evaluation: the rank of the first right picture with every run.

    Empty where the gallery has no match, or an arm was not asked.
    """
    key = ["evaluation", "uid", "person_id", "caption"]
    frames: dict[str, pd.DataFrame] = {}
    for (arm, evaluation), answers in results.answers.items():
        told = pd.DataFrame(
            {"uid": answers.uids, "person_id": answers.people, "caption": answers.captions}
        )
        told.insert(0, "evaluation", evaluation)
        # A picture may have the same caption twice.
        told["again"] = told.groupby(key, dropna=False).cumcount()
        for seed, rank_Q in zip(answers.seeds, answers.rank_SQ, strict=True):
            ranks = pd.Series(rank_Q).replace(np.inf, np.nan)
            told[f"{arm}, seed {seed}"] = ranks.astype("Int64")
        there = frames.get(evaluation)
        frames[evaluation] = (
            told if there is None else there.merge(told, "outer", [*key, "again"], sort=True)
        )
    if not frames:
        return f"{','.join(key)}\n"
    whole = pd.concat(frames.values(), ignore_index=True).drop(columns="again")
    return str(whole.to_csv(index=False, lineterminator="\n"))
