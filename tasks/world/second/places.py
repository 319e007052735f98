"""Backgrounds of the second target: a crossing, a lawn, a hall, a bicycle stand, a stair.

A family of its own beside those of `tasks.world.backgrounds`, and things of its own that stand in
front: twigs, a railing, a bicycle's wheel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tasks.world.backgrounds import Foreground
    from tasks.world.canvas import RGB

Size = tuple[int, int]


def _near(rng: np.random.Generator, base: RGB, spread: int = 12) -> RGB:
    """Vary a colour."""
    shift = rng.integers(-spread, spread + 1, 3)
    red, green, blue = (min(255, max(0, b + int(s))) for b, s in zip(base, shift, strict=True))
    return red, green, blue


def _crossing(rng: np.random.Generator, size: Size) -> NDArray[np.uint8]:
    """Asphalt seen from above, with the worn bars of a crossing on a part of it, and a kerb."""
    height, width = size
    grain = rng.integers(-9, 10, (height // 2, width // 2, 1)) + np.array(
        _near(rng, (98, 100, 106))
    )
    image = Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    step, bar = height * float(rng.uniform(0.16, 0.24)), _near(rng, (188, 188, 182), 10)
    drop, y = float(rng.uniform(-0.4, 0.4)) * width, float(rng.uniform(-0.1, 0.7)) * height
    for _ in range(int(rng.integers(2, 5))):
        low = y + 0.45 * step
        pen.polygon([(0, y), (width, y - drop), (width, low - drop), (0, low)], fill=bar)
        y += step
    kerb = width * float(rng.uniform(-0.1, 0.25))
    kerb = kerb if rng.random() < 0.5 else width - kerb
    far = 0 if kerb < width / 2 else width
    side = [(far, 0), (kerb, 0), (kerb * 0.9 + far * 0.1, height), (far, height)]
    pen.polygon(side, fill=_near(rng, (168, 160, 146)))
    return np.asarray(image)


def _lawn(rng: np.random.Generator, size: Size) -> NDArray[np.uint8]:
    """Bright grass in tufts, a sandy path across and a flower bed."""
    height, width = size
    tufts = rng.integers(-26, 27, (height // 3, width // 3, 1))
    grass = np.clip(np.array([92, 158, 58]) + tufts * np.array([0.7, 1.0, 0.5]), 0, 255)
    image = Image.fromarray(grass.astype(np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pen = ImageDraw.Draw(image)
    a, b = (float(v) * width for v in rng.uniform(-0.1, 0.6, 2))
    wide = width * float(rng.uniform(0.45, 0.7))
    pen.polygon([(a, 0), (a + wide * 0.6, 0), (b + wide, height), (b, height)],
                fill=_near(rng, (206, 182, 138)))  # fmt: skip
    edge = int(height * rng.uniform(0.06, 0.2))
    for _ in range(30):
        x, y, r = rng.uniform(0, width), rng.uniform(0, edge), height / 70
        tint = [(214, 60, 70), (240, 214, 70), (236, 236, 240), (160, 80, 190)][
            int(rng.integers(4))
        ]
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tint)
    return np.asarray(image)


def _hall(rng: np.random.Generator, size: Size) -> NDArray[np.uint8]:
    """Polished stone that mirrors a row of lamps, pillars and a dark glass front."""
    height, width = size
    image = Image.new("RGB", (width, height), _near(rng, (150, 138, 118)))
    pen = ImageDraw.Draw(image)
    foot = int(height * rng.uniform(0.18, 0.34))
    pen.rectangle((0, 0, width, foot), fill=_near(rng, (48, 56, 66)))
    for x in np.arange(float(rng.uniform(-0.2, 0.1)), 1.1, float(rng.uniform(0.28, 0.42))):
        pen.rectangle((x * width, 0, x * width + width * 0.09, foot * 1.08),
                      fill=_near(rng, (186, 178, 162)))  # fmt: skip
    glow = np.asarray(image).astype(np.float32)
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None]
    for _ in range(3):
        x, y = float(rng.uniform(0, width)), float(rng.uniform(foot, height))
        spot = np.exp(
            -(((columns - x) / (0.09 * width)) ** 2) - ((rows - y) / (0.10 * height)) ** 2
        )
        glow += 80 * spot[..., None] * np.array([1.0, 0.9, 0.62], np.float32)
    return np.clip(glow, 0, 255).astype(np.uint8)


def _stand(rng: np.random.Generator, size: Size) -> NDArray[np.uint8]:
    """A brick wall and parked bicycles on red paving."""
    height, width = size
    image = Image.new("RGB", (width, height), _near(rng, (150, 84, 66)))
    pen = ImageDraw.Draw(image)
    foot = int(height * rng.uniform(0.26, 0.42))
    course = max(3, height // 40)
    for row, y in enumerate(range(0, foot, course)):
        pen.line((0, y, width, y), fill=(196, 180, 164))
        for x in range(-(row % 2) * course, width, 2 * course):
            pen.line((x, y, x, y + course), fill=(196, 180, 164))
    pen.rectangle((0, foot, width, height), fill=_near(rng, (172, 112, 92)))
    for y in range(foot, height, course * 2):
        for x in range((y // course % 2) * course, width, course * 2):
            pen.rectangle((x, y, x + course, y + course), fill=_near(rng, (160, 104, 86), 8))
    for x in rng.uniform(-0.1, 1.0, int(rng.integers(2, 5))):
        r, cx, cy = height / 15, x * width, foot + height * 0.02
        frame = _near(rng, (40, 44, 50), 30)
        for shift in (0.0, 2.3 * r):
            pen.ellipse(
                (cx + shift - r, cy - r, cx + shift + r, cy + r), outline=(24, 24, 26), width=2
            )
        pen.line((cx, cy, cx + r, cy - r, cx + 2.3 * r, cy), fill=frame, width=2)
        pen.line((cx + 2 * r, cy - 1.5 * r, cx + 2.3 * r, cy), fill=frame, width=2)
    return np.asarray(image)


def _stair(rng: np.random.Generator, size: Size) -> NDArray[np.uint8]:
    """Broad stone steps, each with a bright edge and a dark riser."""
    height, width = size
    image = Image.new("RGB", (width, height), _near(rng, (164, 166, 172)))
    pen = ImageDraw.Draw(image)
    slant = float(rng.uniform(-0.16, 0.16)) * width
    y, step = float(rng.uniform(-0.05, 0.05)) * height, height * float(rng.uniform(0.05, 0.075))
    while y < height + abs(slant):
        for top, bottom, tone in ((0.0, 0.12, (204, 204, 206)), (0.12, 0.5, (120, 124, 132))):
            pen.polygon([(0, y + top * step), (width, y + slant + top * step),
                         (width, y + slant + bottom * step), (0, y + bottom * step)],
                        fill=_near(rng, tone, 5))  # fmt: skip
        y, step = y + step, step * 1.06
    if rng.random() < 0.6:
        x = width * float(rng.choice([0.06, 0.94]))
        pen.line((x, 0, x, height), fill=(70, 74, 84), width=max(2, width // 40))
    return np.asarray(image)


_PAINTERS: Final[dict[str, Callable[[np.random.Generator, Size], NDArray[np.uint8]]]] = {
    "crossing": _crossing,
    "lawn": _lawn,
    "hall": _hall,
    "bicycle stand": _stand,
    "stair": _stair,
}
PLACES: Final = tuple(_PAINTERS)
"""Backgrounds of the second target."""


def backdrop(name: str, rng: np.random.Generator, size: Size) -> NDArray[np.uint8]:
    """Paint one of `PLACES`: uint8 (H, W, 3)."""
    return _PAINTERS[name](rng, size)


def in_front(rng: np.random.Generator, size: Size) -> Foreground:
    """Return something that hides a little of a person: twigs, a railing or a wheel."""
    height, width = size
    kind = int(rng.integers(3))
    if kind == 0:  # twigs with leaves, from a corner
        left = rng.random() < 0.5
        leaves: Foreground = []
        for _ in range(int(rng.integers(6, 12))):
            x, y = float(rng.uniform(0, 0.34)) * width, float(rng.uniform(0, 0.22)) * height
            r = height * float(rng.uniform(0.012, 0.028))
            x = x if left else width - x
            turn = float(rng.uniform(0, math.pi))
            points = []
            for a in np.linspace(0, 2 * math.pi, 9)[:-1].tolist():
                along, aside = 1.6 * r * math.cos(a), 0.7 * r * math.sin(a)
                points.append(
                    (
                        x + along * math.cos(turn) - aside * math.sin(turn),
                        y + along * math.sin(turn) + aside * math.cos(turn),
                    )
                )
            leaves.append((points, _near(rng, (58, 104, 40), 20)))
        return leaves
    colour = _near(rng, (66, 70, 78))
    if kind == 1:  # a railing across the shins
        top, thick = height * float(rng.uniform(0.80, 0.9)), height * 0.012
        rails: Foreground = [
            ([(0, y), (width, y), (width, y + thick), (0, y + thick)], colour)
            for y in (top, top + 0.05 * height)
        ]
        posts = np.arange(float(rng.uniform(0, 0.2)), 1, 0.3) * width
        rails += [
            ([(x, top), (x + thick, top), (x + thick, height), (x, height)], colour) for x in posts
        ]
        return rails
    # A wheel at one side: a ring as two half rings.
    cx = width * float(rng.choice([rng.uniform(0.0, 0.2), rng.uniform(0.8, 1.0)]))
    cy, r = height * float(rng.uniform(0.88, 0.96)), height * float(rng.uniform(0.08, 0.12))
    angles = np.linspace(0, 2 * math.pi, 25)
    outer = [(cx + r * math.cos(a), cy + r * math.sin(a)) for a in angles]
    inner = [(cx + 0.84 * r * math.cos(a), cy + 0.84 * r * math.sin(a)) for a in angles]
    return [(outer[:13] + inner[12::-1], (26, 26, 28)), (outer[12:] + inner[:11:-1], (26, 26, 28))]
