"""Does pretraining make better pictures? Re-identification from each start, over several seeds.

    python -m benchmarks.reid_starts --params profiles/reid.yaml --seeds 3

Needs what the entries of ``reid.datasets`` name in this folder: shards, and a finished pretraining
(``make repro``). Every entry is trained once a seed, the seed of its training alone: all have the
one pretraining. Prints a Markdown table, and the last entry less the first with intervals over
people and seeds (`tasks.ablate.statistics`). Finished trainings are kept in ``.cache/reid_starts``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tasks.ablate.results import interval, signed, spread
from tasks.ablate.statistics import Scores, contrast
from tasks.params import read_section, read_yaml
from tasks.provenance import computation_key, model_revision
from tasks.reid import ReidParams, evaluate_reid, train_reid
from tasks.reid.evaluating import Identification
from tasks.runtime import cache_root, device, use_machine
from tasks.shards import location, read_manifest

MEASURES = ("R1", "R5", "R10", "mAP", "mINP")


def trained(section: ReidParams) -> Path:
    """An entry's encoder, trained unless it has been."""
    key = computation_key(
        "reid starts",
        inputs=[read_manifest(location(section.images)).digest],
        params=section,
        code=["tasks.reid.run"],
        revisions={"start": model_revision(section.start)},
        device=device().type,
    )
    folder = cache_root() / "reid_starts" / key
    if not (folder / "finished" / "training.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        train_reid(section, folder, device())
    return folder / "finished"


def scores(found: list[Identification], measure: str) -> Scores:
    """A measure of every query that has a match, by person and seed."""
    tables = [each.queries.to_pandas().query("matches > 0") for each in found]
    column, hit = ("ap", None) if measure == "mAP" else ("first_rank", int(measure[1:]))
    values = [
        100 * (table[column] if hit is None else table[column] <= hit).to_numpy(dtype=float)
        for table in tables
    ]
    return Scores.of(tables[0]["person_id"].tolist(), np.stack(values), range(len(tables)))


def main() -> None:
    """Train, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("profiles/reid.yaml"))
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    use_machine(asked.params)
    entries = list(read_yaml(asked.params)["reid"]["datasets"])
    found: dict[str, list[Identification]] = {}
    began = time.process_time()
    for name, seed in tqdm([(name, seed) for name in entries for seed in range(asked.seeds)]):
        section = read_section(ReidParams, f"reid.datasets.{name}", asked.params)
        section = replace(section, training=replace(section.training, seed=seed))
        encoder = trained(section)
        each = evaluate_reid(section.images, encoder, device(), mirror=section.mirror)
        found.setdefault(name, []).append(each)
    print(f"{(time.process_time() - began) / 60:.1f} core-minutes\n")
    print("| started from | R@1 | R@5 | R@10 | mAP | mINP |\n|---|---|---|---|---|---|")
    for name, runs in found.items():
        cells = [spread([float(run.metrics[measure]) for run in runs]) for measure in MEASURES]
        print(f"| {name} | " + " | ".join(cells) + " |")
    by_chance = found[entries[0]][0].metrics["chance"]
    print("| chance | " + " | ".join(f"{value:.2f}" for value in by_chance.values()) + " | | |\n")
    for measure in ("R1", "mAP"):
        one, other = (scores(found[name], measure) for name in (entries[-1], entries[0]))
        gain = contrast(one, other, paired=True)
        print(
            f"{entries[-1]} less {entries[0]}, {measure}: {signed(gain.value)} ({interval(gain)})"
        )


if __name__ == "__main__":
    main()
