"""Upper and lower garments, and what tells one from another: collar, zip, hood, hem."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tasks.world.sketch import contrasting, darker

if TYPE_CHECKING:
    from tasks.world.sketch import Sketch

# Garment -> (hem height, extra width, flare at the hem), in body heights.
_UPPER_CUT: Final[dict[str, tuple[float, float, float]]] = {
    "t-shirt": (0.495, 0.006, 0.004),
    "shirt": (0.485, 0.004, 0.004),
    "sweater": (0.49, 0.009, 0.002),
    "hoodie": (0.48, 0.015, 0.0),
    "jacket": (0.475, 0.015, 0.002),
    "coat": (0.335, 0.017, 0.016),
    "tank top": (0.50, 0.0, 0.002),
    "dress": (0.31, 0.003, 0.055),
}
# (height, breadth, thickness) from the neck down; shoulders follow the build.
_TORSO: Final[dict[str, tuple[tuple[float, float, float], ...]]] = {
    "man": (
        (0.838, 0.034, 0.040), (0.826, 0.062, 0.046), (0.811, 0.098, 0.052), (0.782, 0.113, 0.062),
        (0.735, 0.106, 0.070),
        (0.665, 0.092, 0.066), (0.600, 0.085, 0.064), (0.540, 0.087, 0.070), (0.490, 0.089, 0.070),
    ),
    "woman": (
        (0.838, 0.030, 0.036), (0.826, 0.055, 0.044), (0.811, 0.085, 0.050), (0.782, 0.097, 0.058),
        (0.735, 0.090, 0.074),
        (0.665, 0.075, 0.058), (0.615, 0.070, 0.056), (0.550, 0.086, 0.070), (0.490, 0.093, 0.074),
    ),
}  # fmt: skip


def paint_hips(sketch: Sketch) -> None:
    """Paint the seat of trousers or a whole skirt; legs are painted before."""
    person = sketch.person
    levels = [lv for lv in _TORSO[person.gender] if lv[0] < 0.62]
    levels = [(y, w * person.build + 0.002, t + 0.002) for y, w, t in levels]
    if person.lower_kind == "skirt":
        levels += [(0.44, 0.108 * person.build, 0.09), (0.325, 0.132 * person.build, 0.11)]
    elif person.lower_kind == "dress":
        return
    else:
        levels += [(0.462, 0.075 * person.build, 0.062)]
    sketch.canvas.solid(sketch.outline(levels), sketch.lower, "lower")
    if person.lower_kind == "skirt":
        for share in (-0.55, -0.1, 0.4):
            x0, y0 = sketch.at(0.08 * share, 0.48, 0)
            x1, y1 = sketch.at(0.125 * share * sketch.stance.facing, 0.34, 0)
            sketch.canvas.fold([(x0, y0), (x1, y1)], 1, 100)


def paint_torso(sketch: Sketch) -> None:
    """Paint the trunk of the upper garment down to its hem."""
    person = sketch.person
    hem, extra, flare = _UPPER_CUT[person.upper_kind]
    levels = []
    for y, w, t in _TORSO[person.gender]:
        if y > hem - 0.004:
            shoulder = person.upper_kind == "tank top" and 0.78 < y < 0.83
            w = w * 0.86 if shoulder else w
            levels.append((y, w * person.build + extra, t * person.build + extra))
    y, w, t = levels[-1]
    if hem < 0.45:
        levels.append(((y + hem) / 2, w + 0.6 * flare, t + 0.6 * flare))
    levels.append((hem, w + flare, t + flare))
    sketch.canvas.solid(sketch.outline(levels), sketch.upper, "upper", sketch.cloth)
    for _ in range(2):
        y = float(sketch.rng.uniform(0.53, 0.72))
        x, row = sketch.at(float(sketch.rng.uniform(-0.05, 0.05)), y, 0)
        w = sketch.px(0.035, y)
        drop = float(sketch.rng.uniform(-0.5, 0.5)) * w
        sketch.canvas.fold([(x - w, row), (x + w, row + drop)], 1, 108)


def paint_details(sketch: Sketch) -> None:
    """Draw what tells one upper garment from another: collar, zip, buttons, hood, logo."""
    person, canvas, stance = sketch.person, sketch.canvas, sketch.stance
    kind = person.upper_kind
    hem = _UPPER_CUT[kind][0]
    light = person.upper_colour in ("white", "yellow", "pink", "orange")
    mark = darker(sketch.upper, 0.55) if light or person.upper_colour == "grey" else (
        darker(sketch.upper, 1.45))  # fmt: skip
    front = 0.068
    facing = stance.facing > 0.15
    if kind == "hoodie":
        back = -0.035
        x, y = sketch.at(0, 0.838, back if stance.facing < 0 else -0.01)
        deep = 0.05 if stance.facing < -0.15 else 0.026
        canvas.ellipse(
            (x, y + sketch.px(deep * 0.45, 0.83)),
            sketch.px(sketch.frame.half_width(0.066, 0.060), 0.83),
            sketch.px(deep, 0.83),
            darker(sketch.upper, 0.86),
            "upper",
        )
        if facing:
            a, b = sketch.at(-0.06, 0.60, front), sketch.at(0.06, 0.60, front)
            c, d = sketch.at(0.085, 0.52, front), sketch.at(-0.085, 0.52, front)
            canvas.line([d, a, b, c], 1.0, darker(sketch.upper, 0.6), "upper")
            for x in (-0.018, 0.018):
                p, q = sketch.at(x, 0.815, front * 0.8), sketch.at(x, 0.735, front)
                canvas.line([p, q], 1.0, mark, "upper")
    if facing and kind in ("shirt", "jacket", "coat"):
        top, bottom = sketch.at(0, 0.82, 0.05), sketch.at(0, hem + 0.01, front)
        if kind == "jacket":
            canvas.line([top, bottom], 1.5, (210, 212, 216) if not light else (70, 70, 76), "upper")
            for sign in (-1, 1):
                p, q = sketch.at(sign * 0.05, 0.56, front), sketch.at(sign * 0.078, 0.52, front)
                canvas.line([p, q], 1.0, mark, "upper")
        else:
            canvas.line([top, bottom], 0.8, darker(sketch.upper, 0.5) if light else mark, "upper")
            if kind == "shirt" or stance.facing > 0:
                for y in (0.76, 0.69, 0.62, 0.55):
                    p = sketch.at(0.0 if kind == "shirt" else 0.022, y, front)
                    canvas.ellipse(p, 0.9, 0.9, mark, "upper", rounded=False)
        reach = 0.73 if kind == "coat" else 0.785
        for sign in (-1, 1):
            canvas.polygon(
                [sketch.at(sign * 0.012, 0.838, 0.045), sketch.at(sign * 0.048, 0.826, 0.03),
                 sketch.at(sign * 0.040, (0.81 + reach) / 2, front),
                 sketch.at(sign * 0.006, reach, front)],
                darker(sketch.upper, 0.72 if not light else 0.84), "upper", None,
            )  # fmt: skip
    if kind in ("jacket", "coat") and stance.facing <= 0.15:
        p, q = sketch.at(-0.05, 0.826, -0.03), sketch.at(0.05, 0.826, -0.03)
        canvas.line([p, q], 2.0, darker(sketch.upper, 0.72), "upper")
    if kind == "dress":
        levels = [(0.628, 0.074 * person.build, 0.06), (0.606, 0.074 * person.build, 0.06)]
        canvas.polygon(sketch.outline(levels), darker(sketch.upper, 0.62), "upper", None)
    if facing and kind in ("t-shirt", "sweater", "tank top", "dress"):
        deep = 0.05 if kind in ("tank top", "dress") else 0.024
        x, y = sketch.at(0, 0.836, 0.045)
        canvas.ellipse((x, y), sketch.px(0.032, 0.83) * max(0.6, stance.facing),
                       sketch.px(deep, 0.83), sketch.skin, "skin", rounded=False)  # fmt: skip
    if person.upper_pattern == "logo" and stance.facing > 0.3:
        x, y = sketch.at(0, 0.715, front)
        r = sketch.px(0.036, 0.7)
        second = contrasting(person.upper_colour)
        canvas.ellipse((x, y), r * max(0.6, stance.facing), r, second, "upper", rounded=False)
        canvas.ellipse((x, y), r * 0.45, r * 0.45, sketch.upper, "upper", rounded=False)
