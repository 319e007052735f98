"""Records of an ablation that never ran: hits and misses drawn from known rates."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import norm

from tasks.ablate.records import MEASURES

COLOURS = ("red", "blue", "black", "green", "white", "yellow")
THINGS = ("jacket", "t-shirt", "dress", "hoodie")


@dataclass(frozen=True)
class Arm:
    seeds: tuple[int, ...] = (0, 1, 2)
    group: str = "main"
    curves: dict[str, float] = field(default_factory=dict)
    note: str = ""
    change: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Contrast:
    name: str
    better: str
    plain: str


@dataclass(frozen=True)
class Experiment:
    arms: dict[str, Arm]
    contrasts: tuple[Contrast, ...] = ()
    name: str = "evidence"
    note: str = "Arms of a test."


def small(seeds: int = 3) -> Experiment:
    numbers = tuple(range(seeds))
    arms = {
        "no-pretraining": Arm(
            numbers, curves={"scale": 0.0}, note="starts from the backbones", change={"init": 0}
        ),
        "none-regions": Arm(numbers, note="plain source", change={"mode": "none"}),
        "restyle-image": Arm(numbers, curves={"beta": 0.0}, change={"weight": 0.0}),
        "restyle-regions": Arm(numbers, curves={"beta": 0.8, "scale": 100.0}, note="the paper's"),
        "restyle-beta-0.4": Arm(numbers[:3], "beta", {"beta": 0.4}, change={"weight": 0.4}),
        "restyle-50%": Arm(numbers[:3], "scale", {"scale": 50.0}, change={"people": 1000}),
    }
    contrasts = (
        Contrast("aligned pretraining", "restyle-regions", "no-pretraining"),
        Contrast("DaD", "restyle-regions", "none-regions"),
        Contrast("regions", "restyle-regions", "restyle-image"),
    )
    return Experiment(arms, contrasts)


RATES = {
    "no-pretraining": (2.0, 40.0),
    "none-regions": (8.0, 45.0),
    "restyle-image": (12.0, 47.0),
    "restyle-regions": (14.0, 50.0),
    "restyle-beta-0.4": (13.0, 49.0),
    "restyle-50%": (10.0, 46.0),
}


@dataclass(frozen=True)
class Queries:
    uids: list[str]
    captions: list[str]
    people: list[str]


def queries(people: int = 60, each: int = 2) -> Queries:
    uids = [f"{person:08x}{n:08x}" for person in range(people) for n in range(each)]
    captions = [
        f"a person in a {COLOURS[p % 6]} {THINGS[(p + n) % 4]} and {COLOURS[(p + 3) % 6]} jeans"
        for p in range(people)
        for n in range(each)
    ]
    return Queries(uids, captions, [f"world/{p:05d}" for p in range(people) for _ in range(each)])


def write_records(
    experiment: Experiment, root: Path, asked: Queries | None = None, skip: tuple = ()
) -> list[Path]:
    """Folders of all runs but those in ``skip``, (arm, seed)."""
    asked = asked or queries()
    names, person = np.unique(asked.people, return_inverse=True)
    shared = np.random.default_rng(1).normal(size=len(names))[person]
    folders = []
    for number, (name, arm) in enumerate(experiment.arms.items()):
        for seed in arm.seeds:
            if (name, seed) in skip:
                continue
            generator = np.random.default_rng((number, seed))
            folder = root / name / f"seed-{seed}"
            folder.mkdir(parents=True)
            body = {
                "arm": name,
                "seed": seed,
                "commit": "0123456789abcdef",
                "core_seconds": {"pretrain": 150.0, "finetune": 100.0, "evaluate": 20.0},
            }
            direct, tuned = RATES[name]
            for which, rate in (("direct", direct), ("tuned", tuned), ("tuned_by_test", tuned + 1)):
                rank = _ranks(generator, shared, rate)
                table = _table(asked, rank, generator)
                pq.write_table(table, folder / f"{which}.parquet")
                body[which] = _measures(table)
            rise = 1 - np.exp(-np.arange(1, 7) / 2)
            body["curve"] = [
                {"epoch": n + 1, "val": {"R1": tuned * r + 3 + seed}, "test": {"R1": tuned * r}}
                for n, r in enumerate(rise.tolist())
            ]
            (folder / "result.json").write_text(json.dumps(body))
            folders.append(folder)
    return folders


def _ranks(generator: np.random.Generator, shared: np.ndarray, rate: float) -> np.ndarray:
    effect = shared + generator.normal(size=len(shared)) + 0.1 * generator.normal()

    limit = norm.isf(rate / 100) * np.sqrt(2)
    return 1 + np.floor(6 * np.maximum(0, limit - effect)).astype(int)


def _table(asked: Queries, rank: np.ndarray, generator: np.random.Generator) -> pa.Table:
    order = np.argsort(generator.random((len(rank), len(rank))), axis=1)[:, :10]
    tops = []
    for at, first in enumerate(rank):
        wrong = [asked.uids[n] for n in order[at] if asked.people[n] != asked.people[at]]
        tops.append([*wrong[: first - 1], asked.uids[at], *wrong[first - 1 :]][:10])
    return pa.table(
        {
            "uid": asked.uids,
            "caption": asked.captions,
            "person_id": asked.people,
            "rank_of_first": pa.array(rank, pa.int32()),
            "ap": pa.array(1 / rank, pa.float32()),
            "inp": pa.array(0.8 / rank, pa.float32()),
            "top": tops,
        }
    )


def _measures(table: pa.Table) -> dict[str, float]:
    rank = table["rank_of_first"].to_numpy()
    found = {f"R{k}": 100 * float((rank <= k).mean()) for k in (1, 5, 10)}
    found |= {"mAP": 100 * float(table["ap"].to_numpy().mean())}
    found |= {"mINP": 100 * float(table["inp"].to_numpy().mean())}
    return {name: round(found[name], 4) for name in MEASURES}
