"""Paints one person on a canvas: body, clothes, hair, hat and bag, from far to near.

Everything is placed in body space (see `figure`) and projected, so one description of a garment
serves every view and every camera angle. The order of the calls in `paint` is what covers what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.world.bags import paint_backpack, paint_handbag, paint_hip_bag, paint_straps
from tasks.world.clothes import paint_details, paint_hips, paint_torso
from tasks.world.head import paint_hair_mass, paint_hat, paint_head, paint_neck
from tasks.world.limbs import paint_arm, paint_leg, paint_shadow

if TYPE_CHECKING:
    from tasks.world.sketch import Sketch


def paint(sketch: Sketch) -> None:
    """Draw everything, from far to near."""
    person, stance = sketch.person, sketch.stance
    from_behind = stance.facing <= 0.12
    near = {"left": -stance.sideways, "right": stance.sideways}
    arms = sorted(near, key=lambda name: near[name])
    turned = abs(stance.sideways) > 0.4
    paint_shadow(sketch)
    if person.bag == "backpack" and not from_behind:
        paint_backpack(sketch)
    long_hair = person.hair_length == "long"
    if long_hair and stance.facing > 0.3:
        paint_hair_mass(sketch)
    if turned:
        paint_arm(sketch, arms[0])
    for name in sorted(near, key=lambda n: sketch.frame.depth(stance.joints[f"{n} ankle"])):
        paint_leg(sketch, name)
    paint_hips(sketch)
    paint_neck(sketch)
    paint_torso(sketch)
    paint_details(sketch)
    if person.bag in ("backpack", "shoulder bag"):
        paint_straps(sketch)
    paint_head(sketch)
    if person.bag == "backpack" and from_behind:
        paint_backpack(sketch)
    if long_hair and stance.facing <= 0.3:
        paint_hair_mass(sketch)
    if person.hat != "none":
        paint_hat(sketch)
    for name in arms[1:] if turned else arms:
        paint_arm(sketch, name)
    if person.bag == "shoulder bag":
        paint_hip_bag(sketch)
    elif person.bag == "handbag":
        paint_handbag(sketch)
