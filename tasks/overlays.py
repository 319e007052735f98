"""Pictures with their regions drawn on them: for the report, the command line and the UI.

Small pictures are enlarged until a label can be read. A group has one colour everywhere, so that
two pictures can be compared at a glance; boxes that the filter refused are left out unless asked
for, and then drawn thin and grey with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Mapping

COLOURS = {
    "person": "#e6194b",
    "head": "#f58231",
    "hair": "#b8860b",
    "upper": "#1f6fe0",
    "lower": "#2e9e44",
    "footwear": "#9333d4",
    "carried": "#008b8b",
    "accessory": "#d6338a",
    "scene": "#6b5b4b",
}
"""Group -> colour of its boxes; dark enough for white letters."""

_REFUSED = "#808080"
_LEAST_HEIGHT = 420
_TEXT = 12


def draw_regions(
    image: Image.Image, entry: Mapping[str, Any], *, refused: bool = False
) -> Image.Image:
    """Draw the regions of an annotated row with their phrases and confidences.

    Args:
        image: The picture; it is not changed.
        entry: ``phrases`` and ``regions`` of the row, and ``rejected`` if `refused`.
        refused: Draw the refused boxes as well.

    Returns:
        A new picture, at least 420 pixels high.
    """
    factor = max(1.0, _LEAST_HEIGHT / image.height)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    out = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(out)
    font = ImageFont.load_default(_TEXT)
    phrases = entry["phrases"] or []
    if refused:
        for region in entry.get("rejected") or []:
            label = f"{phrases[region['phrase']]['text']}: {region['reason']}"
            _box(pen, font, out.size, region["box"], label, _REFUSED, 1)
    # Large boxes first: their labels must not cover the small ones.
    regions = sorted(entry["regions"] or [], key=lambda r: -r["box"][2] * r["box"][3])
    for region in regions:
        phrase = phrases[region["phrase"]]
        label = f"{phrase['text']} {region['score']:.2f}"
        _box(pen, font, out.size, region["box"], label, COLOURS.get(phrase["group"], _REFUSED), 2)
    return out


def _box(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    label: str,
    colour: str,
    width: int,
) -> None:
    cx, cy, w, h = box
    left, top = max(0.0, (cx - w / 2) * size[0]), max(0.0, (cy - h / 2) * size[1])
    right, bottom = (
        min(size[0] - 1, (cx + w / 2) * size[0]),
        min(size[1] - 1, (cy + h / 2) * size[1]),
    )
    if right < left or bottom < top:
        return
    pen.rectangle((left, top, right, bottom), outline=colour, width=width)
    while label and font.getlength(label) > size[0] - 4:
        label = label[:-2].rstrip("…") + "…" if len(label) > 2 else ""
    x = min(left, size[0] - font.getlength(label) - 4)
    plate = (x, top, x + font.getlength(label) + 4, top + _TEXT + 4)
    pen.rectangle(plate, fill=colour)
    pen.text((x + 2, top + 1), label, fill="white", font=font)
