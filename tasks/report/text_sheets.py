"""Sheets of pictures with their pseudo texts: what was seen, how sure that is, what is said.

Rows are chosen by uid alone, so the same pictures appear until the data change, and only those that
are shown are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from tasks.caption.vocabulary import REQUIRED
from tasks.lettering import INK, MUTED, clean, font, wrap
from tasks.lookup import fetch, sample
from tasks.report.illustrate import picture
from tasks.report.sheets import GAP, LINE, PAPER, card_sheet, cell_for, fit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

COLUMNS = 4
_PANE = 330
"""Height of a picture."""
_WIDTH = 560
"""Of a card. Shown at half the size."""
_TEXT, _SMALL, _LEADING = 22, 19, 29
_CHIP, _CHIP_GAP = 36, 7
_LINES = 6
"""Most lines of a caption."""
_CAPTIONS = 2
_ALWAYS, _OPTIONAL = "#cfe1f6", "#fbdfc3"
"""Behind a value as far as it is likely: of attributes always said, and of the others."""


def text_sheet(
    images: Path, captioned: Path, count: int, seed: int, columns: int = COLUMNS
) -> Image.Image | None:
    """Draw pictures with the attributes that were seen in them and the texts made of those.

    Args:
        images: Folder of the pictures.
        captioned: Folder of a ``captioned`` table.
        count: Most pictures.
        seed: Seed of the choice.
        columns: Pictures in a row.

    Returns:
        The sheet; None where no row has attributes.
    """
    uids = sample(captioned, count, seed, "pseudo texts")
    rows = fetch(captioned, uids, ["captions", "attributes"])
    uids = [uid for uid in uids if rows[uid]["attributes"]]
    if not uids:
        return None
    pixels = fetch(images, uids, ["image"])
    shown = [picture(pixels.get(uid)) for uid in uids]
    pane = cell_for(shown, _PANE)
    cards = [draw_card(image, rows[uid], pane) for image, uid in zip(shown, uids, strict=True)]
    return card_sheet(cards, columns, _WIDTH, 3 * GAP)


def draw_card(
    image: Image.Image | None, row: Mapping[str, Any], pane: tuple[int, int]
) -> Image.Image:
    """Draw a picture, its attributes beside it and its texts below.

    Args:
        image: The picture; None gives a grey cell.
        row: ``captions`` and ``attributes`` of the picture.
        pane: Width and height of the room for the picture.
    """
    seen: Sequence[Mapping[str, Any]] = row["attributes"]
    beside = max(pane[1], len(seen) * (_CHIP + _CHIP_GAP))
    said: list[str] = []
    for text in row["captions"][:_CAPTIONS]:
        said += [*wrap(text, _WIDTH, _TEXT, _LINES), ""]
    card = Image.new("RGB", (_WIDTH, beside + GAP + _LEADING * len(said)), PAPER)
    card.paste(fit(image, pane), (0, 0))
    draw = ImageDraw.Draw(card)
    left = pane[0] + GAP
    for at, each in enumerate(seen):
        top = at * (_CHIP + _CHIP_GAP)
        _chip(draw, (left, top, _WIDTH - 1, top + _CHIP), each)
    for at, line in enumerate(said):
        draw.text((0, beside + GAP + _LEADING * at), line, INK, font(_TEXT))
    return card


def _chip(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], seen: Mapping[str, Any]
) -> None:
    """A value in a frame that is filled as far as it is likely, its probability at the end."""
    left, top, right, bottom = box
    tint = _ALWAYS if seen["attribute"] in REQUIRED else _OPTIONAL
    end = left + round((right - left) * min(max(seen["score"], 0.0), 1.0))
    draw.rounded_rectangle(box, 8, PAPER)
    if end > left + 16:
        draw.rounded_rectangle((left, top, end, bottom), 8, tint)
    draw.rounded_rectangle(box, 8, outline=LINE, width=2)
    middle = (top + bottom) / 2
    score = f"{seen['score']:.2f}"
    draw.text((right - 8, middle), score, MUTED, font(_SMALL), anchor="rm")
    room = right - left - 26 - font(_SMALL).getlength(score)
    value = wrap(clean(seen["value"]), int(room), _SMALL, 1)[0]
    draw.text((left + 10, middle), value, INK, font(_SMALL), anchor="lm")
