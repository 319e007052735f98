import dataclasses

import numpy as np
import pytest

from tasks.world import attributes
from tasks.world.attributes import (
    MALS_ATTRIBUTES,
    Person,
    belongs_to_target,
    mals_labels,
    near_twin,
    sample_person,
    sample_resident,
)

WOMAN = Person(
    gender="woman", skin=0, build=1.0, hair_colour="brown", hair_length="long", hat="cap",
    hat_colour="red", upper_kind="t-shirt", upper_colour="white", upper_pattern="plain",
    lower_kind="skirt", lower_colour="pink", shoe_kind="shoes", shoe_colour="black",
    bag="handbag", bag_colour="blue",
)  # fmt: skip


def test_mals_labels_worked_out_by_hand():
    got = dict(zip(MALS_ATTRIBUTES, mals_labels(WOMAN), strict=True))
    # 0 is the first prompt of a pair: woman, younger, short hair, with hat / backpack / handbag /
    # bag, long sleeves, long legs, dress or skirt, wears the colour.
    expected = {
        "gender": 0, "age": 1, "hair": 1, "hat": 0, "backpack": 1, "handbag": 0, "bag": 1,
        "sleeve": 1, "lower length": 1, "lower type": 0, "upper white": 0, "upper black": 1,
        "lower pink": 0, "lower white": 1,
    }  # fmt: skip
    assert {k: got[k] for k in expected} == expected
    assert len(got) == 27
    assert sum(v == 0 for k, v in got.items() if k.startswith("upper ")) == 1


def test_what_the_caption_does_not_say_is_unknown():
    got = dict(zip(MALS_ATTRIBUTES, mals_labels(WOMAN, {"upper"}), strict=True))
    assert got["upper white"] == 0
    assert got["sleeve"] == 1
    assert all(v == -1 for k, v in got.items() if not k.startswith(("upper", "sleeve")))


@pytest.mark.parametrize("seed", range(5))
def test_people_are_drawable_and_nameable(seed):
    rng = np.random.default_rng(seed)
    for _ in range(300):
        p = sample_person(rng)
        assert p.upper_colour in attributes.COLOURS
        assert (p.bag == "none") == (p.bag_colour == "none")
        assert (p.hat == "none") == (p.hat_colour == "none")
        assert p.bag_colour != p.upper_colour, "the bag would vanish against the garment"
        if p.upper_kind == "dress":
            assert (p.lower_kind, p.lower_colour) == ("dress", p.upper_colour)
            assert p.gender == "woman"
        else:
            assert p.lower_colour != p.upper_colour


def test_the_same_seed_gives_the_same_person():
    assert sample_person(np.random.default_rng(3)) == sample_person(np.random.default_rng(3))
    assert sample_person(np.random.default_rng(3)) != sample_person(np.random.default_rng(4))


def test_a_twin_keeps_the_colours_and_differs_in_little():
    rng = np.random.default_rng(0)
    for _ in range(100):
        one = sample_person(rng)
        other = near_twin(one, rng)
        a, b = one.labels(), other.labels()
        differing = {k for k in a if a[k] != b[k]}
        assert 1 <= len(differing) <= 4
        assert not differing & {"gender", "upper_kind", "upper_colour", "lower_colour"}


def test_target_people_and_all_others_are_disjoint_by_construction():
    rng = np.random.default_rng(1)
    ours = [sample_resident(rng, target=True) for _ in range(100)]
    others = [sample_resident(rng, target=False) for _ in range(100)]
    assert all(map(belongs_to_target, ours))
    assert not any(map(belongs_to_target, others))
    # Skin and build are never named, so they must not decide where an identity belongs.
    assert all(belongs_to_target(dataclasses.replace(p, skin=3, build=1.1)) for p in ours)
    share = np.mean([belongs_to_target(sample_person(rng)) for _ in range(2000)])
    assert 0.2 < share < 0.3
