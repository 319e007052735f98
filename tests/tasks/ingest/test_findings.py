"""Statistics worked out by hand, and the published ones compared."""

import pytest

from tasks.ingest.findings import (
    PUBLISHED,
    Split,
    compare,
    make_report,
    shared_captions,
    split_sizes,
)
from tasks.ingest.plan import make_plan
from tasks.ingest.readers import Entry


def plan_of(*told):
    return make_plan(
        [
            Entry(where=f"#{n}", path=f"{n}.jpg", split=split, person=person, captions=captions)
            for n, (split, person, captions) in enumerate(told)
        ],
        "d",
    )


PLAN = plan_of(
    ("train", 1, ["a red coat", "one man here"]),
    ("train", 1, ["a red coat", "", "another here now"]),
    ("train", 2, ["A Red Coat"]),
    ("test", 3, ["a red coat", "two men here"]),
    ("test", 4, [3]),
    ("test", 4, ["one man here"]),
)


def test_splits_are_counted_as_announced():
    # The empty caption and the one that is a number are announced too.
    assert split_sizes(PLAN.rows) == {"train": Split(2, 3, 6), "test": Split(2, 3, 4)}


def test_shared_captions_count_people_and_not_images():
    assert shared_captions(PLAN.rows) == [
        {"caption": "a red coat", "people": 3, "examples": ["d/00001", "d/00002", "d/00003"]},
        {"caption": "one man here", "people": 2, "examples": ["d/00001", "d/00004"]},
    ]


def test_images_stand_for_people_where_nobody_is_known():
    plan = plan_of(("train", None, ["x y z"]), ("train", None, ["x y z"]))
    (shared,) = shared_captions(plan.rows)
    assert shared["people"] == 2
    assert split_sizes(plan.rows) == {"train": Split(None, 2, 2)}


def test_the_report():
    report = make_report(
        "d", "cuhk-pedes", "cuhk-pedes", PLAN, {"ok": 5, "empty": 1}, {"mode": 2}, 1
    )
    assert (report.rows, report.ok, report.reasons) == (6, 5, {"empty": 1})
    assert report.captions_per_image == {"0": 1, "1": 2, "2": 3}
    assert report.images_per_person == {"1": 2, "2": 2}
    assert report.empty_captions == 1
    assert report.shared_captions == 2
    assert "1 empty" in report.summary()
    assert "not exactly the published split" in report.summary()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_splits_are_exact(name):
    for variant, splits in PUBLISHED[name].items():
        assert compare(name, splits) == compare(name, dict(reversed(splits.items())))
        found = compare(name, splits)
        assert found is not None
        assert (found.variant, found.exact, found.differences) == (variant, True, [])


# The papers' totals: people, images, captions over all splits.
@pytest.mark.parametrize(
    ("name", "totals"),
    [
        ("cuhk-pedes", (13_003, 40_206, 80_440)),
        ("icfg-pedes", (4_102, 54_522, 54_522)),
        ("rstpreid", (4_101, 20_505, 41_010)),
    ],
)
def test_the_table_adds_up_to_the_published_totals(name, totals):
    for splits in PUBLISHED[name].values():
        found = tuple(
            sum(getattr(split, what) for split in splits.values())
            for what in ("people", "images", "captions")
        )
        assert found == totals


def test_the_nearest_split_is_named_with_its_differences():
    found = compare(
        "rstpreid",
        {
            "train": Split(3_901, 19_505, 39_009),
            "val": Split(100, 500, 1_000),
            "test": Split(100, 500, 1_000),
        },
    )
    assert found is not None
    assert found.variant == "the circulating split 3901/100/100"
    assert found.differences == [
        "train captions: 39,009 (-1), the circulating split 3901/100/100 has 39,010"
    ]


def test_a_missing_and_a_surplus_split_differ():
    found = compare(
        "icfg-pedes",
        {"train": Split(3_102, 34_674, 34_674), "val": Split(1, 2, 2)},
    )
    assert found is not None
    assert found.differences == [
        "val people: 1 (+1), the published split has 0",
        "val images: 2 (+2), the published split has 0",
        "val captions: 2 (+2), the published split has 0",
        "test people: 0 (-1,000), the published split has 1,000",
        "test images: 0 (-19,848), the published split has 19,848",
        "test captions: 0 (-19,848), the published split has 19,848",
    ]
    assert compare("folder", {"train": Split(1, 1, 1)}) is None
