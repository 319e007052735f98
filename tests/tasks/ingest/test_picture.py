"""What is stored of a picture: the original's bytes where they are fit, else a clean copy."""

import io

import numpy as np
import pytest
from PIL import Image

from tasks.images import ImageError, decode, read_header
from tasks.ingest.picture import prepare


def save(image, name, **options):
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


IMAGE = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (8, 5, 3), dtype=np.uint8)
).resize((40, 64), Image.Resampling.BICUBIC)


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_fit_bytes_are_kept(name):
    data = save(IMAGE, name)
    picture = prepare(data, 8, 64)
    assert picture.data == data
    assert (picture.width, picture.height, picture.copied) == (40, 64, None)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (save(IMAGE, "WEBP", lossless=True), "format"),
        (save(IMAGE, "BMP"), "format"),
        (save(IMAGE, "JPEG", progressive=True), "progressive"),
        (save(IMAGE.convert("CMYK"), "JPEG", quality=95), "mode"),
        (save(IMAGE.convert("P"), "PNG"), "mode"),
        (save(IMAGE.convert("RGBA"), "PNG"), "transparent"),
        (save(IMAGE, "JPEG", exif=rotated()), "rotated"),
        (save(IMAGE, "PNG", save_all=True, append_images=[IMAGE.rotate(180)]), "animated"),
    ],
)
def test_the_rest_is_stored_as_a_clean_upright_jpeg(data, why):
    picture = prepare(data, 8, 64)
    assert picture.copied == why
    header = read_header(picture.data)
    assert (header.format, header.mode, header.orientation) == ("JPEG", "RGB", 1)
    assert (header.width, header.height) == (picture.width, picture.height)
    assert (picture.width, picture.height) == ((64, 40) if why == "rotated" else (40, 64))
    gap = np.asarray(decode(picture.data), int) - np.asarray(decode(data), int)
    assert np.abs(gap).mean() < 4  # of 255; the dither of the palette is the hardest


def test_a_large_picture_is_reduced_to_the_longest_side():
    picture = prepare(save(IMAGE, "PNG"), 8, 32)
    assert (picture.width, picture.height, picture.copied) == (20, 32, "large")
    assert decode(picture.data).size == (20, 32)


def test_a_small_picture_is_refused():
    assert prepare(save(IMAGE, "PNG"), 40, 64).width == 40
    with pytest.raises(ImageError, match="too-small: 40x64"):
        prepare(save(IMAGE, "PNG"), 41, 64)
