"""What the report says of pseudo texts (`caption.method: clip_attributes`).

Two tables may hold some: the captions of what was restyled, and the descriptions of a target that
came without words (stage `describe`). Whether what was seen is true nobody can say of photographs;
what can be shown is how often what was seen, how sure that was, beside the published shares, how
many ways of saying it there are, and pictures to judge by.

    told = measure_texts(sources)
    page_section = section(told, pictures)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.caption.shares import LUPERSON_T, LUPERSON_T_TEXTS, TextCounting, TextFigures
from tasks.caption.vocabulary import ATTRIBUTES, OPTIONAL
from tasks.report import figures, text_figures
from tasks.report.parts import Grid, Picture, Section
from tasks.report.text_sheets import text_sheet
from tasks.shards import iter_tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from PIL import Image

    from tasks.report.sources import Sources

NEW = "new captions"
"""Name of the captions of what was restyled."""
LUPERSON_T_WORDS = 459
"""Vocabulary of UniPT's release, by an independent count."""


def told_tables(sources: Sources) -> dict[str, tuple[Path, Path]]:
    """Tables of captions that may be pseudo texts, by name: pictures and captions."""
    found: dict[str, tuple[Path, Path]] = {}
    if sources.captioned and sources.restyled:
        found[NEW] = (sources.restyled, sources.captioned)
    ingested = {path.name: path for path in sources.ingested}
    for name, folder in sources.described.items():
        if name in ingested:
            found[f"texts for {name}"] = (ingested[name], folder)
    return found


def measure_texts(sources: Sources) -> dict[str, TextFigures]:
    """Count the pseudo texts of every table that has some; other captions are passed over."""
    told = {}
    for name, (_, folder) in told_tables(sources).items():
        counted = TextCounting()
        for table in iter_tables(folder, TextCounting.columns, verify=False):
            counted.add(table)
        found = counted.figures()
        if found.pictures:
            told[name] = found
    return told


def sheets_of(sources: Sources, count: int, seed: int) -> dict[str, Image.Image | None]:
    """Sheets of pictures with their pseudo texts, by the names that `section` looks for."""
    return {
        _sheet(name): text_sheet(images, captioned, count, seed)
        for name, (images, captioned) in told_tables(sources).items()
    }


def section(told: Mapping[str, TextFigures], pictures: Mapping[str, bytes]) -> Section:
    """The page's section on pseudo texts.

    Args:
        told: From `measure_texts`.
        pictures: PNG by name, of `sheets_of`.

    Returns:
        The section, without parts where there are no pseudo texts.
    """
    out = Section("Pseudo texts", "What was seen in pictures that nobody described, and is said.")
    if told:
        out.parts.append(_overview(told))
    for name, found in told.items():
        whose = "" if len(told) == 1 else f" ({name})"
        if _sheet(name) in pictures:
            text = (
                f"Pictures with their pseudo texts{whose}. Beside each what was seen, filled as "
                "far as it is likely: blue what every text names, orange what is named where it "
                "is likely enough. Nothing here says whether it is true."
            )
            out.parts.append(Picture(_sheet(name), text, pictures[_sheet(name)], photos=True))
        if any(share.count for share in found.shares.values()):
            missing = [each for each in OPTIONAL if each not in found.values]
            text = (
                f"Shares of the optional attributes{whose} beside those that UniPT's authors "
                f"count, {sum(LUPERSON_T.values()):,} in all. Other pictures have other shares; a "
                "share that no street has speaks against the model or the threshold."
            )
            text += f" Never seen, or not asked for: {', '.join(missing)}." if missing else ""
            chart = figures.png(text_figures.shares_chart(found))
            out.parts.append(Picture(f"{_sheet(name)}-shares", text, chart))
        text = f"What was seen{whose}, in percent of the pictures; at most twelve values each."
        chart = figures.png(text_figures.values_chart(found))
        out.parts.append(Picture(f"{_sheet(name)}-values", text, chart))
        out.parts.append(_attributes(found, whose))
    return out


def told(figures_of: Mapping[str, TextFigures]) -> list[str]:
    """A sentence a table for the card of a dataset."""
    return [
        f"{name}: {found.diversity.captions:,} sentences on {found.pictures:,} pictures, of "
        f"{sum(each not in OPTIONAL for each in found.values)} kinds of attributes that every "
        f"picture has and {found.optional:.2f} others a picture, by {found.templates:,} templates "
        f"with a vocabulary of {found.diversity.vocabulary:,} words. A model guessed the "
        "attributes; nobody has checked them."
        for name, found in figures_of.items()
    ]


def _sheet(name: str) -> str:
    return "texts" if name == NEW else f"texts-{name.removeprefix('texts for ')}"


def _overview(told: Mapping[str, TextFigures]) -> Grid:
    optional = sum(LUPERSON_T.values()) / LUPERSON_T_TEXTS
    rows: list[Sequence[str]] = []
    for name, found in told.items():
        words = found.diversity
        rows.append((
            name, f"{found.pictures:,}", f"{words.captions:,}", f"{found.optional:.2f}",
            f"{found.templates:,}", f"{words.vocabulary:,}", f"{words.mean_length:.1f}",
            f"{100 * words.distinct_1:.2f} / {100 * words.distinct_2:.1f} / "
            f"{100 * words.distinct_3:.1f} %",
            f"{100 * words.repeated:.1f} %",
        ))  # fmt: skip
    published = (
        "LUPerson-T", "957,606", f"{LUPERSON_T_TEXTS:,}", f"{optional:.2f}", "456",
        str(LUPERSON_T_WORDS), *[""] * 3,
    )  # fmt: skip
    header = (
        "set", "pictures", "texts", "optional", "templates", "vocabulary",
        "words each", "distinct-1, 2, 3", "repeated",
    )  # fmt: skip
    text = (
        "Pseudo texts in numbers: optional attributes a picture, templates and words that were "
        "used, the share of different words, pairs and triples of words, and of texts that repeat "
        "another one. They fall with the number of texts. Of LUPerson-T's texts, what "
        "is published or was counted."
    )
    return Grid(text, header, [*rows, published])


def _attributes(found: TextFigures, whose: str) -> Grid:
    rows = []
    for name in ATTRIBUTES:
        values = found.values.get(name)
        if not values:
            continue
        often, times = next(iter(values.items()))
        seen = sum(values.values())
        rows.append((
            name, "where likely" if name in OPTIONAL else "always", f"{len(values):,}",
            f"{100 * seen / max(found.pictures, 1):.1f} %", f"{found.scores[name]:.2f}",
            f"{often} ({100 * times / seen:.0f} %)",
        ))  # fmt: skip
    text = f"What was seen, by attribute{whose}: how often and how sure."
    header = ("attribute", "said", "values", "of the pictures", "mean score", "most frequent")
    return Grid(text, header, rows, text=frozenset({0, 1, 5}))
