"""What can be wrong in a dataset: one example of every kind, and what ingestion makes of it.

`PICTURES` are bytes of image files, `FILES` other things that lie where an image should, `ENTRIES`
are entries of the annotation; one dataset holds all of these at once. `broken_datasets` has what
is wrong with a dataset as a whole. docs/bad-input.md is the table of both.
"""

import gzip
import io
import os
import pickle
import random
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

KEPT = "kept"


def image(seed: int = 0, size: tuple[int, int] = (24, 48)) -> Image.Image:
    """A picture that no other seed gives: smooth, so that JPEG keeps it."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, form, **options)
    return sink.getvalue()


JPEG, PNG = encoded(image(1)), encoded(image(2), "PNG")


def png(
    width: int, height: int, *chunks: tuple[bytes, bytes], bits: int = 8, kind: int = 2
) -> bytes:
    """A PNG of any claimed size around any chunks."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (head, *chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + body


def zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


def oriented(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encoded(image(3, (48, 24)), exif=exif)


class Payload:
    """Writes a file if somebody unpickles it."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.marker, "w")


def payload(marker: Path) -> bytes:
    return pickle.dumps(Payload(str(marker)))


@dataclass(frozen=True)
class Picture:
    kind: str
    reason: str
    """Slug of the rejected row's reason, or `KEPT`."""
    data: bytes
    name: str = "x.jpg"
    copied: str | None = None
    """Why a kept picture is stored as a copy; None: byte for byte."""


def _pictures() -> list[Picture]:
    grey = image(4).convert("L")
    alpha = image(5).convert("RGBA")
    alpha.putalpha(128)
    frames = [image(seed) for seed in (6, 7, 8)]
    broken_sum = bytearray(PNG)
    broken_sum[PNG.index(b"IDAT") + 8] ^= 0xFF
    wide = Image.fromarray(np.full((48, 24), 40_000, np.uint16))
    tiff_bomb = bytearray(encoded(grey, "TIFF"))
    for tag in (256, 257):
        at = tiff_bomb.index(struct.pack("<HHI", tag, 4, 1))
        tiff_bomb[at + 8 : at + 12] = struct.pack("<I", 100_000)
    pages = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    last = pages.rindex(struct.pack("<HHI", 256, 4, 1))
    noise = random.Random(0).randbytes(3000)
    return [
        Picture("no bytes", "empty", b""),
        Picture("JPEG cut in the middle", "truncated", JPEG[: len(JPEG) // 2]),
        Picture("JPEG of two bytes", "truncated", JPEG[:2]),
        Picture("PNG cut in the middle", "truncated", PNG[: len(PNG) // 2], "x.png"),
        Picture("WebP cut short", "broken", encoded(image(9), "WEBP")[:60], "x.webp"),
        Picture("GIF cut after its header", "truncated", encoded(grey, "GIF")[:20], "x.gif"),
        Picture("PNG with a wrong checksum", "broken", bytes(broken_sum), "x.png"),
        Picture("PNG without pixels", "broken", png(24, 48), "x.png"),
        Picture("PNG with a text chunk of 64 MB", "broken",
                png(24, 48, (b"zTXt", b"k\0\0" + zeros(64 << 20)), (b"IDAT", zeros(48 * 73)))),
        Picture("TIFF of floating-point pixels", "broken",
                encoded(grey.convert("F"), "TIFF"), "x.tif"),
        Picture("TIFF whose last page has no width", "broken",
                pages[:last] + b"\xfe\x01" + pages[last + 2 :], "x.tif"),
        Picture("text", "not-an-image", b"a man in red"),
        Picture("web page", "not-an-image", b"<!DOCTYPE html><html>404</html>"),
        Picture("JSON", "not-an-image", b'{"image": null}'),
        Picture("SVG", "not-an-image", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "x.svg"),
        Picture("PDF", "not-an-image", b"%PDF-1.7\n", "x.pdf"),
        Picture("PostScript", "not-an-image",
                b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "x.eps"),
        Picture("shell script", "not-an-image", b"#!/bin/sh\nexit 1\n"),
        Picture("ZIP archive", "not-an-image", b"PK\x03\x04" + bytes(40)),
        Picture("JPEG inside gzip", "not-an-image", gzip.compress(JPEG, mtime=0)),
        Picture("PPM", "not-an-image", encoded(image(10), "PPM"), "x.ppm"),
        Picture("noise", "not-an-image", noise),
        Picture("zeros", "not-an-image", bytes(4096)),
        Picture("PNG that claims 30,000 x 30,000", "too-large",
                png(30_000, 30_000, (b"IDAT", zeros(1 << 20))), "x.png"),
        Picture("GIF that claims 65,535 x 65,535", "too-large",
                b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x80\0\0" + bytes(6)
                + b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x02\x02D\x01\0;",
                "x.gif"),
        Picture("BMP that claims 60,000 x 60,000", "too-large",
                b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60_000, 60_000,
                                    1, 24, 0, 0, 0, 0, 0, 0), "x.bmp"),
        Picture("TIFF that claims 100,000 x 100,000", "too-large", bytes(tiff_bomb),
                "x.tif"),
        Picture("one pixel", "too-small", encoded(image(11, (1, 1)), "PNG"), "x.png"),
        Picture("a side below min_side", "too-small", encoded(image(12, (4, 40)))),
        Picture("8 x 8,000, below min_side once reduced", "too-small",
                encoded(image(13, (8, 8000)))),
        # Odd, and good.
        Picture("PNG named .jpg", KEPT, PNG),
        Picture("JPEG named .png", KEPT, JPEG, "x.png"),
        Picture("JPEG with an archive behind it", KEPT, JPEG + b"PK\x03\x04" + bytes(40)),
        Picture("EXIF orientation that does not exist", KEPT, oriented(9)),
        Picture("EXIF block of noise", KEPT, encoded(image(14), exif=b"Exif\0\0" + noise[:200])),
        Picture("CMYK", KEPT, encoded(image(15).convert("CMYK")), copied="mode"),
        Picture("greyscale", KEPT, encoded(grey), copied="mode"),
        Picture("16 bits a pixel", KEPT, encoded(wide, "PNG"), "x.png", "mode"),
        Picture("1 bit a pixel", KEPT, encoded(grey.convert("1"), "PNG"), "x.png", "mode"),
        Picture("palette", KEPT, encoded(image(16).convert("P"), "PNG"), "x.png", "mode"),
        Picture("transparent", KEPT, encoded(alpha, "PNG"), "x.png", "transparent"),
        Picture("EXIF orientation 6", KEPT, oriented(6), copied="rotated"),
        Picture("progressive JPEG", KEPT, encoded(image(17), progressive=True),
                copied="progressive"),
        Picture("animated GIF", KEPT,
                encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
                "x.gif", "format"),
        Picture("animated PNG", KEPT,
                encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
                "x.png", "animated"),
        Picture("TIFF of three pages", KEPT, pages, "x.tif", "format"),
        Picture("WebP", KEPT, encoded(image(18), "WEBP"), "x.webp", "format"),
        Picture("BMP", KEPT, encoded(image(19), "BMP"), "x.bmp", "format"),
        Picture("larger than max_side", KEPT, encoded(image(20, (300, 600))), copied="large"),
        Picture("7,000 x 7,000 in six kilobytes", KEPT,
                png(7000, 7000, (b"IDAT", zeros(7000 * 876)), bits=1, kind=0), "x.png", "mode"),
    ]  # fmt: skip


PICTURES = _pictures()


# ------------------------------------------------------------------ not files

Make = Callable[[Path, Path], None]
"""From the path of the image and a folder outside the dataset, which holds secret.jpg."""


def _sparse(path: Path, outside: Path) -> None:
    with path.open("wb") as sink:
        sink.truncate((128 << 20) + 1)


def _inside(path: Path, outside: Path) -> None:
    path.with_name("linked.jpg").write_bytes(JPEG)
    path.symlink_to("linked.jpg")


def _through(path: Path, outside: Path) -> None:
    path.parent.rmdir()
    path.parent.symlink_to(outside)


@dataclass(frozen=True)
class OtherFile:
    kind: str
    reason: str
    make: Make
    name: str = "x.jpg"


FILES = [
    OtherFile("no file", "missing", lambda path, outside: None),
    OtherFile("dangling link", "missing", lambda path, outside: path.symlink_to("gone.jpg")),
    OtherFile("file below a file", "missing",
              lambda path, outside: (path.parent.rmdir(), path.parent.write_bytes(JPEG))[0]),
    OtherFile("link to itself", "unreadable", lambda path, outside: path.symlink_to(path)),
    OtherFile("link out of the folder", "unsafe-path",
              lambda path, outside: path.symlink_to(outside / "secret.jpg")),
    OtherFile("folder that is a link out", "unsafe-path", _through, "secret.jpg"),
    OtherFile("link to an endless device", "unsafe-path",
              lambda path, outside: path.symlink_to("/dev/zero")),
    OtherFile("folder", "not-a-file", lambda path, outside: path.mkdir()),
    OtherFile("named pipe", "not-a-file", lambda path, outside: os.mkfifo(path)),
    OtherFile("socket", "not-a-file",
              lambda path, outside: os.mknod(path, stat.S_IFSOCK | 0o600)),
    OtherFile("129 MB", "too-large", _sparse),
    OtherFile("link to another file of the folder", KEPT, _inside),
]  # fmt: skip


# ------------------------------------------------------------------ entries


@dataclass(frozen=True)
class BadEntry:
    kind: str
    reason: str
    change: dict[str, Any] = field(default_factory=dict)
    """Keys that differ from a good entry's."""
    drop: str = ""
    """A key that is left out."""
    text: str = ""
    """The whole entry as it stands in the file, instead."""
    captions: tuple[str, ...] = ()
    """What is stored of a kept entry."""


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _said(kind: str, caption: str, stored: str) -> BadEntry:
    return BadEntry(kind, KEPT, {"captions": [caption]}, captions=(stored,))


_LONG = " ".join(["word"] * 500)

ENTRIES = [
    *(BadEntry(f"path: {kind}", reason, {"file_path": path}) for kind, reason, path in (
        ("climbs", "unsafe-path", "../../outside/secret.jpg"),
        ("goes down and climbs", "unsafe-path", "a/../../../outside/secret.jpg"),
        ("absolute", "unsafe-path", "/etc/passwd"),
        ("with a drive", "unsafe-path", "C:/Windows/win.ini"),
        ("with backslashes", "unsafe-path", "..\\..\\outside\\secret.jpg"),
        ("network share", "unsafe-path", "\\\\server\\share\\x.jpg"),
        ("home folder", "missing", "~/x.jpg"),
        ("web address", "missing", "http://example.org/x.jpg"),
        ("file address", "missing", "file:///etc/passwd"),
        ("climbs in percent codes", "missing", "%2e%2e/%2e%2e/outside/secret.jpg"),
        ("a name of 300 letters", "unreadable", "x" * 300 + ".jpg"),
        ("2,000 letters", "bad-path", "x/" * 1000 + "x.jpg"),
        ("with NUL", "bad-path", "good.jpg\0.png"),
        ("with a line break", "bad-path", "good.jpg\n"),
        ("with a reversed ending", "bad-path", "x\u202egpj.exe"),
        ("with a lone surrogate", "bad-path", "x\ud800.jpg"),
        ("empty", "bad-path", ""),
        ("blank", "bad-path", "  "),
        ("the folder itself", "bad-path", "."),
        ("null", "bad-path", None),
        ("number", "bad-path", 7),
        ("list", "bad-path", ["x.jpg"]),
        ("mapping", "bad-path", {"x.jpg": 1}),
    )),
    *(BadEntry(f"captions: {kind}", reason, {"captions": value}) for kind, reason, value in (
        ("null", "caption-not-text", None),
        ("number", "caption-not-text", 5),
        ("true", "caption-not-text", True),
        ("mapping", "caption-not-text", {"en": "a man"}),
        ("list with a number", "caption-not-text", ["a man in red", 5]),
        ("list with null", "caption-not-text", ["a man in red", None]),
        ("list with NaN", "caption-not-text", [float("nan")]),
        ("list of lists", "caption-not-text", [["a man in red"]]),
        ("none", "no-caption", []),
        ("empty", "no-caption", ["", ""]),
        ("white space", "no-caption", [" \t\n\u00a0\u3000"]),
        ("markup only", "no-caption", ["<br/><!-- a man -->"]),
        ("control characters only", "no-caption", ["\x00\x07\x1b"]),
        ("zero-width characters only", "no-caption", ["\u200b\u2060\ufeff"]),
        ("lone surrogates only", "no-caption", ["\ud800\udfff"]),
        ("a million letters", "caption-too-long", ["man " * 250_000]),
        ("entities in entities", "caption-too-long", ["&" + "amp;" * 20_000]),
    )),
    *(BadEntry(f"id: {kind}", "bad-person", {"id": value}) for kind, value in (
        ("negative", -1), ("fraction", 1.5), ("true", True), ("NaN", float("nan")),
        ("infinite", float("inf")), ("beyond 63 bits", 1 << 70), ("list", [1]),
        ("mapping", {"n": 1}), ("empty", ""), ("blank", " "), ("with a control character", "a\0"),
        ("with reversed writing", "a\u202eb"), ("300 letters", "a" * 300),
    )),
    *(BadEntry(f"no key {key}", "missing-key", drop=key)
      for key in ("file_path", "captions", "split", "id")),
    *(BadEntry(f"entry: {kind}", "not-a-mapping", text=text) for kind, text in (
        ("text", '"x.jpg"'), ("number", "7"), ("null", "null"), ("NaN", "NaN"), ("list", "[1, 2]"),
    )),
    BadEntry("entry: a key twice", "duplicate-key",
             text='{"file_path": "a.jpg", "id": 900, "id": 901, "split": "train",'
                  ' "captions": ["a man in red"]}'),
    BadEntry("entry: 500 brackets deep", "nested-too-deep", {"extra": _nested(500)}),
    # Odd, and good.
    BadEntry("id: null, nobody known", KEPT, {"id": None}, captions=("a man in red",)),
    BadEntry("id: digits as text", KEPT, {"id": "777"}, captions=("a man in red",)),
    BadEntry("keys that nobody asked for", KEPT, {"__class__": "os.system", "extra": float("nan")},
             captions=("a man in red",)),
    BadEntry("captions: text without a list", KEPT, {"captions": "a man in red"},
             captions=("a man in red",)),
    BadEntry("captions: one of two empty", KEPT, {"captions": ["", "a man in red"]},
             captions=("a man in red",)),
    _said("one word", "man", "man"),
    _said("500 words", _LONG, _LONG),
    _said("markup", "a <b>man</b><script>alert(1)</script> in red", "a man alert(1) in red"),
    _said("markup as entities", "a &lt;b&gt;man&lt;/b&gt; &amp;amp; his dog", "a man & his dog"),
    _said("control characters", "a \x1b[31mman\x00 in\x07 red", "a [31mman in red"),
    _said("line breaks and tabs", "a man\r\n\tin  red\u2028coat", "a man in red coat"),
    _said("zero-width characters", "a\u200b man\ufeff in \u202ered\u202c", "a man in red"),
    _said("lone surrogate", "a man \ud83d in red", "a man in red"),
    _said("accents in two parts", "a cafe\u0301 owner in red", "a caf\u00e9 owner in red"),
    _said("mojibake", "the manâ€™s red coat", "the manâ€™s red coat"),
    _said("emoji", "a man 👨‍👩‍👧 in red", "a man 👨‍👩‍👧 in red"),
    _said("right-to-left writing", "رجل يرتدي معطفا أحمر", "رجل يرتدي معطفا أحمر"),
    _said("Chinese", "一个穿红色外套的男人", "一个穿红色外套的男人"),
    _said("source code", "if (x == 1) { return x; }", "if (x == 1) { return x; }"),
    _said("spreadsheet formula", '=cmd|"/c calc"!A1', '=cmd|"/c calc"!A1'),
    _said("template", "{{ 7 * 7 }} ${HOME} %s", "{{ 7 * 7 }} ${HOME} %s"),
]  # fmt: skip


# ------------------------------------------------------------------ good ones among them


def good(number: int, **change: Any) -> dict[str, Any]:
    """A good entry; every third person is of the test split."""
    return {
        "file_path": f"good/{number}.jpg",
        "captions": ["a man in red", f"person number {number} walks"],
        "split": "test" if number % 3 == 2 else "train",
        "id": number,
    } | change


def write_good(root: Path, count: int) -> list[dict[str, Any]]:
    """Write good pictures, JPEG and PNG, and return their entries."""
    entries = [good(number) for number in range(count)]
    for number, entry in enumerate(entries):
        path = root / "imgs" / entry["file_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image(100 + number), ("JPEG", "PNG")[number % 2]))
    return entries
