"""What the report shows of captions: how diverse they are, and old and new ones with pictures.

Set side by side: the source's captions, the prompts where those are others, the new captions (each
style by itself where there are several), pseudo texts of the target where it got some, and what
people wrote about the target's train split. The measures of diversity are taken on equally many
captions of each (`tasks.diversity`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from tasks.diversity import Counting, Diversity, at_equal_size, covered, words_of
from tasks.lettering import INK, MUTED, font, wrap
from tasks.lookup import fetch, sample
from tasks.report import figures, sheets
from tasks.report.illustrate import picture
from tasks.report.parts import Grid, Picture, Section
from tasks.schemas import OK
from tasks.shards import iter_tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tasks.lookup import Row
    from tasks.report.sources import Sources

SOURCE, PROMPTS, NEW, TARGET = "source captions", "prompts", "new captions", "target captions"
"""Names of the sets, in their order; a style is shown as "new captions: STYLE"."""
PSEUDO = "pseudo texts"
"""Name of what the stage `describe` said; shown as "pseudo texts of DATASET"."""

_STEPS = 24
"""Points of a curve of the vocabulary's growth."""


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The sets of captions in numbers."""

    sets: Mapping[str, Diversity]
    """Each whole."""
    equal: Mapping[str, Diversity]
    """Each on as many captions as the smallest has (`tasks.diversity.at_equal_size`)."""
    covered: Mapping[str, float]
    """Share of the words of the target's captions that occur in as many of each set; without the
    target's own, and empty without a target."""
    growth: Mapping[str, tuple[tuple[int, int], ...]]
    """Captions read, and different words met in them."""


def measure_wording(sources: Sources, seed: int) -> Wording | None:
    """Count the words of every set of captions.

    Reads captions and nothing else, one shard at a time.

    Args:
        sources: The folders.
        seed: Of the choice of the captions that are compared.

    Returns:
        The numbers, or None where there is no caption.
    """
    sets = _before(sources.restyled, seed) if sources.restyled else {}
    sets |= _after(sources.captioned, seed) if sources.captioned else {}
    for name, folder in sources.described.items():
        sets[f"{PSEUDO} of {name}"] = counting = Counting(seed)
        for table in iter_tables(folder, ["uid", "captions", "status"], verify=False):
            _add(counting, table)
    if sources.target_folder is not None:
        sets[TARGET] = Counting(seed)
        columns = ["uid", "captions", "split", "status"]
        for table in iter_tables(sources.target_folder, columns, verify=False):
            # What people wrote about the pictures that a model is tested on stays unread.
            train = table.filter(pc.equal(table["split"], "train"))
            _add(sets[TARGET], train)
    whole = {name: counting.diversity() for name, counting in sets.items()}
    whole = {name: entry for name, entry in whole.items() if entry.captions}
    if not whole:
        return None
    equal = at_equal_size({name: sets[name] for name in whole})
    size = next(iter(equal.values())).captions
    texts = {name: sets[name].sample(size) for name in whole}
    target = texts.get(TARGET, [])
    return Wording(
        sets=whole,
        equal=equal,
        covered={n: covered(target, t) for n, t in texts.items() if target and n != TARGET},
        growth={name: tuple(_growth(said)) for name, said in texts.items()},
    )


def _before(folder: Path, seed: int) -> dict[str, Counting]:
    """The words that restyled pictures came with; prompts by themselves where they are others."""
    source, prompts = Counting(seed), Counting(seed)
    differ = made = False
    for table in iter_tables(folder, ["uid", "captions", "prompt", "status"], verify=False):
        rows = table.filter(pc.equal(table["status"], OK)).to_pylist()
        _add(source, table)
        prompts.add([row["uid"] for row in rows], [row["prompt"] for row in rows])
        differ |= any(row["prompt"] and row["prompt"] not in row["captions"] for row in rows)
        made |= any(".g" in row["uid"] for row in rows)
    if made:  # from prompts alone: their captions are the prompts
        return {PROMPTS: prompts}
    return {SOURCE: source, PROMPTS: prompts} if differ else {SOURCE: source}


def _after(folder: Path, seed: int) -> dict[str, Counting]:
    """The new captions, and those of each style where there are several."""
    new = Counting(seed)
    styles: dict[str, Counting] = {}
    for table in iter_tables(folder, ["uid", "captions", "styles", "status"], verify=False):
        _add(new, table)
        for row in table.filter(pc.equal(table["status"], OK)).to_pylist():
            for number, style in enumerate(row["styles"] or ()):
                counting = styles.setdefault(f"{NEW}: {style}", Counting(seed))
                counting.add([f"{row['uid']} {number}"], [row["captions"][number]])
    return {NEW: new} | (dict(sorted(styles.items())) if len(styles) > 1 else {})


def _add(counting: Counting, table: pa.Table) -> None:
    """Count every caption of a table's usable rows."""
    rows = table.filter(pc.equal(table["status"], OK))
    names, texts = [], []
    for uid, captions in zip(rows["uid"].to_pylist(), rows["captions"].to_pylist(), strict=True):
        names += [f"{uid} {number}" for number in range(len(captions))]
        texts += captions
    counting.add(names, texts)


def _growth(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Different words met in the first captions, at evenly spaced numbers of captions."""
    marks = set(np.linspace(0, len(texts), _STEPS + 1).round().astype(int).tolist())
    met: set[str] = set()
    for read, text in enumerate(texts, start=1):
        met.update(words_of(text))
        if read in marks:
            yield read, len(met)


def section(wording: Wording | None, pictures: Mapping[str, bytes]) -> Section:
    """The page's section on captions.

    Args:
        wording: The numbers; without them the section has no table and no chart.
        pictures: PNG by name; ``captions`` is `caption_sheet`'s.

    Returns:
        The section, without parts where there is nothing to show.
    """
    out = Section("Captions", "What is said of the pictures, and how many ways of saying it.")
    if "captions" in pictures:
        text = "Pictures with the words that they came with, if any, and the new ones below."
        out.parts.append(Picture("captions", text, pictures["captions"], photos=True))
    if wording is None:
        return out
    chart = figures.png(wording_chart(wording))
    text = (
        "Left: different words met while reading captions. Right: how many of the words, pairs and "
        "triples of words are different ones. The higher, the more diverse."
    )
    out.parts.append(Picture("wording", text, chart))
    size = next(iter(wording.equal.values())).captions
    header = (
        "captions", "in all", "words each", "vocabulary", "distinct-1", "distinct-2", "distinct-3",
        "repeated",
    )  # fmt: skip
    shown = "the target's words known" if wording.covered else None
    rows = []
    for name, equal in wording.equal.items():
        cells = [
            name,
            f"{wording.sets[name].captions:,}",
            f"{equal.mean_length:.1f}",
            f"{equal.vocabulary:,}",
            *(f"{100 * v:.2f} %" for v in (equal.distinct_1, equal.distinct_2, equal.distinct_3)),
            f"{100 * equal.repeated:.1f} %",
        ]
        if shown:
            known = wording.covered.get(name)
            cells.append("" if known is None else f"{100 * known:.1f} %")
        rows.append(cells)
    text = (
        f"Captions in numbers, on {size:,} of each kind where not said otherwise: the share of "
        "different words, pairs and triples of words, of captions that repeat another one"
    )
    text += ", and of the words of the target's captions that they have." if shown else "."
    out.parts.append(Grid(text, (*header, shown) if shown else header, rows))
    return out


def wording_chart(wording: Wording) -> Figure:
    """Draw the growth of the vocabulary, and the shares of distinct n-grams."""
    names = [name for name in (SOURCE, PROMPTS, NEW, TARGET) if name in wording.equal]
    colours = {name: figures.PALETTE[n] for n, name in enumerate((NEW, TARGET, SOURCE, PROMPTS))}
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(10.4, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        for name in names:
            read, met = zip(*wording.growth[name], strict=True)
            left.plot(read, met, color=colours[name], lw=2.2)
            left.annotate(
                str(met[-1]), (read[-1], met[-1]), (5, 0), textcoords="offset points",
                color=colours[name], va="center",
            )  # fmt: skip
        left.set(xlabel="captions read", ylabel="different words", xlim=(0, None), ylim=(0, None))
        height = 0.8 / len(names)
        for place, name in enumerate(names):
            entry = wording.equal[name]
            shares = [100 * v for v in (entry.distinct_1, entry.distinct_2, entry.distinct_3)]
            at = np.arange(3) - 0.4 + height * (place + 0.5)
            right.barh(at, shares, 0.88 * height, color=colours[name], label=name)
            for y, share in zip(at, shares, strict=True):
                right.annotate(
                    figures.number(share), (share, y), (4, 0), textcoords="offset points",
                    va="center", fontsize=9,
                )  # fmt: skip
        right.set_yticks(range(3), ("distinct-1", "distinct-2", "distinct-3"))
        right.set_xlabel("different n-grams (% of all)")
        right.margins(x=0.14)
        right.grid(visible=False, axis="y")
        right.invert_yaxis()
        figure.legend(loc="outside upper center", ncols=len(names))
    return figure


_COLUMNS, _SIZE, _LINES = 6, 15, 8
"""Pictures in a row of the sheet; type size and most lines of a caption."""


def caption_sheet(sources: Sources, count: int, seed: int) -> Image.Image | None:
    """Draw pictures with the words that they came with and the new ones.

    Args:
        sources: The folders.
        count: How many pictures.
        seed: Of their choice.

    Returns:
        The sheet, or None where nothing was captioned.
    """
    if sources.captioned is None or sources.restyled is None:
        return None
    uids = sample(sources.captioned, count, seed, "captions")
    if not uids:
        return None
    new = fetch(sources.captioned, uids, ["captions", "styles"])
    old = fetch(sources.restyled, uids, ["image", "captions", "prompt"])
    images = [picture(old.get(uid)) for uid in uids]
    shape = sheets.cell_for(images, 300)
    width, leading = max(shape[0], 210), _SIZE + 5
    texts = [_told(old[uid], new[uid], width) if uid in old else [] for uid in uids]
    rows = [
        range(first, min(first + _COLUMNS, len(uids))) for first in range(0, len(uids), _COLUMNS)
    ]
    # As high as its longest text.
    heights = [shape[1] + 14 + leading * max(len(texts[n]) for n in row) for row in rows]
    sheet = Image.new(
        "RGB",
        (
            2 * sheets.MARGIN + min(_COLUMNS, len(uids)) * (width + sheets.GAP) - sheets.GAP,
            2 * sheets.MARGIN + sum(heights) + 2 * sheets.GAP * (len(rows) - 1),
        ),
        sheets.PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    top = sheets.MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, n in enumerate(row):
            x, y = sheets.MARGIN + column * (width + sheets.GAP), top
            sheet.paste(sheets.fit(images[n], (width, shape[1])), (x, y))
            y += shape[1] + 10
            for line, colour in texts[n]:
                draw.text((x, y), line, colour, font(_SIZE))
                y += leading
        top += height + 2 * sheets.GAP
    return sheet


def _told(old: Row, new: Row, width: int) -> list[tuple[str, str]]:
    """The lines under a picture, each with its colour: what was said of it, what is said now."""
    before = list(old["captions"] or ()) or [old["prompt"]]
    lines: list[tuple[str, str]] = []
    for text in before[:2]:
        lines += [(line, MUTED) for line in wrap(text, width, _SIZE, _LINES)]
        lines.append(("", MUTED))
    styles = new["styles"] or [""] * len(new["captions"])
    several = len(set(styles)) > 1
    for text, style in zip(new["captions"], styles, strict=True):
        said = f"[{style}] {text}" if several else text
        lines += [(line, INK) for line in wrap(said, width, _SIZE, _LINES)]
        lines.append(("", INK))
    return lines[:-1]
