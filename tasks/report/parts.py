"""What a page of the report consists of, as plain data: sections of pictures and tables, tiles."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Picture:
    """A figure: shown in the page and written beside it as a file."""

    name: str
    caption: str
    data: bytes
    narrow: bool = False
    photos: bool = False
    number: int = 0
    is_picture: bool = True

    @property
    def file(self) -> str:
        """Its file name."""
        return f"{self.name}.png"

    @property
    def address(self) -> str:
        """The picture as a data address: a sheet of pictures as JPEG, a quarter of the size."""
        data, kind = self.data, "png"
        if self.photos:
            sink = io.BytesIO()
            with Image.open(io.BytesIO(self.data)) as image:
                image.convert("RGB").save(sink, "JPEG", quality=86, subsampling=0)
            data, kind = sink.getvalue(), "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels; the page reserves the room before the picture is decoded."""
        with Image.open(io.BytesIO(self.data)) as image:
            return image.size


@dataclass
class Grid:
    """A table of text cells; ``text`` columns are left-aligned, ``best`` cells bold."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: frozenset[int] = frozenset({0})
    best: frozenset[tuple[int, int]] = frozenset()
    narrow: bool = False
    number: int = 0
    is_picture: bool = False


@dataclass
class Section:
    """A heading, one sentence and what is shown."""

    title: str
    lead: str
    parts: list[Picture | Grid] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Its fragment in the page's address."""
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class Tile:
    """A headline number."""

    value: str
    label: str
