"""The skeleton: where the joints of a person are in an image.

A pose is a set of joints in three dimensions (unit: body height; x to the person's left, y up,
z the way they face), turned by the view and projected on the image. The projection knows two
things of a camera above eye level: the person is foreshortened, and what is near the camera,
the head, is larger than the feet. Proportions are those of an adult of 7.3 heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

    from tasks.world.attributes import Person

Vec = tuple[float, float, float]

VIEWS: Final[dict[str, tuple[float, float]]] = {
    "front": (0, 4),
    "front left": (38, 2),
    "front right": (-38, 2),
    "left": (86, 2),
    "right": (-86, 2),
    "back left": (142, 1),
    "back right": (-142, 1),
    "back": (180, 4),
}
"""View -> (yaw in degrees, weight). Left and right are sides of the image that they face."""

COCO: Final = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder",
    "left elbow", "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee",
    "right knee", "left ankle", "right ankle",
)  # fmt: skip
"""Keypoint names in COCO order; left and right are the person's own."""

HEAD_Y: Final = 0.934
HEAD_RX: Final = 0.0495
HEAD_RY: Final = 0.067


@dataclass(frozen=True)
class Stance:
    """What one image shows of a body, independent of who it is."""

    view: str
    """A key of `VIEWS`."""
    yaw: float
    """Turn from facing the camera, radians, positive towards the right of the image."""
    action: str
    """walking | standing"""
    joints: dict[str, Vec] = field(repr=False)
    """Joint name -> position in body heights."""
    side: float
    """1 or -1: x sign of the side that carries a bag."""

    @property
    def facing(self) -> float:
        """Cosine of the yaw: 1 towards the camera, -1 away."""
        return math.cos(self.yaw)

    @property
    def sideways(self) -> float:
        """Sine of the yaw: 1 facing the right of the image, -1 the left."""
        return math.sin(self.yaw)


@dataclass(frozen=True)
class Frame:
    """Projection of body space on an image."""

    yaw: float
    """Turn of the body, radians."""
    pitch: float
    """How far the camera looks down, radians."""
    height: float
    """Pixels a body height."""
    x: float
    """Column of the body's axis, pixels."""
    ground: float
    """Row of the ground under the body, pixels."""

    def at(self, joint: Vec) -> tuple[float, float]:
        """Project a joint to (column, row) in pixels."""
        x, y, z = joint
        sin, cos = math.sin(self.yaw), math.cos(self.yaw)
        depth = z * cos - x * sin
        persp = 0.85 * math.sin(self.pitch)
        grown = y + persp * (y * y - y) / 2
        column = (x * cos + z * sin) * (1 + persp * (y - 0.5))
        row = grown * math.cos(self.pitch) - depth * math.sin(self.pitch)
        return self.x + column * self.height, self.ground - row * self.height

    def depth(self, joint: Vec) -> float:
        """Return how near the camera a joint is, in body heights."""
        return joint[2] * math.cos(self.yaw) - joint[0] * math.sin(self.yaw)

    def scale(self, y: float) -> float:
        """Return pixels a body height at level `y`, across the image."""
        return self.height * (1 + 0.85 * math.sin(self.pitch) * (y - 0.5))

    def half_width(self, breadth: float, thickness: float) -> float:
        """Return the half width of an ellipse of the body as seen under the yaw."""
        return math.hypot(breadth * math.cos(self.yaw), thickness * math.sin(self.yaw))


def pose(person: Person, rng: np.random.Generator) -> Stance:
    """Draw a stance: view, action and the joints of the body.

    Args:
        person: Whose body it is.
        rng: Source of all randomness.

    Returns:
        The stance.
    """
    names = list(VIEWS)
    total = sum(weight for _, weight in VIEWS.values())
    point, view = rng.random() * total, names[-1]
    for name in names:
        point -= VIEWS[name][1]
        if point < 0:
            view = name
            break
    yaw = math.radians(VIEWS[view][0] + float(rng.uniform(-10, 10)))
    walking = bool(rng.random() < 0.6)
    woman = person.gender == "woman"
    shoulder = (0.098 if woman else 0.112) * person.build
    hip = (0.052 if woman else 0.050) * person.build
    stride = float(rng.uniform(0.20, 0.42)) if walking else float(rng.uniform(-0.06, 0.06))
    stride *= 1 if rng.random() < 0.5 else -1
    side = -1.0 if math.sin(yaw) > 0 else 1.0  # the side near the camera
    joints: dict[str, Vec] = {"neck": (0.0, 0.835, 0.0), "pelvis": (0.0, 0.51, 0.0)}
    spread = float(rng.uniform(0.02, 0.09))
    for sign, name in ((1.0, "left"), (-1.0, "right")):
        swing = sign * stride
        root = (sign * hip, 0.505, 0.0)
        knee_bend = float(rng.uniform(0.05, 0.15)) + (0.55 * max(0.0, -swing) if walking else 0.0)
        knee = _swing(root, 0.235, swing, sign * spread * 0.4)
        ankle = _swing(knee, 0.225, swing - knee_bend, sign * spread * 0.2)
        joints |= {f"{name} hip": root, f"{name} knee": knee, f"{name} ankle": ankle}
        toe_tilt = 0.35 * max(0.0, -swing) if walking else 0.0
        joints[f"{name} toe"] = (
            ankle[0] + sign * 0.014,
            ankle[1] - 0.027 - toe_tilt * 0.1,
            ankle[2] + 0.085,
        )
        joints[f"{name} heel"] = (ankle[0], ankle[1] - 0.027 + toe_tilt * 0.06, ankle[2] - 0.022)
        top = (sign * shoulder * 0.97, 0.776, 0.0)
        arm = -swing * 0.85 if walking else float(rng.uniform(-0.1, 0.15))
        carries = person.bag == "handbag" and sign == side
        if carries:
            # Seen from the side the bag is held before the body, or it would hide the skirt.
            arm = 0.5 if abs(math.sin(yaw)) > 0.8 else 0.3 * arm
        bend = float(rng.uniform(0.1, 0.35)) + (0.3 * abs(stride) if walking else 0.0)
        if not walking and not carries and rng.random() < 0.12:
            bend = 1.5  # a raised forearm, as in looking at a phone
        out = sign * float(rng.uniform(0.10, 0.22))
        elbow = _swing(top, 0.148, arm, out)
        wrist = _swing(elbow, 0.14, arm + (0.08 if carries else bend), out * 0.3)
        hand = _swing(wrist, 0.045, arm + (0.0 if carries else bend), 0.0)
        joints |= {
            f"{name} shoulder": top,
            f"{name} elbow": elbow,
            f"{name} wrist": wrist,
            f"{name} hand": hand,
        }
    lift = min(joints[f"{name} {end}"][1] for name in ("left", "right") for end in ("toe", "heel"))
    joints = {name: (x, y - lift + 0.012, z) for name, (x, y, z) in joints.items()}
    turn = float(rng.uniform(-0.35, 0.35))
    joints |= _face(joints["neck"][1] - 0.835, turn)
    return Stance(view, yaw, "walking" if walking else "standing", joints, side)


def _swing(root: Vec, length: float, angle: float, out: float) -> Vec:
    """Hang a bone from `root`: `angle` forwards and `out` sideways, radians from straight down."""
    return (
        root[0] + length * math.sin(out),
        root[1] - length * math.cos(angle) * math.cos(out),
        root[2] + length * math.sin(angle) * math.cos(out),
    )


def _face(lift: float, turn: float) -> dict[str, Vec]:
    """Place head and face joints; `turn` is the head's own turn, radians."""

    def on_head(angle: float, up: float, reach: float = 1.0) -> Vec:
        angle += turn
        radius = HEAD_RX * reach
        return radius * math.sin(angle), HEAD_Y + lift + up, 1.15 * radius * math.cos(angle)

    return {
        "head": (0.0, HEAD_Y + lift, 0.0),
        "nose": on_head(0.0, -0.012, 1.12),
        "left eye": on_head(0.42, 0.006),
        "right eye": on_head(-0.42, 0.006),
        "left ear": on_head(math.pi / 2, -0.004),
        "right ear": on_head(-math.pi / 2, -0.004),
        "mouth": on_head(0.0, -0.034),
        "brim": on_head(0.0, 0.024, 1.75),
        "front": on_head(0.0, 0.0, 1.0),
    }
