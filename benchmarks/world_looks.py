"""The same people in the source, through every camera of both targets and in random looks.

    python -m benchmarks.world_looks docs/pictures/world-looks.jpg

Draws one contact sheet, a row a look, and says how far each camera of the second target is from
what the shipped models may have seen: the range of random looks, and the nearest of 2,000 of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from tasks.world.attributes import sample_person
from tasks.world.looks import MARGIN, SOURCE, TARGET_CAMERAS, random_look, render
from tasks.world.second.cameras import CAMERAS, beyond_random, photograph

if TYPE_CHECKING:
    from tasks.world.attributes import Person
    from tasks.world.drawing import Drawing

_SIZE = (192, 96)
_GAP, _MARGIN_LEFT = 2, 104


def rows(people: list[Person]) -> list[tuple[str, list[Drawing]]]:
    """Draw everybody in every look; each picture follows from the person's number."""

    def streams(kind: int) -> list[np.random.Generator]:
        return [np.random.default_rng([kind, at]) for at in range(len(people))]

    found = [("source", [render(p, SOURCE, r) for p, r in zip(people, streams(2), strict=True)])]
    for first in TARGET_CAMERAS:
        drawn = [render(p, first, r) for p, r in zip(people, streams(3), strict=True)]
        found.append((f"first:\n{first.name}", drawn))
    for second in CAMERAS:
        drawn = [photograph(p, second, r) for p, r in zip(people, streams(4), strict=True)]
        found.append((f"second:\n{second.name}", drawn))
    for kind in (5, 6):
        drawn = [render(p, random_look(r), r) for p, r in zip(people, streams(kind), strict=True)]
        found.append(("random", drawn))
    return found


def sheet(lines: list[tuple[str, list[Drawing]]]) -> Image.Image:
    """Put the pictures of every line beside each other, its name before them."""
    height, width = _SIZE
    columns = max(len(drawings) for _, drawings in lines)
    size = (_MARGIN_LEFT + columns * (width + _GAP), len(lines) * (height + _GAP))
    out = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(out)
    for row, (name, drawings) in enumerate(lines):
        top = row * (height + _GAP)
        pen.text((4, top + height // 2), name, fill="black")
        for column, drawing in enumerate(drawings):
            place = (_MARGIN_LEFT + column * (width + _GAP), top)
            out.paste(Image.fromarray(drawing.pixels), place)
    return out


def main() -> None:
    """Draw the sheet and print the distances."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--people", type=int, default=12)
    options = parser.parse_args()
    people = [sample_person(np.random.default_rng([1, at])) for at in range(options.people)]
    whole = sheet(rows(people))
    small = whole.resize((whole.width * 2 // 3, whole.height * 2 // 3), Image.Resampling.LANCZOS)
    small.save(options.out, quality=74)
    rng = np.random.default_rng(0)
    points = np.stack([random_look(rng).vector() for _ in range(2000)])
    print(f"margin of random looks to the first target: {MARGIN}")
    for camera in CAMERAS:
        near = float(np.linalg.norm(points - camera.look.vector(), axis=1).min())
        print(f"{camera.name}: outside the range by {beyond_random(camera.look):.2f}, "
              f"nearest random look at {near:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
