"""A canvas of three layers on which a figure is drawn part by part.

- colour: the pixels, drawn `ss` times too large and reduced at the end, so edges are smooth;
- shade: brightness, drawn at final size in grey levels (128 is neutral) and multiplied in at the
  end. Keeping it apart from colour lets a striped sleeve be as round as a plain one;
- parts: which body part each pixel shows, drawn at final size without smoothing. Boxes are read
  from it, so a box holds what is seen, never what is hidden.

All coordinates are pixels of the final image. Later calls cover earlier ones in all layers.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Point = tuple[float, float]
RGB = tuple[int, int, int]

PARTS: Final = (
    "background", "head", "hair", "hat", "skin", "upper", "lower", "footwear", "bag",
)  # fmt: skip
"""Part names; the index is the value in the parts layer."""

_ARC: Final = tuple((math.cos(math.pi * i / 6), math.sin(math.pi * i / 6)) for i in range(7))
_CIRCLE: Final = tuple(
    (math.cos(2 * math.pi * i / 20), math.sin(2 * math.pi * i / 20)) for i in range(20)
)
_RIM, _LIT = 92, 137


def _capsule(p: Point, q: Point, rp: float, rq: float) -> list[Point]:
    """Return the outline of a limb: two half circles joined by straight sides."""
    dx, dy = q[0] - p[0], q[1] - p[1]
    length = math.hypot(dx, dy) or 1e-6
    ux, uy = dx / length, dy / length
    points = [(p[0] - uy * rp * c - ux * rp * s, p[1] + ux * rp * c - uy * rp * s) for c, s in _ARC]
    points += [
        (q[0] + uy * rq * c + ux * rq * s, q[1] - ux * rq * c + uy * rq * s) for c, s in _ARC
    ]
    return points


def smooth(points: Sequence[Point], steps: int = 3) -> list[Point]:
    """Return a closed Catmull-Rom curve through `points`, `steps` points a side."""
    out: list[Point] = []
    n = len(points)
    for i in range(n):
        (ax, ay), (bx, by) = points[i - 1], points[i]
        (cx, cy), (dx, dy) = points[(i + 1) % n], points[(i + 2) % n]
        for k in range(steps):
            t = k / steps
            t2, t3 = t * t, t * t * t
            wa, wb = -t3 + 2 * t2 - t, 3 * t3 - 5 * t2 + 2
            wc, wd = -3 * t3 + 4 * t2 + t, t3 - t2
            out.append(
                (
                    (wa * ax + wb * bx + wc * cx + wd * dx) / 2,
                    (wa * ay + wb * by + wc * cy + wd * dy) / 2,
                )
            )
    return out


class Canvas:
    """Three layers that are drawn in step; see the module's docstring.

    Args:
        backdrop: uint8 (H, W, 3), what is behind the figure.
        light: Direction of the light in the image, -1 (from the left) to 1 (from the right).
        ss: How many times larger the colour layer is drawn.
    """

    def __init__(self, backdrop: NDArray[np.uint8], light: float, ss: int = 3) -> None:
        height, width = backdrop.shape[:2]
        self.size = (height, width)
        self.ss = ss
        self.light = light
        self._colour = Image.fromarray(backdrop).resize(
            (width * ss, height * ss), Image.Resampling.NEAREST
        )
        self._shade = Image.new("L", (width, height), 128)
        self._parts = Image.new("L", (width, height), 0)
        self._draw_colour = ImageDraw.Draw(self._colour)
        self._draw_shade = ImageDraw.Draw(self._shade)
        self._draw_parts = ImageDraw.Draw(self._parts)

    def polygon(
        self,
        points: Sequence[Point],
        colour: RGB,
        part: str,
        shade: int | None = 128,
        texture: Image.Image | None = None,
    ) -> None:
        """Fill a polygon.

        Args:
            points: Its corners.
            colour: Its sRGB colour.
            part: One of `PARTS`.
            shade: Grey level in the shade layer; None leaves that layer as it is.
            texture: Pattern of the size of the colour layer, used in place of `colour`.
        """
        ss = self.ss
        large = [(x * ss, y * ss) for x, y in points]
        if texture is None:
            self._draw_colour.polygon(large, fill=colour)
        else:
            mask = Image.new("1", self._colour.size, 0)
            ImageDraw.Draw(mask).polygon(large, fill=1)
            self._colour.paste(texture, (0, 0), mask)
        flat = [(x - 0.5, y - 0.5) for x, y in points]
        self._draw_parts.polygon(flat, fill=PARTS.index(part))
        if shade is not None:
            self._draw_shade.polygon(flat, fill=shade)

    def limb(
        self,
        joints: Sequence[tuple[Point, float]],
        colour: RGB,
        part: str,
        texture: Image.Image | None = None,
    ) -> None:
        """Draw a tapered limb through joints of given radii, rounded by shade."""
        pairs = list(itertools.pairwise(joints))
        for (p, rp), (q, rq) in pairs:
            self.polygon(_capsule(p, q, rp, rq), colour, part, _RIM, texture)
        for (p, rp), (q, rq) in pairs:
            off = 0.3 * self.light
            inner = _capsule(
                (p[0] + off * rp - 0.5, p[1] - 0.5),
                (q[0] + off * rq - 0.5, q[1] - 0.5),
                0.62 * rp,
                0.62 * rq,
            )
            self._draw_shade.polygon(inner, fill=_LIT)

    def solid(
        self,
        points: Sequence[Point],
        colour: RGB,
        part: str,
        texture: Image.Image | None = None,
        core: float = 0.68,
    ) -> None:
        """Draw a rounded body: a polygon whose middle is lit and whose sides are darker.

        Args:
            points: Its outline.
            colour: Its sRGB colour.
            part: One of `PARTS`.
            texture: Pattern in place of the colour.
            core: Width of the lit middle as a share of the whole.
        """
        self.polygon(points, colour, part, _RIM, texture)
        xs = [x for x, _ in points]
        middle = (min(xs) + max(xs)) / 2 + self.light * 0.10 * (max(xs) - min(xs))
        inner = [(middle + core * (x - middle) - 0.5, y - 0.5) for x, y in points]
        self._draw_shade.polygon(inner, fill=_LIT)

    def ellipse(
        self,
        centre: Point,
        rx: float,
        ry: float,
        colour: RGB,
        part: str,
        rounded: bool = True,
    ) -> None:
        """Draw an ellipse, rounded by shade or flat."""
        points = [(centre[0] + rx * c, centre[1] + ry * s) for c, s in _CIRCLE]
        if rounded:
            self.solid(points, colour, part)
        else:
            self.polygon(points, colour, part, None)

    def line(self, points: Sequence[Point], width: float, colour: RGB, part: str) -> None:
        """Draw a line of `width` final pixels; it belongs to `part`."""
        ss = self.ss
        self._draw_colour.line(
            [(x * ss, y * ss) for x, y in points],
            fill=colour,
            width=max(1, round(width * ss)),
            joint="curve",
        )
        flat = [(x - 0.5, y - 0.5) for x, y in points]
        self._draw_parts.line(flat, fill=PARTS.index(part), width=max(1, round(width)))

    def fold(self, points: Sequence[Point], width: float, level: int) -> None:
        """Draw a crease: a line in the shade layer only."""
        flat = [(x - 0.5, y - 0.5) for x, y in points]
        self._draw_shade.line(flat, fill=level, width=max(1, round(width)))

    def shadow(self, centre: Point, rx: float, ry: float, level: int) -> None:
        """Darken the ground in an ellipse."""
        self._draw_shade.ellipse(
            (centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry), fill=level
        )

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Flatten the layers.

        Returns:
            pixels uint8 (H, W, 3) and parts uint8 (H, W), indices into `PARTS`.
        """
        blur = max(0.7, self.size[0] / 192)
        shade = np.asarray(self._shade.filter(ImageFilter.GaussianBlur(blur)), np.float32)
        pixels = np.asarray(self._colour.reduce(self.ss), np.float32)
        pixels = np.clip(pixels * (shade[..., None] * (1 / 128)) + 0.5, 0, 255)
        return pixels.astype(np.uint8), np.asarray(self._parts).copy()
