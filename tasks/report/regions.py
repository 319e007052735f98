"""What the report says of phrases and regions: pictures, numbers, charts.

counts = tally_regions(annotated)
page_section = section(counts, pictures)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.annotate.reasons import REASONS
from tasks.report import figures, region_figures
from tasks.report.parts import Grid, Picture, Section
from tasks.report.region_tally import TYPICAL, Group, Regions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def section(counts: Regions | None, pictures: Mapping[str, bytes]) -> Section:
    """The page's section on phrases and regions.

    Args:
        counts: The numbers; without them the section has pictures alone.
        pictures: PNG by name; ``regions`` and ``refused-boxes`` are those of
            `tasks.report.region_sheets`.

    Returns:
        The section, without parts where there is nothing to show.
    """
    out = Section("Regions", "The phrases of a caption and where they were found.")
    if "regions" in pictures:
        text = (
            "Annotated pictures. Beside each the phrases that were found, with their confidence; "
            "below it the caption, every phrase in its box's colour. Dots mark phrases without "
            "a box."
        )
        out.parts.append(Picture("regions", text, pictures["regions"], photos=True))
    if counts is None or not counts.pictures:
        return out
    out.parts.append(_overview(counts))
    chart = figures.png(region_figures.counts_chart(counts, TYPICAL))
    text = (
        f"Left: pictures by their number of phrases and of regions; {counts.typical:.0%} have "
        f"{TYPICAL[0]} to {TYPICAL[1]} regions, as the paper's typically have. Right: confidence "
        "of the boxes"
    )
    text += ", with the least that is kept." if counts.threshold is not None else "."
    out.parts.append(Picture("region-counts", text, chart))
    if counts.groups:
        out.parts.append(_by_group(counts))
    if "refused-boxes" in pictures:
        text = (
            "Refused boxes by reason: dashed and grey the refused one, in colour the one that "
            "stays in its place, if any."
        )
        out.parts.append(Picture("refused-boxes", text, pictures["refused-boxes"], photos=True))
    if any(counts.named.values()):
        chart = figures.png(region_figures.words_chart(counts.named, counts.different))
        text = "What the captions name most; in brackets, how many different ones there are."
        out.parts.append(Picture("phrase-words", text, chart))
    return out


def _overview(counts: Regions) -> Grid:
    refused = sum(counts.refused.values())
    rows = [
        ("annotated pictures", f"{counts.pictures:,}", ""),
        ("phrases", f"{counts.phrases:,}", _per(counts.phrases, counts.pictures)),
        ("phrases with a region", f"{counts.found:,}", _per(counts.found, counts.pictures)),
        ("regions", f"{counts.regions:,}", _per(counts.regions, counts.pictures)),
        ("boxes refused", f"{refused:,}", _per(refused, counts.pictures)),
        ("pictures without a region", f"{counts.regions_each[0]:,}", ""),
    ]
    if counts.elsewhere:
        rows.insert(2, ("– not in the caption", f"{counts.elsewhere:,}", ""))
    text = f"Phrases and regions of the annotated set. {counts.how()}".strip()
    return Grid(text, ("", "count", "a picture"), rows, narrow=True)


def _per(part: int, whole: int) -> str:
    return f"{part / whole:.2f}" if whole else "–"


def group_rows(counts: Regions) -> list[dict[str, str]]:
    """Rows to show: a group each, then all together."""
    reasons = list(counts.refused)
    rows = [_row(name, group, reasons) for name, group in counts.groups.items()]
    groups = counts.groups.values()
    sure = sum(group.confidence * group.regions for group in groups)
    whole = Group(
        phrases=counts.phrases,
        found=counts.found,
        regions=counts.regions,
        confidence=sure / max(counts.regions, 1),
        silent=sum(group.silent for group in groups),
        refused=counts.refused,
    )
    return [*rows, _row("all", whole, reasons)]


def _row(name: str, group: Group, reasons: Sequence[str]) -> dict[str, str]:
    return {
        "group": name,
        "phrases": f"{group.phrases:,}",
        "with a region": f"{group.found / group.phrases:.1%}" if group.phrases else "–",
        "mean confidence": f"{group.confidence:.2f}" if group.regions else "–",
        "no box named": f"{group.silent:,}",
        **{reason: f"{group.refused.get(reason, 0):,}" for reason in reasons},
    }


def _by_group(counts: Regions) -> Grid:
    rows = group_rows(counts)
    text = (
        "Phrases by group: the share with a region, its mean confidence, phrases for which no box "
        "was named, and refused boxes by reason"
    )
    meant = [f"{reason}: {REASONS[reason]}" for reason in counts.refused if reason in REASONS]
    text += f" ({'; '.join(meant)})." if meant else "."
    return Grid(text, tuple(rows[0]), [tuple(row.values()) for row in rows])
