"""Intervals, p-values and power: against scipy, against values by hand, by what must hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tasks.ablate.statistics import (
    Components,
    Scores,
    contrast,
    holm,
    planned,
    power,
    resampled,
    smallest_detectable,
)


def drawn(seeds: int = 4, people: int = 12, each: int = 2, number: int = 0, lift: float = 0.0):
    """Hits of two arms as a table of queries."""
    generator = np.random.default_rng(number)
    shared = np.repeat(generator.normal(size=people), each)
    arms = [
        100.0 * (shared + generator.normal(size=(seeds, people * each)) + extra > 0)
        for extra in (lift, 0.0)
    ]
    names = [f"p{n:03d}" for n in range(people) for _ in range(each)]
    return names, arms


def pair(**how):
    names, arms = drawn(**how)
    return [Scores.of(names, arm, range(len(arm))) for arm in arms]


def test_sums_by_person_by_hand():
    scores = Scores.of(["b", "a", "b"], [[1, 2, 3], [4, 5, 6]], [7, 3])
    assert scores.people == ("a", "b")
    assert scores.seeds == (3, 7)
    assert scores.total_SP.tolist() == [[5, 10], [2, 4]]
    assert scores.count_P.tolist() == [1, 2]
    assert scores.means.tolist() == [5.0, 2.0]


@pytest.mark.parametrize(
    ("values", "seeds"),
    [
        ([[1.0, 2.0]], [0, 1]),
        ([[1.0, math.nan]], [0]),
        ([[1.0, 2.0], [1.0, 2.0]], [5, 5]),
        ([], []),
    ],
)
def test_tables_that_are_none_are_refused(values, seeds):
    with pytest.raises(ValueError, match="seed"):
        Scores.of(["a", "b"], values, seeds)


def test_over_people_alone_it_is_scipys_percentile_bootstrap():
    one = Scores.of([f"{n:03d}" for n in range(40)], np.arange(40.0)[None] ** 1.5, [0])
    mine = contrast(one, resamples=20_000, stretched=False)
    theirs = stats.bootstrap(
        (one.total_SP[0],), np.mean, n_resamples=20_000, method="percentile", rng=1
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert mine.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert mine.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)
    assert mine.error == pytest.approx(stats.sem(one.total_SP[0]))
    assert mine.freedom == pytest.approx(39)
    spread = resampled([one], (1.0,), 20_000, 0).std()
    assert spread == pytest.approx(theirs.standard_error, rel=0.03)


def test_over_seeds_alone_it_is_the_paired_t_test():
    gains = np.array([1.0, 3.0, 2.0, 5.0, 4.5, 2.5, 3.5, 0.5])
    base = np.array([40.0, 42.0, 38.0, 41.0, 39.0, 44.0, 40.5, 37.0])
    names = ["a", "b", "c"]  # alike, so that people add nothing
    first = Scores.of(names, np.repeat((base + gains)[:, None], 3, 1), range(8))
    second = Scores.of(names, np.repeat(base[:, None], 3, 1), range(8))
    mine = contrast(first, second, resamples=20_000)
    theirs = stats.ttest_rel(base + gains, base)
    limits = theirs.confidence_interval()
    assert mine.paired
    assert mine.error == pytest.approx(stats.sem(gains))
    assert mine.freedom == pytest.approx(7)
    # The bootstrap's shape is not exactly normal, nothing else differs.
    assert mine.low == pytest.approx(limits.low, abs=0.2)
    assert mine.high == pytest.approx(limits.high, abs=0.2)
    assert math.log10(mine.p) == pytest.approx(math.log10(theirs.pvalue), abs=0.35)


def test_unpaired_seeds_alone_are_welchs_t_test():
    values = [np.array([41.0, 45.0, 43.0, 44.0]), np.array([40.0, 39.0, 42.5, 38.0, 41.0])]
    first, second = (
        Scores.of(["a", "b"], np.repeat(v[:, None], 2, 1), range(10 * n, 10 * n + len(v)))
        for n, v in enumerate(values)
    )
    mine = contrast(first, second, resamples=4000)
    theirs = stats.ttest_ind(*values, equal_var=False)
    assert not mine.paired
    assert mine.value / mine.error == pytest.approx(theirs.statistic)
    assert mine.freedom == pytest.approx(theirs.df)
    assert mine.p == pytest.approx(theirs.pvalue, rel=0.3)


def test_components_of_a_known_table():
    generator = np.random.default_rng(5)
    seeds, people = 60, 400
    table = (
        2.0 * generator.normal(size=(seeds, 1))
        + 5.0 * generator.normal(size=(1, people))
        + 9.0 * generator.normal(size=(seeds, people))
    )
    found = contrast(
        Scores.of([f"{n:04d}" for n in range(people)], table, range(seeds)), resamples=10
    )
    parts = found.components
    assert parts.seed == pytest.approx(2.0, rel=0.25)
    assert parts.person == pytest.approx(5.0, rel=0.12)
    assert parts.rest == pytest.approx(9.0, rel=0.02)
    assert parts.error(people, seeds) == pytest.approx(found.error, rel=1e-9)


def test_variance_of_a_balanced_table_by_hand():
    # Seeds differ by 2, people by 4, nothing else: MS of seeds 2 * 2 = 4, of people 2 * 8 = 16.
    found = contrast(Scores.of(["a", "b"], [[0.0, 4.0], [2.0, 6.0]], [0, 1]), resamples=10)
    assert found.value == 3.0
    assert found.components.rest == pytest.approx(0.0, abs=1e-12)
    assert found.components.seed**2 == pytest.approx(2.0)
    assert found.components.person**2 == pytest.approx(8.0)
    assert found.error**2 == pytest.approx(2.0 / 2 + 8.0 / 2)
    assert found.freedom == pytest.approx(5.0**2 / (1.0**2 + 4.0**2))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 15), st.integers(1, 3))
def test_what_must_hold_of_any_pair(number, seeds, people, each):
    first, second = pair(seeds=seeds, people=people, each=each, number=number, lift=0.5)
    there = contrast(first, second, resamples=200)
    back = contrast(second, first, resamples=200)
    assert back.value == pytest.approx(-there.value)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert back.p == pytest.approx(there.p)
    assert there.low <= there.value <= there.high or there.error == 0
    assert 0 <= there.p <= 1
    # The interval leaves out 0 exactly where p is below its level.
    if there.error > 0 and min(abs(there.low), abs(there.high)) > 1e-6:
        assert (there.p < 0.05) == (there.low > 0 or there.high < 0)
    same = contrast(first, first, resamples=200)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(-50, 50))
def test_a_constant_shifts_and_scales_nothing_else(number, constant):
    names, (one, other) = drawn(number=number)
    seeds = range(len(one))
    before = contrast(Scores.of(names, one, seeds), Scores.of(names, other, seeds), resamples=100)
    lifted = contrast(
        Scores.of(names, one + constant, seeds), Scores.of(names, other, seeds), resamples=100
    )
    for name in ("value", "low", "high"):
        assert getattr(lifted, name) == pytest.approx(getattr(before, name) + constant, abs=1e-6)
    assert lifted.error == pytest.approx(before.error, abs=1e-9)


def test_the_order_of_queries_and_seeds_does_not_matter():
    names, (one, other) = drawn(number=3, lift=0.4)
    generator = np.random.default_rng(0)
    queries, seeds = generator.permutation(len(names)), generator.permutation(len(one))
    plain = contrast(
        Scores.of(names, one, range(4)), Scores.of(names, other, range(4)), resamples=50
    )
    moved = [
        Scores.of([names[q] for q in queries], arm[seeds][:, queries], seeds.tolist())
        for arm in (one, other)
    ]
    assert contrast(*moved, resamples=50) == plain


def test_queries_of_a_person_stay_together():
    # Each person's queries are copies: two or twenty of them, the interval is the same.
    names, (one, _) = drawn(people=15, each=1, number=4)
    few, many = (
        contrast(
            Scores.of(np.repeat(names, n).tolist(), np.repeat(one, n, 1), range(len(one))),
            resamples=500,
        )
        for n in (2, 20)
    )
    assert (few.low, few.high) == pytest.approx((many.low, many.high))


def test_equal_seeds_are_paired_and_missing_ones_left_out():
    names, (one, other) = drawn(seeds=5, number=6)
    first = Scores.of(names, one[:4], [0, 1, 2, 3])
    second = Scores.of(names, other[1:], [1, 2, 3, 4])
    found = contrast(first, second, resamples=50)
    assert found.paired
    assert found.seeds == (3, 3)
    assert found.value == pytest.approx((one[1:4] - other[1:4]).mean())


def test_other_people_cannot_be_compared():
    first, second = Scores.of(["a"], [[1.0]], [0]), Scores.of(["b"], [[1.0]], [0])
    with pytest.raises(ValueError, match="same queries"):
        contrast(first, second)


def test_the_same_seed_gives_the_same_figures():
    first, second = pair(lift=0.3)
    assert contrast(first, second, resamples=50) == contrast(first, second, resamples=50)
    assert contrast(first, second, resamples=50, seed=1) != contrast(first, second, resamples=50)


def test_few_seeds_stretch_the_interval():
    first, second = pair(seeds=3, people=200, lift=0.3)
    plain = contrast(first, second, resamples=2000, stretched=False)
    wide = contrast(first, second, resamples=2000)
    assert wide.high - wide.low != plain.high - plain.low
    assert wide.freedom < 300


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.04, never falling.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_a_contrast_that_is_missing_still_counts():
    found = holm([0.01, math.nan, 0.02])
    assert found[0] == pytest.approx(0.03)
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(0.04)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_p_value_and_bonferroni(values):
    for p, adjusted in zip(values, holm(values), strict=True):
        assert p <= adjusted <= min(1.0, p * len(values)) + 1e-12


def test_power_is_that_of_a_t_test():
    # Cohen's textbook case: d 0.5, 64 in each of two groups, level 0.05: power 0.80.
    assert power(0.5, math.sqrt(2 / 64), 126, 0.05) == pytest.approx(0.801, abs=0.002)
    assert power(0.0, 1.0, 20, 0.05) == pytest.approx(0.05, abs=1e-6)


@given(st.floats(0.01, 50), st.floats(2, 500), st.sampled_from([0.05, 0.05 / 3]))
@settings(max_examples=30, deadline=None)
def test_the_smallest_detectable_difference_has_that_power(error, freedom, level):
    assert power(
        smallest_detectable(error, freedom, level), error, freedom, level
    ) == pytest.approx(0.8)


def test_with_many_degrees_it_is_the_textbook_sum():
    expected = stats.norm.isf(0.025) + stats.norm.isf(0.2)
    assert smallest_detectable(2.0, 1e6) == pytest.approx(2 * expected, rel=1e-3)
    assert smallest_detectable(0.0, 5) == 0.0
    assert smallest_detectable(math.inf, 5) == math.inf


def test_a_plan_wants_more_with_more_contrasts_and_less_with_more_seeds():
    parts = Components(seed=3.0, person=6.0, rest=35.0)
    assert parts.error(100, 4) == pytest.approx(math.sqrt(9 / 4 + 36 / 100 + 1225 / 400))
    assert planned(parts, 1000, 10, 3) > planned(parts, 1000, 10, 1)
    assert planned(parts, 1000, 20, 3) < planned(parts, 1000, 10, 3)
    assert planned(parts, 2000, 10, 3) < planned(parts, 1000, 10, 3)


def test_it_covers_what_it_says_where_queries_alone_do_not():
    # 120 tables: 95 % of them is 114, and fewer than 106 comes about once in a thousand times.
    generator = np.random.default_rng(11)
    held = [0, 0]
    for _ in range(120):
        effect = 6 * generator.normal(size=(1, 60, 1)) + 2 * generator.normal(size=(6, 1, 1))
        table = (effect + 10 * generator.normal(size=(6, 60, 4))).reshape(6, -1)
        scores = Scores.of(np.repeat([f"{n:02d}" for n in range(60)], 4).tolist(), table, range(6))
        found = contrast(scores, resamples=300)
        held[0] += found.low <= 0 <= found.high
        naive = 1.96 * table.mean(0).std(ddof=1) / math.sqrt(table.shape[1])
        held[1] += abs(table.mean()) <= naive
    assert held[0] >= 106
    assert held[1] < 96
