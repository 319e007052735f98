"""Market-1501's layout, and what its file names say."""

import pytest

from tasks.errors import PedAlignError
from tasks.ingest.findings import PUBLISHED
from tasks.inputs import NOTHING
from tasks.market import read_name


def fill(raw):
    for at, name in enumerate(
        (
            "bounding_box_train/0002_c1s1_000451_03.jpg",
            "bounding_box_train/0002_c2s1_000451_03.jpg",
            "bounding_box_test/0001_c3s2_000451_01.jpg",
            "bounding_box_test/0000_c1s1_000451_01.jpg",
            "bounding_box_test/-1_c6s1_000451_01.jpg",
            "bounding_box_test/holiday.jpg",
            "query/0001_c1s1_000451_00.jpg",
            "gt_bbox/0001_c1s1_000451_00.jpg",
        )
    ):
        raw.put(name, seed=at + 1)
    raw.put("bounding_box_test/Thumbs.db", b"no picture")


def test_market1501(raw, rows):
    fill(raw)
    report = raw.ingest("market1501", annotation=NOTHING)
    found = {
        path: (row["split"], row["person_id"], row["camera"], row["status"])
        for path, row in rows(raw.out).items()
    }
    assert found == {
        "bounding_box_train/0002_c1s1_000451_03.jpg": ("train", "test/00002", "c1", "ok"),
        "bounding_box_train/0002_c2s1_000451_03.jpg": ("train", "test/00002", "c2", "ok"),
        "bounding_box_test/0001_c3s2_000451_01.jpg": ("test", "test/00001", "c3", "ok"),
        "bounding_box_test/0000_c1s1_000451_01.jpg": ("test", None, "c1", "ok"),
        "bounding_box_test/-1_c6s1_000451_01.jpg": ("test", None, "c6", "ok"),
        "bounding_box_test/holiday.jpg": ("test", None, None, "rejected"),
        "query/0001_c1s1_000451_00.jpg": ("test", "test/00001", "c1", "ok"),
    }
    assert report.comparison is not None
    assert not report.comparison.exact
    assert report.reasons == {"bad-name": 1}


def test_the_official_counts():
    published = PUBLISHED["market1501"]["the published split"]
    assert (published["train"].people, published["train"].images) == (751, 12_936)
    # 15,913 gallery pictures, distractors among them, 3,819 detections of nobody, 3,368 queries.
    assert (published["test"].people, published["test"].images) == (750, 15_913 + 3_819 + 3_368)


def test_a_folder_that_is_not_market1501s_is_named(raw):
    raw.put("query/0001_c1s1_000451_00.jpg")
    with pytest.raises(PedAlignError, match="bounding_box_train, bounding_box_test"):
        raw.ingest("market1501", annotation=NOTHING)


def test_it_has_no_annotation(raw):
    with pytest.raises(PedAlignError, match="all in its file names"):
        raw.section(raw.root, "market1501")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("query/1501_c6s4_123456_00.jpg", (1501, "c6")),
        ("0000_c1s1_000151_01.jpg", (None, "c1")),
        ("-1_c1s1_000401_03.jpg", (None, "c1")),
        ("0001_c1s1_001051_00.jpg.jpg", None),
        ("0001_c1_f0001.jpg", None),
        ("12_c1s1_001051_00.jpg", None),
    ],
)
def test_names(name, found):
    assert read_name(name) == found
