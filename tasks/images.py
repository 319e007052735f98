"""Image bytes to pixels and back: the one place where untrusted image data is decoded.

Unusual: the header is judged before a single pixel is decoded, so a file of a few kilobytes that
claims 30,000 x 30,000 pixels costs nothing; every fault is an `ImageError` with a short reason,
because a bad image is a row with a reason and never the end of a shard; and whatever comes in
(CMYK, 16 bit, palette, alpha, animation, EXIF rotation, PNG named .jpg), upright 8-bit RGB comes
out. Encoding is deterministic and carries no metadata.

Shape legend: B images, H height, W width, 3 colour channels (red, green, blue), 8 bits each.
"""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MAX_PIXELS = 50_000_000
"""Largest image decoded, in pixels: 150 MB as RGB. Cameras of today stay under it."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded at all (an MPO opens as a JPEG). Pillow's other decoders are attack surface that
no dataset needs."""

_MAGIC = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DECODE_FAULTS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    EOFError, struct.error, zlib.error,
)  # fmt: skip


class ImageError(Exception):
    """Image bytes that cannot become pixels.

    Attributes:
        reason: One of ``empty``, ``not-an-image``, ``truncated``, ``broken``, ``too-large``.
        detail: What was found, for a person to read.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Build the message ``reason: detail``, the form that the `error` column holds."""
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself, read without decoding.

    Attributes:
        format: Pillow's name of the format, such as ``JPEG``.
        mode: Pillow's name of the pixel type, such as ``RGB``.
        width: Width as stored, in pixels (before EXIF rotation).
        height: Height as stored, in pixels.
        orientation: EXIF orientation, 1 (upright) to 8.
        frames: Number of frames; 1 unless animated.
        progressive: Whether a JPEG is progressive.
        transparent: Whether there is an alpha channel or a transparent colour.
    """

    format: str
    mode: str
    width: int
    height: int
    orientation: int
    frames: int
    progressive: bool
    transparent: bool


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the header of an encoded image; no pixel is decoded.

    Args:
        data: The encoded file.
        max_pixels: Largest width x height accepted.

    Raises:
        ImageError: Reasons ``empty``, ``not-an-image``, ``truncated``, ``too-large``.
    """
    with _open(data, max_pixels) as image:
        return Header(
            format=image.format or "",
            mode=image.mode,
            width=image.width,
            height=image.height,
            orientation=_orientation(image),
            frames=_frames(image),
            progressive=bool(image.info.get("progressive") or image.info.get("progression")),
            transparent=_transparent(image),
        )


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image to upright 8-bit RGB without metadata.

    EXIF orientation is applied, an animation gives its first frame, transparency is laid over
    white, and 16-bit values keep their upper 8 bits.

    Args:
        data: The encoded file; the name's extension never matters.
        max_pixels: Largest width x height accepted, checked before decoding.

    Returns:
        An image of mode ``RGB``.

    Raises:
        ImageError: With its reason; see there.
    """
    with _open(data, max_pixels) as image:
        orientation = _orientation(image)
        try:
            image.seek(0)
            image.load()
            rgb = _to_rgb(image)
            if image.format == "PNG":
                # Pillow decodes damaged PNG data to noise; only `verify` looks at the checksums.
                with _open(data, max_pixels) as twin:
                    twin.verify()
        except _DECODE_FAULTS as error:
            raise _decode_fault(error) from error
    turn = _UPRIGHT.get(orientation)
    upright = rgb if turn is None else rgb.transpose(turn)
    upright.info = {}
    return upright


def encode_jpeg(image: Image.Image | NDArray[np.uint8], quality: int = 90) -> bytes:
    """Encode pixels as a baseline JPEG: the same pixels give the same bytes.

    Colour is not subsampled (4:4:4): on a person 48 pixels wide, subsampling would smear a bag or
    a stripe into its surroundings, and colours are what captions talk about.

    Args:
        image: An RGB image, or an array (H, W, 3) of uint8.
        quality: JPEG quality, 1 to 95.

    Raises:
        ValueError: The array is not (H, W, 3) of uint8.
    """
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"array of shape {pixels.shape} and type {pixels.dtype}; an image is (H, W, 3) of "
            "uint8; scale to 0..255, round and cast before encoding"
        )
    buffer = io.BytesIO()
    # A fresh image holds no ICC profile, comment or EXIF that Pillow would copy into the file.
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        buffer, "JPEG", quality=quality, subsampling=0, optimize=False, progressive=False
    )
    return buffer.getvalue()


def to_array_batch(
    datas: Sequence[bytes], size: tuple[int, int], workers: int = 2
) -> NDArray[np.uint8]:
    """Decode and resize (bicubic, aspect ratio not kept) a batch on threads.

    Pillow gives up Python's lock while it decodes and resizes, so threads do run side by side.

    Args:
        datas: Encoded images.
        size: (height, width) of the result, in pixels.
        workers: Number of threads; no result depends on it.

    Returns:
        Array (B, H, W, 3) of uint8.

    Raises:
        ImageError: An image cannot be decoded; rows with status ``ok`` always can.
    """
    height, width = size
    pixels = np.empty((len(datas), height, width, 3), dtype=np.uint8)

    def place(index: int) -> None:
        image = decode(datas[index])
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        pixels[index] = np.asarray(image)

    if workers > 1 and len(datas) > 1:
        with ThreadPoolExecutor(min(workers, len(datas))) as pool:
            # A list, so that an exception in any thread surfaces here.
            list(pool.map(place, range(len(datas))))
    else:
        for index in range(len(datas)):
            place(index)
    return pixels


def _open(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    if not data:
        raise ImageError("empty", "the file has no bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too-large", f"{error} (limit {max_pixels} pixels)") from error
    except UnidentifiedImageError:
        if data.startswith(_MAGIC):
            raise ImageError("truncated", f"header incomplete after {len(data)} bytes") from None
        raise ImageError("not-an-image", f"begins with {data[:12]!r}") from None
    except _DECODE_FAULTS as error:
        raise _decode_fault(error) from error
    pixels = image.width * image.height
    if pixels > max_pixels:
        found = f"{image.width}x{image.height} pixels (limit {max_pixels} in all)"
        image.close()
        raise ImageError("too-large", found)
    return image


def _decode_fault(error: BaseException) -> ImageError:
    text = " ".join(str(error).split())
    cut = "truncated" in text.lower() or isinstance(error, EOFError)
    reason = "truncated" if cut else "broken"
    return ImageError(reason, text or type(error).__name__)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # A mangled EXIF block raises nearly anything; the pixels are fine.
        return 1
    return value if isinstance(value, int) and value in range(1, 9) else 1


def _frames(image: Image.Image) -> int:
    # An MPO holds the same photo again for a preview or the other eye: not an animation.
    if image.format == "MPO":
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except _DECODE_FAULTS as error:
        raise _decode_fault(error) from error


def _transparent(image: Image.Image) -> bool:
    return image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        # 16-bit greyscale; a 32-bit file that holds 8-bit values is taken as it is.
        grey = values >> 8 if image.mode != "I" or values.max() > 255 else values
        return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    if _transparent(image):
        colour = image.convert("RGBA")
        paper = Image.new("RGBA", colour.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, colour).convert("RGB")
    return image.convert("RGB")
