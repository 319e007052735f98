"""Counts worked out by hand; the sheet's rows and its choice of examples."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tasks.images import encode_jpeg
from tasks.report.rejects import PAPER, reject_sheet, tally
from tasks.schemas import IMAGES, SCREENED
from tasks.screen.reasons import REASONS
from tasks.shards import write_folder

UIDS = [f"{i:016x}" for i in range(12)]
DECISIONS: list[str | None] = [
    None, "grey", "grey+no-legs", "no-head+unsure", "upstream", "upstream",
    None, "duplicate", None, None, None, "unreadable",
]  # fmt: skip


def write_screened(folder: Path, reasons: list[str | None], shard_rows: int = 5) -> None:
    rows = [
        {
            "uid": uid,
            "keep": reason is None,
            "reason": reason,
            "grey_variance": 10.0 * index,
            "jpeg_bytes": 1000,
            "people": None,
            "pose_score": None,
            "duplicate_of": UIDS[0] if reason == "duplicate" else None,
            "status": "ok" if reason is None else "rejected",
            "error": None if reason is None else f"{reason}: why",
        }
        for index, (uid, reason) in enumerate(zip(UIDS, reasons, strict=True))
    ]
    table = pa.Table.from_pylist(rows, schema=SCREENED)
    write_folder(folder, [table], "screened", shard_rows=shard_rows)


def write_images(folder: Path) -> None:
    """Picture i is of the one colour (20 i, 0, 0)."""
    rows = []
    for index, (uid, reason) in enumerate(zip(UIDS, DECISIONS, strict=True)):
        bad = reason == "upstream"
        pixels = np.full((20, 10, 3), (20 * index, 0, 0), np.uint8)
        row = dict.fromkeys(IMAGES.names)
        rows.append(
            row
            | {"uid": uid, "dataset": "d", "split": "train", "width": 10, "height": 20}
            | {"image": None if bad else encode_jpeg(pixels), "captions": [], "source_path": uid}
            | {"status": "rejected" if bad else "ok", "error": "bad: x" if bad else None}
        )
        if reason == "unreadable":
            rows[-1]["image"] = b"no picture"
    write_folder(folder, [pa.Table.from_pylist(rows, schema=IMAGES)], "images", shard_rows=5)


def test_counts_and_shares_by_hand(tmp_path: Path) -> None:
    write_screened(tmp_path, DECISIONS)
    counts = tally(tmp_path)
    assert (counts.rows, counts.arrived, counts.kept) == (12, 10, 5)
    assert counts.first == {
        "upstream": 2, "unreadable": 1, "grey": 2, "no-head": 1, "no-legs": 0, "unsure": 0,
        "duplicate": 1,
    }  # fmt: skip
    assert counts.among["no-legs"] == counts.among["unsure"] == 1
    assert list(counts.first) == [reason for reason in REASONS if reason in counts.first]
    assert counts.filtered == pytest.approx(4 / 10)
    assert counts.repeated == pytest.approx(1 / 10)
    rows = {row["reason"]: row for row in counts.table()}
    assert rows["no-legs"] | {"meaning": ""} == {
        "reason": "no-legs", "pictures": 0, "also": 1, "share": "0.00%", "meaning": "",
    }  # fmt: skip
    assert rows["grey"]["share"] == "16.67%"
    assert rows["kept"]["pictures"] == 5
    assert rows["the paper's two filters"]["share"] == "10.63%"
    assert rows["the paper's two filters"]["pictures"] == 144_770
    assert counts.beside_paper() == (
        "40.00% of 10 pictures refused as grey, blank or malformed "
        "(the paper: 10.63% of 1,362,520), and 10.00% more as repeats"
    )


def test_the_papers_share_is_exact() -> None:
    assert pytest.approx(0.106251651, abs=1e-9) == PAPER.dropped


def test_the_sheet_has_a_row_a_reason_and_the_same_examples_every_time(tmp_path: Path) -> None:
    images, screened = tmp_path / "images", tmp_path / "screened"
    write_images(images)
    write_screened(screened, DECISIONS)
    sheet = reject_sheet(images, screened, each=3)
    assert sheet is not None
    # Kept, unreadable, grey, no-head, duplicate; upstream pictures are not shown again.
    assert sheet.height == 2 * 24 + 5 * (280 + 14) - 14
    again = reject_sheet(images, screened, each=3)
    assert again is not None
    assert again.tobytes() == sheet.tobytes()
    pair = sheet.crop((24 + 236, 24 + 4 * 294, sheet.width, sheet.height - 24))
    reds = [pair.getpixel((x, 140)) for x in (70, 70 + 14 + 140)]
    # The one that stays is picture 0, black; its repeat is picture 7, red.
    assert [np.abs(np.subtract(red, want)).max() < 12 for red, want in
            zip(reds, [(0, 0, 0), (140, 0, 0)], strict=True)] == [True, True]  # fmt: skip
    write_screened(tmp_path / "other", DECISIONS, shard_rows=12)
    other = reject_sheet(images, tmp_path / "other", each=3)
    assert isinstance(other, Image.Image)
    assert other.tobytes() == sheet.tobytes()


def test_no_rejects_no_sheet(tmp_path: Path) -> None:
    images, screened = tmp_path / "images", tmp_path / "screened"
    write_images(images)
    write_screened(screened, [None] * 12)
    assert reject_sheet(images, screened) is None
    counts = tally(screened)
    assert (counts.filtered, counts.repeated, counts.kept) == (0.0, 0.0, 12)
    assert "repeats" not in counts.beside_paper()
