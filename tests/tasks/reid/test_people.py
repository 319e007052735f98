"""Who is seen where, what a picture is for, and which pictures a step sees."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import PedAlignError
from tasks.reid.batches import Looks, PeopleBatches, PeopleDataset, vary
from tasks.reid.people import People, check_findable, read_people, roles


def people(rows):
    """People of (person or None, camera or None, path)."""
    names = [None if row[0] is None else f"d/{row[0]}" for row in rows]
    known = sorted({name for name in names if name})
    camera = [-1 - at if row[1] is None else row[1] for at, row in enumerate(rows)]
    return People(
        uids=pa.array([f"u{at}" for at in range(len(rows))]),
        names=pa.array(names, pa.string()),
        places=pa.array([None if row[1] is None else f"c{row[1]}" for row in rows], pa.string()),
        paths=pa.array([row[2] for row in rows]),
        person=np.array([-1 if name is None else known.index(name) for name in names]),
        camera=np.array(camera),
        skipped={},
    )


def test_a_split_is_read_with_people_and_cameras(shards):
    found, pictures = read_people(shards, "train", known=True)
    # 14 people, two pictures each by cam0 and cam1; one row is refused.
    assert (len(found), len(pictures), found.count) == (27, 27, 14)
    assert found.skipped == {"not usable": 1}
    assert sorted(set(found.person.tolist())) == list(range(14))
    assert set(found.camera.tolist()) == {0, 1}
    names = dict(zip(found.person.tolist(), found.names.to_pylist(), strict=True))
    assert len(set(names.values())) == 14


def test_a_split_that_is_not_there_is_named(shards):
    with pytest.raises(PedAlignError, match="split nowhere"):
        read_people(shards, "nowhere")


def test_market_names_say_what_a_picture_is_for():
    test = people(
        [
            (2, 1, "query/0002_c1s1_000451_00.jpg"),
            (2, 2, "bounding_box_test/0002_c2s1_000451_03.jpg"),
            (None, 3, "bounding_box_test/-1_c3s1_000451_03.jpg"),
            (None, 3, "bounding_box_test/0000_c3s1_000451_03.jpg"),
            (3, 1, "images/query/0003_c1s1_000451_00.jpg"),
        ]
    )
    found = roles(test, "market1501")
    assert found.query.tolist() == [0, 4]
    assert found.gallery.tolist() == [1, 3]
    assert found.counts == {"junk": 1, "distractors": 1}


def test_elsewhere_every_known_picture_is_looked_for_among_all():
    test = people([(1, 1, "a"), (None, 1, "b"), (2, None, "query/c")])
    found = roles(test, "world-target")
    assert found.query.tolist() == [0, 2]
    assert found.gallery.tolist() == [0, 1, 2]
    assert found.counts == {"junk": 0, "distractors": 1}
    with pytest.raises(PedAlignError, match="0 queries"):
        roles(people([(None, 1, "a")]), "folder")
    with pytest.raises(PedAlignError, match="0 queries"):
        roles(people([(1, 1, "bounding_box_test/0001_c1s1_000001_00.jpg")]), "market1501")


def test_a_split_in_which_nobody_can_be_found_is_refused():
    once = people([(1, 1, "a"), (1, 1, "b"), (2, 2, "c")])  # each person by one camera
    with pytest.raises(PedAlignError, match="split val: none of 3 queries has a match"):
        check_findable(once, roles(once, "world-target"), "val")
    twice = people([(1, 1, "a"), (1, 2, "b"), (2, 2, "c")])
    check_findable(twice, roles(twice, "world-target"), "val")
    unknown = people([(1, None, "a"), (1, None, "b")])  # of no camera: any other picture
    check_findable(unknown, roles(unknown, "world-target"), "val")


# ------------------------------------------------------------------ batches


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=3, max_size=7),
    chosen=st.integers(2, 3),
    pictures=st.integers(2, 4),
    seed=st.integers(0, 5),
)
def test_a_batch_is_k_pictures_of_p_people(counts, chosen, pictures, seed):
    person = np.repeat(np.arange(len(counts)), counts)
    batches = list(PeopleBatches(person, chosen, pictures, 12, seed))
    assert len(batches) == 12
    for number, keys in enumerate(batches):
        assert [key[0] for key in keys] == [number] * len(keys)
        assert [key[1] for key in keys] == list(range(chosen * pictures))
        seen = Counter(int(person[row]) for _, _, row in keys)
        assert list(seen.values()) == [pictures] * chosen
        twice = Counter(row for _, _, row in keys)
        for row, often in twice.items():  # again only where a person has too few
            assert often == 1 or counts[person[row]] < pictures


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 9), seed=st.integers(0, 5))
def test_from_a_step_on_the_batches_are_the_same(start, seed):
    person = np.repeat(np.arange(5), 6)
    whole = list(PeopleBatches(person, 2, 2, 9, seed))
    assert list(PeopleBatches(person, 2, 2, 9, seed, start)) == whole[start:]
    assert len(PeopleBatches(person, 2, 2, 9, seed, start)) == 9 - start
    halves = [list(PeopleBatches(person, 2, 2, 9, seed, part=(n, 2))) for n in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_a_round_shows_no_picture_twice_and_another_round_is_another():
    person = np.repeat(np.arange(4), 8)
    batches = PeopleBatches(person, 4, 2, 8, 0)
    first, second = (np.concatenate(list(batches.round(n))) for n in (0, 1))
    assert sorted(first) == list(range(32))  # all, as every person fills four groups
    assert first.tolist() != second.tolist()


def test_batches_that_cannot_be():
    person = np.repeat(np.arange(3), 4)
    with pytest.raises(PedAlignError, match="3 people"):
        PeopleBatches(person, 4, 2, 1, 0)
    with pytest.raises(PedAlignError, match="3 processes"):
        PeopleBatches(person, 2, 2, 1, 0, part=(0, 3))


# ------------------------------------------------------------------ pixels


def looks(**changes):
    return Looks(
        **({"size": (8, 4), "flip": 0.0, "erasing": 0.0, "shift": 0.0, "seed": 0} | changes)
    )


def draws(**places):
    row = np.full((1, 208), 0.5)
    for place, value in places.items():
        row[0, int(place[1:])] = value
    return row


def test_shift_moves_a_picture_and_brings_in_black():
    image = np.full((8, 4, 3), 200, np.uint8)
    plain = vary([image], draws(), looks())
    assert bool((plain == plain[:, :, :1, :1]).all())
    # Farthest to the left and the top: the crop begins 1 and 2 pixels outside.
    moved = vary([image], draws(d1=0.0, d2=0.0), looks(shift=0.25))
    assert bool((moved[..., 2:, 1:] == plain[..., 2:, 1:]).all())
    black = (0 - 0.48145466) / 0.26862954
    assert float(moved[0, 0, 0, 3]) == pytest.approx(black, abs=1e-4)
    assert float(moved[0, 0, 7, 0]) == pytest.approx(black, abs=1e-4)


def test_flip_mirrors_and_nothing_else():
    image = np.zeros((8, 4, 3), np.uint8)
    image[:, :2] = 255
    mirrored = vary([image], draws(d5=0.2), looks(flip=0.5))
    assert bool((mirrored == vary([image], draws(), looks()).flip(-1)).all())


def test_a_batch_is_its_keys_whatever_else_was_asked(shards):
    found, pictures = read_people(shards, "train", known=True)
    dataset = PeopleDataset(found, pictures, looks(flip=0.5, erasing=0.5, shift=0.2))
    both = dataset.__getitems__([(3, 0, 5), (3, 1, 5)])
    alone = dataset[3, 1, 5]
    assert bool((both["image"][1] == alone["image"][0]).all())
    assert not bool((both["image"][0] == both["image"][1]).all())  # the same picture, otherwise
    assert both["person"].tolist() == [int(found.person[5])] * 2
