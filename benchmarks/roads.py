"""The two roads to a pretrained model, their combination and none, over several seeds.

    python -m benchmarks.roads --real ../unipt --seeds 3 --jobs 2 --out docs/results

Needs two finished rebuilds: of the profile ``tiny`` here (DaD and MRA), and of ``unipt`` in the
folder that ``--real`` names (pseudo texts of unlabelled pictures). Each arm pretrains and
fine-tunes once a seed, the seed of both, by its rebuild's own parameters, and is evaluated on the
target's test split. Finished arms are kept in ``.cache/roads`` by what they were made of.

The interval of a contrast is Student's over the seeds' differences: with three seeds it is wide,
and it says nothing about other test people.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from scipy.stats import ttest_rel

from tasks.evaluate.run import EvaluationRun, evaluate
from tasks.finetune import FinetuneParams, finetune
from tasks.inputs import Inputs
from tasks.params import PARAMS_FILE, read_section
from tasks.pretrain import PretrainParams, pretrain
from tasks.provenance import computation_key, folder_digest
from tasks.runtime import cache_root, device, use_machine
from tasks.shards import read_manifest

NAMES = ("R1", "R5", "R10", "mAP", "mINP")
ARMS = {
    "two encoders, no pretraining": "real none",
    "two encoders, no pretraining, fine-tuned longer": "real none long",
    "two encoders, UniPT": "real",
    "MRA, no pretraining": "drawn none",
    "MRA on what DaD restyled": "drawn",
    "UniPT, then MRA on what DaD restyled": "both",
}
LONGER = 3
"""Times the epochs of a fine-tuning: about what the others spend on pretraining."""
CONTRASTS = (
    ("two encoders, UniPT", "two encoders, no pretraining"),
    ("two encoders, UniPT", "two encoders, no pretraining, fine-tuned longer"),
    ("MRA on what DaD restyled", "MRA, no pretraining"),
    ("UniPT, then MRA on what DaD restyled", "MRA on what DaD restyled"),
)


@dataclass(frozen=True)
class Road:
    """A finished rebuild and its parameters."""

    root: Path

    def section(self, cls: type[Any], key: str) -> Any:
        """Read a section of its params.yaml."""
        return read_section(cls, key, self.root / PARAMS_FILE)

    def path(self, named: str) -> Path:
        """A path as its parameters name it."""
        return self.root / named

    def pretrained(self, seed: int, init: str | None = None) -> Path:
        """Its pretraining with another seed or start, trained unless it has been."""
        inputs = self.section(Inputs, "inputs")
        section = self.section(PretrainParams, "pretrain")
        section = replace(
            section,
            init=init or section.init,
            vision=str(self.path(section.vision)),
            text=str(self.path(section.text)),
            training=replace(section.training, seed=seed),
        )
        images, told = self.path(inputs.pretrain_images), self.path(inputs.pretrain_annotations)
        # Without training nothing but the starting weights matters.
        read = () if init == "none" else (images, told)
        folders = [read_manifest(folder).digest for folder in read]
        starts = [folder_digest(Path(p)) for p in (section.vision, section.text)]
        if init not in {None, "none"}:
            starts.append(folder_digest(Path(section.init)))
        named = replace(section, init=init or "start", vision="", text="")
        key = _key("pretrain", folders, asdict(replace(named, init="")), starts, init == "none")
        folder = cache_root() / "roads" / key
        if not (folder / "finished").exists():
            folder.mkdir(parents=True, exist_ok=True)
            pretrain(images, told, section, folder, device())
        return folder / "finished"

    def measured(self, start: Path, seed: int, longer: int = 1) -> dict[str, dict[str, float]]:
        """Direct transfer and fine-tuned, by its fine-tuning and its protocol."""
        section = self.section(FinetuneParams, "finetune.datasets.target")
        run = self.section(EvaluationRun, "evaluate.runs.finetuned")
        section = replace(
            section,
            images=str(self.path(section.images)),
            training=replace(section.training, seed=seed, epochs=longer * section.training.epochs),
            keep_test_choice=False,
        )
        images = Path(section.images)
        params = {"finetune": asdict(replace(section, images="")), "evaluate": asdict(run)}
        key = _key("finetune", [read_manifest(images).digest], params, [folder_digest(start)])
        folder = cache_root() / "roads" / key
        if not (folder / "result.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            tuned = finetune(start, section, folder, device())
            found = {
                name: evaluate(images, checkpoint, run.protocol, device(), cleaning=run.cleaning)
                for name, checkpoint in (("direct", start), ("tuned", tuned))
            }
            result = {
                name: {metric: each.metrics[metric] for metric in NAMES}
                for name, each in found.items()
            }
            (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        told: dict[str, dict[str, float]] = json.loads((folder / "result.json").read_text())
        return told


def _key(
    stage: str, inputs: list[str], params: dict[str, Any], starts: list[str], *flags: bool
) -> str:
    return computation_key(
        f"roads {stage}",
        inputs=inputs,
        params=json.loads(json.dumps({**params, "flags": flags}, default=str)),
        revisions={str(n): digest for n, digest in enumerate(starts)},
        device=device().type,
    )


def one(arm: str, seed: int, real_root: str) -> tuple[str, int, dict[str, dict[str, float]], float]:
    """Train and evaluate an arm with a seed, in a process of its own."""
    use_machine(PARAMS_FILE)
    began = time.monotonic()
    real, drawn = Road(Path(real_root)), Road(Path())
    match ARMS[arm].split():
        case ["real", "none"]:
            found = real.measured(real.pretrained(seed, "none"), seed)
        case ["real", "none", "long"]:
            found = real.measured(real.pretrained(seed, "none"), seed, LONGER)
        case ["real"]:
            found = real.measured(real.pretrained(seed), seed)
        case ["drawn", "none"]:
            found = drawn.measured(drawn.pretrained(seed, "none"), seed)
        case ["drawn"]:
            found = drawn.measured(drawn.pretrained(seed), seed)
        case _:
            start = drawn.pretrained(seed, str(real.pretrained(seed).resolve()))
            found = drawn.measured(start, seed)
    return arm, seed, found, time.monotonic() - began


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def table(found: dict[str, list[dict[str, dict[str, float]]]]) -> list[str]:
    """A row an arm, direct transfer and fine-tuned."""
    lines = [
        "| arm | direct R1 | direct mAP | " + " | ".join(NAMES) + " |",
        "|---|" + "---|" * (2 + len(NAMES)),
    ]
    for arm, runs in found.items():
        cells = [spread([run["direct"][name] for run in runs]) for name in ("R1", "mAP")]
        cells += [spread([run["tuned"][name] for run in runs]) for name in NAMES]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return lines


def contrasts(found: dict[str, list[dict[str, dict[str, float]]]]) -> list[str]:
    """Differences of fine-tuned R1, seed by seed, with their 95 % interval."""
    lines = ["| fine-tuned R1 | difference | 95 % | seeds |", "|---|---|---|---|"]
    for better, plain in (pair for pair in CONTRASTS if found.keys() >= set(pair)):
        pair = [[run["tuned"]["R1"] for run in found[arm]] for arm in (better, plain)]
        gains = [a - b for a, b in zip(*pair, strict=True)]
        limits = "one seed"
        if len(gains) > 1:
            interval = ttest_rel(*pair).confidence_interval()
            limits = f"{interval.low:+.1f} to {interval.high:+.1f}"
        each = ", ".join(f"{gain:+.1f}" for gain in gains)
        lines.append(
            f"| {better}, against {plain} | {statistics.mean(gains):+.1f} | {limits} | {each} |"
        )
    return lines


def draw(found: dict[str, list[dict[str, dict[str, float]]]], path: Path) -> None:
    """A point a seed, direct transfer beside fine-tuned."""
    figure, axes = plt.subplots(figsize=(8.5, 3.4), layout="constrained")
    for row, (arm, runs) in enumerate(reversed(found.items())):
        for name, colour in (("direct", "#8fa3b8"), ("tuned", "#c2512d")):
            values = [run[name]["R1"] for run in runs]
            label = {"direct": "direct transfer", "tuned": "fine-tuned"}[name] if not row else None
            axes.plot(values, [row] * len(values), "o", color=colour, alpha=0.75, label=label)
            axes.plot([statistics.mean(values)] * 2, [row - 0.25, row + 0.25], color=colour, lw=2)
        axes.text(-0.01, row, arm, ha="right", va="center", transform=axes.get_yaxis_transform())
    axes.set(yticks=[], xlabel="R1 on the drawn target's test people, percent; a point a seed")
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run what is missing, print the tables and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--real", required=True, help="a finished rebuild of the profile unipt")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    runs: dict[str, dict[int, dict[str, dict[str, float]]]] = {arm: {} for arm in arguments.arms}
    seconds = 0.0
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        for last in (False, True):  # the combination starts from UniPT's checkpoint
            wave = [arm for arm in arguments.arms if (ARMS[arm] == "both") == last]
            jobs = [
                pool.submit(one, arm, seed, arguments.real)
                for seed in range(arguments.seeds)
                for arm in wave
            ]
            for job in jobs:
                arm, seed, result, took = job.result()
                runs[arm][seed] = result
                seconds += took
                tuned = result["tuned"]["R1"]
                direct = result["direct"]["R1"]
                print(f"{arm}, seed {seed}: direct {direct:.1f}, tuned {tuned:.1f}", flush=True)
    found = {arm: [by_seed[seed] for seed in sorted(by_seed)] for arm, by_seed in runs.items()}
    lines = [
        *table(found),
        "",
        *contrasts(found),
        "",
        f"Computed in {seconds / 60:.0f} core-minutes.",
    ]
    print("\n".join(lines))
    if arguments.out:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        note = f"`python -m benchmarks.roads --seeds {arguments.seeds}` at {commit}"
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "roads-table.md").write_text("\n".join([*lines, "", note]) + "\n")
        draw(found, arguments.out / "roads.png")


if __name__ == "__main__":
    main()
