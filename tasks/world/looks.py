"""Looks: how the same person appears in the source, in the target's cameras and elsewhere.

A `Look` is camera and place, a point in a space of twelve numbers (`Look.vector`): brightness,
gamma, contrast, saturation, two axes of colour cast, blur, noise, camera pitch, resolution, JPEG
quality and clutter, each scaled so that the range of `random_look` has length one. The distance
of two looks is the Euclidean distance of their vectors.

`random_look` never comes nearer than `MARGIN` to a camera of the target and uses backgrounds that
no camera of the target has: models made on it have not seen the target's domain.

How hard the world is follows from the numbers here. They are fixed: changing one changes every
result that was ever reported on the world.
"""

from __future__ import annotations

import dataclasses
import io
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageFilter

from tasks.world.backgrounds import ABSTRACT, STUDIO, background, obstacle
from tasks.world.drawing import Drawing, draw

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tasks.world.attributes import Person

MARGIN: Final = 0.9
"""Least distance between a random look and any camera of the target."""


@dataclass(frozen=True)
class Look:
    """Camera and place of an image."""

    name: str
    """Folder name of a camera, or a word."""
    places: tuple[str, ...]
    """Backgrounds, of which one is drawn for each image."""
    gain: float = 1.0
    """Factor on brightness."""
    gamma: float = 1.0
    """Exponent on values in [0, 1]; above 1 darkens the middle."""
    contrast: float = 1.0
    """Factor on the distance from middle grey."""
    saturation: float = 1.0
    """0 is grey, 1 as drawn."""
    red: float = 1.0
    """Factor on the red channel (colour cast)."""
    blue: float = 1.0
    """Factor on the blue channel (colour cast)."""
    blur: float = 0.0
    """Standard deviation, pixels of a 192 pixel high image."""
    noise: float = 0.0
    """Standard deviation of the sensor noise, 0-255."""
    pitch: float = 0.0
    """How far the camera looks down, degrees."""
    resolution: float = 1.0
    """Share of the pixels a side that the camera had."""
    quality: int = 100
    """JPEG quality of the camera's stream; 100 is none."""
    clutter: float = 0.0
    """Chance that something stands in front of the person."""
    softness: float = field(default=0.0, metadata={"in_vector": False})
    """Blur of the background alone, as `blur`."""
    vignette: float = 0.0
    """How much darker the corners are, 0-1."""
    drift: float = 0.0
    """Relative change of gain and cast from image to image."""

    def vector(self) -> NDArray[np.float64]:
        """Return the 12 numbers that distances are measured on, scaled by the random range."""
        values = _values(self)
        return np.array([(values[k] - low) / (high - low) for k, (low, high) in _RANGES.items()])


_RANGES: Final[dict[str, tuple[float, float]]] = {
    "log gain": (-0.65, 0.35),
    "gamma": (0.75, 1.5),
    "contrast": (0.6, 1.3),
    "saturation": (0.4, 1.4),
    "log red": (-0.28, 0.28),
    "log blue": (-0.40, 0.40),
    "blur": (0.0, 1.8),
    "noise": (0.0, 16.0),
    "pitch": (0.0, 34.0),
    "log resolution": (-0.9, 0.0),
    "quality": (25.0, 100.0),
    "clutter": (0.0, 0.5),
}
"""Range of each number over all random looks."""


def _values(look: Look) -> dict[str, float]:
    return {
        "log gain": math.log(look.gain),
        "gamma": look.gamma,
        "contrast": look.contrast,
        "saturation": look.saturation,
        "log red": math.log(look.red),
        "log blue": math.log(look.blue),
        "blur": look.blur,
        "noise": look.noise,
        "pitch": look.pitch,
        "log resolution": math.log(look.resolution),
        "quality": float(look.quality),
        "clutter": look.clutter,
    }


SOURCE: Final = Look("source", places=STUDIO, saturation=1.12, contrast=1.04, softness=2.0)
"""Clean, saturated, at eye level, before a plain ground: like generated data."""

TARGET_CAMERAS: Final = (
    Look(
        "cam_a", places=("street",), gain=0.82, contrast=0.88, saturation=0.88, red=0.93,
        blue=1.07, blur=0.8, noise=7, pitch=12, resolution=0.75, quality=60, clutter=0.25,
        vignette=0.15, drift=0.04,
    ),
    Look(
        "cam_b", places=("corridor",), gain=0.78, gamma=1.05, contrast=0.96, saturation=0.90,
        red=0.95, blue=0.87, blur=0.7, noise=9, pitch=28, resolution=0.7, quality=55, clutter=0.2,
        vignette=0.25, drift=0.04,
    ),
    Look(
        "cam_c", places=("street", "plaza"), gain=0.73, gamma=1.05, contrast=0.96, saturation=0.92,
        red=1.09, blue=0.82, blur=0.9, noise=11, pitch=17, resolution=0.65, quality=50,
        clutter=0.25, vignette=0.30, drift=0.04,
    ),
    Look(
        "cam_d", places=("plaza",), gain=1.10, gamma=0.88, contrast=0.72, saturation=0.80,
        red=1.03, blue=0.95, blur=1.0, noise=5, pitch=22, resolution=0.55, quality=45, clutter=0.3,
        drift=0.04,
    ),
    Look(
        "cam_e", places=("shop",), gain=0.86, gamma=1.05, contrast=1.05, saturation=0.85,
        red=1.06, blue=0.86, blur=0.5, noise=10, pitch=8, resolution=0.8, quality=35, clutter=0.2,
        vignette=0.20, drift=0.04,
    ),
)  # fmt: skip
"""The cameras of the target."""

_TARGET_VECTORS: Final = np.stack([camera.vector() for camera in TARGET_CAMERAS])


def distance_to_target(look: Look) -> float:
    """Return the distance of a look to the nearest camera of the target."""
    return float(np.sqrt(((_TARGET_VECTORS - look.vector()) ** 2).sum(axis=1)).min())


def random_look(rng: np.random.Generator) -> Look:
    """Draw a look that is at least `MARGIN` away from every camera of the target.

    Args:
        rng: Source of all randomness.

    Returns:
        The look; its background is one of `backgrounds.ABSTRACT`.
    """
    while True:
        draws = {k: float(rng.uniform(low, high)) for k, (low, high) in _RANGES.items()}
        for name, neutral in (("blur", 0.0), ("noise", 0.0), ("clutter", 0.0), ("quality", 100.0)):
            draws[name] = neutral if rng.random() < 0.3 else draws[name]  # often no such defect
        look = Look(
            "random",
            places=ABSTRACT,
            gain=math.exp(draws["log gain"]),
            gamma=draws["gamma"],
            contrast=draws["contrast"],
            saturation=draws["saturation"],
            red=math.exp(draws["log red"]),
            blue=math.exp(draws["log blue"]),
            blur=draws["blur"],
            noise=draws["noise"],
            pitch=draws["pitch"],
            resolution=math.exp(draws["log resolution"]),
            quality=round(draws["quality"]),
            clutter=draws["clutter"],
            softness=float(rng.uniform(0, 3)),
            vignette=float(rng.uniform(0, 0.35)),
        )
        if distance_to_target(look) >= MARGIN:
            return look


def through_camera(
    pixels: NDArray[np.uint8], look: Look, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Pass an image (H, W, 3) through the camera of a look: optics, sensor, compression."""
    height, width = pixels.shape[:2]
    if look.blur > 0 or look.resolution < 1:
        image = Image.fromarray(pixels)
        if look.blur > 0:
            image = image.filter(ImageFilter.GaussianBlur(look.blur * height / 192))
        if look.resolution < 1:
            small = max(8, round(width * look.resolution)), max(16, round(height * look.resolution))
            image = image.resize(small, Image.Resampling.BILINEAR)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
    x = pixels.astype(np.float32) * np.float32(1 / 255)
    if look.gamma != 1:
        x = x ** np.float32(look.gamma)
    wander = 1 + look.drift * rng.uniform(-1, 1, 3)
    cast = np.array([look.red, 1.0, look.blue]) * wander * look.gain
    if look.saturation != 1:
        grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
        x = grey[..., None] + np.float32(look.saturation) * (x - grey[..., None])
    x = (0.5 + np.float32(look.contrast) * (x - np.float32(0.5))) * cast.astype(np.float32)
    if look.vignette > 0:
        rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
        columns = np.linspace(-1, 1, width, dtype=np.float32)[None] ** 2
        x *= (1 - np.float32(look.vignette / 2) * (rows + columns))[..., None]
    x *= 255
    if look.noise > 0:
        noise = rng.standard_normal((height, width, 3), dtype=np.float32)
        noise = 0.6 * noise + 0.6 * noise[..., 1:2]  # mostly in brightness, some in colour
        x += np.float32(look.noise) * noise
    out = np.clip(x + 0.5, 0, 255).astype(np.uint8)
    if look.quality < 100:
        stream = io.BytesIO()
        Image.fromarray(out).save(stream, "JPEG", quality=look.quality)
        out = np.asarray(Image.open(stream).convert("RGB"))
    return out


def render(
    person: Person, look: Look, rng: np.random.Generator, size: tuple[int, int] = (192, 96)
) -> Drawing:
    """Draw a person in a look: place, figure, things in front, camera.

    Args:
        person: Who.
        look: Camera and place.
        rng: Source of all randomness.
        size: Height and width, pixels.

    Returns:
        The image and its truth.
    """
    place = look.places[int(rng.integers(len(look.places)))]
    backdrop = background(place, rng, size, look.softness)
    front = obstacle(rng, size) if rng.random() < look.clutter else []
    pitch = max(0.0, look.pitch + float(rng.uniform(-4, 4))) if look.pitch > 0 else 0.0
    drawing = draw(person, rng, size, backdrop=backdrop, pitch=pitch, foreground=front)
    return dataclasses.replace(drawing, pixels=through_camera(drawing.pixels, look, rng))
