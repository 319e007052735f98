"""Deciding what bytes of a picture are stored: the original's, or a clean copy.

A baseline JPEG or a PNG in upright RGB of sane size is stored byte for byte, so ingestion costs
such an image no quality. Anything else is decoded and stored as a JPEG.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from tasks.duplicates import thumbnail
from tasks.images import Header, ImageError, decode, encode_jpeg, read_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUALITY = 95
"""JPEG quality of a copy: close to the original, since no later stage can have it back."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it is stored."""

    data: bytes
    width: int
    height: int
    copied: str | None
    """Why the stored bytes are not the original's; None if they are."""
    thumbnail: NDArray[np.uint8]
    """What the perceptual hash looks at, from `tasks.duplicates.thumbnail`."""


def prepare(data: bytes, min_side: int, max_side: int) -> Picture:
    """Check a picture by decoding it whole, and decide what is stored.

    Args:
        data: The file's bytes.
        min_side: Shortest side accepted, in pixels.
        max_side: Longest side stored, in pixels; a larger picture is reduced.

    Raises:
        ImageError: The picture cannot be decoded, or is smaller than ``min_side`` as it comes or
            once it is reduced (``too-small``).
    """
    header = read_header(data)
    image = decode(data)
    if min(image.size) < min_side:
        found = f"{image.width}x{image.height} pixels, shorter than {min_side}"
        raise ImageError("too-small", found)
    why = why_copied(header, max_side)
    if max(image.size) > max_side:
        scale = max_side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        if min(size) < min_side:
            found = f"{image.width}x{image.height} pixels would be stored as {size[0]}x{size[1]}"
            raise ImageError("too-small", found)
        image = image.resize(size, Image.Resampling.LANCZOS)
    stored = encode_jpeg(image, QUALITY) if why else data
    return Picture(stored, image.width, image.height, why, thumbnail(image))


def why_copied(header: Header, max_side: int) -> str | None:
    """Say why a picture cannot be stored as it is; None if it can."""
    if header.format not in {"JPEG", "PNG"}:
        return "format"
    if header.frames > 1:
        return "animated"
    if header.orientation != 1:
        return "rotated"
    if header.transparent:
        return "transparent"
    if header.mode != "RGB":
        return "mode"
    if header.progressive:
        return "progressive"
    return "large" if max(header.width, header.height) > max_side else None
