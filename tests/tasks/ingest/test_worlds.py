"""The built-in world goes the way of every dataset, its truth in a side file by uid."""

import pyarrow.parquet as pq
import pytest

from tasks.errors import PedAlignError
from tasks.ingest import IngestDatasetParams, ingest_dataset
from tasks.params import check_section
from tasks.shards import read_manifest


def world(root, form, people, images):
    told = {
        "format": form,
        "root": str(root),
        "annotation": "data/nothing",
        "fingerprint": "data/nothing",
        "shard_rows": 8,
        "min_side": 16,
        "max_side": 256,
        "world": {"people": people, "images_per_person": images, "seed": 0},
    }
    return check_section(IngestDatasetParams, told, "ingest.datasets.w")


def test_target(tmp_path, rows):
    section = world(tmp_path / "raw", "world-target", 20, 2)
    report = ingest_dataset(section, tmp_path / "target")
    assert (report.ok, report.rows, report.images_per_person) == (40, 40, {"2": 20})
    assert read_manifest(tmp_path / "target").meta["drawn"] is True
    found = rows(tmp_path / "target")
    (first,) = (row for path, row in found.items() if path.endswith("00001_0.jpg"))
    assert first["person_id"] == "target/00001"
    assert first["camera"] == first["source_path"].split("/")[1]
    assert len(first["captions"]) == 2
    truth = pq.read_table(tmp_path / "target/truth.parquet")
    assert truth["uid"].to_pylist() == sorted(row["uid"] for row in found.values())
    for uid, path, person in zip(
        *(truth[name].to_pylist() for name in ("uid", "source_path", "person")), strict=True
    ):
        assert found[path]["uid"] == uid
        assert found[path]["person_id"] == f"target/{person:05d}"


def test_source(tmp_path, rows):
    section = world(tmp_path / "raw", "world-source", 6, 1)
    report = ingest_dataset(section, tmp_path / "source")
    assert report.splits["train"].images == report.ok == 6
    for row in rows(tmp_path / "source").values():
        assert len(row["labels"]) == 27
        assert row["person_id"] is None


def test_an_unchanged_world_is_not_drawn_twice(tmp_path, rows):
    root = tmp_path / "raw"
    ingest_dataset(world(root, "world-source", 4, 1), tmp_path / "source")
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")}
    ingest_dataset(world(root, "world-source", 4, 1), tmp_path / "source")
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")} == times
    ingest_dataset(world(root, "world-source", 3, 1), tmp_path / "source")
    assert len(list(root.rglob("*.jpg"))) == 3
    assert len(rows(tmp_path / "source")) == 3


def test_an_interrupted_drawing_is_drawn_again_and_a_users_folder_is_not_touched(tmp_path):
    root = tmp_path / "raw"
    ingest_dataset(world(root, "world-source", 3, 1), tmp_path / "source")
    (root / "drawn.json").write_text("{}")
    (root / "gene_crop/w_0/0.jpg").unlink()
    assert ingest_dataset(world(root, "world-source", 3, 1), tmp_path / "source").ok == 3
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(PedAlignError, match="not empty"):
        ingest_dataset(world(mine, "world-source", 3, 1), tmp_path / "source")
    assert (mine / "thesis.txt").read_text() == "years of work"
