"""The pages of an ablation: Markdown, one self-contained HTML file, pictures and CSV.

    write(experiment, folders, Path("docs/results"), command="pedalign ablate FILE", gallery=shards)

leaves ``ablation.md``, ``ablation.html``, ``ablation-*.png``, ``ablation.csv`` (every mean with its
interval), ``ablation-runs.csv`` and ``ablation-queries.csv`` (the rank of every query with every
run). What stands in ``ablation-findings.md`` beside them is written
by people and is shown on top of both pages; it is never touched.

What is unusual: pages are written from whatever runs there are, and say how many are missing. The
same records give the same bytes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from markupsafe import Markup

from tasks.ablate import tables
from tasks.ablate.records import ExperimentLike, Record
from tasks.ablate.results import RESAMPLES, Compared, Results, chance, gather, interval, signed
from tasks.ablate.sections import build
from tasks.report.figures import duration
from tasks.report.gather import is_drawn
from tasks.report.page import fill
from tasks.report.parts import Grid, Picture, Section, Tile
from tasks.report.sources import Sources
from tasks.shards import atomic_write, read_manifest

log = logging.getLogger(__name__)

DRAWN_NOTICE = (
    "The people here are drawings made by this program; no real person is shown. The figures tell "
    "arms apart on these drawings. They say nothing about photographs; the paper's figures stand "
    "in tables and panels of their own and must not be set beside ours."
)


def write(
    experiment: ExperimentLike,
    records: Iterable[Record | Path],
    out: Path,
    *,
    command: str = "",
    gallery: Path | None = None,
    drawn: bool = False,
    domains: tuple[str, Sources] | None = None,
    shared_seconds: float = 0.0,
    stem: str = "ablation",
) -> Results:
    """Write the pages of whatever runs there are.

    Args:
        experiment: What was planned.
        records: Runs or their folders.
        out: Folder for the pages; files of the same names are replaced.
        command: How to compute it again.
        gallery: Shards that hold the test pictures; without them there are no rank lists.
        drawn: Whether the test people are drawings; a gallery says so too.
        domains: An arm and what its stages left, for the gap between source and target.
        shared_seconds: CPU seconds of what runs share and no record counts: data stages.
        stem: What the names of all files begin with.

    Returns:
        What was shown.

    Raises:
        PedAlignError: A record is damaged, or runs did not answer the same queries.
    """
    results = gather(experiment, records)
    drawn |= gallery is not None and is_drawn(gallery.name, read_manifest(gallery).meta)
    where = "on a drawn world" if drawn else "on the experiment's own test people"
    sections = build(results, gallery, where, stem, domains)
    out.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for part in section.parts:
            if isinstance(part, Picture):
                atomic_write(out / part.file, part.data)
    path = out / f"{stem}-findings.md"
    findings = path.read_text("utf-8").strip() if path.exists() else ""
    if results.finished == results.planned and "interim" in findings.lower():
        log.warning("%s speaks of interim results, and all runs are in: write it anew", path)
    about = _about(results, command, shared_seconds)
    notice = DRAWN_NOTICE if drawn else ""
    page = markdown(results, sections, about, notice, findings)
    atomic_write(out / f"{stem}.md", page.encode())
    atomic_write(
        out / f"{stem}.html", html(results, sections, about, notice, findings, stem).encode()
    )
    atomic_write(out / f"{stem}.csv", tables.measures_csv(results, RESAMPLES).encode())
    atomic_write(out / f"{stem}-runs.csv", tables.runs_csv(results).encode())
    atomic_write(out / f"{stem}-queries.csv", tables.queries_csv(results).encode())
    log.info("%s: %d of %d runs shown", out / f"{stem}.md", results.finished, results.planned)
    return results


def _about(results: Results, command: str, shared_seconds: float) -> list[str]:
    """Command, commits, compute, and what is missing."""
    said = [f"`{command}`"] if command else []
    if results.commits:
        short = (commit.partition("-") for commit in results.commits)
        said.append("commit " + ", ".join(f"{name[:10]}{dash}{rest}" for name, dash, rest in short))
    spent = results.core_seconds + shared_seconds
    if spent:
        shared = f", of it {duration(shared_seconds)} for what runs share" if shared_seconds else ""
        said.append(f"{spent / 3600:.1f} core-hours{shared}")
    missing = results.planned - results.finished
    there = f"{results.finished} of {results.planned} runs"
    said.append(f"interim: {there}" if missing else f"all {results.planned} runs")
    return said


def _told(each: Compared) -> str:
    """A contrast in a sentence."""
    stated, found = each.stated, each.found
    if found is None:
        return f"{stated.name}: not computed yet."
    text = f"{stated.name}: {signed(found.value)} points of R@1" + (
        f" ({interval(found)})" if each.seeds > 1 else ""
    )
    if each.seeds < each.planned:
        return f"{text}, {each.verdict}."
    if math.isnan(each.adjusted):
        return f"{text}, from one seed."
    return f"{text}, p {chance(each.adjusted)} after Holm: {each.verdict}."


def markdown(
    results: Results, sections: Sequence[Section], about: Sequence[str], notice: str, findings: str
) -> str:
    """The page in Markdown: what was stated first, then every table and picture."""
    lines = [f"# Ablation: {results.experiment.name}", ""]
    lines += [f"{results.experiment.note}", ""] if results.experiment.note else []
    lines += [notice, ""] if notice else []
    lines += ["; ".join(about) + ". Written by `tasks.ablate.pages`.", ""]
    lines += [f"- {_told(each)}" for each in results.compared]
    lines += [""] if results.compared else []
    lines += [f"- Not as recorded: {line}." for line in results.differing]
    lines += [""] if results.differing else []
    lines += ["## What was found", "", findings, ""] if findings else []
    for section in sections:
        lines += [f"## {section.title}", "", section.lead, ""]
        for part in section.parts:
            if isinstance(part, Picture):
                lines += [f"![{part.caption}]({part.file})", ""]
                lines += [f"*Figure {part.number}.* {part.caption}", ""]
            else:
                lines += [f"*Table {part.number}.* {part.caption}", "", *grid_lines(part), ""]
    return "\n".join(lines).rstrip() + "\n"


def grid_lines(grid: Grid) -> list[str]:
    """A table in Markdown; figures to the right, ``best`` cells bold."""
    rule = [":---" if n in grid.text else "---:" for n in range(len(grid.header))]
    rows = []
    for r, row in enumerate(grid.rows):
        cells = [cell.replace("|", "\\|") for cell in row]
        rows.append(
            [f"**{cell}**" if (r, n) in grid.best else cell for n, cell in enumerate(cells)]
        )
    return [f"| {' | '.join(cells)} |" for cells in (grid.header, rule, *rows)]


def html(
    results: Results,
    sections: Sequence[Section],
    about: Sequence[str],
    notice: str,
    findings: str,
    stem: str,
) -> str:
    """The page in HTML, by the report's template; it loads nothing from elsewhere."""
    top = []
    if findings or results.differing:
        odd = [f"Not as recorded: {line}." for line in results.differing]
        # One paragraph each; the texts themselves are escaped.
        told = Markup('</p><p class="lead">').join([*odd, *plain(findings)])
        top.append(Section("What was found", told))
    return fill(
        title=f"Ablation: {results.experiment.name}",
        subtitle=results.experiment.note or "Arms compared over people and seeds.",
        notice=notice,
        tiles=_tiles(results),
        sections=[*top, *sections],
        footer=f"{'; '.join(about).replace('`', '')}. Every picture opens with a click.",
        links={
            "Every mean": f"{stem}.csv",
            "every run": f"{stem}-runs.csv",
            "every query": f"{stem}-queries.csv",
        },
    )


def plain(text: str) -> list[str]:
    """Paragraphs and points of a little Markdown as plain lines."""
    lines: list[str] = []
    for block in text.split("\n\n"):
        for n, line in enumerate(block.strip().splitlines()):
            if n == 0 or line.startswith(("- ", "* ", "#")):
                lines.append(line.lstrip("-*# "))
            else:
                lines[-1] += f" {line.strip()}"
    return [line.replace("**", "").replace("`", "") for line in lines if line]


def _short(each: Compared) -> str:
    """Interval and verdict of a contrast that was computed."""
    ends = f"{interval(each.found, 1)}, " if each.found is not None and each.seeds > 1 else ""
    return f"({ends}{each.verdict})"


def _tiles(results: Results) -> list[Tile]:
    tiles = [
        Tile(f"{signed(each.found.value, 1)}", f"points of R@1 {_short(each)}: {each.stated.name}")
        for each in results.compared
        if each.found is not None
    ][:4]
    tiles.append(Tile(f"{results.finished} of {results.planned}", "runs"))
    if results.core_seconds:
        tiles.append(Tile(f"{results.core_seconds / 3600:.1f} h", "core-hours of the runs"))
    return tiles
