"""Type on pictures: one typeface, lines that fit, and words in colours of their own.

The typeface is DejaVu Sans out of Matplotlib's own files, so it is the same on every machine. It
has Latin, Greek, Cyrillic, Hebrew and Arabic letters, and shows any other as an empty frame. Texts
come from datasets: they are cleaned first, since a line break or half a character stops Pillow.

    lines = lay_out("a man in a red shirt", {(12, 23): Style("#1f6fe0", bold=True)}, 160, 16, 3)
    write(pen, (10, 10), lines, 16)
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from PIL import ImageFont

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL import ImageDraw

INK = "#1c2128"
MUTED = "#6b7280"

_LONGEST = 4000
"""Characters that are laid out of one text; no picture has room for more."""
# Control characters, halves of characters, and marks that turn the direction of what follows.
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


@functools.cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The typeface of everything that is drawn."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(mpl.get_data_path(), "fonts", "ttf", name)
    return ImageFont.truetype(path, size)


def clean(text: str) -> str:
    """Put a space for each character that cannot be written; the length stays as it is."""
    return _UNPRINTABLE.sub(" ", text)


def wrap(text: str, width: int, size: int, lines: int) -> list[str]:
    """Break a text into lines that fit.

    Args:
        text: Any text; a word wider than the line is cut.
        width: Room, pixels.
        size: Type size, pixels.
        lines: Most lines; the last one ends in an ellipsis where the text goes on.

    Returns:
        The lines.
    """
    return ["".join(run.text for run in line) for line in lay_out(text, {}, width, size, lines)]


@dataclass(frozen=True)
class Style:
    """How a stretch of text looks."""

    colour: str = INK
    bold: bool = False
    dotted: bool = False
    """Underlined with dots."""


PLAIN = Style()


@dataclass(frozen=True)
class Run:
    """Letters of one style in one line."""

    text: str
    style: Style = PLAIN

    def width(self, size: int) -> float:
        """How wide it is, pixels."""
        return font(size, bold=self.style.bold).getlength(self.text)


Line = list[Run]


def lay_out(
    text: str,
    styles: Mapping[tuple[int, int], Style],
    width: int,
    size: int,
    lines: int,
    plain: Style = PLAIN,
) -> list[Line]:
    """Break a text with styled stretches into lines that fit.

    Args:
        text: Any text; white space counts as one space, a word wider than the line is cut.
        styles: (first, one past the last) character to its style. Where stretches overlap, the
            one that is named first counts; what lies outside the text is left out.
        width: Room, pixels.
        size: Type size, pixels.
        lines: Most lines; the last one ends in an ellipsis where the text goes on.
        plain: Style of the rest.

    Returns:
        Lines of runs, none wider than the room unless a single letter is.
    """
    text = clean(text[:_LONGEST])
    look = [plain] * len(text)
    for (start, end), style in reversed(list(styles.items())):
        if 0 <= start < end:
            look[start:end] = [style] * len(look[start:end])
    out: list[Line] = []
    line: Line = []
    for word in re.finditer(r"\S+", text):
        runs = _runs(text, look, word.start(), word.end())
        # The space before a word belongs to both styles if they are the same one.
        between = look[word.start() - 1] if word.start() else plain
        longer = [*line, Run(" ", between), *runs] if line else runs
        if _width(longer, size) <= width:
            line = longer
            continue
        if line:
            out.append(line)
        while _width(runs, size) > width and sum(len(run.text) for run in runs) > 1:
            head, runs = _cut(runs, width, size)
            out.append(head)
            if len(out) > lines:
                break
        line = runs
        if len(out) > lines:
            break
    out += [line] if line else []
    if len(out) > lines:
        out = [*out[: lines - 1], _ended(out[lines - 1], width, size)] if lines > 0 else []
    return [_joined(line) for line in out]


def write(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], lines: Sequence[Line], size: int
) -> float:
    """Write lines from a point downwards.

    Returns:
        Where the next line would stand, pixels.
    """
    x0, y = at
    for line in lines:
        x = x0
        for run in line:
            style, right = run.style, x + run.width(size)
            pen.text((x, y), run.text, style.colour, font(size, bold=style.bold))
            if style.dotted and run.text.strip():
                under = y + 1.16 * size
                step = max(3, size // 5)
                dots = range(round(x), round(right) - 1, step)
                for dot in dots:
                    pen.rectangle((dot, under, dot + step // 3, under + step // 3), style.colour)
            x = right
        y += leading(size)
    return y


def leading(size: int) -> int:
    """From one line to the next, pixels."""
    return round(1.3 * size)


def _runs(text: str, look: Sequence[Style], start: int, end: int) -> Line:
    out: Line = []
    for at in range(start, end):
        if out and out[-1].style == look[at]:
            out[-1] = Run(out[-1].text + text[at], look[at])
        else:
            out.append(Run(text[at], look[at]))
    return out


def _width(line: Line, size: int) -> float:
    return sum(run.width(size) for run in _joined(line))


def _joined(line: Line) -> Line:
    """Neighbours of one style as one run."""
    out: Line = []
    for run in line:
        if out and out[-1].style == run.style:
            out[-1] = Run(out[-1].text + run.text, run.style)
        else:
            out.append(run)
    return out


def _cut(word: Line, width: int, size: int) -> tuple[Line, Line]:
    """Cut a word that is too wide: as many letters as fit, at least one, and the rest."""
    letters = [Run(letter, run.style) for run in word for letter in run.text]
    low, high = 1, len(letters) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _width(letters[:middle], size) <= width else (low, middle - 1)
    return _joined(letters[:low]), _joined(letters[low:])


def _ended(line: Line, width: int, size: int) -> Line:
    """End a line in an ellipsis, in the room that there is."""
    letters = [Run(letter, run.style) for run in line for letter in run.text]
    style = letters[-1].style if letters else PLAIN
    while letters and (
        _width([*letters, Run("…", style)], size) > width or letters[-1].text in " ,."
    ):
        letters.pop()
    return [*letters, Run("…", style)]
