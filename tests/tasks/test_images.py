"""Image bytes to pixels: every kind of bad or odd file, and the exact reason that it gets."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.images import ImageError, decode, encode_jpeg, read_header, to_array_batch

RED, BLUE = (200, 20, 20), (20, 20, 200)


def two_tone(height=8, width=4):
    """Upper half red, lower half blue."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2], pixels[height // 2 :] = RED, BLUE
    return pixels


def save(image, name, **options):
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def png_header_claiming(width, height):
    """A PNG of under 100 bytes whose header claims any size."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 30)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def reason_of(data, **options):
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    assert str(caught.value).startswith(caught.value.reason + ": ")
    assert caught.value.detail
    return caught.value.reason


def test_lossless_pixels_come_out_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8)
    image = decode(save(Image.fromarray(pixels), "PNG"))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("size", [(30_000, 30_000), (9_000, 9_000)])
def test_a_bomb_is_refused_from_its_header(size):
    # 9,000 x 9,000 is below Pillow's own alarm and above ours.
    assert reason_of(png_header_claiming(*size)) == "too-large"
    with pytest.raises(ImageError, match="too-large"):
        read_header(png_header_claiming(*size))


def test_the_pixel_limit_is_inclusive():
    data = save(Image.fromarray(two_tone(8, 4)), "PNG")
    assert decode(data, max_pixels=32).size == (4, 8)
    assert reason_of(data, max_pixels=31) == "too-large"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>404 not found</html>", "not-an-image"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
    ],
)
def test_what_is_no_image_gets_its_reason(data, reason):
    assert reason_of(data) == reason


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_a_file_cut_in_the_middle_is_truncated(name):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = save(Image.fromarray(pixels), name)
    assert reason_of(data[: len(data) // 2]) == "truncated"


def test_a_jpeg_cut_inside_its_header_is_truncated():
    assert reason_of(save(Image.fromarray(two_tone()), "JPEG")[:200]) == "truncated"


def test_a_png_with_a_damaged_pixel_stream_is_broken():
    data = bytearray(save(Image.fromarray(two_tone(64, 64)), "PNG"))
    at = data.index(b"IDAT") + 10
    data[at : at + 4] = b"\xff\x00\xff\x00"
    assert reason_of(bytes(data)) == "broken"


# Where the red half of an image that is stored red above blue ends up (EXIF 2.32, tag 0x0112).
@pytest.mark.parametrize(
    ("orientation", "side"),
    list(enumerate(["top", "top", "bottom", "bottom", "left", "right", "right", "left"], 1)),
)
def test_exif_orientation_is_applied(orientation, side):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(save(Image.fromarray(two_tone(8, 4)), "PNG", exif=exif))
    pixels = np.asarray(image)
    assert pixels.shape == ((8, 4, 3) if orientation < 5 else (4, 8, 3))
    edge = {"top": pixels[0], "bottom": pixels[-1], "left": pixels[:, 0], "right": pixels[:, -1]}
    assert (edge[side] == RED).all()
    assert "exif" not in image.info


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_mangled_exif_does_not_lose_the_image():
    data = save(Image.fromarray(two_tone()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\xff")
    assert decode(data).size == (4, 8)


def test_cmyk_jpeg_becomes_rgb():
    data = save(Image.fromarray(two_tone(32, 32)).convert("CMYK"), "JPEG", quality=95)
    assert read_header(data).mode == "CMYK"
    np.testing.assert_allclose(np.asarray(decode(data))[4, 4], RED, atol=12)


def test_sixteen_bit_grey_keeps_the_upper_bits():
    values = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    image = decode(save(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(np.asarray(image)[0, :, 0], [0, 0, 1, 255])


def test_float_pixels_are_refused():
    data = save(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF")
    assert reason_of(data) == "broken"


def test_transparency_lies_over_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = [0, 255, 51]  # 51 / 255 = 0.2 of black over white = 204
    image = decode(save(Image.fromarray(pixels, "RGBA"), "PNG"))
    np.testing.assert_allclose(np.asarray(image)[0, :, 0], [255, 0, 204], atol=1)


def test_palette_with_a_transparent_colour():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([0, 1])
    pixels = np.asarray(decode(save(image, "PNG", transparency=1)))
    assert tuple(pixels[0, 0]) == RED
    assert tuple(pixels[0, 1]) == (255, 255, 255)


@pytest.mark.parametrize("name", ["GIF", "WEBP"])
def test_an_animation_gives_its_first_frame(name):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    data = save(frames[0], name, save_all=True, append_images=frames[1:], duration=100)
    assert read_header(data).frames == 2
    np.testing.assert_allclose(np.asarray(decode(data))[8, 8], RED, atol=8)


def test_the_header_tells_a_progressive_jpeg():
    image = Image.fromarray(two_tone(16, 16))
    assert read_header(save(image, "JPEG", progressive=True)).progressive
    assert not read_header(save(image, "JPEG")).progressive


def test_jpeg_encoding_is_deterministic_and_bare():
    image = Image.fromarray(two_tone(32, 32))
    image.info = {"comment": b"secret", "icc_profile": b"x" * 200, "exif": b"Exif\0\0"}
    first = encode_jpeg(image)
    assert first == encode_jpeg(np.asarray(image))
    assert b"secret" not in first
    assert b"Exif" not in first
    assert b"ICC_PROFILE" not in first
    header = read_header(first)
    assert (header.format, header.progressive) == ("JPEG", False)
    assert len(encode_jpeg(image, quality=30)) < len(first)
    # Full colour resolution: red right up to the border between the halves.
    np.testing.assert_allclose(np.asarray(decode(first))[15, 16], RED, atol=12)


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8)])
def test_encoding_refuses_other_arrays(bad):
    with pytest.raises(ValueError, match="uint8"):
        encode_jpeg(bad)


def test_a_batch_is_resized_in_order_whatever_the_threads():
    images = [Image.new("RGB", (10 + i, 20), (i * 20, 0, 0)) for i in range(9)]
    datas = [save(image, "PNG") for image in images]
    batch = to_array_batch(datas, (6, 3), workers=3)
    assert batch.shape == (9, 6, 3, 3)
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch[:, 0, 0, 0], np.arange(9) * 20)
    np.testing.assert_array_equal(batch, to_array_batch(datas, (6, 3), workers=1))
    expected = images[4].resize((3, 6), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(batch[4], np.asarray(expected))


def test_an_empty_batch_and_a_bad_member():
    assert to_array_batch([], (6, 3)).shape == (0, 6, 3, 3)
    with pytest.raises(ImageError, match="empty"):
        to_array_batch([encode_jpeg(two_tone()), b""], (6, 3))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged TIFF tags
@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]),
    cuts=st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), max_size=4),
    keep=st.floats(0, 1),
)
def test_damaged_files_never_raise_anything_else(name, cuts, keep):
    data = bytearray(save(Image.fromarray(two_tone(24, 16)), name))
    for at, junk in cuts:
        at %= len(data)
        data[at : at + len(junk)] = junk
    try:
        outcome = decode(bytes(data[: max(1, int(len(data) * keep))]), max_pixels=10_000).mode
    except ImageError as error:
        outcome = error.reason
    assert outcome in {"RGB", "not-an-image", "truncated", "broken", "too-large"}
