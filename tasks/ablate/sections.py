"""The sections of an ablation's pages: which tables and pictures, in what order, under what words.

Every section has what the records allow and is left out where they allow nothing.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np

from tasks.ablate import changes, disagreement, figures, mentions, paper, tables
from tasks.ablate.records import EVALUATIONS, MEASURES
from tasks.ablate.results import CLAIM, LEVEL, RESAMPLES, Compared, Results, chance
from tasks.ablate.statistics import Estimate, contrast
from tasks.report import encode_png
from tasks.report import gap as gap_report
from tasks.report.domains import domain_map
from tasks.report.figures import png
from tasks.report.page import number
from tasks.report.parts import Picture, Section
from tasks.report.sources import Sources

RANKS = 20
"""Of the cumulative match characteristic."""
QUERIES = 8
"""Of the sheet of rank lists."""
CURVES = {"beta": ("Weight of the region losses", "beta"), "scale": ("Pretraining data", "% of it")}


def build(
    results: Results,
    gallery: Path | None,
    where: str,
    stem: str,
    domains: tuple[str, Sources] | None = None,
) -> list[Section]:
    """Arrange everything into sections, figures and tables numbered; empty ones are left out.

    Args:
        results: What there is.
        gallery: Shards with the test pictures, or None.
        where: What was measured on, in words.
        stem: What the files of the pictures begin with.
        domains: An arm and what its stages left, that of `gap` among it; None leaves them out.
    """
    sections = [
        _claims(results),
        _arms(results),
        _paper(results, where),
        *([_domains(*domains)] if domains else []),
        _retrieval(results),
        _failures(results, gallery),
        _training(results),
        _cost(results),
    ]
    for part in (part for section in sections for part in section.parts):
        if isinstance(part, Picture):
            part.name = f"{stem}-{part.name}"
    return number(sections)


def _picture(name: str, caption: str, data: bytes, *, photos: bool = False) -> Picture:
    return Picture(name, caption, data, photos=photos)


def _claims(results: Results) -> Section:
    lead = "What was stated before anything was computed, and what came of it."
    section = Section("Contrasts", lead)
    rows = [
        figures.ContrastRow(
            each.stated.name,
            _estimated(each.found, _gains(results, each)),
            each.smallest,
            _sure(each),
            each.adjusted < LEVEL,
        )
        for each in results.compared
        if each.found is not None
    ]
    if rows:
        measure = f"{MEASURES[CLAIM]}, {EVALUATIONS[results.claimed]}"
        text = (
            f"Differences of {measure}; small dots are single seeds. Which true differences fit "
            "what was seen is said by the interval, 95 % each by itself; colour and p are after "
            "Holm. The grey says only which differences this design would overlook in more than "
            "20 % of cases."
        )
        chart = png(figures.contrasts_chart(rows, measure))
        section.parts.append(_picture("contrasts", text, chart))
    section.parts += tables.contrasts(results)
    if grid := tables.varying(results):
        section.parts.append(grid)
    return section


def _gains(results: Results, each: Compared) -> list[float]:
    """Differences of the claim by common seed."""
    better, plain = (
        dict(zip(answers.seeds, answers.scores(CLAIM).means.tolist(), strict=True))
        for name in (each.stated.better, each.stated.plain)
        if (answers := results.answers.get((name, results.claimed)))
    )
    return [better[seed] - plain[seed] for seed in better if seed in plain]


def _sure(each: Compared) -> str:
    if math.isnan(each.adjusted):
        return "one seed" if each.planned < 2 else each.verdict
    return f"p {chance(each.adjusted)} (Holm)"


def _arms(results: Results) -> Section:
    section = Section("Arms", "Every arm before and after fine-tuning on the target.")
    rows = []
    for name, arm in results.experiment.arms.items():
        dots = [_dot(results, name, evaluation) for evaluation in ("direct", "tuned")]
        if any(dots):
            said = f"{results.seeds(name)} seeds"
            rows.append(figures.ArmRow(name, arm.group, dots[0], dots[1], said))
    if rows:
        text = "R@1 of every arm. Only the contrasts above are claims."
        section.parts.append(_picture("arms", text, png(figures.arms_chart(rows))))
    section.parts += tables.arms(results)
    if grid := changes.table(results):
        section.parts.append(grid)
    if grid := tables.notes(results):
        section.parts.append(grid)
    return section


def _dot(
    results: Results, arm: str, evaluation: str, seeds: Container[int] | None = None
) -> figures.Dot | None:
    """An arm's mean of all its seeds, or of those given."""
    answers = results.answers.get((arm, evaluation))
    if answers is None:
        return None
    scores = answers.scores(CLAIM)
    scores = scores.taken([seed for seed in scores.seeds if seeds is None or seed in seeds])
    if not scores.seeds:
        return None
    return _estimated(contrast(scores, resamples=RESAMPLES), scores.means.tolist())


def _estimated(found: Estimate, seeds: Sequence[float]) -> figures.Dot:
    """A dot with its interval, which one seed does not have."""
    ends = (found.low, found.high) if found.fewest > 1 else (math.nan, math.nan)
    return figures.Dot(found.value, *ends, seeds)


def _paper(results: Results, where: str) -> Section:
    lead = (
        f"The paper's tables with the same rows of this experiment after each: theirs on "
        f"{paper.CORPUS}, ours {where}."
    )
    section = Section("Beside the paper", lead)
    lines = []
    for curve, (title, label) in CURVES.items():
        points = {
            name: arm.curves[curve]
            for name, arm in results.experiment.arms.items()
            if curve in arm.curves
        }
        common = results.common(points)
        dots = {
            at: dot
            for name, at in points.items()
            if (dot := _dot(results, name, results.claimed, common))
        }
        if len(dots) > 1:
            lines.append(figures.Line(title, label, dots, paper.CURVES[curve]))
    if lines:
        text = (
            f"Left ours, {where}: R@1, {EVALUATIONS[results.claimed]}, with 95 % intervals and "
            "single seeds, of the seeds that all points of a curve have. Right "
            f"{paper.NAME} on {paper.CORPUS}, one run a point. The two have scales of their own."
        )
        chart = png(figures.lines_chart(lines, "ours", paper.NAME))
        section.parts.append(_picture("curves", text, chart))
    if results.finished:
        section.parts += tables.beside(results, where)
    return section


def _domains(arm: str, sources: Sources) -> Section:
    """The gap before and after, as the report of a run shows it."""
    gap = gap_report.read_gap(sources.gap) if sources.gap is not None else None
    section = gap_report.section(gap, domain_map(sources, 0) if gap is not None else None)
    section.lead += f" Here of {arm}."
    for part in section.parts:
        if isinstance(part, Picture):
            part.name = f"gap-{part.name}"
    return section


def _retrieval(results: Results) -> Section:
    section = Section("Retrieval", "How far down the list the right person is.")
    panels = {}
    for evaluation in ("direct", "tuned"):
        found = {
            arm: results.answers[arm, evaluation].cmc(RANKS)
            for arm in results.main
            if (arm, evaluation) in results.answers
        }
        if found:
            panels[EVALUATIONS[evaluation]] = found
    if panels:
        text = "Share of queries answered within rank k, mean over seeds; bands span the seeds."
        section.parts.append(_picture("cmc", text, png(figures.cmc_chart(panels))))
    return section


def _failures(results: Results, gallery: Path | None) -> Section:
    lead = "Which queries fail, and where two arms disagree. Exploratory: nothing here is a claim."
    section = Section("Failures", lead)
    for each in results.compared[:1]:
        stated = each.stated
        pair = [
            results.answers.get((arm, results.claimed)) for arm in (stated.better, stated.plain)
        ]
        better, plain = pair
        if each.found is None or better is None or plain is None:
            continue
        groups = mentions.grouped(better, plain)
        if groups:
            text = (
                "Failures by what a query mentions, as the phrase parser reads it: colours, things "
                f"worn or carried, other attributes (number of queries in brackets). Right: how "
                f"much less {stated.better} fails; the line is the difference over all queries, "
                "and coloured is what its interval tells from that line. Of so many groups a few "
                "are by chance, and a query stands in several."
            )
            overall = each.found.value
            chart = png(figures.mentions_chart(groups, stated.better, stated.plain, overall))
            section.parts.append(_picture("failures", text, chart))
        queries = disagreement.chosen(better, plain, QUERIES)
        if gallery is not None and queries:
            sheet = disagreement.sheet(
                (stated.better, better), (stated.plain, plain), [gallery], queries
            )
            if sheet is not None:
                text = (
                    f"The first five answers of {stated.better} and of {stated.plain} with the "
                    "same seed, for queries on which their seeds disagree most, half in favour of "
                    "either."
                )
                data = encode_png(sheet)
                section.parts.append(_picture("disagreement", text, data, photos=True))
    return section


def _training(results: Results) -> Section:
    section = Section("Fine-tuning", "How validation and test rise by epoch.")
    arms = [epochs for name in results.main if (epochs := _epochs(results, name))]
    if arms:
        text = (
            "R@1 by epoch of fine-tuning, mean over seeds, bands span the seeds. Validation "
            "chooses the epoch; test is shown afterwards and chooses nothing but the test-chosen "
            "figures. Heights are not to be compared: the two have galleries of their own sizes, "
            "and the smaller one is the easier. Ranked by fine-tuning's own protocol, features "
            "alone unless the profile says otherwise; tables are by the evaluation's."
        )
        section.parts.append(_picture("epochs", text, png(figures.epochs_chart(arms))))
    return section


def _epochs(results: Results, arm: str) -> figures.Epochs | None:
    curves = [run.curve for run in results.runs[arm] if run.curve]
    curves = [
        c for c in curves if all((entry.get("val") or {}).get(CLAIM) is not None for entry in c)
    ]
    if not curves:
        return None
    length = min(len(curve) for curve in curves)
    epochs = [int(entry["epoch"]) for entry in curves[0][:length]]
    val = np.asarray([[entry["val"][CLAIM] for entry in curve[:length]] for curve in curves])
    test = None
    if all((entry.get("test") or {}).get(CLAIM) is not None for c in curves for entry in c):
        test = np.asarray([[entry["test"][CLAIM] for entry in c[:length]] for c in curves])
    return figures.Epochs(arm, epochs, val, test)


def _cost(results: Results) -> Section:
    section = Section("Cost", "What was computed, in CPU time.")
    if results.core_seconds:
        section.parts.append(tables.cost(results))
    return section
