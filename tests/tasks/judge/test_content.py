"""Content, worked out by hand, and what must not change it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.judge.content import LEAST, content, kept

VALUES = {"upper colour": ("black", "red", "white")}


def readings(picked: list[int]) -> dict[str, np.ndarray]:
    """Probabilities whose largest is the picked value."""
    return {"upper colour": np.eye(3, dtype=np.float32)[picked] * 0.4 + 0.2}


def test_accuracy_chance_and_kappa_by_hand():
    # Named: 6 black, 2 red, 2 white. Read: 7 black (5 right), 1 red (right), 2 white (1 right).
    named = [0] * 6 + [1] * 2 + [2] * 2
    read = [0, 0, 0, 0, 0, 2, 0, 1, 0, 2]
    words = [{"upper colour": VALUES["upper colour"][k]} for k in named]
    found = content(readings(read), words, VALUES)["upper colour"]
    assert found.count == 10
    assert found.unknown == 0
    assert found.reason is None
    assert found.accuracy == pytest.approx(0.7)
    assert found.frequent == pytest.approx(0.6)
    assert found.chance == pytest.approx(0.6 * 0.7 + 0.2 * 0.1 + 0.2 * 0.2)  # 0.48
    assert found.corrected == pytest.approx((0.7 - 0.48) / 0.52)
    assert found.error == pytest.approx(math.sqrt(0.7 * 0.3 / 10))


def test_always_the_commonest_is_no_better_than_chance():
    words = [{"upper colour": "black"}] * 9 + [{"upper colour": "red"}]
    found = content(readings([0] * 10), words, VALUES)["upper colour"]
    assert (found.accuracy, found.frequent, found.chance) == pytest.approx((0.9, 0.9, 0.9))
    assert found.corrected == pytest.approx(0)


def test_unnamed_pictures_and_values_never_seen_are_not_asked_for():
    words = [{"upper colour": "black"}, {"upper colour": "red"}] * 4
    plain = content(readings([0, 1, 0, 0] * 2), words, VALUES)["upper colour"]
    more = content(
        readings([0, 1, 0, 0] * 2 + [2, 2, 2]),
        [*words, {}, {"lower colour": "red"}, {"upper colour": "teal"}],
        VALUES,
    )["upper colour"]
    assert more.unknown == 1
    assert (more.accuracy, more.chance, more.count) == (plain.accuracy, plain.chance, plain.count)


def test_what_cannot_be_measured_has_a_reason():
    def reason(words: list[dict[str, str]]) -> str | None:
        return content(readings([0] * len(words)), words, VALUES)["upper colour"].reason

    assert reason([]) == "named by no caption"
    assert "fewer than 8" in (reason([{"upper colour": "black"}] * (LEAST - 1)) or "")
    assert "only one value" in (reason([{"upper colour": "black"}] * LEAST) or "")


def test_readings_of_other_pictures_or_another_judge_are_refused():
    with pytest.raises(ValueError, match="one row a picture"):
        content(readings([0, 1]), [{}], VALUES)
    with pytest.raises(ValueError, match="one column a value"):
        content(readings([0]), [{}], {"upper colour": ("black", "red")})


def test_kept_is_the_ratio_to_true_pictures():
    words = [{"upper colour": VALUES["upper colour"][k]} for k in (0, 0, 1, 1, 2, 2) * 2]
    truth = content(readings([0, 0, 1, 1, 2, 2] * 2), words, VALUES)
    half = content(readings([0, 1, 1, 0, 2, 1] * 2), words, VALUES)
    share = kept(half, truth)["upper colour"]
    assert share.accuracy == pytest.approx(0.5)
    assert share.reason is None
    assert share.corrected == pytest.approx((0.5 - 1 / 3) / (1 - 1 / 3))
    assert kept(truth, truth)["upper colour"].corrected == 1


def test_nothing_is_kept_of_what_the_judge_cannot_read():
    words = [{"upper colour": VALUES["upper colour"][k]} for k in (0, 1) * 6]
    blind = content(readings([0] * 12), words, VALUES)
    sure = content(readings([0, 1] * 6), words, VALUES)
    share = kept(sure, blind)["upper colour"]
    assert "hardly reads" in (share.reason or "")
    assert math.isnan(share.corrected)
    nobody = content(readings([]), [], VALUES)
    share = kept(nobody, sure)["upper colour"]
    assert share.reason == "named by no caption"
    assert math.isnan(share.accuracy)
    assert kept(sure, nobody)["upper colour"].reason == "target: named by no caption"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 2)), max_size=40),
    st.randoms(use_true_random=False),
)
def test_the_order_of_pictures_is_nothing_and_bounds_hold(pairs, random):
    def measure(pairs):
        words = [{} if k < 0 else {"upper colour": VALUES["upper colour"][k]} for _, k in pairs]
        return content(readings([read for read, _ in pairs]), words, VALUES)["upper colour"]

    found = measure(pairs)
    mixed = list(pairs)
    random.shuffle(mixed)
    assert repr(measure(mixed)) == repr(found)  # NaN equals itself in words
    assert found.count == sum(k >= 0 for _, k in pairs)
    if found.count:
        assert 0 <= found.accuracy <= 1
        assert 0 <= found.chance <= 1
        assert math.isnan(found.corrected) == (found.chance == 1)
        assert not found.corrected > 1
