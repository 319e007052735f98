"""What the report says of captions: which sets, on how many captions, and with which pictures."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tasks.images import encode_jpeg
from tasks.report.parts import Grid, Picture
from tasks.report.sources import Sources
from tasks.report.wording import (
    NEW,
    PROMPTS,
    SOURCE,
    TARGET,
    caption_sheet,
    measure_wording,
    section,
)
from tasks.schemas import CAPTIONED, IMAGES, RESTYLED
from tasks.shards import write_folder

Rows = list[dict[str, Any]]
PIXELS = encode_jpeg(Image.fromarray(np.full((40, 20, 3), 90, np.uint8)))


def long(uid: str) -> str:
    """ "1.r0" as a row is called: sixteen digits and what was done."""
    return "0" * (16 - len(uid.partition(".")[0])) + uid


def blank(schema: pa.Schema) -> dict[str, Any]:
    """A row of any table: empty and zero where something is required."""
    empty = {pa.string(): "", pa.int64(): 0, pa.int32(): 0, pa.float32(): 0.0, pa.bool_(): False}
    return {field.name: None if field.nullable else empty.get(field.type) for field in schema}


def image(uid: str, captions: list[str], **more: object) -> dict[str, Any]:
    row = {"uid": long(uid), "split": "train", "image": PIXELS, "captions": captions}
    return blank(IMAGES) | row | {"status": "ok"} | more


def restyled(uid: str, captions: list[str], prompt: str, **more: object) -> dict[str, Any]:
    row = {"uid": long(uid), "image": PIXELS, "captions": captions, "prompt": prompt}
    return blank(RESTYLED) | row | {"status": "ok"} | more


def captioned(uid: str, captions: list[str], styles: list[str] | None) -> dict[str, Any]:
    return {
        "uid": long(uid), "captions": captions, "method": "captioner", "styles": styles,
        "seeds": styles and [1] * len(styles), "status": "ok", "error": None,
    }  # fmt: skip


BAD: dict[str, Any] = {"status": "rejected", "error": "grey: 3"}


def sources(root: Path, old: Rows, new: Rows, target: Rows) -> Sources:
    for name, rows, schema, kind in (
        ("restyled", old, RESTYLED, "restyled"),
        ("captioned", new, CAPTIONED, "captioned"),
        ("ingested/target", target, IMAGES, "images"),
    ):
        if rows:
            write_folder(root / name, [pa.Table.from_pylist(rows, schema)], kind, {}, 64)
    return Sources.under(root, target="target")


@pytest.fixture
def plain(tmp_path: Path) -> Sources:
    return sources(
        tmp_path,
        [restyled(f"{n}.r0", ["a man in red"], "a man in red") for n in range(4)]
        + [restyled("4.r0", ["never counted"], "", **BAD)],
        [captioned(f"{n}.r0", [f"a person number {n}"], ["plain"]) for n in range(4)],
        [image("a0", ["a man, a hat", "red trousers"]), image("a1", ["secret"], split="test")],
    )


def test_the_sets_that_there_are(plain: Sources) -> None:
    wording = measure_wording(plain, seed=0)
    assert wording is not None
    # Prompts that are the captions, and a single style, are not shown twice.
    assert list(wording.sets) == [SOURCE, NEW, TARGET]
    assert [entry.captions for entry in wording.sets.values()] == [4, 4, 2]
    assert {entry.captions for entry in wording.equal.values()} == {2}
    assert wording.sets[SOURCE].repeated == 3 / 4
    assert wording.sets[NEW].vocabulary == 7  # a, person, number and the four numbers
    assert wording.sets[TARGET].vocabulary == 5  # nothing of the test split
    # The target says: a man a hat red trousers.
    assert wording.covered == {SOURCE: 4 / 6, NEW: 2 / 6}
    for name, points in wording.growth.items():
        assert points[-1] == (2, wording.equal[name].vocabulary)


def test_prompts_and_styles_by_themselves_where_they_are_others(tmp_path: Path) -> None:
    found = measure_wording(
        sources(
            tmp_path,
            [restyled("0.r0", ["a man"], "a lady"), restyled("1.r0", ["a boy"], "a boy")],
            [captioned("0.r0", ["one two", "three"], ["brief", "long"]),
             captioned("1.r0", ["four five six"], ["long"])],
            [],
        ),
        seed=0,
    )  # fmt: skip
    assert found is not None
    assert list(found.sets) == [SOURCE, PROMPTS, NEW, f"{NEW}: brief", f"{NEW}: long"]
    assert found.sets[f"{NEW}: long"].vocabulary == 4
    assert found.covered == {}


def test_generated_pictures_have_prompts_only(tmp_path: Path) -> None:
    rows = [restyled(f"0.g0{n}", [text], text) for n, text in enumerate(("a man", "man a"))]
    found = measure_wording(sources(tmp_path, rows, [], []), seed=0)
    assert found is not None
    assert list(found.sets) == [PROMPTS]


def test_the_section_shows_table_chart_and_sheet(plain: Sources) -> None:
    sheet = caption_sheet(plain, 3, seed=0)
    assert sheet is not None
    data = io.BytesIO()
    sheet.save(data, "PNG")
    built = section(measure_wording(plain, seed=0), {"captions": data.getvalue()})
    pictures = [part for part in built.parts if isinstance(part, Picture)]
    (table,) = (part for part in built.parts if isinstance(part, Grid))
    assert [part.name for part in pictures] == ["captions", "wording"]
    assert all(part.size[0] > 500 for part in pictures)
    assert [row[0] for row in table.rows] == [SOURCE, NEW, TARGET]
    assert all(len(row) == len(table.header) for row in table.rows)
    assert [row[-1] for row in table.rows] == ["66.7 %", "33.3 %", ""]
    assert [row[1] for row in table.rows] == ["4", "4", "2"]


def test_nothing_to_show_is_no_part(tmp_path: Path) -> None:
    empty = sources(tmp_path, [], [], [])
    assert measure_wording(empty, seed=0) is None
    assert caption_sheet(empty, 3, seed=0) is None
    assert section(None, {}).parts == []


def test_a_sheet_grows_with_its_texts(tmp_path: Path) -> None:
    def height(words: int) -> int:
        folder = tmp_path / str(words)
        rows = [restyled("0.r0", ["old"], "old")]
        said = [captioned("0.r0", ["word " * words], ["plain"])]
        drawn = caption_sheet(sources(folder, rows, said, []), 1, seed=0)
        assert drawn is not None
        return drawn.height

    assert height(1) < height(12) < height(30)
    assert height(200) == height(400)  # cut, with an ellipsis
