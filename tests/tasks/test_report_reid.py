"""The report's part on re-identification, from folders written by hand."""

import json

import pyarrow as pa
import pytest

from tasks.reid.evaluating import QUERIES, Identification
from tasks.report import reid
from tasks.shards import iter_tables, read_manifest, write_folder

MEASURES = {"R1": 50.0, "R5": 75.0, "R10": 100.0, "mAP": 60.0, "mINP": 40.0}


@pytest.fixture
def data(tmp_path, shards):
    """Two entries: one on the miniature, one on what says it is Market-1501."""
    tables = list(iter_tables(shards))
    galleries = [tmp_path / "ingested" / name for name in ("small", "market-1501")]
    for folder, form in zip(galleries, ("folder", "market1501"), strict=True):
        meta = {"format": form, "report": {"comparison": {"exact": False}}}
        write_folder(folder, tables, "images", meta, shard_rows=64)
    uids = [uid for table in tables for uid in table["uid"].to_pylist()][:3]
    for name, folder in zip(("a", "b"), galleries, strict=True):
        row = {
            "uid": uids[0], "caption": "p, seen by camera c1", "person_id": "p", "camera": "c1",
            "matches": 1, "left_out": 1, "first_rank": 2, "ap": 0.5, "inp": 0.5,
            "top10": uids[1:], "correct": [False, True], "scores": [0.9, 0.8],
        }  # fmt: skip
        metrics = MEASURES | {"queries": 1234, "gallery": 2, "chance": {"R1": 1.5}}
        Identification(
            metrics | {"reranked": False}, [50.0, 75.0], pa.Table.from_pylist([row], QUERIES)
        ).save(tmp_path / "reports" / "reid" / name)
        record = {"params": {"images": f"data/ingested/{folder.name}", "start": "models/x"}}
        path = tmp_path / "checkpoints" / "reid" / name
        path.mkdir(parents=True)
        (path / "training.json").write_text(json.dumps(record))
    return {name: tmp_path / "reports" / "reid" / name for name in "ab"}, galleries


def test_figures_curves_and_rank_lists(data):
    folders, galleries = data
    found = reid.read(folders)
    assert [(one.name, one.images, one.start) for one in found] == [
        ("a", "small", "models/x"),
        ("b", "market-1501", "models/x"),
    ]
    sheets = reid.sheets_of(found, galleries, 2, 0)
    assert list(sheets) == ["ranks-reid-a", "ranks-reid-b"]
    assert all(sheet is not None for sheet in sheets.values())
    section = reid.section(found, galleries, dict.fromkeys(sheets, b"png"))
    assert [part.is_picture for part in section.parts] == [False, False, True, True, True]
    grid, published = section.parts[:2]
    assert grid.rows[0] == (
        "a", "small", "models/x", "50.00", "75.00", "100.00", "60.00", "40.00", "1,234", "2",
    )  # fmt: skip
    assert grid.rows[1][:4] == ("– by chance", "", "", "1.50")
    assert "not exactly the published split" in published.caption


def test_published_figures_stand_beside_market1501_alone(data):
    folders, galleries = data
    assert read_manifest(galleries[0]).meta["format"] == "folder"
    section = reid.section(reid.read({"a": folders["a"]}), galleries, {})
    assert [part.is_picture for part in section.parts] == [False, True]
    market = reid.section(reid.read({"b": folders["b"]}), galleries, {})
    rows = market.parts[1].rows
    assert rows[0][2:] == ("94.39", "97.86", "98.63", "84.26")
    assert rows[1][2:] == ("91.12", "96.62", "98.22", "76.31")
    assert rows[2][2:] == ("94.5", "", "", "85.9"), "as many decimals as its source has"


def test_without_an_entry_there_is_nothing_to_show():
    assert reid.read({}) == ()
    assert reid.sheets_of((), [], 2, 0) == {}
    assert not reid.section((), [], {}).parts
