"""Captions composed from region labels, and the boxes kept as truth."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.errors import PedAlignError
from tasks.ingest.photos import colour_name, compose, convert


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((0, 0, 0), "black"),
        ((255, 255, 255), "white"),
        ((255, 0, 0), "red"),
        ((128, 128, 128), "gray"),
        ((20, 40, 90), "blue"),
        ((110, 70, 40), "brown"),
        ((40, 130, 60), "green"),
    ],
)
def test_colour_names(rgb, name):
    assert colour_name(rgb) == name


def region(label, area, colour, box=(0.5, 0.5, 0.2, 0.2)):
    return {"label": label, "area": area, "colour": colour, "box": list(box)}


def test_captions_name_clothes_by_size_and_leave_skin_out():
    regions = [
        region("skin", 0.5, "beige"),
        region("person", 0.9, None),
        region("hair", 0.05, "brown"),
        region("coat", 0.3, "red"),
        region("jeans", 0.2, "blue"),
        region("bag", 0.1, "orange"),
    ]
    first, second = compose(regions, 0)
    assert (
        first
        == "A person with brown hair wearing a red coat and blue jeans and carrying an orange bag."
    )
    assert second == (
        "The person in the picture is dressed in blue jeans and a red coat, holding an orange bag, "
        "and the hair is brown."
    )


def test_captions_without_clothes_still_differ():
    assert compose([region("person", 0.9, None)], 0) == ["A person.", "This is a person."]
    first, second = compose([region("bag", 0.1, "red")], 1)
    assert (first, second) == (
        "A pedestrian carrying a red bag.",
        "This is a person, holding a red bag.",
    )


def annotation(number):
    return {
        "image": f"images/{number:04d}.jpg",
        "width": 24,
        "height": 48,
        "regions": [
            {"label": "person", "box": [0.5, 0.5, 0.4, 0.9], "area": 0.3},
            {"label": "dress", "box": [0.5, 0.6, 0.4, 0.4], "area": 0.2, "median_rgb": [250, 0, 0]},
        ],
    }


def test_the_converted_folder_is_ingested(raw, rows):
    for number in range(7):
        raw.put(f"images/{number:04d}.jpg", seed=number)
    raw.annotate([annotation(number) for number in range(7)], "regions.json")
    assert convert(raw.root) == 7
    first = (raw.root / "captions.jsonl").read_bytes(), (raw.root / "truth.parquet").read_bytes()
    raw.annotate([annotation(number) for number in reversed(range(7))], "regions.json")
    convert(raw.root)
    lines = [json.loads(line) for line in (raw.root / "captions.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in first[0].decode().splitlines()]
    # The order of the file changes no caption and no split.
    assert sorted(lines, key=str) == sorted(before, key=str)
    report = raw.ingest("folder", annotation=raw.root / "captions.jsonl")
    assert report.ok == 7
    assert {name: split.images for name, split in report.splits.items()} == {"train": 4, "test": 3}
    found = rows(raw.out)
    assert all(len(set(row["captions"])) == 2 for row in found.values())
    assert "red dress" in found["images/0003.jpg"]["captions"][0]
    truth = pq.read_table(raw.out / "truth.parquet").to_pylist()
    assert [row["uid"] for row in truth] == sorted(row["uid"] for row in found.values())
    assert [r["label"] for r in truth[0]["regions"]] == ["person", "dress"]
    assert truth[0]["regions"][1]["box"] == pytest.approx([0.5, 0.6, 0.4, 0.4])


@pytest.mark.parametrize(
    "change",
    [
        {"image": "../a.jpg"},
        {"regions": None},
        {"regions": [{"label": "", "box": [0, 0, 0, 0], "area": 0}]},
        {"regions": [{"label": "hat", "box": [0, 0, 2, 0], "area": 0}]},
        {"regions": [{"label": "hat", "box": [0, 0, 1], "area": 0}]},
        {"regions": [{"label": "hat", "box": [0, 0, 1, 1], "area": 0, "median_rgb": [0, 0, 300]}]},
    ],
)
def test_a_broken_entry_is_named(raw, change):
    raw.annotate([annotation(0), annotation(1) | change], "regions.json")
    with pytest.raises(PedAlignError, match="entry 1"):
        convert(raw.root)


PHOTOS = Path(__file__).resolve().parents[4] / "shared/data/ccp"


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the 100 street photos are not beside the project")
def test_real_photos_come_through_whole(raw, rows):
    shutil.copytree(PHOTOS / "images", raw.root / "images", copy_function=shutil.copyfile)
    shutil.copyfile(PHOTOS / "regions.json", raw.root / "regions.json")
    assert convert(raw.root) == 100
    report = raw.ingest("folder", annotation=raw.root / "captions.jsonl", max_side=1024)
    assert (report.ok, report.copied) == (100, {})
    assert {name: split.people for name, split in report.splits.items()} == {
        "train": 50,
        "test": 50,
    }
    for path, row in rows(raw.out).items():
        assert row["image"] == (PHOTOS / path).read_bytes()
        assert len(set(row["captions"])) == 2
