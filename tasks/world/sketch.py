"""What all parts of a figure are drawn with: canvas, projection, dyes and measures.

Lengths are in body heights and places in body space (see `figure`) until they reach the canvas.
"""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw

from tasks.world.attributes import COLOURS, HAIR_COLOURS
from tasks.world.canvas import RGB, Canvas, Point, smooth
from tasks.world.figure import Frame, Stance

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from tasks.world.attributes import Person

SKIN: Final[tuple[RGB, ...]] = ((246, 212, 186), (230, 186, 150), (186, 134, 98), (128, 86, 62))
_DENIM: Final[dict[str, RGB]] = {
    "blue": (52, 92, 160),
    "black": (40, 40, 46),
    "grey": (128, 132, 140),
}


def darker(colour: RGB, factor: float) -> RGB:
    """Scale a colour's brightness; above 1 it moves towards white."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)  # type: ignore[return-value]
    return tuple(int(255 - (255 - c) * (2 - factor)) for c in colour)  # type: ignore[return-value]


def contrasting(name: str) -> RGB:
    """Return the second colour of a pattern on a garment of colour `name`."""
    return (
        (28, 34, 62) if name in ("white", "yellow", "pink", "grey", "orange") else (244, 244, 240)
    )


class Sketch:
    """One person in one stance, about to be painted.

    Args:
        canvas: Where to.
        frame: Projection of body space.
        person: Who.
        stance: In which pose.
        rng: Source of small variations (shade of a colour, folds).
    """

    def __init__(
        self, canvas: Canvas, frame: Frame, person: Person, stance: Stance, rng: np.random.Generator
    ) -> None:
        self.canvas = canvas
        self.frame = frame
        self.person = person
        self.stance = stance
        self.rng = rng
        self.lift = stance.joints["neck"][1] - 0.835
        self.skin = SKIN[person.skin]
        self.upper = self.dye(COLOURS[person.upper_colour])
        base = _DENIM if person.lower_kind == "jeans" else COLOURS
        self.lower = self.dye(base[person.lower_colour])
        if person.lower_kind == "dress":
            self.lower = self.upper
        self.shoe = self.dye(COLOURS[person.shoe_colour])
        self.hair = self.dye(HAIR_COLOURS[person.hair_colour])
        self.bag = self.dye(COLOURS.get(person.bag_colour, (0, 0, 0)))
        self.hat = self.dye(COLOURS.get(person.hat_colour, (0, 0, 0)))
        self.cloth = self.texture()
        self.bulk = {"coat": 0.010, "jacket": 0.008, "hoodie": 0.008, "sweater": 0.005}.get(
            person.upper_kind, 0.002
        )

    def dye(self, colour: RGB) -> RGB:
        """Vary a colour a little: no two cloths are dyed alike."""
        hue, light, sat = colorsys.rgb_to_hls(*(c / 255 for c in colour))
        hue = (hue + float(self.rng.uniform(-0.010, 0.010))) % 1
        light = min(0.97, max(0.08, light * float(self.rng.uniform(0.93, 1.06))))
        sat = min(1.0, sat * float(self.rng.uniform(0.90, 1.05)))
        return tuple(int(255 * c) for c in colorsys.hls_to_rgb(hue, light, sat))  # type: ignore[return-value]

    def at(self, x: float, y: float, z: float) -> Point:
        """Project a point given for a body standing straight."""
        return self.frame.at((x, y + self.lift, z))

    def px(self, length: float, y: float) -> float:
        """Return a length across the image at level `y`, in pixels."""
        return length * self.frame.scale(y)

    def joint(self, name: str, radius: float) -> tuple[Point, float]:
        """Project a joint of the stance, with a radius, for `Canvas.limb`."""
        joint = self.stance.joints[name]
        return self.frame.at(joint), self.px(radius, joint[1])

    def between(self, a: str, b: str, share: float, radius: float) -> tuple[Point, float]:
        """Return a point `share` of the way from joint a to joint b, with a radius."""
        p, q = self.stance.joints[a], self.stance.joints[b]
        mid = tuple(u + share * (v - u) for u, v in zip(p, q, strict=True))
        return self.frame.at((mid[0], mid[1], mid[2])), self.px(radius, mid[1])

    def outline(self, levels: Sequence[tuple[float, float, float]]) -> list[Point]:
        """Return the outline of a trunk of elliptical cross sections (height, breadth, depth)."""
        left: list[Point] = []
        right: list[Point] = []
        for y, breadth, thickness in levels:
            x, row = self.at(0, y, 0)
            half = self.frame.half_width(breadth, thickness) * self.frame.scale(y)
            left.append((x - half, row))
            right.append((x + half, row))
        y, breadth, thickness = levels[-1]
        x, row = self.at(0, y, 0)
        sag = row + 0.5 * abs(self.at(0, y, -thickness)[1] - row) + self.px(0.006, y)
        return smooth([*left, (x, sag), *right[::-1]])

    def texture(self) -> Image.Image | None:
        """Make the cloth of a patterned garment, as large as the colour layer."""
        person, canvas = self.person, self.canvas
        if person.upper_pattern not in ("striped", "checked"):
            return None
        height, width = canvas.size[0] * canvas.ss, canvas.size[1] * canvas.ss
        cloth = Image.new("RGB", (width, height), self.upper)
        pen = ImageDraw.Draw(cloth)
        second = contrasting(person.upper_colour)
        striped = person.upper_pattern == "striped"
        period = self.frame.height * canvas.ss * (0.042 if striped else 0.056)
        thick = max(2, round(period * (0.30 if striped else 0.15)))
        start = float(self.rng.uniform(0, period))
        for i in range(int(height / period) + 1):
            y = start + i * period
            pen.line([(0, y), (width, y)], fill=second, width=thick)
        if not striped:
            for i in range(int(width / period) + 1):
                x = start + i * period
                pen.line([(x, 0), (x, height)], fill=second, width=thick)
        return cloth
