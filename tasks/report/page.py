"""The report as one HTML file: numbered figures and tables, nothing loaded from elsewhere.

The page is built as plain data first (`tasks.report.parts`), so that what it says can be
tested without reading HTML; `render` then fills template.html. Jinja escapes every text: captions
come from datasets and may hold markup.
"""

from __future__ import annotations

import itertools
from importlib import resources
from typing import TYPE_CHECKING

import jinja2

from tasks.disk import size_text
from tasks.report import (
    choices,
    crossing,
    failing,
    figures,
    gap,
    published,
    regions,
    reid,
    road,
    texts,
    wording,
)
from tasks.report.epoch_figures import epochs_chart
from tasks.report.gather import Facts
from tasks.report.parts import Grid, Picture, Section, Tile
from tasks.report.records import MEASURES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DRAWN_NOTICE = (
    "The pictures of {names} are drawings made by this program; no real person is "
    "shown. The figures below measure that the pipeline works and how its stages compare on these "
    "drawings. They say nothing about photographs, and must not be set beside published results."
)


def build(facts: Facts, pictures: Mapping[str, bytes]) -> list[Section]:
    """Arrange what is known into sections; a section with nothing to show is left out.

    Args:
        facts: The numbers.
        pictures: PNG by name, for those sheets that could be made: ``before-after``, ``rejects``,
            ``captions``, ``regions``, ``refused-boxes``, ``ranks-EVALUATION`` and
            ``ranks-reid-NAME``.

    Returns:
        Sections with numbered figures and tables.
    """
    sections = [
        _look(facts, pictures),
        gap.section(facts.gap, facts.domains),
        _screening(facts, pictures),
    ]
    sections += [wording.section(facts.wording, pictures), texts.section(facts.texts, pictures)]
    sections += [regions.section(facts.regions, pictures)]
    sections += [_retrieval(facts, pictures), failing.section(facts.failures)]
    sections += [crossing.section(facts)]
    sections += [reid.section(facts.reidentified, facts.sources.ingested, pictures)]
    sections += [road.section(facts), _training(facts)]
    sections += [_data(facts), _cost(facts)]
    return number(sections)


def number(sections: Sequence[Section]) -> list[Section]:
    """Leave out sections without parts, and number figures and tables through the page."""
    kept = [section for section in sections if section.parts]
    figure, table = itertools.count(1), itertools.count(1)
    for section in kept:
        for part in section.parts:
            part.number = next(figure if part.is_picture else table)
    return kept


def _look(facts: Facts, pictures: Mapping[str, bytes]) -> Section:
    section = Section("Restyling", "What restyling does to a picture.")
    text = (
        "Columns show a picture above what was made of it; the bottom row shows the target's own "
        "pictures, unpaired."
    )
    restyled = facts.tables.get("restyle")
    if restyled and restyled.meta.get("mode") == "none":
        section = Section("Pictures", "What is learned from: no picture was restyled in this run.")
        text = (
            "The pictures that pretraining reads, as they came; the bottom row shows the target's "
            "own, unpaired."
        )
    if "before-after" in pictures:
        section.parts.append(Picture("before-after", text, pictures["before-after"], photos=True))
    return section


def _screening(facts: Facts, pictures: Mapping[str, bytes]) -> Section:
    section = Section("Screening", "Which pictures were refused, and why.")
    if facts.rejects:
        table = facts.rejects.table()
        header = tuple(table[0]) if table else ()
        section.parts.append(
            Grid(
                f"{facts.rejects.beside_paper()} “Also” counts those that another reason refused "
                "first.",
                header,
                [[str(value) for value in row.values()] for row in table],
                text=frozenset({0, len(header) - 1}),
            )
        )
    if "rejects" in pictures:
        text = "Refused pictures by reason; the first row is of those that were kept."
        section.parts.append(Picture("rejects", text, pictures["rejects"], photos=True))
    return section


def _retrieval(facts: Facts, pictures: Mapping[str, bytes]) -> Section:
    lead = "How well a sentence finds its person in the test gallery."
    if reason := road.no_finetuning(facts):
        lead += f" Nothing was fine-tuned: {reason}."
    section = Section("Retrieval", lead)
    if not facts.evaluations:
        return section
    header = ("evaluation", *MEASURES, "queries", "gallery")
    rows: list[Sequence[str]] = []
    best: set[tuple[int, int]] = set()
    lines: dict[str, int] = {}
    for name, entry in facts.evaluations.items():
        lines[name] = len(rows)
        counts = (f"{n:,}" if n is not None else "–" for n in (entry.queries, entry.gallery))
        rows.append((name, *_percent(entry.measures), *counts))
        rows += [(f"– {how}", *_percent(m), "", "") for how, m in entry.besides.items()]
    for column, measure in enumerate(MEASURES, start=1):
        values = {name: entry.measures.get(measure, -1.0) for name, entry in facts.fair.items()}
        if len(values) > 1 and (most := max(values.values())) >= 0:
            best |= {(lines[name], column) for name, value in values.items() if value == most}
    text = f"Retrieval on the test split, percent, {_ranked(facts)}"
    if best:
        text += "; the best evaluation of each column is bold"
        text += ", those chosen on the test split aside" if len(facts.fair) < len(lines) else ""
    text += "."
    section.parts.append(Grid(text, header, rows, best=frozenset(best)))
    section.parts += published.tables(facts)
    rows = choices.rows(facts)
    if rows:
        columns = frozenset({0, 1, 2})
        section.parts.append(Grid(choices.EXPLANATION, choices.HEADER, rows, text=columns))
    curves = {n: (e.ranks, e.recall) for n, e in facts.evaluations.items() if len(e.ranks)}
    if curves:
        text = "Share of queries with a right picture among the first k (CMC)."
        chart = figures.png(figures.cmc_chart(curves))
        section.parts.append(Picture("cmc", text, chart, narrow=True))
    for name in facts.evaluations:
        if f"ranks-{name}" in pictures:
            text = (
                f"Rank lists of {name}: green ✓ is the person asked for, red ✗ is another; every "
                "evaluation shows the same queries."
            )
            data = pictures[f"ranks-{name}"]
            section.parts.append(Picture(f"ranks-{name}", text, data, photos=True))
    return section


def _ranked(facts: Facts) -> str:
    """How the galleries were ranked."""
    if reason := road.no_reranking(facts):
        return f"ranked by the cosine of features alone ({reason})"
    by_cosine = [name for name, entry in facts.evaluations.items() if not entry.reranked]
    said = "after re-ranking by the fusion encoder"
    return f"{said} ({', '.join(by_cosine)}: by the cosine alone)" if by_cosine else said


def _percent(measures: Mapping[str, float]) -> list[str]:
    return [f"{measures[name]:.2f}" if name in measures else "" for name in MEASURES]


def _training(facts: Facts) -> Section:
    section = Section("Training", "How the losses fell.")
    if facts.curves:
        text = (
            "Losses over steps, faint as measured and strong as a moving mean; the grey shape "
            "behind is the learning rate."
        )
        section.parts.append(Picture("losses", text, figures.png(figures.loss_chart(facts.curves))))
    if facts.choosing:
        measures = " or ".join(dict.fromkeys(run.measure for run in facts.choosing))
        text = (
            "A fine-tuning by epoch: its loss, and how well every epoch ranks those who choose it "
            f"({measures}); a ring marks an epoch whose weights are kept."
        )
        chart = figures.png(epochs_chart(facts.choosing))
        section.parts.append(Picture("epochs", text, chart))
    return section


def _data(facts: Facts) -> Section:
    section = Section("Data", "What came in, what was refused and why. No row is ever dropped.")
    outcomes = {name: table.outcomes for name, table in facts.tables.items()}
    chart = figures.png(figures.counts_chart(outcomes))
    section.parts.append(
        Picture("counts", "Rows of every table, kept or refused by reason.", chart)
    )
    rows = [
        (
            name,
            split,
            f"{check.people[split]:,}" if check.people[split] else "unknown",
            f"{n:,}",
            f"{check.captions[split]:,}",
        )
        for name, check in facts.splits.items()
        for split, n in check.images.items()
    ]
    text = "People, images and captions of every split, as ingested."
    header = ("dataset", "split", "people", "images", "captions")
    section.parts.append(Grid(text, header, rows, text=frozenset({0, 1})))
    section.parts.append(_leaks(facts))
    if found := _findings(facts):
        text = "What ingestion noticed."
        section.parts.append(
            Grid(text, ("dataset", "finding", ""), found, text=frozenset({0, 1, 2}))
        )
    return section


def _findings(facts: Facts) -> list[Sequence[str]]:
    """What `tasks.ingest.findings` wrote into the manifests, the worst first."""
    rows: list[Sequence[str]] = []
    for path in facts.sources.ingested:
        told = facts.tables[f"ingest {path.name}"].meta.get("report") or {}
        compared = told.get("comparison")
        if compared:
            said = "; ".join(compared["differences"][:9])
            rows.append((path.name, f"against {compared['variant']}", said or "exactly the same"))
        if told.get("pictures_in_two_splits"):
            count = f"{told['pictures_in_two_splits']:,}"
            rows.append((path.name, "pictures in two splits, by perceptual hash", count))
        for shared in (told.get("shared_examples") or [])[:2]:
            said = f"“{shared['caption'][:120]}” ({shared['people']} people)"
            rows.append((path.name, "a sentence for several people", said))
        if told.get("empty_captions"):
            rows.append((path.name, "empty captions left out", f"{told['empty_captions']:,}"))
        kinds = told.get("odd_captions") or {}
        if kinds:
            said = ", ".join(f"{kind}: {count:,}" for kind, count in kinds.items())
            rows.append((path.name, "captions that look wrong, kept", said))
        if told.get("copied"):
            said = ", ".join(f"{why}: {count:,}" for why, count in told["copied"].items())
            rows.append((path.name, "pictures stored as a clean copy", said))
    return rows


def _leaks(facts: Facts) -> Grid:
    rows = []
    for name, check in facts.splits.items():
        shared = ", ".join(f"{pair}: {n}" for pair, n in check.shared_people.items() if n)
        if not any(check.people.values()):
            verdict = "identities unknown"
        elif len([split for split, people in check.people.items() if people]) < 2:
            verdict = "one split only"
        else:
            verdict = shared or "none"
        rows.append((name, verdict, f"{check.shared_captions:,}"))
    text = "Leak check: identities in two splits, and sentences used for more than one person."
    header = ("dataset", "identities in two splits", "shared sentences")
    return Grid(text, header, rows, text=frozenset({0, 1}))


def _cost(facts: Facts) -> Section:
    section = Section("Cost", "Where the time and the disk went.")
    if facts.timings:
        total = sum(seconds for _, seconds, _ in facts.timings)
        text = f"Time and peak memory of each stage's last run; {figures.duration(total)} in all."
        chart = figures.png(figures.timings_chart(facts.timings))
        section.parts.append(Picture("timings", text, chart))
    section.parts.append(_disk(facts))
    return section


def _disk(facts: Facts) -> Grid:
    rows: list[Sequence[str]] = []
    for name, size in facts.outputs.items():
        table = facts.tables.get(name)
        count = f"{table.rows:,}" if table else ""
        each = f"{size / table.rows / 1024:.1f} KB" if table and table.rows else ""
        rows.append((name, count, size_text(size), each))
    text = "Disk use of what every stage left."
    if facts.cache:
        parts = (("shards", "shards"), ("trainings", "trainings"), ("running checkpoints", "runs"))
        said = ", ".join(f"{words} {size_text(facts.cache.get(k, 0))}" for words, k in parts)
        whole = size_text(facts.cache.get("together", 0))
        rows.append((f".cache ({said})", "", whole, ""))
        text += (
            f" Of .cache, {size_text(facts.cache.get('own', 0))} are on the disk for it alone; the "
            "rest are other names of the same files. pedalign gc frees what nothing needs."
        )
    return Grid(text, ("stage", "rows", "on disk", "a row"), rows)


def tiles(facts: Facts) -> list[Tile]:
    """Headline numbers, at most six."""
    found = [
        Tile(f"{e.measures['R@1']:.1f} %", f"R@1, {name}")
        for name, e in facts.fair.items()
        if "R@1" in e.measures
    ][:3]
    if facts.gap:
        found += gap.tiles(facts.gap)
    last = facts.tables.get("screen") or facts.tables.get("restyle")
    if last:
        found.append(Tile(f"{last.outcomes.get('ok', 0):,}", f"pairs kept of {last.rows:,} made"))
    if facts.timings:
        total = sum(seconds for _, seconds, _ in facts.timings)
        found.append(Tile(figures.duration(total), "compute, all stages"))
    return found


def notice(facts: Facts) -> str:
    """Say plainly which data are drawings; empty where none is."""
    return DRAWN_NOTICE.format(names=" and ".join(facts.drawn)) if facts.drawn else ""


def render(facts: Facts, sections: Sequence[Section]) -> str:
    """Lay the report out as one HTML document."""
    names = ", ".join(path.name for path in facts.sources.ingested)
    return fill(
        title="PedAlign report",
        subtitle=f"Domain-aligned pretraining for text-based person retrieval, on {names}.",
        notice=notice(facts),
        tiles=tiles(facts),
        sections=sections,
        footer="Every picture opens at full size with a click.",
        links={"Dataset card": "dataset_card.md", "Model card": "model_card.md"},
    )


def fill(
    *,
    title: str,
    subtitle: str,
    notice: str,
    tiles: Sequence[Tile],
    sections: Sequence[Section],
    footer: str,
    links: Mapping[str, str],
) -> str:
    """Fill the template, which knows nothing of a report's facts.

    Args:
        title: Of the page.
        subtitle: One sentence under it.
        notice: What to know before anything is read; may be empty.
        tiles: Headline numbers.
        sections: From `number`.
        footer: A sentence at the end.
        links: Text to address, after the footer.

    Returns:
        One HTML document that loads nothing from elsewhere.
    """
    source = resources.files("tasks.report").joinpath("template.html").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source).render(
        title=title,
        subtitle=subtitle,
        notice=notice,
        tiles=tiles,
        sections=sections,
        footer=footer,
        links=links,
    )
