"""Bags, so drawn that each is seen from every side: straps in front, a bulge behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.world.canvas import smooth
from tasks.world.sketch import darker

if TYPE_CHECKING:
    from tasks.world.sketch import Sketch


def paint_backpack(sketch: Sketch) -> None:
    """Paint a backpack; from the front it is what shows beside and above the shoulders."""
    canvas, facing = sketch.canvas, sketch.stance.facing
    behind = facing <= 0.12
    breadth = 0.088 if behind else 0.168
    half = sketch.px(sketch.frame.half_width(breadth, 0.062), 0.7)
    x, top = sketch.at(0, 0.822 if behind else 0.856, -0.105)
    _, bottom = sketch.at(0, 0.555, -0.105)
    box = [
        (x - half * 0.72, top), (x + half * 0.72, top), (x + half, top + (bottom - top) * 0.22),
        (x + half, bottom - 1), (x + half * 0.85, bottom), (x - half * 0.85, bottom),
        (x - half, bottom - 1), (x - half, top + (bottom - top) * 0.22),
    ]  # fmt: skip
    canvas.solid(smooth(box, 2), sketch.bag, "bag", core=0.8)
    dark = darker(sketch.bag, 0.55) if sketch.person.bag_colour != "black" else (92, 92, 100)
    if behind:
        level = top + (bottom - top) * 0.55
        inner = half * 0.74
        canvas.line(
            [(x - inner, bottom - 2), (x - inner, level), (x + inner, level),
             (x + inner, bottom - 2)], 1.2, dark, "bag",
        )  # fmt: skip
        level = top + (bottom - top) * 0.2
        canvas.line([(x - inner, level), (x + inner, level)], 1.0, dark, "bag")


def paint_straps(sketch: Sketch) -> None:
    """Draw what of a bag lies on the torso."""
    canvas, stance = sketch.canvas, sketch.stance
    wide = max(1.6, sketch.px(0.027, 0.75))
    if sketch.person.bag == "shoulder bag":
        z = 0.062 if stance.facing > 0 else -0.062
        if abs(stance.facing) < 0.35:
            z = 0.0
        top, hip = sketch.at(-stance.side * 0.058, 0.828, 0.3 * z), sketch.at(
            stance.side * 0.10, 0.54, z)  # fmt: skip
        canvas.line(
            [top, sketch.at(stance.side * 0.01, 0.70, z), hip], wide * 0.85, sketch.bag, "bag"
        )
        return
    if stance.facing > -0.2:
        for sign in (-1.0, 1.0):
            if sketch.frame.depth((sign * 0.08, 0, 0.05)) < -0.03:
                continue
            canvas.line(
                [sketch.at(sign * 0.062, 0.828, -0.01), sketch.at(sign * 0.063, 0.775, 0.058),
                 sketch.at(sign * 0.062, 0.70, 0.064), sketch.at(sign * 0.066, 0.64, 0.060),
                 sketch.at(sign * 0.084, 0.60, 0.01)],
                1.15 * wide, sketch.bag, "bag",
            )  # fmt: skip


def paint_hip_bag(sketch: Sketch) -> None:
    """Paint a shoulder bag at the hip near the camera."""
    side = sketch.stance.side
    x, y = sketch.at(side * 0.118, 0.535, 0.02 * sketch.stance.facing)
    # Seen from the side the hips are no wider than a bag: a smaller one cannot pass for a skirt.
    half = 0.048 if abs(sketch.stance.facing) < 0.5 else 0.062
    _pouch(sketch, x, y, sketch.px(half, 0.5), sketch.px(1.55 * half, 0.5), flap=True)


def paint_handbag(sketch: Sketch) -> None:
    """Paint a handbag hanging from the hand near the camera."""
    name = "left" if sketch.stance.side > 0 else "right"
    (x, y), _ = sketch.joint(f"{name} hand", 0.01)
    wide, drop = sketch.px(0.064, 0.4), sketch.px(0.050, 0.4)
    rim = darker(sketch.bag, 0.7) if sketch.person.bag_colour != "black" else (60, 60, 66)
    sketch.canvas.line(
        [(x - wide * 0.55, y + drop), (x - wide * 0.3, y), (x + wide * 0.3, y),
         (x + wide * 0.55, y + drop)], max(1.0, sketch.px(0.010, 0.4)), rim, "bag",
    )  # fmt: skip
    _pouch(sketch, x, y + drop, wide, sketch.px(0.100, 0.4), flap=False)


def _pouch(sketch: Sketch, x: float, y: float, half: float, deep: float, flap: bool) -> None:
    canvas = sketch.canvas
    box = [
        (x - half * 0.86, y), (x + half * 0.86, y), (x + half, y + deep * 0.8),
        (x + half * 0.85, y + deep), (x - half * 0.85, y + deep), (x - half, y + deep * 0.8),
    ]  # fmt: skip
    canvas.solid(box, sketch.bag, "bag", core=0.8)
    dark = darker(sketch.bag, 0.6) if sketch.person.bag_colour != "black" else (92, 92, 100)
    level = y + deep * (0.5 if flap else 0.2)
    canvas.line([(x - half * 0.88, level), (x + half * 0.88, level)], 1.1, dark, "bag")
