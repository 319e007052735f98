"""How often an interval that says 95 % holds the truth, by what it resamples.

    python -m benchmarks.interval_coverage --repeats 1000 --out docs/results

Draws tables of hits and misses whose true rank-1 is known: a query is answered where a sum of
normal effects is above zero (of the person, the query, the seed, the person in this arm, the person
with this seed, and of nothing else), so the truth is a normal integral. Then asks of each interval
whether it holds the true figure, or the true difference of two arms; and of the smallest detectable
difference, whether a difference of that size is found in 80 % of the tables, as it says.

Writes interval-coverage.md. Minutes on one core.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

from tasks.ablate.statistics import Components, Scores, contrast, planned

Table = NDArray[np.floating]
Interval = tuple[float, float]
RESAMPLES = 1000


@dataclass(frozen=True)
class World:
    """Sizes of a test, and standard deviations of the effects beside a noise of 1."""

    people: int = 1000
    queries: int = 2
    seeds: int = 10
    person: float = 0.7
    query: float = 0.5
    own: float = 0.25
    """Of a person in one arm."""
    seed: float = 0.08
    """Of a seed in one arm."""
    fitting: float = 0.4
    """Of a person with a seed in one arm."""

    @property
    def total(self) -> float:
        """Standard deviation of everything."""
        parts = (self.person, self.query, self.own, self.seed, self.fitting, 1.0)
        return float(np.sqrt(sum(part**2 for part in parts)))

    def truth(self, lift: float) -> float:
        """The rate of an arm in percent."""
        return float(100 * stats.norm.cdf(lift / self.total))

    def lift(self, truth: float) -> float:
        """The constant that gives an arm that rate."""
        return float(stats.norm.ppf(truth / 100) * self.total)

    def draw(self, generator: np.random.Generator, lifts: Sequence[float]) -> Drawn:
        """A table for each arm, whose constant is given."""
        shape = (self.seeds, self.people, self.queries)
        shared = self.person * generator.normal(size=(1, self.people, 1))
        shared = shared + self.query * generator.normal(size=(1, self.people, self.queries))
        tables: list[Table] = []
        for lift in lifts:
            effect = (
                lift
                + shared
                + self.own * generator.normal(size=(1, self.people, 1))
                + self.seed * generator.normal(size=(self.seeds, 1, 1))
                + self.fitting * generator.normal(size=(self.seeds, self.people, 1))
                + generator.normal(size=shape)
            )
            tables.append(100.0 * (effect > 0).reshape(self.seeds, -1))
        names = np.repeat([f"{n:05d}" for n in range(self.people)], self.queries)
        return Drawn(names.tolist(), tables)


@dataclass(frozen=True)
class Drawn:
    """Hits and misses of one or two arms."""

    names: list[str]
    """Whom each query looks for; a person's queries stand together."""
    tables: list[Table]
    """Of each arm (seeds, queries), 0 or 100."""

    @property
    def difference(self) -> Table:
        """The first arm less the second, or the only one."""
        return self.tables[0] - self.tables[1] if len(self.tables) > 1 else self.tables[0]

    @property
    def people(self) -> int:
        """How many."""
        return len(set(self.names))

    @property
    def scores(self) -> list[Scores]:
        """As the statistics take them."""
        return [Scores.of(self.names, table, range(len(table))) for table in self.tables]


def over_queries(drawn: Drawn) -> Interval:
    """Normal interval that takes every query for itself, seeds averaged."""
    values = drawn.difference.mean(0)
    return _normal(values.mean(), values.std(ddof=1) / np.sqrt(values.size))


def over_people(drawn: Drawn) -> Interval:
    """Normal interval over people, seeds averaged."""
    values = drawn.difference.mean(0).reshape(drawn.people, -1).mean(1)
    return _normal(values.mean(), values.std(ddof=1) / np.sqrt(values.size))


def over_seeds(drawn: Drawn) -> Interval:
    """Student's interval over the seeds' figures."""
    values = drawn.difference.mean(1)
    reach = stats.t.isf(0.025, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return float(values.mean() - reach), float(values.mean() + reach)


def crossed(drawn: Drawn) -> Interval:
    """People and seeds drawn anew, plain percentiles."""
    return _crossed(drawn, stretched=False)


def stretched(drawn: Drawn) -> Interval:
    """The same, as `tasks.ablate.statistics` stretches it."""
    return _crossed(drawn, stretched=True)


def _crossed(drawn: Drawn, *, stretched: bool) -> Interval:
    found = contrast(*drawn.scores, resamples=RESAMPLES, stretched=stretched)
    return found.low, found.high


def _normal(mean: float, error: float) -> Interval:
    reach = stats.norm.isf(0.025) * error
    return float(mean - reach), float(mean + reach)


METHODS: dict[str, Callable[[Drawn], Interval]] = {
    "queries": over_queries,
    "people": over_people,
    "seeds": over_seeds,
    "people and seeds, percentiles": crossed,
    "people and seeds, stretched": stretched,
}

# What is looked at: a name, the world, the true rates of its arms.
ONE_MODEL = World(people=50, queries=8, seeds=1, seed=0.0, fitting=0.0, own=0.0, query=0.3)
CASES: tuple[tuple[str, World, tuple[float, ...]], ...] = (
    ("one model, 50 people of 8 queries", ONE_MODEL, (50.0,)),
    ("one model, 1,000 people of 2", replace(ONE_MODEL, people=1000, queries=2), (50.0,)),
    ("two arms, 10 seeds, 1,000 people of 2", World(), (55.0, 50.0)),
    ("the same, seeds that differ twice as much", World(seed=0.16), (55.0, 50.0)),
    ("the same, seeds that do not differ", World(seed=0.0), (55.0, 50.0)),
    ("two arms, 3 seeds, 1,000 people of 2", World(seeds=3), (55.0, 50.0)),
    ("two arms, 10 seeds, 50 people of 8", World(people=50, queries=8), (55.0, 50.0)),
    ("two arms, 10 seeds, nearly all right", World(), (97.0, 96.0)),
)


def coverage(
    world: World, rates: tuple[float, ...], repeats: int
) -> dict[str, tuple[float, float]]:
    """Percent of tables whose interval holds the truth, and the mean width, by method."""
    generator = np.random.default_rng(0)
    lifts = tuple(world.lift(rate) for rate in rates)
    truth = rates[0] - rates[1] if len(rates) > 1 else rates[0]
    names_of = {
        name: method for name, method in METHODS.items() if world.seeds > 1 or name != "seeds"
    }
    held: dict[str, list[tuple[bool, float]]] = {name: [] for name in names_of}
    for _ in tqdm(range(repeats), leave=False):
        drawn = world.draw(generator, lifts)
        for name, method in names_of.items():
            low, high = method(drawn)
            held[name].append((low <= truth <= high, high - low))
    return {
        name: (100 * float(np.mean([h for h, _ in rows])), float(np.mean([w for _, w in rows])))
        for name, rows in held.items()
    }


def components(world: World, rates: tuple[float, float], tables: int = 40) -> Components:
    """What the difference of two arms consists of in a world, averaged over tables."""
    generator = np.random.default_rng(1)
    lifts = tuple(world.lift(rate) for rate in rates)
    found = [
        contrast(*world.draw(generator, lifts).scores, resamples=2).components
        for _ in range(tables)
    ]
    squares = np.mean([[c.seed**2, c.person**2, c.rest**2] for c in found], axis=0)
    return Components(*(float(root) for root in np.sqrt(squares)))


def rejections(world: World, difference: float, contrasts: int, repeats: int) -> float:
    """Percent of tables in which such a difference is found at the first of Holm's levels."""
    generator = np.random.default_rng(2)
    lifts = (world.lift(50 + difference), world.lift(50.0))
    found = 0
    for _ in tqdm(range(repeats), leave=False):
        scores = world.draw(generator, lifts).scores
        found += contrast(*scores, resamples=RESAMPLES).p < 0.05 / contrasts
    return 100 * found / repeats


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    began, repeats = time.process_time(), arguments.repeats
    margin = 196 * np.sqrt(0.95 * 0.05 / repeats)
    lines = [
        "| what varies in the interval | " + " | ".join(METHODS) + " |",
        "|---|" + "---|" * len(METHODS),
    ]
    for title, world, rates in CASES:
        found = coverage(world, rates, repeats)
        cells = [f"{found[n][0]:.1f} ({found[n][1]:.1f})" if n in found else "" for n in METHODS]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    power = [
        "| design | smallest difference, three contrasts | found | found where there is none |"
    ]
    power += ["|---|---|---|---|"]
    for seeds in (3, 10):
        world = World(seeds=seeds)
        smallest = planned(components(World(), (52.0, 50.0)), world.people, seeds, 3)
        found_in = [rejections(world, size, 3, repeats) for size in (smallest, 0.0)]
        power.append(
            f"| {seeds} seeds, 1,000 people of 2 | {smallest:.2f} points | {found_in[0]:.1f} % | "
            f"{found_in[1]:.1f} % |"
        )
        print(power[-1], flush=True)
    if arguments.out:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        said = [
            "# What an interval covers",
            "",
            f"`python -m benchmarks.interval_coverage --repeats {repeats}` at {commit}, "
            f"{(time.process_time() - began) / 60:.0f} core-minutes.",
            "",
            f"Percent of {repeats:,} drawn tables whose 95 % interval holds the truth (± "
            f"{margin:.1f} by chance), and in brackets the interval's mean width in points.",
            "",
            *lines,
            "",
            "Power at level 0.05 / 3, the first of Holm's three: wanted are 80 % where there is a "
            f"difference of that size and at most {5 / 3:.1f} % where there is none.",
            "",
            *power,
        ]
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "interval-coverage.md").write_text("\n".join(said) + "\n", "utf-8")


if __name__ == "__main__":
    main()
