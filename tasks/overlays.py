"""Pictures with their regions drawn on them: for the report, the command line and the UI.

A drawn row is a *card*: the picture with its boxes, beside it a label for each phrase, tied to its
box by a line, and under it the caption with every phrase in its box's colour. Labels stand beside
the picture and never on it: pedestrian pictures are narrow, and hair, hat and face share a few
pixels. They are pushed apart until none covers another, and the card grows if they need more room.

A group has one colour everywhere, so that two pictures can be compared at a glance; a second phrase
of the same group gets a shade of it. Phrases without a box are underlined with dots. Boxes that the
filter refused are left out unless asked for, and are then thin, dashed and grey.

    draw_regions(image, row).save("card.png")
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageOps

from tasks.callouts import (
    COLOURS,
    Card,
    Label,
    Mark,
    Rectangle,
    arrange,
    caption_lines,
    label_lines,
    marks_of,
)
from tasks.lettering import MUTED, Run, Style, leading, write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["COLOURS", "draw_card", "draw_refusal", "draw_regions"]

PAPER = "white"
_RIM, _GAPS = (255, 255, 255, 130), (255, 255, 255, 190)
"""White that lets something through: beside a frame, between dashes."""
EMPTY = "#f1f3f5"

_LEAST, _MOST = 420, 1400
"""Sides of the picture in a card, pixels: at least the height, at most either."""


def draw_regions(
    image: Image.Image, entry: Mapping[str, Any], *, refused: bool = False
) -> Image.Image:
    """Draw an annotated row as a card as large as its picture asks for.

    Args:
        image: The picture; it is not changed. Small ones are enlarged, very large ones reduced.
        entry: ``phrases`` and ``regions`` of the row, ``caption`` if it is to stand below, and
            ``rejected`` if `refused`.
        refused: Draw the refused boxes as well.

    Returns:
        A new picture, at least 420 pixels high unless that made it wider than 1,400.
    """
    factor = max(1.0, _LEAST / image.height)
    factor = min(factor, _MOST / image.height, _MOST / image.width)
    pane = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    text = min(max(round(max(pane) / 27), 15), 34)
    card = draw_card(image, entry, Card(pane, 13 * text, text, 12), refused=refused)
    return ImageOps.expand(card, text, PAPER)


def draw_card(
    image: Image.Image | None, entry: Mapping[str, Any], card: Card, *, refused: bool = False
) -> Image.Image:
    """Draw an annotated row in given sizes.

    Args:
        image: The picture, scaled into the pane; a missing one leaves it grey.
        entry: As for `draw_regions`.
        card: The sizes.
        refused: Draw the refused boxes as well.

    Returns:
        A picture as wide as the card, as high as its pane or its labels, and its caption.
    """
    inside = _inside(image, card.pane)
    marks, more = marks_of(entry, inside, refused=refused)
    labels = arrange(marks, card)
    tall = max([card.pane[1], *(math.ceil(label.place[3]) for label in labels)])
    note = tall
    tall += leading(card.text) if more else 0
    below = caption_lines(entry, card)
    whole = tall + (card.text // 2 + leading(card.text) * len(below) if below else 0)
    out = Image.new("RGB", (card.width, whole), PAPER)
    _paint(out, image, marks, card)
    pen = ImageDraw.Draw(out, "RGBA")
    for label in labels:
        _tie(pen, label, card)
    for label in labels:
        left, top, _, bottom = label.place
        pen.rectangle((left, top, left + card.stroke, bottom - card.text // 4), label.mark.colour)
        write(pen, (left + 3 * card.stroke, top), label.lines, card.text)
    if more:
        rest = [[Run(f"and {more} more", Style(MUTED))]]
        write(pen, (card.pane[0] + card.gutter, note), rest, card.text)
    write(pen, (0, tall + card.text // 2), below, card.text)
    return out


def draw_refusal(
    image: Image.Image | None,
    phrases: Sequence[Mapping[str, Any]],
    refused: Mapping[str, Any],
    winner: Mapping[str, Any] | None,
    shape: tuple[int, int],
    *,
    lines: int = 4,
    size: int = 20,
) -> Image.Image:
    """Draw a refused box and the one that stays in its place, what they name below.

    Args:
        image: The picture, scaled into the shape; a missing one leaves it grey.
        phrases: Of the row.
        refused: One of its refused boxes.
        winner: One of its regions, or None.
        shape: Width and height of the picture's room; narrow ones are widened for the words.
        lines: Room for words: two lines a box.
        size: Type size.

    Returns:
        A picture whose size does not depend on what is drawn.
    """
    entry = {"phrases": phrases, "regions": [winner] if winner else [], "rejected": [refused]}
    card = Card((max(shape[0], 10 * size), shape[1]), 0, size)
    marks, _ = marks_of(entry, _inside(image, card.pane), refused=True)
    out = Image.new("RGB", (card.pane[0], shape[1] + size + lines * leading(size)), PAPER)
    _paint(out, image, marks, card)
    pen, y = ImageDraw.Draw(out), shape[1] + size / 2
    for mark in reversed(marks):
        said = replace(mark, detail=mark.detail.split(",", 1)[0])
        y = write(pen, (0, y), label_lines(said, card.pane[0], size, 2), size)
    return out


def _paint(out: Image.Image, image: Image.Image | None, marks: Sequence[Mark], card: Card) -> None:
    """Put the picture and its boxes at the top left."""
    pen = ImageDraw.Draw(out, "RGBA")  # mixes what is drawn with what is there
    pen.rectangle((0, 0, card.pane[0] - 1, card.pane[1] - 1), fill=EMPTY)
    if image is not None:
        x0, y0, x1, y1 = map(round, _inside(image, card.pane))
        scaled = image.convert("RGB").resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC)
        out.paste(scaled, (x0, y0))
    # Large boxes first: the small ones must stay to be seen. What was refused lies on top, since it
    # may be the very box that stays, whose colour is then seen between its dashes.
    for mark in sorted(marks, key=lambda m: (m.refused, -max(map(_area, m.boxes), default=0))):
        for box in mark.boxes:
            if mark.refused:
                _dashed(pen, box, mark.colour, max(2, card.stroke - 1))
            else:
                _framed(pen, box, mark.colour, card.stroke)


def _inside(image: Image.Image | None, pane: tuple[int, int]) -> Rectangle:
    """Where a picture stands in its pane: as large as fits, in the middle."""
    if image is None:
        return (0, 0, *pane)
    scale = min(pane[0] / image.width, pane[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    left, top = (pane[0] - size[0]) // 2, (pane[1] - size[1]) // 2
    return (left, top, left + size[0], top + size[1])


def _area(box: Rectangle) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _framed(pen: ImageDraw.ImageDraw, box: Rectangle, colour: str, width: int) -> None:
    """A frame with a thin white rim, to be seen on its own colour."""
    left, top, right, bottom = map(round, box)
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_RIM, width=width + 2)
    pen.rectangle((left, top, right, bottom), outline=colour, width=width)


def _dashed(pen: ImageDraw.ImageDraw, box: Rectangle, colour: str, width: int) -> None:
    """A frame of dashes with some white between them, to be seen on dark and on light."""
    left, top, right, bottom = map(round, box)
    pen.rectangle((left, top, right, bottom), outline=_GAPS, width=width)
    dash = 4 * width
    for x in range(left, right + 1, 2 * dash):
        for y in (top, bottom - width + 1):
            pen.rectangle((x, y, min(x + dash, right), y + width - 1), colour)
    for y in range(top, bottom + 1, 2 * dash):
        for x in (left, right - width + 1):
            pen.rectangle((x, y, x + width - 1, min(y + dash, bottom)), colour)


def _tie(pen: ImageDraw.ImageDraw, label: Label, card: Card) -> None:
    """Lead a line from a label to each of its boxes."""
    left, top, _, bottom = label.place
    width = max(1, card.stroke - 1)
    for box in label.mark.boxes:
        end = (left, min((top + bottom) / 2, top + leading(card.text) / 2))
        height = min(max(end[1], box[1] + width), box[3] - width)
        height = height if box[3] - box[1] > 2 * width else (box[1] + box[3]) / 2
        path = [(box[2], height), (card.pane[0] + card.gutter / 6, height), end]
        pen.line(path[:2], _RIM, width + 2)
        pen.line(path, label.mark.colour, width)
        dot = width + 1
        pen.ellipse(
            (box[2] - dot, height - dot, box[2] + dot, height + dot), label.mark.colour, PAPER
        )
