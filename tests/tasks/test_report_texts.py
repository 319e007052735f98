"""The report's section on pseudo texts: what is counted, what is shown, and what is not."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from tasks.images import encode_jpeg
from tasks.report import texts
from tasks.report.parts import Grid, Picture
from tasks.report.sources import Sources
from tasks.report.text_figures import shares_chart, values_chart
from tasks.report.text_sheets import text_sheet
from tasks.schemas import CAPTIONED, IMAGES
from tasks.shards import write_folder

SEEN = [
    ("age", "adult", 0.9), ("gender", "woman", 0.8), ("upper clothes", "red coat", 0.7),
    ("bag", "black backpack", 0.95),
]  # fmt: skip


def captioned(folder: Path, method: str = "clip_attributes", rows: int = 6) -> Path:
    """A table of captions; every second picture shows a bag."""
    table = pa.Table.from_pylist(
        [
            {
                "uid": f"{at:016x}", "captions": [f"A woman in a red coat number {at}."],
                "method": method, "templates": ["a.b"] if method != "captioner" else None,
                "attributes": [
                    dict(zip(("attribute", "value", "score"), each, strict=True))
                    for each in SEEN[: 4 - at % 2]
                ] if method != "captioner" else None,
                "status": "ok",
            }
            for at in range(rows)
        ],
        CAPTIONED,
    )  # fmt: skip
    write_folder(folder, [table], "captioned", shard_rows=4)
    return folder


def images(folder: Path, rows: int = 6) -> Path:
    rng = np.random.default_rng(1)
    table = pa.Table.from_pylist(
        [
            {
                "uid": f"{at:016x}", "dataset": "d", "split": "train", "source_path": f"{at}",
                "captions": [], "width": 16, "height": 32, "status": "ok",
                "image": encode_jpeg(rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)),
            }
            for at in range(rows)
        ],
        IMAGES,
    )  # fmt: skip
    write_folder(folder, [table], "images", shard_rows=4)
    return folder


def test_pseudo_texts_of_both_kinds_are_counted_and_shown(tmp_path: Path) -> None:
    ingested = images(tmp_path / "target")
    sources = Sources(
        ingested=(ingested,),
        target="target",
        restyled=images(tmp_path / "restyled"),
        captioned=captioned(tmp_path / "captioned"),
        described={"target": captioned(tmp_path / "described")},
    )
    told = texts.measure_texts(sources)
    assert list(told) == [texts.NEW, "texts for target"]
    new = told[texts.NEW]
    assert (new.pictures, new.optional, new.shares["bag"].count) == (6, 0.5, 3)
    assert new.shares["bag"].share == 1
    assert new.scores["bag"] == pytest.approx(0.95)
    sheets = texts.sheets_of(sources, 3, 0)
    assert set(sheets) == {"texts", "texts-target"}
    pictures = {}
    for name, sheet in sheets.items():
        assert sheet is not None
        sink = io.BytesIO()
        sheet.save(sink, "PNG")
        pictures[name] = sink.getvalue()
    section = texts.section(told, pictures)
    names = [part.name for part in section.parts if isinstance(part, Picture)]
    assert names == [
        "texts", "texts-shares", "texts-values",
        "texts-target", "texts-target-shares", "texts-target-values",
    ]  # fmt: skip
    overview, *_, seen = [part for part in section.parts if isinstance(part, Grid)]
    assert [row[0] for row in overview.rows] == [texts.NEW, "texts for target", "LUPerson-T"]
    assert all(len(row) == len(overview.header) for row in overview.rows)
    assert ("bag", "where likely", "1", "50.0 %", "0.95", "black backpack (100 %)") in seen.rows


def test_captions_of_another_method_are_no_pseudo_texts(tmp_path: Path) -> None:
    sources = Sources(
        ingested=(images(tmp_path / "source"),),
        restyled=images(tmp_path / "restyled"),
        captioned=captioned(tmp_path / "captioned", "captioner"),
    )
    assert texts.measure_texts(sources) == {}
    assert texts.sheets_of(sources, 3, 0) == {"texts": None}
    assert texts.section({}, {}).parts == []


def test_the_sheet_has_a_card_a_picture(tmp_path: Path) -> None:
    sheet = text_sheet(images(tmp_path / "i"), captioned(tmp_path / "c"), 5, 0, columns=2)
    assert isinstance(sheet, Image.Image)
    one = text_sheet(tmp_path / "i", tmp_path / "c", 1, 0, columns=2)
    assert one is not None
    assert sheet.width > 1.9 * (one.width - 48)
    assert sheet.height > 2.9 * (one.height - 48)


def test_the_charts_say_what_was_counted(tmp_path: Path) -> None:
    sources = Sources(ingested=(), restyled=tmp_path, captioned=captioned(tmp_path / "captioned"))
    found = texts.measure_texts(sources)[texts.NEW]
    heights = [
        bar.get_height()
        for bar in shares_chart(found).axes[0].patches
        if isinstance(bar, Rectangle)
    ]
    assert heights[:8] == [100, 0, 0, 0, 0, 0, 0, 0]
    assert heights[8] == pytest.approx(38.2, abs=0.05)
    drawn = values_chart(found)
    titles = [axes.get_title(loc="left") for axes in drawn.axes if axes.axison]
    assert titles == ["age", "gender", "upper clothes", "bag"]
