"""Callouts: the labels of a picture's boxes, and where they stand so that none covers another.

Nothing is drawn here (`tasks.overlays` does): annotated rows become marks, marks become labels with
a place. Labels stand in a column beside the picture, each as near to its box as the others let it.

    labels = arrange(marks_of(row, (0, 0, 210, 420))[0], Card((210, 420), 200))
    place([10, 12], [20, 20], 0, 100)      # tops of two labels that want to be at one height
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import ImageColor

from tasks.lettering import MUTED, Line, Style, clean, lay_out, leading

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

COLOURS = {
    "person": "#e6194b",
    "head": "#e06c00",
    "hair": "#a0740a",
    "upper": "#1f6fe0",
    "lower": "#2b8c3e",
    "footwear": "#9333d4",
    "carried": "#008b8b",
    "accessory": "#d6338a",
    "scene": "#6b5b4b",
}
"""Group -> colour of its boxes; dark enough to be read on white."""

REFUSED = "#4a515c"

_LABELS = 40
"""Most labels of a card; nobody reads more. The rest are counted."""
_MANY = 16
"""From more labels on, each has one line."""
_OTHER = "#4b5563"

Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class Card:
    """Sizes of a card, pixels."""

    pane: tuple[int, int]
    """Width and height of the room for the picture."""
    column: int
    """Width of the labels beside it."""
    text: int = 16
    """Type size."""
    lines: int = 8
    """Most lines of the caption; with 0 it is left out."""

    @property
    def gutter(self) -> int:
        """Between picture and labels, where the lines change their height."""
        return round(1.6 * self.text)

    @property
    def width(self) -> int:
        """Width of the whole card."""
        return self.pane[0] + self.gutter + self.column

    @property
    def stroke(self) -> int:
        """Width of a box's line."""
        return max(2, round(self.text / 7))


@dataclass(frozen=True)
class Mark:
    """What one label says, and the boxes it is tied to."""

    text: str
    detail: str
    """Confidence, or why the box was refused."""
    colour: str
    boxes: tuple[Rectangle, ...]
    refused: bool = False


@dataclass(frozen=True)
class Label:
    """A label where it stands."""

    mark: Mark
    lines: tuple[Line, ...] = field(repr=False)
    place: Rectangle


def marks_of(
    entry: Mapping[str, Any], inside: Rectangle, *, refused: bool = False
) -> tuple[list[Mark], int]:
    """Gather what is to be labelled: a mark a phrase with a box, a mark a refused box.

    Args:
        entry: As for `draw_regions`.
        inside: Where the picture is, pixels; boxes are cut at its border.
        refused: Take the refused boxes as well.

    Returns:
        The marks, and how many more there would be.
    """
    phrases = entry.get("phrases") or []
    colours = phrase_colours(entry)
    kept: dict[int, list[Mapping[str, Any]]] = {}
    for region in entry.get("regions") or []:
        kept.setdefault(int(region["phrase"]), []).append(region)
    marks = [
        Mark(
            text=phrases[at]["text"],
            detail=", ".join(f"{region['score']:.2f}" for region in found),
            colour=colours[at],
            boxes=_rectangles((region["box"] for region in found), inside),
        )
        for at, found in sorted(kept.items())
        if 0 <= at < len(phrases)
    ]
    for region in (entry.get("rejected") or []) if refused else []:
        if 0 <= region["phrase"] < len(phrases):
            detail = f"{region['score']:.2f}, {region['reason']}"
            boxes = _rectangles([region["box"]], inside)
            text = phrases[region["phrase"]]["text"]
            marks.append(Mark(text, detail, REFUSED, boxes, refused=True))
    return marks[:_LABELS], max(0, len(marks) - _LABELS)


def phrase_colours(entry: Mapping[str, Any]) -> dict[int, str]:
    """Give each phrase that has a box its colour: its group's, or a shade of it."""
    phrases = entry.get("phrases") or []
    seen: dict[str, int] = {}
    colours = {}
    for at in sorted({int(region["phrase"]) for region in entry.get("regions") or []}):
        if not 0 <= at < len(phrases):
            continue
        group = str(phrases[at].get("group"))
        colours[at] = _shade(COLOURS.get(group, _OTHER), seen.get(group, 0))
        seen[group] = seen.get(group, 0) + 1
    return colours


def caption_lines(entry: Mapping[str, Any], card: Card) -> list[Line]:
    """Lay out the caption: phrases with a box in its colour, the others underlined with dots."""
    if not card.lines or not entry.get("caption"):
        return []
    colours = phrase_colours(entry)
    styles: dict[tuple[int, int], Style] = {}
    # Those with a box first: where two phrases share words, theirs is the colour.
    numbered = sorted(
        enumerate(entry.get("phrases") or []), key=lambda each: each[0] not in colours
    )
    for at, phrase in numbered:
        found = at in colours
        style = Style(colours[at], bold=True) if found else Style(MUTED, dotted=True)
        styles.setdefault((phrase["start"], phrase["end"]), style)
    return lay_out(entry["caption"], styles, card.width, card.text, card.lines)


def arrange(marks: Sequence[Mark], card: Card) -> list[Label]:
    """Stand the labels beside the picture, each as near to its box as the others let it.

    Args:
        marks: What they say.
        card: The sizes.

    Returns:
        A label a mark, from the top down. None covers another or the picture; they end below the
        pane only if they do not fit beside it.
    """
    left = card.pane[0] + card.gutter
    room = card.column - 3 * card.stroke
    wanted = sorted((_centre(mark, card.pane[1]), n) for n, mark in enumerate(marks))
    texts: list[list[Line]] = []
    heights: list[int] = []
    # Rather a higher card than words cut short, unless there are a great many.
    for lines in (4, 3) if len(marks) <= _MANY else (1,):
        texts = [label_lines(marks[n], room, card.text, lines) for _, n in wanted]
        heights = [leading(card.text) * len(text) + card.text // 2 for text in texts]
        if sum(heights) <= card.pane[1]:
            break
    tops = place([y for y, _ in wanted], heights, 0, card.pane[1])
    return [
        Label(
            marks[n],
            tuple(text),
            (left, top, card.width, top + height - card.text // 4),
        )
        for (_, n), text, height, top in zip(wanted, texts, heights, tops, strict=True)
    ]


def place(
    centres: Sequence[float], heights: Sequence[float], low: float, high: float
) -> list[float]:
    """Stand things in a column, none over another, each as near as can be to where it wants to be.

    The sum of the squared distances is the least there is: isotonic regression of the wanted tops,
    from each of which the heights above it are taken away (pool adjacent violators).

    Args:
        centres: Where the middle of each wants to be, ascending.
        heights: Of each, its distance to the next one included.
        low: Upper end of the column.
        high: Lower end; where they need more room than there is, they start at `low` and go on
            below `high`.

    Returns:
        Their tops.
    """
    blocks: list[tuple[float, int]] = []  # sum and number of those that stand together
    above = 0.0
    for centre, height in zip(centres, heights, strict=True):
        total, count = centre - height / 2 - above, 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
            before = blocks.pop()
            total, count = total + before[0], count + before[1]
        blocks.append((total, count))
        above += height
    last = max(low, high - above)
    tops: list[float] = []
    above = 0.0
    for total, count in blocks:
        for _ in range(count):
            tops.append(min(max(total / count, low), last) + above)
            above += heights[len(tops) - 1]
    return tops


def label_lines(mark: Mark, width: int, size: int, lines: int) -> list[Line]:
    """Words of a label and, behind them, its detail, which is never cut away."""
    words = clean(mark.text)
    style = Style(mark.colour, bold=not mark.refused)
    while True:
        text = f"{words} {mark.detail}"
        found = lay_out(text, {(0, len(words)): style}, width, size, lines + 1, Style(MUTED))
        if len(found) <= lines or len(words) < 2:
            return found[:lines]
        words = words[: max(1, len(words) * 7 // 8 - 1)].rstrip("… ") + "…"


def _centre(mark: Mark, pane: int) -> float:
    """At which height a label wants to be: beside its box, near the top of a large one."""
    if not mark.boxes:
        return pane
    _, top, _, bottom = mark.boxes[0]
    return top + 0.05 * pane if bottom - top > 0.5 * pane else (top + bottom) / 2


def _rectangles(boxes: Iterable[Sequence[float]], inside: Rectangle) -> tuple[Rectangle, ...]:
    """Boxes in pixels, cut at the picture's border; those outside or of no number are left out."""
    x0, y0, x1, y1 = inside
    out: list[Rectangle] = []
    for cx, cy, w, h in boxes:
        if not all(map(math.isfinite, (cx, cy, w, h))):
            continue
        left, right = x0 + (cx - w / 2) * (x1 - x0), x0 + (cx + w / 2) * (x1 - x0)
        top, bottom = y0 + (cy - h / 2) * (y1 - y0), y0 + (cy + h / 2) * (y1 - y0)
        if right < x0 or left > x1 or bottom < y0 or top > y1 or left > right or top > bottom:
            continue
        left, right = max(left, x0), min(right, x1 - 1)
        top, bottom = max(top, y0), min(bottom, y1 - 1)
        out.append((min(left, x1 - 1), min(top, y1 - 1), max(right, x0), max(bottom, y0)))
    return tuple(out)


def _shade(colour: str, step: int) -> str:
    """A colour, or a darker or lighter one of the same tint."""
    if not step:
        return colour
    toward, share = ((0, 0.4), (255, 0.3))[(step - 1) % 2]
    rgb = ImageColor.getrgb(colour)[:3]
    return "#" + "".join(f"{round(v + share * (toward - v)):02x}" for v in rgb)
