"""Head, face, hair and hat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.world.canvas import smooth
from tasks.world.figure import HEAD_RX, HEAD_RY
from tasks.world.sketch import darker

if TYPE_CHECKING:
    from tasks.world.sketch import Sketch


def paint_neck(sketch: Sketch) -> None:
    """Paint the neck."""
    p, q = sketch.at(0, 0.875, 0.004), sketch.at(0, 0.822, 0)
    sketch.canvas.limb(
        [(p, sketch.px(0.026, 0.86)), (q, sketch.px(0.030, 0.83))], sketch.skin, "skin"
    )


def paint_head(sketch: Sketch) -> None:
    """Paint head, hair on it and, as far as it is turned to the camera, the face."""
    canvas, stance, person = sketch.canvas, sketch.stance, sketch.person
    joints = stance.joints
    x, y = sketch.frame.at(joints["head"])
    rx = sketch.px(sketch.frame.half_width(HEAD_RX, 0.056), 0.93)
    ry = sketch.px(HEAD_RY, 0.93)
    facing, sideways = stance.facing, stance.sideways
    canvas.ellipse((x, y), rx, ry, sketch.skin, "head")
    jaw = 0.14 * max(0.0, facing) + 0.05
    canvas.ellipse((x - 0.10 * rx * sideways, y - ry * (0.02 + jaw)), rx * 1.10, ry * 0.98,
                   sketch.hair, "hair")  # fmt: skip
    if facing > -0.45:
        wide = 0.84 if facing > 0.5 else 0.70
        face = sketch.frame.at(joints["front"])[0] - x
        canvas.ellipse((x + 0.34 * face, y + 0.16 * ry), rx * wide, ry * 0.80, sketch.skin, "head")
        nose = sketch.frame.at(joints["nose"])
        if abs(sideways) > 0.5:
            canvas.ellipse(nose, rx * 0.16, ry * 0.11, darker(sketch.skin, 0.95), "head", False)
        else:
            canvas.line(
                [nose, (nose[0], nose[1] + ry * 0.1)], 0.8, darker(sketch.skin, 0.72), "head"
            )
        for name in ("left eye", "right eye"):
            if sketch.frame.depth(joints[name]) > 0.004:
                eye = sketch.frame.at(joints[name])
                canvas.ellipse(eye, rx * 0.15, ry * 0.09, (38, 30, 28), "head", False)
        mouth = sketch.frame.at(joints["mouth"])
        w = rx * 0.28 * max(0.4, abs(facing))
        canvas.line(
            [(mouth[0] - w, mouth[1]), (mouth[0] + w, mouth[1])], 0.9, (160, 74, 70), "head"
        )
    for name in ("left ear", "right ear"):
        if person.hair_length == "short" and sketch.frame.depth(joints[name]) > -0.025:
            ear = sketch.frame.at(joints[name])
            canvas.ellipse(ear, rx * 0.17, ry * 0.17, darker(sketch.skin, 0.88), "head", False)
    if person.hair_length == "long" and facing > -0.3:
        for sign in (-1.0, 1.0):
            if sketch.frame.depth((sign * 0.05, 0, -0.01)) > -0.03:
                canvas.limb(
                    [(sketch.at(sign * 0.045, 0.955, -0.012), sketch.px(0.013, 0.93)),
                     (sketch.at(sign * 0.055, 0.87, -0.012), sketch.px(0.018, 0.87)),
                     (sketch.at(sign * 0.056, 0.765, 0.02), sketch.px(0.015, 0.78))],
                    sketch.hair, "hair",
                )  # fmt: skip


def paint_hair_mass(sketch: Sketch) -> None:
    """Paint long hair hanging down the back."""
    sketch.canvas.limb(
        [(sketch.at(0, 0.93, -0.02), sketch.px(sketch.frame.half_width(0.054, 0.045), 0.93)),
         (sketch.at(0, 0.85, -0.042), sketch.px(sketch.frame.half_width(0.062, 0.030), 0.86)),
         (sketch.at(0, 0.765, -0.058), sketch.px(sketch.frame.half_width(0.052, 0.022), 0.78))],
        sketch.hair, "hair",
    )  # fmt: skip


def paint_hat(sketch: Sketch) -> None:
    """Paint a cap or a beanie."""
    canvas, person = sketch.canvas, sketch.person
    x, y = sketch.frame.at(sketch.stance.joints["head"])
    rx = sketch.px(sketch.frame.half_width(HEAD_RX, 0.056), 0.93) * 1.16
    ry = sketch.px(HEAD_RY, 0.93)
    tall = 1.28 if person.hat == "beanie" else 1.16
    band = y - ry * (0.30 if person.hat == "beanie" else 0.36)
    dome = [
        (x - rx, band), (x - rx * 0.92, band - ry * 0.42), (x - rx * 0.5, y - ry * tall * 0.94),
        (x, y - ry * tall), (x + rx * 0.5, y - ry * tall * 0.94),
        (x + rx * 0.92, band - ry * 0.42), (x + rx, band), (x, band + ry * 0.10),
    ]  # fmt: skip
    canvas.solid(smooth(dome), sketch.hat, "hat")
    if person.hat == "beanie":
        fold = darker(sketch.hat, 0.78) if person.hat_colour != "black" else (58, 58, 64)
        half = ry * 0.13
        canvas.polygon(
            [(x - rx * 1.02, band - half), (x + rx * 1.02, band - half),
             (x + rx * 1.02, band + half), (x - rx * 1.02, band + half)], fold, "hat", None,
        )  # fmt: skip
    elif sketch.stance.facing > -0.5:
        tip, _ = sketch.frame.at(sketch.stance.joints["brim"])
        reach = tip - x
        brim = darker(sketch.hat, 0.80) if person.hat_colour != "black" else (52, 52, 58)
        middle = x + 0.62 * reach
        wide = rx * (0.98 if abs(sketch.stance.sideways) < 0.5 else 0.72)
        drop = ry * 0.14 * max(0.0, sketch.stance.facing)
        canvas.ellipse((middle, band + drop), wide, ry * 0.16, brim, "hat", False)
