"""One bad entry is a row with a reason; a bad dataset stops."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import PedAlignError
from tasks.ingest.plan import SplitParams, make_plan
from tasks.ingest.readers import Entry


def entry(number=0, **values):
    told = {"where": f"a.json#{number}", "path": f"{number}.jpg", "captions": ["a man in red"]}
    return Entry(**(told | {"split": "train", "person": number} | values))


def plan_of(*entries, **options):
    return make_plan(entries, "d", **options)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"path": "../../etc/passwd"}, "unsafe-path"),
        ({"path": "/etc/passwd"}, "unsafe-path"),
        ({"path": None}, "bad-path"),
        ({"captions": [3]}, "caption-not-text"),
        ({"captions": ["fine words here", None]}, "caption-not-text"),
        ({"captions": {"a": 1}}, "caption-not-text"),
        ({"captions": None}, "caption-not-text"),
        ({"captions": []}, "no-caption"),
        ({"captions": ["", " \n", "<br>"]}, "no-caption"),
        ({"person": True}, "bad-person"),
        ({"person": -1}, "bad-person"),
        ({"person": 1.5}, "bad-person"),
        ({"person": " "}, "bad-person"),
        ({"person": "a\0"}, "bad-person"),
        ({"person": "\ud800"}, "bad-person"),
        ({"labels": [0] * 26}, "bad-labels"),
        ({"labels": [0] * 26 + [2]}, "bad-labels"),
        ({"labels": [True] * 27}, "bad-labels"),
        ({"labels": "0" * 27}, "bad-labels"),
        ({"fault": "missing-key: captions"}, "missing-key"),
        ({"regions": {"boxes": [[1, 2, 3]], "logits": [1], "phrases": ["a"]}}, "bad-regions"),
        ({"regions": {"boxes": [[1, 2, 3, float("nan")]], "logits": [1], "phrases": ["a"]}},
         "bad-regions"),
        ({"regions": {"boxes": None, "logits": [], "phrases": []}}, "bad-regions"),
    ],
)  # fmt: skip
def test_one_bad_entry_is_one_rejected_row(bad, reason):
    rows = plan_of(entry(0), entry(1), entry(2, **bad)).rows.to_pylist()
    assert [row["error"] for row in rows[:2]] == [None, None]
    assert rows[2]["error"].startswith(reason + ": ")
    assert rows[2]["split"] == "train"
    assert len({row["uid"] for row in rows}) == 3


def test_captions_are_cleaned_counted_and_never_lost():
    long = " ".join(["word"] * 500)
    plan = plan_of(entry(captions=["  a <b>man</b> ", "", long, "donâ€™t walk now"]))
    (row,) = plan.rows.to_pylist()
    assert row["captions"] == ["a man", long, "donâ€™t walk now"]
    assert row["announced"] == 4
    assert plan.empty_captions == 1
    assert plan.odd == {"long": 1, "mojibake": 1, "short": 1}
    assert {"kind": "mojibake", "caption": "donâ€™t walk now"} in plan.odd_examples


def test_a_single_caption_may_stand_without_a_list():
    assert plan_of(entry(captions="a man in red")).rows["captions"].to_pylist() == [
        ["a man in red"]
    ]


@pytest.mark.parametrize(
    ("person", "name"),
    [(1, "d/00001"), (123456, "d/123456"), ("12", "d/00012"), ("007", "d/007"), ("ann", "d/ann"),
     (0, "d/00000"), (None, None)],
)  # fmt: skip
def test_names_of_people(person, name):
    assert plan_of(entry(person=person)).rows["person_id"].to_pylist() == [name]


def fails(match, *entries, **options):
    with pytest.raises(PedAlignError, match=match) as caught:
        plan_of(*entries, **options)
    assert caught.value.found
    assert caught.value.rule
    assert caught.value.remedy


def test_faults_of_the_dataset_stop():
    fails("no entries")
    fails(
        "2 of 3 entries are faulty", entry(0), *(entry(n, fault="missing-key: id") for n in (1, 2))
    )
    fails(
        r"1 images stand in several entries, such as \['0.jpg'\]",
        entry(0),
        entry(0, path="./0.jpg"),
    )
    fails("split 'trian'", entry(0), entry(1, split="trian"))
    fails("split '3'", entry(0), entry(1, split=3))
    fails("belong to no split", entry(0), entry(1, split=None))
    fails(
        r"1 people stand in two splits, such as d/00000 in \['test', 'train'\]",
        entry(0),
        entry(1, person=0, split="test"),
        entry(2),
    )


def test_a_rejected_row_does_not_stop_the_dataset():
    """Its person or split may be as wrong as its caption: it is not used."""
    rows = plan_of(
        entry(0), entry(1, person=0, split="test", captions=[]), entry(2, split="?", captions=[])
    ).rows.to_pylist()
    assert [row["split"] for row in rows] == ["train", "test", "train"]


def test_the_half_that_is_faulty_is_the_limit():
    rows = plan_of(entry(0), entry(1, fault="missing-key: id")).rows
    assert rows.num_rows == 2


def test_the_images_folder_is_part_of_the_path():
    rows = plan_of(entry(path="./x//1.jpg"), images="imgs").rows
    assert rows["source_path"].to_pylist() == ["imgs/x/1.jpg"]


def test_uids_depend_on_name_and_path_only():
    (first,) = plan_of(entry(0)).rows["uid"].to_pylist()
    (again,) = plan_of(entry(0, captions=["other words here"], person=9)).rows["uid"].to_pylist()
    (other,) = make_plan([entry(0)], "e").rows["uid"].to_pylist()
    # blake2b("d/0.jpg", digest_size=8), written down so that no release changes it.
    assert first == again == "57e2c79309ec1351"
    assert other != first


def test_drawn_splits_keep_people_together_and_near_the_shares():
    rule = SplitParams(val=0.1, test=0.3, seed=0)
    entries = [entry(n, person=n // 3, split=None) for n in range(3000)]
    rows = plan_of(*entries, split=rule).rows.to_pylist()
    by_person = {}
    for row in rows:
        by_person.setdefault(row["person_id"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in by_person.values())
    share = sum(splits == {"test"} for splits in by_person.values()) / 1000
    assert share == pytest.approx(0.3, abs=0.05)  # 3.5 standard deviations of 1,000 draws


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)


@given(path=ANYTHING, captions=ANYTHING, person=ANYTHING, labels=ANYTHING, camera=st.text())
def test_whatever_an_entry_holds_it_becomes_a_row(path, captions, person, labels, camera):
    odd = entry(1, path=path, captions=captions, person=person, labels=labels, camera=camera)
    plan = make_plan([entry(0, path="fixed/name.jpg", person="fixed"), odd], "d")
    row = plan.rows.to_pylist()[1]
    if row["error"] is None:
        assert row["captions"]
        assert row["source_path"]
    else:
        assert ": " in row["error"]
