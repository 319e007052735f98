"""What a difference between two arms is worth: intervals over people and seeds, p-values, power.

An arm's figure varies for two reasons that are crossed: which people are tested, and which seed it
was trained with. Every seed is tested on every person, and the queries of one person stand or fall
together. So both are drawn anew, each on its own, and queries never are:

    first = Scores.of(names, hits_first, seeds)
    found = contrast(first, second, resamples=20_000, seed=0)
    found.value, found.low, found.high, found.p

Resampling rows and columns of such a table is the pigeonhole bootstrap (Owen 2007, Annals of
Applied Statistics 1:386). No bootstrap is exact for crossed effects (McCullagh 2000, Bernoulli
6:285): this one counts the person-by-seed part about three times and each factor (n - 1) / n
times. With ten seeds, and much more with three, its plain percentiles also lack what Student's t
adds. The interval is therefore *stretched*: the percentiles give its shape, the unbiased variance
of the two-way table (Cornfield and Tukey 1956) its scale, and Student's t, with Satterthwaite's
degrees of freedom, its length. ``benchmarks/interval_coverage.py`` measures what each covers.

Seeds are paired: the same number starts the same order of data and the same new weights in both
arms, and the pair's difference is what is averaged. That holds whatever the two have in common;
taking them as independent would be right only if they had nothing in common, and would gain no more
than the narrower t of twice as many degrees of freedom. Bouthillier et al. (2021, "Accounting for
variance in machine learning benchmarks") pair for the same reason. Arms without two common seeds
are compared unpaired.

What is not in any interval here: what was made once for all runs (the world, DaD, its pictures).

Shapes: S seeds, P people, Q queries, R resamples.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Numbers = NDArray[np.float64]

CHUNK = 1000
"""Resamples that are drawn at a time: (CHUNK, P) is what memory holds."""


@dataclass(frozen=True)
class Scores:
    """What the queries of every person score with every seed of one arm."""

    people: tuple[str, ...]
    seeds: tuple[int, ...]
    total_SP: Numbers
    """Sum over a person's queries."""
    count_P: Numbers
    """Queries of a person; the same for all seeds."""

    @classmethod
    def of(cls, person_Q: Sequence[str], value_SQ: Any, seeds: Sequence[int]) -> Scores:
        """Sum the values of queries by person.

        Args:
            person_Q: Whom each query looks for.
            value_SQ: What each query scores with each seed: a hit as 0 or 100, a precision.
            seeds: The seeds, in the order of the rows.

        Raises:
            ValueError: A table of another shape, a seed twice, a value that is no number.
        """
        values = np.asarray(value_SQ, dtype=float)
        if values.shape != (len(seeds), len(person_Q)) or values.size == 0:
            raise ValueError(
                f"{len(seeds)} seeds, {len(person_Q)} queries, a table of {values.shape}; there "
                "is a row a seed and a column a query; give at least one of each"
            )
        if len(set(seeds)) < len(seeds) or not np.isfinite(values).all():
            raise ValueError(
                f"seeds {list(seeds)}, finite values: {bool(np.isfinite(values).all())}; a seed "
                "stands once and values are numbers; leave out unfinished runs"
            )
        people, index = np.unique(np.asarray(person_Q, dtype=str), return_inverse=True)
        by_person = np.argsort(index, kind="stable")
        count_P = np.bincount(index)
        starts = np.concatenate([[0], np.cumsum(count_P)[:-1]])
        total_SP = np.add.reduceat(values[:, by_person], starts, axis=1)
        order = np.argsort(seeds)
        return cls(
            tuple(people.tolist()),
            tuple(int(seeds[n]) for n in order),
            total_SP[order],
            count_P.astype(float),
        )

    @property
    def means(self) -> Numbers:
        """The mean over all queries, by seed."""
        found: Numbers = self.total_SP.sum(1) / self.count_P.sum()
        return found

    def taken(self, seeds: Sequence[int]) -> Scores:
        """The same with some of the seeds, in their order."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return Scores(self.people, tuple(seeds), self.total_SP[rows], self.count_P)


@dataclass(frozen=True)
class Components:
    """Standard deviations of what a figure, or a difference of two, consists of."""

    seed: float
    """Of what a seed adds for all people."""
    person: float
    """Of what a person adds for all seeds."""
    rest: float
    """Of what only a person with a seed has."""

    def error(self, people: int, seeds: int) -> float:
        """Standard error of the mean over a table of that size."""
        return float(
            np.sqrt(
                self.seed**2 / seeds + self.person**2 / people + self.rest**2 / (people * seeds)
            )
        )

    def freedom(self, people: int, seeds: int) -> float:
        """Satterthwaite's degrees of freedom of that error."""
        over_people = self.person**2 / people + self.rest**2 / (people * seeds)
        over_seeds = self.seed**2 / seeds + self.rest**2 / (people * seeds)
        terms = [(over_people, people), (over_seeds, seeds)]
        return _freedom(self.error(people, seeds) ** 2, terms)


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference of two means, and how sure it is."""

    value: float
    low: float
    high: float
    p: float
    """That a value as far from 0 comes about by chance, both sides; NaN for one arm alone."""
    error: float
    """Standard error."""
    freedom: float
    """Degrees of freedom of the error."""
    components: Components
    people: int
    seeds: tuple[int, int]
    """Of either arm; of one arm alone the second is 0."""
    paired: bool

    @property
    def fewest(self) -> int:
        """Seeds of the arm that has the fewest; below two nothing is known about seeds."""
        return min(number for number in self.seeds if number)

    def smallest(self, level: float = 0.05, power: float = 0.8) -> float:
        """The smallest true difference that the design finds, see `smallest_detectable`."""
        return smallest_detectable(self.error, self.freedom, level, power)


def contrast(
    first: Scores,
    second: Scores | None = None,
    *,
    resamples: int = 20_000,
    seed: int = 0,
    level: float = 0.95,
    stretched: bool = True,
    paired: bool | None = None,
) -> Estimate:
    """Estimate the mean of one arm, or how much higher it is than another's.

    Args:
        first: An arm.
        second: The arm to compare it with, on the same people and queries.
        resamples: Tables drawn anew, people and seeds each with replacement.
        seed: Of the draws; the same one gives the same figures.
        level: What the interval is to cover.
        stretched: As the module says; False gives the plain percentiles, which are too narrow with
            few seeds.
        paired: Whether equal seeds belong together; None pairs where two are common.

    Raises:
        ValueError: The two do not have the same people with the same number of queries each.
    """
    if second is None:
        return _estimate([first], resamples, seed, level, stretched)
    if first.people != second.people or not np.array_equal(first.count_P, second.count_P):
        raise ValueError(
            f"{len(first.people)} people with {first.count_P.sum():.0f} queries against "
            f"{len(second.people)} with {second.count_P.sum():.0f}; two arms are compared on the "
            "same queries of the same people; evaluate both on one split"
        )
    common = [number for number in first.seeds if number in second.seeds]
    if paired is None:
        paired = len(common) > 1 or len(first.seeds) == len(second.seeds) == len(common)
    if not paired:
        return _estimate([first, second], resamples, seed, level, stretched)
    if not common:
        raise ValueError(
            f"seeds {first.seeds} and {second.seeds}; pairs need equal seeds; compare unpaired"
        )
    one, other = first.taken(common), second.taken(common)
    table = Scores(one.people, one.seeds, one.total_SP - other.total_SP, one.count_P)
    return _estimate([table], resamples, seed, level, stretched, pairs=True)


def _estimate(
    tables: Sequence[Scores],
    resamples: int,
    seed: int,
    level: float,
    stretched: bool,
    *,
    pairs: bool = False,
) -> Estimate:
    """Of one table the mean, of two how much higher the first one's is."""
    signs = (1.0, -1.0)[: len(tables)]
    means = [float(table.means.mean()) for table in tables]
    value = float(np.dot(signs, means))
    drawn = resampled(tables, signs, resamples, seed)
    tail = (1 - level) / 2
    low, high = (float(each) for each in np.quantile(drawn, (tail, 1 - tail)))
    variance, freedom, components = _variance(tables, signs)
    error, spread = float(np.sqrt(variance)), float(drawn.std())
    normal = float(stats.norm.isf(tail))
    factors = (1.0, 1.0)
    if spread > 0:
        factors = ((value - low) / (normal * spread), (high - value) / (normal * spread))
    if stretched:
        reach = float(stats.t.isf(tail, freedom)) * error
        low, high = value - factors[0] * reach, value + factors[1] * reach
    facing = max(factors[0] if value > 0 else factors[1], 1e-9)
    p = float("nan")
    if pairs or len(tables) > 1:
        p = 1.0
        if error > 0:
            p = float(2 * stats.t.sf(abs(value) / (facing * error), freedom))
        elif value:
            p = 0.0
    counts = [len(table.seeds) for table in tables]
    second = counts[1] if len(counts) > 1 else counts[0] if pairs else 0
    return Estimate(
        value, low, high, p, error, freedom, components, len(tables[0].people),
        (counts[0], second), pairs,
    )  # fmt: skip


def resampled(
    tables: Sequence[Scores], signs: Sequence[float], resamples: int, seed: int
) -> Numbers:
    """Draw people (the same for all tables) and seeds anew: (R,) signed sums of the means."""
    people, count_P = len(tables[0].people), tables[0].count_P
    out = np.zeros(resamples)
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        times_RP = _drawn(seed, start, 0, rows, people).astype(float)
        queries_R = times_RP @ count_P
        for n, (table, sign) in enumerate(zip(tables, signs, strict=True), start=1):
            seeds = len(table.seeds)
            total_RS = times_RP @ table.total_SP.T
            times_RS = _drawn(seed, start, n, rows, seeds)
            mean_R = (total_RS * times_RS).sum(1) / (queries_R * seeds)
            out[start : start + rows] += sign * mean_R
    return out


@functools.lru_cache(maxsize=128)
def _drawn(seed: int, start: int, which: int, rows: int, things: int) -> NDArray[np.uint16]:
    """How often each of some things comes up when as many are drawn, with replacement.

    Kept, since every figure of an experiment is of the same people: drawing is most of the work.
    """
    generator = np.random.default_rng((seed, start, which))
    drawn = generator.integers(0, things, (rows, things)) + np.arange(rows)[:, None] * things
    times = np.bincount(drawn.ravel(), minlength=rows * things).reshape(rows, things)
    return times.astype(np.uint16)


def _variance(tables: Sequence[Scores], signs: Sequence[float]) -> tuple[float, float, Components]:
    """Unbiased variance of the value, its degrees of freedom, and its components.

    People may have unequal numbers of queries; the mean is then a ratio, and is taken linearly.
    """
    people, count_P = len(tables[0].people), tables[0].count_P
    mean_count = float(count_P.mean())
    person_P = np.zeros(people)
    seed_part, rest_part, terms = 0.0, 0.0, []
    for table, sign in zip(tables, signs, strict=True):
        seeds = len(table.seeds)
        # A row's mean is that seed's figure; a person counts by what it moves the ratio.
        value_SP = (table.total_SP - table.means[:, None] * (count_P - mean_count)) / mean_count
        person_P += sign * value_SP.mean(0)
        if seeds < 2:
            continue
        seed_S = value_SP.mean(1)
        rest_SP = value_SP - value_SP.mean(0) - seed_S[:, None] + value_SP.mean()
        rest = float((rest_SP**2).sum()) / ((seeds - 1) * max(1, people - 1))
        between = float(seed_S.var(ddof=1))  # holds the rest of the table too, over P
        seed_part += max(0.0, between - rest / people) / seeds
        rest_part += rest / seeds
        terms.append((max(between, rest / people) / seeds, seeds))
    over_people = float(person_P.var(ddof=1)) / people if people > 1 else 0.0
    variance = over_people + seed_part
    freedom = _freedom(variance, [(over_people, people), *terms])
    most = max(len(table.seeds) for table in tables)
    components = Components(
        seed=float(np.sqrt(seed_part * most)),
        person=float(np.sqrt(max(0.0, over_people * people - rest_part))),
        rest=float(np.sqrt(rest_part * most)),
    )
    return variance, freedom, components


def _freedom(variance: float, terms: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of (mean square, number of its things) (Satterthwaite 1946)."""
    spread = sum(part**2 / (number - 1) for part, number in terms if number > 1)
    if spread <= 0:
        return float(max(1, max((number - 1 for _, number in terms), default=1)))
    return max(1.0, float(variance**2 / spread))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979), in the order given.

    A contrast that could not be computed (NaN) was stated beforehand all the same: it counts among
    the hypotheses, as one that was not rejected, and stays NaN.
    """
    known = np.asarray([1.0 if np.isnan(p) else p for p in p_values], dtype=float)
    order = np.argsort(known, kind="stable")
    steps = known[order] * (len(known) - np.arange(len(known)))
    adjusted = np.empty(len(known))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [
        float("nan") if np.isnan(p) else float(a) for p, a in zip(p_values, adjusted, strict=True)
    ]


def power(effect: float, error: float, freedom: float, level: float) -> float:
    """Chance that a two-sided t-test at that level rejects, where the truth is ``effect``."""
    critical = float(stats.t.isf(level / 2, freedom))
    shift = abs(effect) / error
    # Far from 0 scipy gives no number for the tail on the other side, which is nothing there.
    below = float(np.nan_to_num(stats.nct.cdf(-critical, freedom, shift)))
    return float(stats.nct.sf(critical, freedom, shift)) + below


def smallest_detectable(
    error: float, freedom: float, level: float = 0.05, wanted: float = 0.8
) -> float:
    """The smallest true difference that is found with the wanted power.

    Args:
        error: Standard error of the difference, any unit.
        freedom: Its degrees of freedom.
        level: Of the test: with Holm's correction of m contrasts, 0.05 / m is what the first
            rejection takes, so that is what a difference must stand against by itself.
        wanted: Power.

    Returns:
        In the unit of the error; infinite where nobody knows the error, 0 where it is 0 (two arms
        that answer alike).
    """
    if not np.isfinite(error) or error <= 0:
        return float("inf") if not np.isfinite(error) else 0.0
    upper = 4.0
    while power(upper, 1.0, freedom, level) < wanted and upper < 1e6:
        upper *= 2
    found = optimize.brentq(lambda x: power(x, 1.0, freedom, level) - wanted, 1e-6, upper)
    return float(found) * error


def planned(
    components: Components, people: int, seeds: int, contrasts: int, wanted: float = 0.8
) -> float:
    """The smallest difference that a design would find, before anything is computed.

    Args:
        components: Assumed for the *difference* of two arms with paired seeds.
        people: Test people.
        seeds: Of each arm.
        contrasts: Stated beforehand; the level is 0.05 over their number.
        wanted: Power.
    """
    return smallest_detectable(
        components.error(people, seeds),
        components.freedom(people, seeds),
        0.05 / max(1, contrasts),
        wanted,
    )
