from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.world.attributes import belongs_to_target
from tasks.world.people import families, first_people, name_of, residents

SIZES = {"train": 9, "val": 3, "test": 14}


def test_numbers_of_each_split_are_met_exactly():
    people = residents(SIZES, seed=4)
    assert Counter(r.split for r in people) == SIZES
    assert [r.number for r in people] == list(range(1, 27)), "train first, without gaps"
    assert [r.split for r in people] == ["train"] * 9 + ["val"] * 3 + ["test"] * 14
    assert len({name_of(r.person) for r in people}) == 26
    assert all(belongs_to_target(r.person) for r in people)


@settings(max_examples=15, deadline=None)
@given(
    train=st.integers(1, 12),
    val=st.integers(0, 5),
    tests=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_a_larger_test_split_changes_nobody_before_it(train, val, tests):
    few, many = (residents({"train": train, "val": val, "test": n}, 1) for n in sorted(tests))
    assert many[: len(few)] == few


def test_families_of_twins_stay_in_one_split():
    """Members share both colours; a family is cut at the end of a split, never carried over."""
    row = list(islice(families(4), 40))
    assert max(map(len, row)) == 3
    for family in row:
        assert len({(p.upper_colour, p.lower_colour) for p in family}) == 1
    at_home = {r.person: r.split for r in residents(SIZES, seed=4)}
    for family in row:
        assert len({at_home[person] for person in family if person in at_home}) <= 1


@pytest.mark.parametrize("people", [12, 60, SIZES])
def test_every_target_of_a_seed_has_its_first_people(people):
    found = {name_of(r.person) for r in residents(people, seed=2)}
    assert found <= first_people(2, 100)
    assert not found & first_people(3, 100)
