"""Backgrounds: what is behind and in front of a person.

Three families that share no member, so that a model which has seen one has not seen another:
`STUDIO` belongs to the source look, `PLACES` to the target's cameras, `ABSTRACT` to the random
other looks on which the shipped models are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tasks.world.canvas import RGB, Point

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Foreground = list[tuple[list[Point], RGB]]


def _tone(rng: np.random.Generator, low: int, high: int, tint: int = 14) -> RGB:
    """Draw a nearly grey colour."""
    level = int(rng.integers(low, high))
    return tuple(  # type: ignore[return-value]
        min(255, max(0, level + int(rng.integers(-tint, tint + 1)))) for _ in range(3)
    )


def _gradient(size: tuple[int, int], top: RGB, bottom: RGB) -> NDArray[np.uint8]:
    ramp = np.linspace(0, 1, size[0], dtype=np.float32)[:, None, None]
    rows = np.asarray(top, np.float32) * (1 - ramp) + np.asarray(bottom, np.float32) * ramp
    return np.broadcast_to(rows, (size[0], size[1], 3)).astype(np.uint8)


def _studio(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A smooth pastel wall and floor, as generated portraits have."""
    height, width = size
    wall = tuple(int(c) for c in rng.integers(188, 250, 3))
    out = _gradient(size, wall, _tone(rng, 225, 250, 4))  # type: ignore[arg-type]
    horizon = int(height * rng.uniform(0.74, 0.84))
    out[horizon:] = _gradient(
        (height - horizon, width), _tone(rng, 178, 215, 10), _tone(rng, 205, 235, 8)
    )
    return out


def _garden(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A pale sky over a soft lawn."""
    height, width = size
    out = _gradient(size, (186, 218, 246), (240, 246, 250))
    horizon = int(height * rng.uniform(0.66, 0.80))
    out[horizon:] = _gradient((height - horizon, width), (176, 214, 150), (200, 226, 168))
    return out


def _street(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A pavement, a kerb, parked cars and facades."""
    height, width = size
    image = Image.new("RGB", (width, height), _tone(rng, 120, 165))
    pen = ImageDraw.Draw(image)
    road = int(height * rng.uniform(0.34, 0.46))
    x = -int(rng.integers(0, width // 2))
    while x < width:
        step = int(rng.integers(width // 4, width // 2))
        pen.rectangle((x, 0, x + step, road), fill=_tone(rng, 90, 180, 22))
        for _ in range(3):
            wx, wy = x + int(rng.integers(0, step)), int(rng.integers(0, max(2, road - 12)))
            pen.rectangle((wx, wy, wx + width // 9, wy + height // 16), fill=_tone(rng, 40, 90))
        x += step
    pen.rectangle((0, road, width, height), fill=_tone(rng, 88, 120, 6))
    for _ in range(int(rng.integers(1, 3))):
        x, long = int(rng.integers(-width // 3, width)), int(width * rng.uniform(0.4, 0.7))
        y = road - height // 30
        body = _tone(rng, 60, 190, 40)
        pen.rounded_rectangle((x, y, x + long, y + height // 10), height // 40, fill=body)
        pen.rectangle(
            (x + long // 5, y - height // 24, x + long * 4 // 5, y), fill=_tone(rng, 40, 80)
        )
        for share in (0.2, 0.8):
            wheel, r = x + int(long * share), height // 32
            low = y + height // 10
            pen.ellipse((wheel - r, low - r, wheel + r, low + r), fill=(30, 30, 32))
    kerb = road + int(height * rng.uniform(0.12, 0.2))
    pen.rectangle((0, kerb, width, height), fill=_tone(rng, 140, 175, 8))
    pen.line((0, kerb, width, kerb), fill=(205, 204, 198), width=max(1, height // 64))
    for share in rng.uniform(-0.5, 1.5, 5):
        pen.line((width * share, kerb, width * (share * 1.6 - 0.3), height), fill=(128, 128, 126))
    return np.asarray(image)


def _corridor(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A tiled floor seen from above, a wall with doors and a skirting board."""
    height, width = size
    image = Image.new("RGB", (width, height), _tone(rng, 165, 200, 8))
    pen = ImageDraw.Draw(image)
    foot = int(height * rng.uniform(0.22, 0.40))
    for _ in range(2):
        x = int(rng.integers(-width // 4, width))
        pen.rectangle((x, 0, x + width // 3, foot), fill=_tone(rng, 95, 150, 18))
        pen.rectangle(
            (x + width // 4, foot // 2, x + width // 4 + 2, foot // 2 + 3), fill=(60, 60, 60)
        )
    pen.rectangle((0, foot - height // 40, width, foot), fill=_tone(rng, 80, 110, 6))
    light, dark = _tone(rng, 176, 205, 6), _tone(rng, 138, 166, 6)
    pen.rectangle((0, foot, width, height), fill=light)
    rows = np.cumsum(height * np.linspace(0.035, 0.12, 12)) + foot
    last = float(foot)
    for i, y in enumerate(rows):
        spread = 1 + (last - foot) / height * 1.2
        for k in range(-8, 9):
            if (i + k) % 2 == 0:
                a, b = (
                    width / 2 + k * width * 0.18 * spread,
                    width / 2 + (k + 1) * width * 0.18 * spread,
                )
                grow = 1 + (float(y) - last) / height * 1.2
                pen.polygon(
                    [(a, last), (b, last), (width / 2 + (b - width / 2) * grow, y),
                     (width / 2 + (a - width / 2) * grow, y)], fill=dark,
                )  # fmt: skip
        last = float(y)
    return np.asarray(image)


def _plaza(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Paving seen from above, bushes and a railing."""
    height, width = size
    image = Image.new("RGB", (width, height), _tone(rng, 150, 180, 8))
    pen = ImageDraw.Draw(image)
    for y in range(int(rng.integers(4, 12)), height, max(6, height // 14)):
        pen.line((0, y, width, y + int(rng.integers(-2, 3))), fill=_tone(rng, 120, 140, 4))
        for x in rng.uniform(0, width, 3):
            pen.line((x, y, x + 2, y + height // 14), fill=_tone(rng, 120, 140, 4))
    edge = int(height * rng.uniform(0.16, 0.34))
    for _ in range(26):
        x, y = int(rng.integers(-8, width)), int(rng.integers(-8, edge))
        r = int(rng.integers(height // 32, height // 14))
        green = int(rng.integers(60, 112))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(green - 24, green, green - 34))
    if rng.random() < 0.6:
        for x in range(int(rng.integers(0, 10)), width, max(5, width // 9)):
            pen.line((x, edge - height // 12, x, edge + height // 16), fill=(78, 80, 84), width=1)
        pen.line((0, edge - height // 16, width, edge - height // 16), fill=(78, 80, 84), width=2)
    return np.asarray(image)


def _shop(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A window with goods and other people as dim shapes."""
    height, width = size
    image = Image.new("RGB", (width, height), _tone(rng, 70, 110, 10))
    pen = ImageDraw.Draw(image)
    floor = int(height * rng.uniform(0.62, 0.74))
    for y in range(height // 20, floor, max(8, height // 9)):
        pen.rectangle((0, y + height // 12, width, y + height // 11), fill=(70, 62, 54))
        for x in range(0, width, max(4, width // 14)):
            tall = int(rng.integers(height // 40, height // 13))
            box = (x, y + height // 12 - tall, x + width // 16, y + height // 12)
            pen.rectangle(box, fill=tuple(int(c) for c in rng.integers(60, 180, 3)))
    for post in (0.08, 0.92):
        pen.line(
            (width * post, 0, width * post, floor), fill=(190, 192, 196), width=max(1, width // 40)
        )
    pen.rectangle((0, floor, width, height), fill=_tone(rng, 125, 155, 8))
    for _ in range(int(rng.integers(0, 2))):
        x = int(rng.choice([-0.02, 1.02]) * width)
        r, top = width // 7, int(height * rng.uniform(0.2, 0.34))
        cloth = _tone(rng, 45, 120, 26)
        pen.ellipse((x - r // 2, top - r, x + r // 2, top), fill=(120, 96, 84))
        pen.rounded_rectangle((x - r, top, x + r, floor), r // 2, fill=cloth)
        pen.rectangle(
            (x - r * 3 // 4, floor, x + r * 3 // 4, floor + height // 5), fill=(48, 48, 56)
        )
    return np.asarray(image)


def _blocks(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Random rectangles of any colour."""
    image = Image.new("RGB", (size[1], size[0]), tuple(int(c) for c in rng.integers(30, 240, 3)))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 14))):
        x, y = rng.uniform(-0.3, 1, 2) * (size[1], size[0])
        w, h = rng.uniform(0.1, 0.6, 2) * (size[1], size[0])
        pen.rectangle((x, y, x + w, y + h), fill=tuple(int(c) for c in rng.integers(20, 245, 3)))
    return np.asarray(image)


def _clouds(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Smooth noise, coarse or fine."""
    cells = int(rng.integers(2, 14))
    coarse = rng.integers(20, 245, (2 * cells, cells, 3)).astype(np.uint8)
    mode = Image.Resampling.BICUBIC if rng.random() < 0.7 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(coarse).resize((size[1], size[0]), mode))


def _bands(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A few bands across, slanted."""
    image = Image.new("RGB", (size[1], size[0]), tuple(int(c) for c in rng.integers(30, 240, 3)))
    pen = ImageDraw.Draw(image)
    y = 0.0
    while y < size[0] * 1.2:
        y += float(rng.uniform(0.05, 0.35)) * size[0]
        slant = float(rng.uniform(-0.25, 0.25)) * size[0]
        fill = tuple(int(c) for c in rng.integers(30, 240, 3))
        pen.polygon(
            [(0, y), (size[1], y + slant), (size[1], size[0] * 2), (0, size[0] * 2)], fill=fill
        )
    return np.asarray(image)


def _ramp(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A gradient between two colours."""
    top, bottom = rng.integers(20, 245, 3), rng.integers(20, 245, 3)
    return _gradient(size, tuple(map(int, top)), tuple(map(int, bottom)))  # type: ignore[arg-type]


STUDIO: Final = ("studio", "garden")
PLACES: Final = ("street", "corridor", "plaza", "shop")
ABSTRACT: Final = ("blocks", "clouds", "bands", "ramp")

_PAINTERS: Final[dict[str, Callable[[np.random.Generator, tuple[int, int]], NDArray[np.uint8]]]] = {
    "studio": _studio,
    "garden": _garden,
    "street": _street,
    "corridor": _corridor,
    "plaza": _plaza,
    "shop": _shop,
    "blocks": _blocks,
    "clouds": _clouds,
    "bands": _bands,
    "ramp": _ramp,
}


def background(
    name: str, rng: np.random.Generator, size: tuple[int, int], softness: float
) -> NDArray[np.uint8]:
    """Paint a background.

    Args:
        name: A member of `STUDIO`, `PLACES` or `ABSTRACT`.
        rng: Source of all randomness.
        size: Height and width, pixels.
        softness: Blur, pixels of a 192 pixel high image (the person is in focus, this is not).

    Returns:
        uint8 (H, W, 3).
    """
    pixels = _PAINTERS[name](rng, size)
    if softness <= 0:
        return pixels
    image = Image.fromarray(pixels)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(softness * size[0] / 192)))


def obstacle(rng: np.random.Generator, size: tuple[int, int], dark: bool = True) -> Foreground:
    """Return something that stands in front of the person: a post, a bollard or a box.

    It covers an edge or the feet, never the middle, so that clothes can still be named.
    """
    height, width = size
    colour = _tone(rng, 60, 120, 16) if dark else _tone(rng, 90, 220, 40)
    kind = int(rng.integers(3))
    if kind == 0:  # a post at one side
        x = width * float(rng.choice([rng.uniform(0.02, 0.20), rng.uniform(0.78, 0.95)]))
        half = width * float(rng.uniform(0.02, 0.05))
        return [([(x - half, 0), (x + half, 0), (x + half, height), (x - half, height)], colour)]
    if kind == 1:  # a bollard or a bin before the feet
        x, half = width * float(rng.uniform(0.15, 0.85)), width * float(rng.uniform(0.07, 0.13))
        top = height * float(rng.uniform(0.76, 0.86))
        return [
            ([(x - half, top), (x + half, top), (x + half, height), (x - half, height)], colour)
        ]
    top = height * float(rng.uniform(0.86, 0.93))  # a low wall
    return [([(0, top), (width, top + height * 0.02), (width, height), (0, height)], colour)]
