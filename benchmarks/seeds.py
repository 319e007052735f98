"""Fine-tuned against direct retrieval over several seeds: the spread behind one run's figures.

    python -m benchmarks.seeds --seeds 3

Needs a finished ``dvc repro``. Fine-tunes from the published pretraining once a seed (the
pretraining is the same), evaluates on the target's test split and prints a row a seed, the mean and
the standard deviation. Finished seeds are kept in ``.cache/seeds``, by pretraining and parameters,
and not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict, replace
from pathlib import Path

from tasks.evaluate.run import EvaluationRun, evaluate
from tasks.finetune import FinetuneParams, finetune
from tasks.params import PARAMS_FILE, read_section
from tasks.provenance import computation_key, folder_digest
from tasks.runtime import cache_root, device, use_machine
from tasks.shards import read_manifest

PRETRAINED = Path("data/checkpoints/pretrain")
NAMES = ("R1", "R5", "R10", "mAP", "mINP")


def main() -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dataset", default="target")
    arguments = parser.parse_args()
    use_machine(PARAMS_FILE)
    section = read_section(FinetuneParams, f"finetune.datasets.{arguments.dataset}")
    run = read_section(EvaluationRun, "evaluate.runs.finetuned")
    images = Path(section.images)

    def measure(checkpoint: Path) -> dict[str, float]:
        found = evaluate(images, checkpoint, run.protocol, device(), cleaning=run.cleaning)
        metrics = found.metrics
        return {k: metrics[k] for k in NAMES} | {"ITC R1": metrics["itc"]["R1"]}

    direct = measure(PRETRAINED)
    rows = []
    for seed in range(arguments.seeds):
        seeded = replace(section, training=replace(section.training, seed=seed))
        key = computation_key(
            "seeds",
            inputs=[read_manifest(images).digest],
            params={"finetune": asdict(seeded), "evaluate": asdict(run)},
            revisions={"start": folder_digest(PRETRAINED)},
            device=device().type,
        )
        folder = cache_root() / "seeds" / key
        if not (folder / "result.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            checkpoint = finetune(PRETRAINED, seeded, folder, device())
            (folder / "result.json").write_text(json.dumps(measure(checkpoint)))
        rows.append(json.loads((folder / "result.json").read_text()))
    print("| | " + " | ".join(direct) + " |")
    print("|---|" + "---|" * len(direct))
    print("| direct transfer | " + " | ".join(f"{v:.1f}" for v in direct.values()) + " |")
    for seed, row in enumerate(rows):
        print(f"| fine-tuned, seed {seed} | " + " | ".join(f"{v:.1f}" for v in row.values()) + " |")
    cells = [
        f"{statistics.mean(r[k] for r in rows):.1f} ± {statistics.stdev(r[k] for r in rows):.1f}"
        for k in direct
    ]
    print("| fine-tuned, mean ± sd | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
