"""What benchmarks.regions measures with: overlap, calibration, intervals, layout alone, folds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.regions.kept import KEPT, Fates
from benchmarks.regions.measures import (
    Answers,
    best_boxes,
    calibration,
    interval,
    iou,
    rows,
)
from benchmarks.regions.photos import (
    RARE,
    Photos,
    baselines,
    compare,
    cross_validated,
    edges,
    from_edges,
    from_frame,
    medians,
    strongest,
    to_frame,
)
from benchmarks.regions.world import as_drawn, moved, scene
from models.regions.proposals import Proposals, Query

WHOLE = [0.5, 0.5, 1, 1]
LEFT_HALF = [0.25, 0.5, 0.5, 1]


def answers(box, score=None, truth=None, picture=None, group=None):
    count = len(box)
    return Answers(
        np.arange(count) if picture is None else np.array(picture),
        np.array(group or ["upper"] * count),
        np.array(["shirt"] * count),
        np.array(truth or [WHOLE] * count, float),
        np.array(box, float),
        np.full(count, 0.9) if score is None else np.array(score, float),
    )


# ------------------------------------------------------------------ overlap


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (WHOLE, WHOLE, 1),
        (WHOLE, LEFT_HALF, 0.5),
        ([0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], 1 / 7),  # a quarter in common, of seven
        (LEFT_HALF, [0.75, 0.5, 0.5, 1], 0),  # side by side
        (WHOLE, [np.nan] * 4, 0),
        ([0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], 0),
    ],
)
def test_overlap_by_hand(one, other, overlap):
    assert iou(np.array(one), np.array(other)) == pytest.approx(overlap)
    assert iou(np.array([other, one]), np.array(one)) == pytest.approx(
        [overlap, iou(np.array(one), np.array(one))]
    )


def test_the_surest_box_of_a_phrase_counts():
    boxes = np.array([WHOLE, LEFT_HALF, [0.1, 0.1, 0.2, 0.2]], np.float32)
    found = Proposals(boxes, np.array([0.2, 0.7, 0.5], np.float32), np.array([1, 1, 0]))
    best, score = best_boxes(found, 3)
    np.testing.assert_allclose(best[:2], [[0.1, 0.1, 0.2, 0.2], LEFT_HALF], atol=1e-7)
    assert np.isnan(best[2]).all()
    assert score.tolist() == pytest.approx([0.5, 0.7, 0])


def test_answers_stand_beside_the_truth_of_what_was_asked():
    one = Proposals(np.array([LEFT_HALF], np.float32), np.array([0.6], np.float32), np.array([2]))
    both = Answers.join(
        [one, Proposals.none()],
        [np.array([WHOLE, LEFT_HALF]), np.array([WHOLE])],
        [["hair", "upper"], ["lower"]],
        [["hair", "shirt"], ["jeans"]],
        [[0, 2], [1]],  # the first picture's second query has no truth, nor the second's first
    )
    assert both.overlap.tolist() == [0, 1, 0]
    assert both.right.tolist() == [False, True, False]
    assert both.abstained.tolist() == [True, False, True]
    assert both.picture_N.tolist() == [0, 0, 1]
    assert list(rows(both, both.group_N)) == ["all", "hair", "lower", "upper"]


# ------------------------------------------------------------------ calibration


def test_calibration_error_by_hand():
    scores, right = np.array([0.1, 0.15, 0.9, 0.95]), np.array([False, True, True, True])
    found = calibration(scores, right, bins=2)
    np.testing.assert_allclose(found.confidence_K, [0.125, 0.925])
    np.testing.assert_allclose(found.right_K, [0.5, 1])
    assert found.error == pytest.approx((0.375 + 0.075) / 2)
    # In one bin the mistakes of both cancel out in part: |0.525 - 0.75|.
    assert calibration(scores, right, bins=1).error == pytest.approx(0.225)


def test_a_border_belongs_to_the_bin_below():
    found = calibration(np.array([0, 0.5, 0.51, 1]), np.array([False, True, True, True]), bins=2)
    assert found.count_K.tolist() == [2, 2]
    assert calibration(np.array([0.0, 1.0]), np.array([False, True])).error == 0
    assert calibration(np.array([0.0, 1.0]), np.array([True, False])).error == 1


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1), st.integers(1, 20))
def test_calibration_error_is_a_mean_of_gaps(pairs, bins):
    scores, right = (np.array(each) for each in zip(*pairs, strict=True))
    found = calibration(scores, right, bins)
    assert found.count_K.sum() == len(pairs)
    assert 0 <= found.error <= 1
    # Never below the gap of the two means, whatever the bins.
    assert found.error >= abs(scores.mean() - right.mean()) - 1e-9
    assert calibration(scores[::-1], right[::-1], bins).error == pytest.approx(found.error)


# ------------------------------------------------------------------ how sure


def test_an_interval_draws_pictures_and_not_phrases():
    rng = np.random.default_rng(5)
    values, pictures = rng.random(60), np.repeat(np.arange(20), 3)
    low, high = interval(values, pictures)
    assert low < values.mean() < high
    # Ten phrases that say the same of a picture tell no more than one.
    assert interval(np.repeat(values, 10), np.repeat(pictures, 10)) == pytest.approx((low, high))
    # As if they were all independent, it would be narrower.
    narrow = interval(np.repeat(values, 10), np.arange(600))
    assert narrow[1] - narrow[0] < 0.7 * (high - low)


def test_intervals_of_what_cannot_vary():
    assert interval(np.full(6, 0.4), np.repeat([0, 1], 3)) == pytest.approx((0.4, 0.4))
    assert np.isnan(interval(np.array([0.0, 1.0]), np.array([7, 7]))).all()


def test_a_comparison_by_hand():
    first = np.array([True, True, True, True, False, False])
    second = np.array([True, False, False, False, False, True])
    found = compare(first, second, np.arange(6))
    assert (found.won, found.lost) == (3, 1)
    assert found.gain == pytest.approx(2 / 6)
    assert found.chance == pytest.approx(2 * (1 + 4) / 16)  # 3 or more of 4 heads, or of tails
    assert found.low <= found.gain <= found.high
    assert compare(first, first, np.arange(6)).chance == 1


# ------------------------------------------------------------------ layout alone


def test_medians_of_the_same_label_on_other_pictures():
    values = np.array([[1.0], [2], [4], [9], [100], [0]])
    labels = np.array(["coat"] * 4 + ["cape", "hat"])
    groups = np.array(["upper"] * 5 + ["head"])
    found = medians(values, labels, groups, np.array([0, 1, 2, 3, 3, 4]))
    assert RARE == 3
    # Three other coats each; the cape's own picture has a coat, which does not count for it.
    assert found[:5, 0].tolist() == [4, 4, 2, 2, 2]
    assert np.isnan(found[5]).all()  # no other hat, nor anything else on a head


def test_a_rare_label_takes_its_groups_median():
    labels = np.array(["coat", "coat", "shirt", "vest"])
    found = medians(np.array([[1.0], [2], [30], [40]]), labels, np.full(4, "upper"), np.arange(4))
    assert found[:, 0].tolist() == [30, 30, 2, 2]


def test_frames_and_edges_by_hand():
    person = np.array([[0.4, 0.5, 0.2, 0.8]])
    box = np.array([[0.5, 0.3, 0.1, 0.4]])
    inside = to_frame(box, person)
    np.testing.assert_allclose(inside, [[0.5, -0.25, 0.5, 0.5]])
    np.testing.assert_allclose(from_frame(inside, person), box)
    np.testing.assert_allclose(edges(box), [[0.45, 0.1, 0.55, 0.5]])
    np.testing.assert_allclose(from_edges(edges(box)), box)


def photographed(count):
    """Photos with one coat each, always at the same place of the person."""
    rng = np.random.default_rng(3)
    people = np.column_stack([rng.uniform(0.4, 0.6, (count, 2)), np.full((count, 2), (0.3, 0.6))])
    coats = from_frame(np.tile([0, -0.1, 0.8, 0.5], (count, 1)), people)
    return Photos(
        [str(n) for n in range(count)],
        [np.full((20, 10, 3), n, np.uint8) for n in range(count)],
        [[Query("a red coat", "coat", "upper")]] * count,
        [["coat"]] * count,
        [coat[None] for coat in coats],
        people,
    )


def test_layout_alone_finds_what_is_always_at_one_place_of_the_person():
    photos = photographed(12)
    nothing = photos.answers([Proposals.none()] * 12)
    found = baselines(photos, nothing, np.tile(WHOLE, (12, 1)))
    for name, boxes in found.items():
        exact = name.startswith("labelled")
        assert (iou(boxes, nothing.truth_N4).min() > 0.999) == exact
    assert strongest(found, nothing)[0].startswith("labelled")


class Memory:
    """A proposer that knows the photos which it has seen, and nothing of others."""

    def __init__(self, photos, seen):
        self.known = {int(photos.pixels[i][0, 0, 0]): photos.truths[i] for i in seen}

    def propose(self, images, queries):
        out = []
        for image, asked in zip(images, queries, strict=True):
            box = self.known.get(int(image[0, 0, 0]))
            out.append(
                Proposals.none()
                if box is None
                else Proposals(box.astype(np.float32), np.ones(1, np.float32), np.zeros(1, int))
            )
            assert len(asked) == 1
        return out


@pytest.mark.parametrize("folds", [2, 5, 12])
def test_no_photo_is_judged_by_a_fit_that_has_seen_it(folds):
    photos, told = photographed(12), []

    def refit(seen):
        told.append(len(seen))
        return Memory(photos, seen)

    found = cross_validated(photos, refit, folds)
    assert found.abstained.all()  # learning by heart helps nobody
    assert sum(12 - n for n in told) == 12
    everything = Memory(photos, range(12)).propose(photos.pixels, photos.queries)
    assert photos.answers(everything).right.all()


# ------------------------------------------------------------------ the world, moved


def test_people_vary_by_fifteen_percent_and_more():
    people = scene(150).people
    heights = people[:, 3]
    middle = (heights.max() + heights.min()) / 2
    assert np.ptp(heights) / 2 >= 0.15 * middle
    assert np.ptp(people[:, 0]) / 2 >= 0.15
    assert np.ptp(people[:, 1]) / 2 >= 0.12  # a small person has room, a large one has none
    assert np.abs(people[:, :2].mean(axis=0) - 0.5).max() < 0.03
    still = scene(150, drawer=as_drawn).people
    assert (still.std(axis=0) < 0.7 * people.std(axis=0))[[0, 1, 3]].all()


def test_moved_boxes_lie_on_what_they_name():
    drawn = scene(60, looks="source", drawer=moved)
    seen = 0
    for picture, phrases, asked, truth in zip(
        drawn.pixels, drawn.phrases, drawn.asked, drawn.truths, strict=True
    ):
        assert (edges(truth) >= 0).all()
        assert (edges(truth) <= 1).all()
        for i, box in zip(asked, truth, strict=True):
            if phrases[i].group == "upper" and phrases[i].colours == ("red",):
                red = (picture[..., 0] > 120) & (picture[..., 1:] < 100).all(axis=2)
                x0, y0, x1, y1 = (edges(box[None])[0] * ([96, 192] * 2)).round().astype(int)
                assert red[y0:y1, x0:x1].mean() > 0.3
                seen += 1
    assert seen >= 2


def test_phrases_are_of_the_parts_that_are_asked_for():
    drawn = scene(20)
    for phrases, asked, people in zip(drawn.phrases, drawn.asked, drawn.people, strict=True):
        assert len(phrases) - len(asked) <= 1  # what somebody's body hides has no box
        assert {phrases[i].group for i in asked} >= {"upper", "hair"}
        assert people[3] > 0.5
    assert all(query.colours for queries in drawn.queries for query in queries)


# ------------------------------------------------------------------ a rebuild's own


def test_what_became_of_the_boxes_of_a_rebuild():
    row = {
        "phrases": [
            {"group": "person", "head": "man"},
            {"group": "head", "head": "cap"},
            {"group": "upper", "head": "shirt"},
            {"group": "scene", "head": "street"},
        ],
        "regions": [
            {"phrase": 0, "box": LEFT_HALF, "score": 0.9},
            {"phrase": 1, "box": WHOLE, "score": 0.7},
            {"phrase": 3, "box": WHOLE, "score": 0.8},
        ],
        "rejected": [{"phrase": 2, "box": WHOLE, "score": 0.3, "reason": "low-confidence"}],
    }
    truth = {"box_person": WHOLE, "box_hat": None, "box_upper": WHOLE}
    found = Fates()
    found.add(row, truth)
    assert (found.pictures, found.kept, found.phrases, found.empty) == (1, 3, 4, 0)
    kept = found.piles[KEPT]
    assert kept.row("all") == "| all | 2 | 0.500 | 0.500 | 0.500 |"  # the cap is not there
    assert kept.row("person", "person") == "| person | 1 | 1.000 | 0.500 | 0.000 |"
    assert found.piles["low-confidence"].row("x") == "| x | 1 | 1.000 | 1.000 | 0.000 |"
    # Of the parts: the cap with 0.7, which is not there, and the shirt with 0.3, which is right.
    assert found.at_threshold(0.2) == (2, 0.5, 1)
    assert found.at_threshold(0.5) == (1, 0, 0)
    assert found.at_threshold(0.9) == (0, 0, 0)
