"""Arms, legs and the shadow under the feet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.world.sketch import darker

if TYPE_CHECKING:
    from tasks.world.sketch import Sketch


def paint_shadow(sketch: Sketch) -> None:
    """Darken the ground under the person."""
    x, y = sketch.frame.at((0.0, 0.0, 0.0))
    sketch.canvas.shadow((x, y), sketch.px(0.17, 0), sketch.px(0.035, 0), 88)


def paint_leg(sketch: Sketch, name: str) -> None:
    """Paint one leg (left or right) with trouser leg and shoe."""
    person, canvas = sketch.person, sketch.canvas
    hip, knee, ankle = f"{name} hip", f"{name} knee", f"{name} ankle"
    b = person.build
    bare = person.lower_kind in ("shorts", "skirt", "dress")
    heel, toe = sketch.joint(f"{name} heel", 0.023), sketch.joint(f"{name} toe", 0.021)
    if bare:
        calf = sketch.between(knee, ankle, 0.3, 0.033 * b)
        canvas.limb(
            [sketch.joint(hip, 0.048 * b), sketch.joint(knee, 0.032 * b), calf,
             sketch.joint(ankle, 0.019 * b)],
            sketch.skin, "skin",
        )  # fmt: skip
    canvas.limb([heel, toe], sketch.shoe, "footwear")
    if bare:
        canvas.limb(
            [sketch.between(ankle, f"{name} heel", 0.2, 0.021), heel], sketch.shoe, "footwear"
        )
        if person.lower_kind == "shorts":
            canvas.limb(
                [sketch.joint(hip, 0.056 * b), sketch.between(hip, knee, 0.85, 0.053 * b)],
                sketch.lower, "lower",
            )  # fmt: skip
    else:
        slim = 0.9 if person.lower_kind == "jeans" else 1.0
        canvas.limb(
            [sketch.joint(hip, 0.055 * b), sketch.joint(knee, 0.042 * b * slim),
             sketch.joint(ankle, 0.034 * b * slim)],
            sketch.lower, "lower",
        )  # fmt: skip
        if person.lower_kind == "jeans":
            seam = darker(sketch.lower, 1.35)
            cuff, _ = sketch.between(knee, ankle, 0.93, 0.03)
            r = sketch.px(0.028, 0.05)
            canvas.line([(cuff[0] - r, cuff[1]), (cuff[0] + r, cuff[1])], 0.9, seam, "lower")
        x, y = sketch.joint(knee, 0)[0]
        w = sketch.px(0.02, 0.27)
        canvas.fold([(x - w, y - w * 0.4), (x + w, y + w * 0.3)], 1, 96)
    if person.shoe_kind == "boots":
        canvas.limb(
            [sketch.between(knee, ankle, 0.42, 0.040 * b), sketch.joint(ankle, 0.031), heel],
            sketch.shoe, "footwear",
        )  # fmt: skip
        canvas.limb([heel, toe], sketch.shoe, "footwear")
    else:
        sole = (236, 236, 232) if person.shoe_colour != "white" else (120, 120, 124)
        low = sketch.px(0.019, 0)
        (hx, hy), (tx, ty) = heel[0], toe[0]
        if abs(tx - hx) > sketch.px(0.03, 0):
            canvas.line([(hx, hy + low), (tx, ty + low)], 0.9, sole, "footwear")


def paint_arm(sketch: Sketch, name: str) -> None:
    """Paint one arm (left or right) with hand and sleeve."""
    person, canvas = sketch.person, sketch.canvas
    b = person.build
    shoulder, elbow, wrist = f"{name} shoulder", f"{name} elbow", f"{name} wrist"
    hand = sketch.joint(f"{name} hand", 0.015)
    kind = person.upper_kind
    canvas.limb([sketch.joint(wrist, 0.016), hand], sketch.skin, "skin")
    if kind in ("t-shirt", "tank top", "dress"):
        canvas.limb(
            [sketch.joint(shoulder, 0.028 * b), sketch.joint(elbow, 0.023 * b),
             sketch.joint(wrist, 0.016)],
            sketch.skin, "skin",
        )  # fmt: skip
        if kind != "tank top":
            end = 0.62 if kind == "t-shirt" else 0.4
            canvas.limb(
                [sketch.joint(shoulder, 0.033 * b),
                     sketch.between(shoulder, elbow, end, 0.035 * b)],
                sketch.upper, "upper", sketch.cloth,
            )  # fmt: skip
        return
    bulk = sketch.bulk
    canvas.limb(
        [sketch.joint(shoulder, 0.031 * b + bulk * 0.6), sketch.joint(elbow, 0.026 * b + bulk),
         sketch.joint(wrist, 0.021 + bulk)],
        sketch.upper, "upper", sketch.cloth,
    )  # fmt: skip
