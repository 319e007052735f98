"""Draws a person of the built-in world, with truth: boxes of parts and keypoints.

    drawing = draw(sample_person(rng), rng)       # 192x96 pixels on a plain ground, about 3 ms

Pose, view, place and scale vary with `rng`; the identity's attributes never do. The truth is
what is visible: a part hidden by the body or by something in front has no box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from tasks.world.body import paint
from tasks.world.canvas import PARTS, RGB, Canvas, Point
from tasks.world.figure import COCO, Frame, Stance, pose
from tasks.world.sketch import Sketch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tasks.world.attributes import Person

Box = tuple[float, float, float, float]

_MIN_PIXELS = 5


@dataclass(frozen=True)
class Drawing:
    """One image of a person and what is true of it."""

    pixels: NDArray[np.uint8] = field(repr=False)
    """(H, W, 3) sRGB."""
    boxes: dict[str, Box] = field(repr=False)
    """Part -> (cx, cy, w, h) in [0, 1]. Parts: person, head (with hair and hat), hair, hat, upper,
    lower, footwear, bag; only what is seen. A dress is both upper and lower."""
    keypoints: NDArray[np.float32] = field(repr=False)
    """(17, 3) in COCO order: x and y in [0, 1], visible 0 or 1."""
    parts: NDArray[np.uint8] = field(repr=False)
    """(H, W), index into `canvas.PARTS` of what each pixel shows."""
    view: str
    """Key of `figure.VIEWS`."""
    action: str
    """walking | standing"""


def _box(mask: NDArray[np.bool_]) -> Box | None:
    """Return the box of the set pixels of a (H, W) mask, None for (nearly) none."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0 or int(np.count_nonzero(mask)) < _MIN_PIXELS:
        return None
    columns = np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    x0, x1 = columns[0] / width, (columns[-1] + 1) / width
    y0, y1 = rows[0] / height, (rows[-1] + 1) / height
    return float((x0 + x1) / 2), float((y0 + y1) / 2), float(x1 - x0), float(y1 - y0)


def _boxes(parts: NDArray[np.uint8], person: Person) -> dict[str, Box]:
    masks = {name: parts == i for i, name in enumerate(PARTS) if i}
    head = masks["head"] | masks["hair"] | masks["hat"]
    wanted = {
        "person": parts > 0,
        "head": head,
        **{name: masks[name] for name in ("hair", "hat", "upper", "lower", "footwear", "bag")},
    }
    boxes = {name: box for name, mask in wanted.items() if (box := _box(mask)) is not None}
    if person.lower_kind == "dress" and "upper" in boxes:
        boxes["lower"] = boxes["upper"]
    return boxes


def _keypoints(
    stance: Stance, frame: Frame, size: tuple[int, int], covered: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Project the joints of `COCO`; a turned face, a covered or outlying point is not visible."""
    height, width = size
    out = np.zeros((len(COCO), 3), np.float32)
    for i, name in enumerate(COCO):
        x, y = frame.at(stance.joints[name])
        inside = 0 <= x < width and 0 <= y < height
        seen = inside and (i > 4 or frame.depth(stance.joints[name]) > -0.02)
        if seen and covered is not None and covered[int(y), int(x)]:
            seen = False
        out[i] = (min(max(x / width, 0.0), 1.0), min(max(y / height, 0.0), 1.0), float(seen))
    return out


def draw(
    person: Person,
    rng: np.random.Generator,
    size: tuple[int, int] = (192, 96),
    *,
    backdrop: NDArray[np.uint8] | None = None,
    pitch: float = 0.0,
    foreground: Sequence[tuple[Sequence[Point], RGB]] = (),
    window: tuple[float, float, float, float] | None = None,
) -> Drawing:
    """Draw a person.

    Args:
        person: Who.
        rng: Source of pose, view, place, scale and small variations.
        size: Height and width of the image, pixels.
        backdrop: uint8 (H, W, 3) behind the person; None is a plain pale ground.
        pitch: How far the camera looks down, degrees.
        foreground: Polygons (pixels) and colours of things in front of the person.
        window: Top, left, height and width, pixels, of what a person fills; may reach out of the
            image. None is all of it.

    Returns:
        The image and its truth.

    Raises:
        ValueError: `backdrop` is not of the size asked for.
    """
    height, width = size
    if backdrop is None:
        backdrop = np.full((height, width, 3), 226, np.uint8)
    if backdrop.shape != (height, width, 3):
        message = (
            f"backdrop of shape {backdrop.shape}: must be {(height, width, 3)}; draw it at `size`"
        )
        raise ValueError(message)
    stance = pose(person, rng)
    tilt = math.radians(pitch)
    fill = float(rng.uniform(0.85, 0.95))
    top, left, tall, wide = window or (0, 0, height, width)
    unit = min(tall, wide * 2.05)  # a body must fit the width with its arms swung
    scale = fill * unit / (math.cos(tilt) + 0.16 * math.sin(tilt))
    spare = (1 - fill) * tall
    across = wide * (0.5 + float(rng.uniform(-0.05, 0.05)))
    down = tall - spare * float(rng.uniform(0.30, 0.62)) - 0.10 * scale * math.sin(tilt)
    frame = Frame(yaw=stance.yaw, pitch=tilt, height=scale, x=left + across, ground=top + down)
    canvas = Canvas(backdrop, light=float(rng.uniform(-1, 1)), ss=3 if height > 120 else 4)
    paint(Sketch(canvas, frame, person, stance, rng))
    for points, colour in foreground:
        canvas.polygon(points, colour, "background")
    pixels, parts = canvas.finish()
    covered = _covered(foreground, size) if foreground else None
    return Drawing(
        pixels=pixels,
        boxes=_boxes(parts, person),
        keypoints=_keypoints(stance, frame, size, covered),
        parts=parts,
        view=stance.view,
        action=stance.action,
    )


def _covered(
    foreground: Sequence[tuple[Sequence[Point], RGB]], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return (H, W): where something stands in front of the person."""
    mask = Image.new("1", (size[1], size[0]), 0)
    for points, _ in foreground:
        ImageDraw.Draw(mask).polygon(list(points), fill=1)
    return np.asarray(mask)
