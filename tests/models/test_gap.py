"""Domain-gap distances against their definitions, written out slowly."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.gap import (
    cmmd,
    fid,
    image_statistics,
    kid,
    kid_left_interval,
    normalised_gap,
    statistic_distance,
    two_sample,
)

RNG = np.random.default_rng(0)


def clouds(shift: float, n: int = 40, m: int = 30, d: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) * 1.3 + shift


def slow_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy, pair by pair."""
    n, d = x.shape

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / d + 1) ** 3)

    within = sum(kernel(s[i], s[j]) for s in (x, y) for i in range(n) for j in range(n) if i != j)
    across = sum(kernel(a, b) for a in x for b in y)
    return within / (n * (n - 1)) - 2 * across / n**2


def test_kid_on_the_whole_set_is_the_unbiased_mmd():
    first, second = clouds(0.7, n=30, m=30)
    found = kid(first, second, subsets=1)
    assert found.mean == pytest.approx(slow_mmd(first, second), rel=1e-9)
    assert found.std == 0


def test_kid_averages_subsets_and_follows_its_seed_alone():
    first, second = clouds(0.7)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    found = kid(first, second, subsets=20, subset_size=10, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    assert kid(first, second, subsets=20, subset_size=10, seed=3) == found
    assert kid(first, second, subsets=20, subset_size=10, seed=4) != found
    draws = torch.Generator().manual_seed(3)
    values = []
    for _ in range(20):
        x = first[torch.randperm(40, generator=draws)[:10]]
        y = second[torch.randperm(30, generator=draws)[:10]]
        values.append(slow_mmd(x, y))
    assert found == pytest.approx((np.mean(values), np.std(values)), rel=1e-9)


def test_kid_of_one_distribution_is_about_nothing():
    rng = np.random.default_rng(2)
    plan = {"subsets": 30, "subset_size": 200}
    same = kid(rng.normal(size=(500, 8)), rng.normal(size=(500, 8)), **plan)
    other = kid(
        rng.normal(size=(500, 8)), rng.normal(0.5, 1, (500, 8)), subsets=30, subset_size=200
    )
    assert abs(same.mean) < 0.1 * other.mean


def test_fid_is_the_frechet_distance_by_the_matrix_root():
    first, second = clouds(0.7)
    a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = np.real(scipy.linalg.sqrtm(a @ b))
    apart = np.square(first.mean(0) - second.mean(0)).sum()
    assert fid(first, second) == pytest.approx(apart + np.trace(a + b - 2 * root), rel=1e-9)


def test_fid_by_hand_in_one_dimension():
    # Means 1 and 4, deviations 1 and 2 (over n - 1): (1 - 4)^2 + (1 - 2)^2 = 10.
    first, second = np.array([[0.0], [1], [2]]), np.array([[2.0], [4], [6]])
    assert fid(first, second) == pytest.approx(10)


def test_fid_bears_more_dimensions_than_rows():
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(10, 64)), rng.normal(size=(12, 64))
    assert math.isfinite(fid(first, second))
    assert fid(first, first) == pytest.approx(0, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 3))
def test_distances_are_symmetric_and_grow_with_the_shift(seed, shift):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(60, 4))
    near, far = first + shift, first + 2 * shift
    assert fid(first, near) == pytest.approx(fid(near, first), abs=1e-8)
    assert fid(first, near) == pytest.approx(4 * shift**2, rel=1e-6, abs=1e-6)
    assert fid(first, near) < fid(first, far)
    assert kid(first, near, subsets=1).mean == pytest.approx(kid(near, first, subsets=1).mean)


def test_the_two_sample_test_tells_apart_what_differs_and_nothing_else():
    rng = np.random.default_rng(4)
    first, same = rng.normal(size=(300, 6)), rng.normal(size=(150, 6))
    assert two_sample(first, same).accuracy == pytest.approx(0.5, abs=0.08)
    assert two_sample(first, same + 4).accuracy > 0.99
    # One feature differs by one deviation: the best rule is right with probability Phi(1/2).
    moved = rng.normal(size=(300, 6))
    moved[:, 0] += 1
    assert two_sample(first, moved, strength=1.0).accuracy == pytest.approx(0.69, abs=0.06)


def test_the_two_sample_test_is_not_fooled_by_many_features():
    rng = np.random.default_rng(5)
    # More features than rows: a classifier scored on its own training rows would be perfect.
    first, same = rng.normal(size=(60, 200)), rng.normal(size=(60, 200))
    assert two_sample(first, same).accuracy < 0.65


def test_the_normalised_gap_by_hand():
    assert normalised_gap(before=10, after=6, floor=2) == 0.5
    assert normalised_gap(before=10, after=10, floor=2) == 1
    assert normalised_gap(before=10, after=1, floor=2) == -0.125
    assert math.isnan(normalised_gap(before=2, after=1, floor=2))


@pytest.mark.parametrize("distance", [kid, fid, two_sample])
@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        (np.zeros((4, 3)), np.zeros((4, 2)), "one width"),
        (np.zeros(4), np.zeros(4), "one row a picture"),
        (np.zeros((1, 3)), np.zeros((4, 3)), "at least 2 rows"),
        (np.full((4, 3), np.nan), np.zeros((4, 3)), "not finite"),
    ],
)
def test_bad_features_are_named(distance, first, second, word):
    with pytest.raises(ValueError, match=word):
        distance(first, second)


# ------------------------------------------------------------------ pictures


def test_statistics_of_flat_pictures_by_hand():
    flat = np.zeros((2, 4, 5, 3), np.uint8)
    flat[0] = (200, 100, 50)
    found = image_statistics(flat)
    luma = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    expected = {
        "luminance": [luma, 0], "contrast": [0, 0], "red_cast": [100, 0], "blue_cast": [-50, 0],
        "colourfulness": [0.3 * math.hypot(100, 150 - 50), 0], "saturation": [0.75, 0],
        "sharpness": [0, 0],
    }  # fmt: skip
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-9), name


def test_sharpness_of_one_bright_pixel_by_hand():
    picture = np.zeros((1, 3, 4, 3), np.uint8)
    picture[0, 1, 1] = 90
    # The inner pixels are (1,1) and (1,2): Laplacians -360 and 90, mean -135, variance 225^2.
    assert image_statistics(picture)["sharpness"][0] == pytest.approx(225**2)


def test_statistics_equal_the_slow_way_in_any_number():
    pictures = RNG.integers(0, 256, (300, 6, 5, 3), dtype=np.uint8)
    found = image_statistics(pictures)
    for at in (0, 255, 256, 299):
        one = pictures[at].astype(float)
        luma = one @ [0.299, 0.587, 0.114]
        inner = [
            luma[y - 1, x] + luma[y + 1, x] + luma[y, x - 1] + luma[y, x + 1] - 4 * luma[y, x]
            for y in range(1, 5)
            for x in range(1, 4)
        ]
        assert found["sharpness"][at] == pytest.approx(np.var(inner))
        assert found["contrast"][at] == pytest.approx(luma.std())
        ratio = [(p.max() - p.min()) / max(p.max(), 1) for p in one.reshape(-1, 3)]
        assert found["saturation"][at] == pytest.approx(np.mean(ratio))
    assert {len(values) for values in image_statistics(pictures[:0]).values()} == {0}


@pytest.mark.parametrize(
    "pictures",
    [np.zeros((2, 4, 5), np.uint8), np.zeros((2, 4, 5, 3)), np.zeros((1, 2, 5, 3), "u1")],
)
def test_other_shapes_and_types_are_refused(pictures):
    with pytest.raises(ValueError, match="stack pictures of one size"):
        image_statistics(pictures)


def test_kid_is_torchmetrics() -> None:
    """The published implementation, on subsets of everything."""
    from torchmetrics.image.kid import KernelInceptionDistance

    class Given(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features

    first, second = clouds(0.7, n=30, m=30)
    metric = KernelInceptionDistance(Given(), subsets=1, subset_size=30)
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(first), real=True)
    metric.update(torch.from_numpy(second), real=False)
    assert kid(first, second).mean == pytest.approx(float(metric.compute()[0]), rel=1e-9)


def test_interval_holds_what_is_left_and_shrinks_with_pictures() -> None:
    widths = []
    for n in (40, 160):
        rng = np.random.default_rng(n)
        source, made = rng.normal(size=(n, 6)) + 2, rng.normal(size=(n, 6)) + 1
        halves = rng.normal(size=(n, 6)), rng.normal(size=(n, 6))
        floor = kid(*halves).mean
        before, after = (
            np.mean([kid(each, half).mean for half in halves]) for each in (source, made)
        )
        low, high = kid_left_interval(source, made, halves)
        assert low < normalised_gap(before, after, floor) < high
        assert kid_left_interval(source, made, halves) == (low, high)
        widths.append(high - low)
    assert widths[1] < 0.7 * widths[0]
    # Of what is the source itself everything is left, however the pictures are drawn.
    assert kid_left_interval(source, source, halves) == (1, 1)
    assert all(map(math.isnan, kid_left_interval(halves[0], made, (halves[0] + 9, halves[1]))))


def test_resamples_do_not_count_a_picture_against_its_own_copy() -> None:
    """Else every resample's sets would look denser than they are, and the floor too high."""
    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(60, 4)) * 3 for _ in range(3)]
    low, high = kid_left_interval(sets[0] + 1, sets[1], (sets[2], rng.normal(size=(60, 4)) * 3))
    assert low < 0.15
    assert high > -0.15


def test_cmmd_by_hand() -> None:
    # Unit vectors at right angles: squared distance 2, kernel exp(-2 / 200).
    first, second = np.array([[3.0, 0], [5, 0]]), np.array([[0, 1.0], [0, 2]])
    assert cmmd(first, second) == pytest.approx(2000 * (1 - math.exp(-0.01)))
    assert cmmd(first, first * 7) == pytest.approx(0, abs=1e-9)


def test_statistic_distance_by_hand() -> None:
    target = np.array([0.0, 2, 0, 2])
    assert statistic_distance(target + 3, target) == pytest.approx(3)
    assert statistic_distance(np.array([1.0, np.nan]), target) == pytest.approx(1)
    assert math.isnan(statistic_distance(np.array([np.nan]), target))


def crowds(seed: int, people: int = 25, shots: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of people who look alike in all of theirs: features (people x shots, 5), and who."""
    rng = np.random.default_rng(seed)
    own = np.repeat(rng.normal(size=(people, 5)), shots, axis=0)
    return own + rng.normal(0, 0.3, own.shape), np.repeat(np.arange(people), shots)


def test_pairs_of_one_person_do_not_count() -> None:
    first, second = np.array([[1.0, 0], [1, 0], [0, 1]]), np.array([[1.0, 1], [0, 0], [0, 0]])
    # Kernel (x.y / 2 + 1)^3: 1.5^3 for a shared 1, 1 for none, 2^3 for two.
    people = [0, 0, 1], [5, 6, 6]
    within = 1.0 + 1.0
    across = (3 * 1.5**3 + 6) / 9
    assert kid(first, second, people=people).mean == pytest.approx(within - 2 * across)
    with pytest.raises(ValueError, match="at least 2 people"):
        kid(first, second, people=([1, 1, 1], [5, 6, 6]))
    with pytest.raises(ValueError, match="one name a row"):
        kid(first, second, people=([1, 2], [5, 6, 6]))


def test_a_floor_between_few_people_is_about_nothing() -> None:
    known, unknown, told, fooled = [], [], [], []
    for seed in range(8):
        (first, who), (second, others) = crowds(seed), crowds(100 + seed)
        known.append(kid(first, second, people=(who, others)).mean)
        unknown.append(kid(first, second).mean)
        told.append(two_sample(first, second, people=(who, others), strength=1).accuracy)
        fooled.append(two_sample(first, second, strength=1).accuracy)
    assert abs(np.mean(known)) < 0.3 * np.mean(unknown)
    assert np.mean(told) < 0.5 < np.mean(fooled)


def test_intervals_draw_people_and_are_wider_for_it() -> None:
    (first, who), (second, others) = crowds(1), crowds(2)
    rng = np.random.default_rng(0)
    source, made = rng.normal(size=(400, 5)) + 0.8, rng.normal(size=(400, 5)) + 0.4
    one, many = (
        kid_left_interval(source, made, (first, second), people=people)
        for people in ((who, others), None)
    )
    assert one[1] - one[0] > many[1] - many[0]
