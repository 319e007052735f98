"""The embedded proposer's pieces: frames, the normal view, candidates, the fitted numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.regions.body import BodyProposer, guesses, options_of, prior
from models.regions.candidates import (
    FEATURES,
    Candidates,
    cover,
    edge_maps,
    features,
    integral,
    mean_in,
    overlaps,
)
from models.regions.fitted import Fitted, shipped
from models.regions.layout import KINDS, kind_of, known_places
from models.regions.proposals import Query
from models.regions.view import (
    CELL,
    VIEW,
    from_view,
    mirrored,
    normal_view,
    pair_targets,
    stretched,
    to_body,
    to_image,
)

SHIRT = Query("a red shirt", "shirt", "upper", ("red",))
SHOES = Query("white shoes", "shoes", "footwear", ("white",))


def maps(seed, count=3):
    rng = np.random.default_rng(seed)
    sums = integral(rng.random((count, 8, *VIEW), np.float32))
    edges = edge_maps((rng.random((count, *VIEW, 3)) * 100).astype(np.float32))
    extent = np.tile(np.array([[0.2, 0.5, -0.1, 0.12]], np.float32), (count, 1))
    return sums, edges, extent


def boxes(seed, count=40):
    rng = np.random.default_rng(seed)
    top, left = rng.uniform(-0.2, 1.1, count), rng.uniform(-0.6, 0.5, count)
    found = [top, top + rng.uniform(0, 0.5, count), left, left + rng.uniform(0, 0.4, count)]
    return np.stack(found, axis=1).astype(np.float32)


def test_the_integral_image_gives_means_of_boxes():
    rng = np.random.default_rng(0)
    picture = rng.random((2, *VIEW), np.float32)
    rows, columns = VIEW
    # On the body, the box of rows 10 to 19 and columns 8 to 23.
    view = np.array([[8 / columns, 10 / rows, 24 / columns, 20 / rows]] * 2, np.float32)
    means = mean_in(picture, from_view(view))
    np.testing.assert_allclose(means, picture[:, 10:20, 8:24].mean(axis=(1, 2)), rtol=1e-4)
    assert np.isfinite(mean_in(picture, np.full((2, 4), np.nan, np.float32))).all()


def test_overlaps_by_hand():
    one = np.array([[0.0, 0.2, 0.0, 0.2]], np.float32)
    others = np.array([[0, 0.2, 0, 0.2], [0, 0.2, 0.1, 0.3], [0.5, 0.6, 0, 0.1]], np.float32)
    np.testing.assert_allclose(overlaps(one, others), [[1, 1 / 3, 0]], atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_scores_by_mixed_maps_are_those_of_the_plain_features(seed):
    rng = np.random.default_rng([7, seed])
    weights = rng.normal(size=len(FEATURES)).astype(np.float32)
    candidates, (sums, edges, extent) = boxes(seed), maps(seed)
    log_prior = rng.normal(size=(3, len(candidates))).astype(np.float32)
    plain = features(sums, edges, extent, candidates)
    assert plain.shape == (3, len(candidates), len(FEATURES) - 1)
    slow = plain @ weights[:-1] + weights[-1] * log_prior
    fast = Candidates(candidates, weights).scores(sums, edges, extent, log_prior)
    np.testing.assert_allclose(fast, slow, atol=0.02)


def test_features_of_mirrored_maps_are_those_of_mirrored_boxes():
    rng = np.random.default_rng(3)
    picture = rng.random((1, 8, *VIEW), np.float32)
    colours = (rng.random((1, *VIEW, 3)) * 100).astype(np.float32)
    candidates, extent = boxes(3), np.array([[0.2, 0.5, -0.1, 0.12]], np.float32)
    here = features(integral(picture), edge_maps(colours), extent, candidates)
    there = features(
        integral(picture[..., ::-1]), edge_maps(colours[:, :, ::-1]),
        mirrored(extent), mirrored(candidates),
    )  # fmt: skip
    np.testing.assert_allclose(here, there, atol=0.01)


def test_the_answer_lies_where_the_chance_is():
    candidates = np.array(
        [[0.0, 0.2, 0, 0.2], [0.0, 0.22, 0, 0.2], [0.02, 0.2, 0, 0.2], [0.5, 0.7, 0, 0.2]],
        np.float32,
    )
    ranking = Candidates(candidates, np.zeros(len(FEATURES), np.float32))
    # One box alone has more chance than each of three that agree, and less than they together.
    found, chance = ranking.answer(np.log(np.array([[0.2, 0.2, 0.2, 0.4]], np.float32)))
    np.testing.assert_allclose(chance.sum(axis=1), 1, atol=1e-5)
    assert overlaps(found, candidates[:1])[0, 0] > 0.85


def test_cover_takes_one_of_each_place():
    near = np.array([[0, 0.2, 0, 0.2]], np.float32) + np.linspace(0, 0.01, 5)[:, None]
    far = near + 0.5
    chosen = cover(np.concatenate([near, far]).astype(np.float32), 2)
    assert sorted(chosen[:, 0] > 0.3) == [False, True]
    assert len(cover(near.astype(np.float32), 9)) == 5


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.floats(0, 0.25), st.floats(0.5, 1), st.floats(0.3, 0.7)), st.floats(0.3, 1.2))
def test_to_the_body_and_back(frame, aspect):
    frames, aspects = np.array([frame], np.float32), np.array([aspect], np.float32)
    box = np.array([[0.5, 0.5, 0.2, 0.1]], np.float32)
    x0, y0, x1, y1 = to_image(to_body(box, frames, aspects), frames, aspects)[0]
    np.testing.assert_allclose([x0, y0, x1, y1], [0.4, 0.45, 0.6, 0.55], atol=1e-4)


def test_the_normal_view_shows_the_body_at_its_place():
    picture = np.zeros((200, 100, 3), np.uint8)
    picture[20:180, 30:50] = 255  # a body of 160 pixels about the axis 0.4
    frame = np.array([[0.1, 0.8, 0.4]], np.float32)
    view, inside = normal_view([picture], frame)
    rows = np.flatnonzero(view[0, :, VIEW[1] // 2, 0] > 128)
    assert abs(rows[0] * CELL - 0.06) < 1.5 * CELL
    assert abs((rows[-1] + 1) * CELL - 1.06) < 1.5 * CELL
    lit = view[0, VIEW[0] // 2, :, 0] > 128
    np.testing.assert_array_equal(lit, lit[::-1])
    # The picture ends 0.25 body heights left of the axis, within the view.
    assert not inside[0, :, 0].any()
    assert inside[0, :, -1].any()
    far = np.array([[0.0, 0.01, 0.75]], np.float32)
    assert normal_view([np.zeros((3, 2, 3), np.uint8)], far)[1].any()


def test_silhouettes_are_stretched_between_rows():
    odds, empty = stretched(np.full((61, 24), 0.9, np.float32))
    assert odds.shape[1] == 96 * 24
    assert len(odds) == len(empty)
    target = pair_targets(np.array([0.1], np.float32), np.array([0.9], np.float32))
    np.testing.assert_allclose(target.sum(), 1, atol=1e-5)


def test_the_shipped_numbers_know_every_kind(tmp_path):
    fitted = shipped()
    assert set(fitted.kinds) == set(KINDS)
    for kind in fitted.kinds.values():
        flipped = mirrored(kind.boxes)
        np.testing.assert_allclose(overlaps(flipped, kind.boxes).max(axis=1), 1, atol=1e-3)
        assert len(kind.weights) == len(FEATURES)
    fitted.save(tmp_path / "regions.json")
    again = Fitted.load(tmp_path / "regions.json")
    np.testing.assert_array_equal(again.kinds["hair"].boxes, fitted.kinds["hair"].boxes)
    np.testing.assert_array_equal(again.frame.template, fitted.frame.template)
    (tmp_path / "regions.json").write_text('{"frame": 1}')
    with pytest.raises(ValueError, match=r"tasks\.base\.regions"):
        Fitted.load(tmp_path / "regions.json")


def test_a_word_never_seen_is_looked_for_where_the_layout_says():
    fitted = shipped()
    kind = fitted.kinds["carried"]
    bag, case = (
        prior(fitted, "carried", Query(f"a {head}", head, "carried")) for head in ("bag", "luggage")
    )
    assert "luggage" not in kind.heads
    middle = kind.boxes[:, :2].mean(axis=1)
    low = np.exp(case) @ middle / np.exp(case).sum()
    assert low > np.exp(bag) @ middle / np.exp(bag).sum() + 0.02


def test_guesses_lie_about_their_place():
    for kind in KINDS:
        for place in known_places(kind):
            found = guesses(place)
            assert (found[:, 1] > found[:, 0]).all()
            np.testing.assert_allclose(found[:, 2:].sum(), 0, atol=1e-4)
    assert kind_of("head", "cap") == "hat"
    assert kind_of("head", "sunglasses") == "eyewear"
    assert kind_of("upper", "hands") == "place"
    assert kind_of("person", "man") == "person"


def test_without_an_extent_every_option_is_the_ranked_box():
    ranked = np.array([[0.1, 0.3, -0.1, 0.1]] * 2, np.float32)
    extent = np.array([[np.nan] * 4, [0.3, 0.5, -0.1, 0.1]], np.float32)
    options = options_of(ranked, extent)
    np.testing.assert_array_equal(options[0], np.stack([ranked[0]] * 3))
    np.testing.assert_allclose(options[1, 2], [0.2, 0.4, -0.1, 0.1], atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31))
def test_noise_of_any_size_has_boxes_in_the_picture(height, width, seed):
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    (found,) = BodyProposer().propose([picture], [[SHIRT, SHOES, SHIRT]])
    cx, cy, w, h = found.boxes_N4.T
    for low, high in ((cx - w / 2, cx + w / 2), (cy - h / 2, cy + h / 2)):
        assert (low >= -1e-5).all()
        assert (high <= 1 + 1e-5).all()
        assert (high >= low).all()
    assert ((found.scores_N > 0) & (found.scores_N < 1)).all()
