"""The cameras of the second target, and how a picture passes through one.

A camera is a `Look` and, beyond what a look has, a frame (how large and where a person stands in
the picture, cut off or lost in it), cast shadows, haze and motion. Each lies outside the range of
`random_look` (`beyond_random`), so no shipped model has seen its like; the first target's cameras
lie inside that range, so the two networks are as far apart.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from tasks.world.drawing import Drawing, draw
from tasks.world.looks import Look, through_camera
from tasks.world.second.places import backdrop, in_front

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tasks.world.attributes import Person


@dataclass(frozen=True)
class Camera:
    """A camera of the second target."""

    look: Look
    frame: tuple[float, float] = (0.8, 1.0)
    """Least and largest height of a person's frame, as a share of the picture; above 1 the picture
    cuts it."""
    stray: float = 0.10
    """How far the frame's middle strays from the picture's, as a share of its sides."""
    shadow: float = 0.0
    """How dark the shadow of something outside the picture is, 0-1."""
    haze: float = 0.0
    """Share of the light that comes from the air between."""
    motion: float = 0.0
    """Length of the smear by motion, pixels of a 192 pixel high image."""

    @property
    def name(self) -> str:
        """Folder name."""
        return self.look.name


CAMERAS: Final = (
    Camera(
        Look("gate_noon", places=("crossing", "stair"), gain=1.12, gamma=0.95, contrast=1.36,
             saturation=1.55, pitch=51, blur=0.2, noise=2, quality=88, clutter=0.25, drift=0.03),
        frame=(0.78, 0.96), shadow=0.45,
    ),
    Camera(
        Look("path_morning", places=("lawn",), gain=1.02, contrast=1.12, saturation=1.45, red=1.16,
             blue=0.76, pitch=52, blur=0.4, noise=3, quality=80, clutter=0.35, drift=0.06),
        frame=(0.70, 0.90), stray=0.14, haze=0.22, shadow=0.30,
    ),
    Camera(
        Look("gate_dusk", places=("crossing", "bicycle stand"), gain=0.62, gamma=0.85,
             contrast=1.05, saturation=1.40, red=0.84, blue=1.55, pitch=47, blur=0.6, noise=21,
             quality=60, clutter=0.25, drift=0.04),
        frame=(0.80, 1.00), motion=5,
    ),
    Camera(
        Look("hall_lamps", places=("hall",), gain=0.95, gamma=1.15, contrast=1.12, saturation=1.25,
             red=1.20, blue=0.64, pitch=53, blur=0.3, noise=14, quality=70, clutter=0.1,
             vignette=0.45, drift=0.04),
        frame=(0.98, 1.15), stray=0.06,
    ),
    Camera(
        Look("stand_old", places=("bicycle stand", "stair"), gain=1.05, contrast=1.10,
             saturation=1.35, blue=1.12, blur=0.6, noise=5, pitch=48, resolution=0.30, quality=14,
             clutter=0.35, drift=0.03),
        frame=(0.86, 1.04), shadow=0.35, motion=3,
    ),
    Camera(
        Look("deck_glare", places=("stair", "lawn"), gain=1.28, gamma=0.80, contrast=1.05,
             saturation=1.50, pitch=52, blur=0.3, noise=4, quality=75, clutter=0.2, drift=0.06),
        frame=(0.60, 0.80), stray=0.18, haze=0.16,
    ),
)  # fmt: skip
"""The cameras of the second target."""


def beyond_random(look: Look) -> float:
    """Return the distance of a look to the range of all random looks, without its clutter.

    In units of `Look.vector`, whose range is from 0 to 1 in each number. What stands in front of a
    person is left out: a picture has it or not, with every look.
    """
    vector = look.vector()[:-1]
    return float(np.linalg.norm(vector - np.clip(vector, 0, 1)))


def _lit(pixels: NDArray[np.uint8], camera: Camera, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Cast a shadow with a straight, soft edge over a side of (H, W, 3), and fill it with haze."""
    height, width = pixels.shape[:2]
    x = pixels.astype(np.float32)
    if camera.shadow > 0:
        angle, offset = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(-0.35, 0.35))
        rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        columns = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None]
        side = np.cos(angle) * rows + np.sin(angle) * columns - offset
        dark = np.clip(0.5 + side * 12, 0, 1) * np.float32(camera.shadow)
        # What no sun reaches is lit by the sky.
        x *= 1 - dark[..., None] * np.array([1.0, 0.94, 0.82], np.float32)
    if camera.haze > 0:
        veil = np.linspace(1.3, 0.7, height, dtype=np.float32)[:, None, None] * camera.haze
        x = x * (1 - veil) + np.array([226, 226, 222], np.float32) * veil
    return np.clip(x + 0.5, 0, 255).astype(np.uint8)


def _smeared(pixels: NDArray[np.uint8], motion: float) -> NDArray[np.uint8]:
    """Smear (H, W, 3) along its rows."""
    reach = round(motion * pixels.shape[0] / 192 / 2)
    if reach < 1:
        return pixels
    wide = np.pad(pixels.astype(np.float32), ((0, 0), (reach + 1, reach), (0, 0)), mode="edge")
    sums = wide.cumsum(axis=1)
    long = 2 * reach + 1
    mean = (sums[:, long:] - sums[:, :-long]) / long
    return (mean + 0.5).astype(np.uint8)


def photograph(
    person: Person, camera: Camera, rng: np.random.Generator, size: tuple[int, int] = (192, 96)
) -> Drawing:
    """Draw a person as a camera of the second target sees them.

    Args:
        person: Who.
        camera: One of `CAMERAS`.
        rng: Source of all randomness.
        size: Height and width, pixels.

    Returns:
        The image and its truth.
    """
    height, width = size
    look = camera.look
    behind = backdrop(look.places[int(rng.integers(len(look.places)))], rng, size)
    front = in_front(rng, size) if rng.random() < look.clutter else []
    share = float(rng.uniform(*camera.frame))
    down, across = (float(v) for v in rng.uniform(-camera.stray, camera.stray, 2))
    # A smaller frame strays within the picture, a larger one keeps the head in it.
    room = (1 - share) * height / 2
    top = room + (down * height if room > 0 else abs(down) * height)
    top = min(max(top, 0.0), max(2 * room, 0.04 * height))
    left = (1 - share) * width / 2 + across * width
    pitch = look.pitch + float(rng.uniform(-4, 4))
    drawing = draw(
        person, rng, size, backdrop=behind, pitch=pitch, foreground=front,
        window=(top, left, share * height, share * width),
    )  # fmt: skip
    pixels = _smeared(_lit(drawing.pixels, camera, rng), camera.motion)
    return dataclasses.replace(drawing, pixels=through_camera(pixels, look, rng))
