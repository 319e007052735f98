"""The built-in world goes the way of every dataset, its truth in a side file by uid."""

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest

from tasks.errors import PedAlignError
from tasks.ingest import IngestDatasetParams, ingest_dataset
from tasks.ingest.worlds import WorldParams, draw_world
from tasks.params import check_section
from tasks.shards import read_manifest

CAPTIONED = {
    "world-source": {"train": 1},
    "world-target": {"train": 2, "val": 2, "test": 2},
    "world-second": {"train": 1, "test": 1},
    "world-unlabelled": {},
}


def world(root, form, people, images, captions=None):
    told = {
        "format": form,
        "root": str(root),
        "annotation": "data/nothing",
        "fingerprint": "data/nothing",
        "shard_rows": 8,
        "min_side": 16,
        "max_side": 256,
        "world": {
            "people": people,
            "images_per_person": images,
            "seed": 0,
            "captions": CAPTIONED[form] if captions is None else captions,
        },
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


def test_second(tmp_path, rows):
    sizes = {"train": 6, "val": 0, "test": 4}
    section = world(tmp_path / "raw", "world-second", sizes, {"train": 2, "val": 1, "test": 3})
    report = ingest_dataset(section, tmp_path / "second")
    assert (report.ok, report.rows) == (24, 24)
    assert {name: split.images for name, split in report.splits.items()} == {
        "train": 12,
        "test": 12,
    }
    assert read_manifest(tmp_path / "second").meta["drawn"] is True
    assert all(len(row["captions"]) == 1 for row in rows(tmp_path / "second").values())


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


def kept(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")}


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.mark.parametrize("form", CAPTIONED)
@pytest.mark.parametrize("images", [0, 1, 5])
def test_a_drawing_that_was_killed_is_drawn_anew(form, images, tmp_path, monkeypatch):
    people, each = (20, 1) if form in ("world-target", "world-second") else (6, 1)
    parameters = WorldParams(people=people, images_per_person=each, seed=0, captions={})
    draw_world(form, tmp_path / "whole", parameters)
    whole, saved = kept(tmp_path / "whole"), []

    def save(drawing, path):
        if len(saved) == images:
            path.write_bytes(b"half a pict")
            raise Killed
        saved.append(path)
        path.write_bytes(b"x")

    with monkeypatch.context() as patch:
        patch.setattr("tasks.world.dataset._save", save)
        with pytest.raises(Killed):
            draw_world(form, tmp_path / "raw", parameters)
    draw_world(form, tmp_path / "raw", parameters)
    assert kept(tmp_path / "raw") == whole


def test_a_kill_while_an_older_drawing_is_cleared_needs_no_help(tmp_path, monkeypatch):
    root = tmp_path / "raw"
    draw_world(
        "world-source",
        root,
        WorldParams(people=4, images_per_person=1, seed=0, captions={"train": 1}),
    )

    def remove(path):
        raise Killed

    fewer = WorldParams(people=3, images_per_person=1, seed=0, captions={"train": 1})
    with monkeypatch.context() as patch:
        patch.setattr("tasks.ingest.worlds.shutil.rmtree", remove)
        with pytest.raises(Killed):
            draw_world("world-source", root, fewer)
    assert list(root.rglob("*.jpg"))
    draw_world("world-source", root, fewer)
    assert len(list(root.rglob("*.jpg"))) == 3


@pytest.mark.parametrize("marker", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_spoilt_marker_means_that_nothing_is_known(marker, tmp_path):
    parameters = WorldParams(people=3, images_per_person=1, seed=0, captions={"train": 1})
    draw_world("world-source", tmp_path, parameters)
    whole = kept(tmp_path)
    (tmp_path / "drawn.json").write_bytes(marker)
    draw_world("world-source", tmp_path, parameters)
    assert kept(tmp_path) == whole


def test_a_drawing_that_lost_a_file_or_a_part_of_one_is_drawn_anew(tmp_path):
    parameters = WorldParams(people=3, images_per_person=1, seed=0, captions={"train": 1})
    draw_world("world-source", tmp_path, parameters)
    whole = kept(tmp_path)
    first, second, _ = sorted(tmp_path.rglob("*.jpg"))
    first.unlink()
    draw_world("world-source", tmp_path, parameters)
    assert kept(tmp_path) == whole
    second.write_bytes(b"")
    draw_world("world-source", tmp_path, parameters)
    assert kept(tmp_path) == whole


def test_a_users_folder_is_not_touched(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(PedAlignError, match="not empty"):
        ingest_dataset(world(mine, "world-source", 3, 1), tmp_path / "source")
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_captions_left_out_are_in_no_file_and_the_rest_stays_the_same(tmp_path, rows):
    whole, part = tmp_path / "whole", tmp_path / "part"
    ingest_dataset(world(whole, "world-target", 20, 2), tmp_path / "a", name="target")
    report = ingest_dataset(
        world(part, "world-target", 20, 2, {"test": 2}), tmp_path / "b", name="target"
    )
    assert report.ok == report.rows == 40
    assert {name: bool(split.captions) for name, split in report.splits.items()} == {
        "train": False,
        "val": False,
        "test": True,
    }
    full, bare = rows(tmp_path / "a"), rows(tmp_path / "b")
    secret = {c for row in full.values() if row["split"] != "test" for c in row["captions"]}
    assert len(secret) > 40
    for path, row in bare.items():
        told = full[path]["captions"] if row["split"] == "test" else []
        assert row == full[path] | {"captions": told}
    for folder in (part, tmp_path / "b"):
        said = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
        assert not [caption for caption in secret if caption.encode() in said]
    entries = json.loads((part / "reid_raw.json").read_text())
    assert all(bool(e["processed_tokens"]) == (e["split"] == "test") for e in entries)


def test_a_folder_drawn_with_captions_is_drawn_anew_without(tmp_path):
    root = tmp_path / "raw"
    told = {"people": 12, "images_per_person": 1, "seed": 0}
    draw_world("world-target", root, WorldParams(**told, captions=CAPTIONED["world-target"]))
    draw_world("world-target", root, WorldParams(**told, captions={}))
    assert all(e["captions"] == [] for e in json.loads((root / "reid_raw.json").read_text()))


def test_unlabelled(tmp_path, rows):
    report = ingest_dataset(world(tmp_path / "raw", "world-unlabelled", 9, 3), tmp_path / "web")
    assert (report.ok, report.rows) == (27, 27)
    assert set(report.splits) == {"train"}
    found = rows(tmp_path / "web")
    for path, row in found.items():
        assert path.startswith("train/video_")
        assert row["captions"] == []
        assert row["person_id"] is row["camera"] is row["labels"] is None
    truth = pq.read_table(tmp_path / "web/truth.parquet").to_pylist()
    assert sorted(row["source_path"] for row in truth) == sorted(found)
    assert Counter(row["person"] for row in truth) == dict.fromkeys(range(9), 3)
    # Nobody's pictures stand together by their numbers, which would tell who is who.
    first = [row["person"] for row in sorted(truth, key=lambda row: row["source_path"])][:12]
    assert first != sorted(first)
