"""What it costs to find that nothing has changed, and what the start of every stage costs.

    python -m benchmarks.noop [--images 50000] [--rounds 5]

Works on a copy of the project in a temporary folder, under the ``micro`` profile, and prints three
Markdown tables, which docs/monitoring.md holds:

1. a rebuild below a running Prefect server, stage by stage: start (interpreter and imports, then
   the server's answer and the run's registration), work, and the end of the process;
2. ``dvc repro`` with nothing to do, as the project is and with a raw dataset of many small files,
   in turns;
3. which changes of such a dataset DVC sees, before and after ``pedalign fingerprint``.

Wall time holds the machine's other load, which is printed too; CPU time hardly does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from tests.projects import STAGES, Project, serve, stages_run

NAME = "crowd"
RAW = f"data/raw/{NAME}"
TINY_REBUILD, TINY_STAGES = 552.0, 13
"""Seconds and stages of a rebuild of the default profile, of the README."""

# Python runs this at the start of every process of the copy: a sample of time and CPU time, often.
CLOCK = """
import atexit, json, os, sys, threading, time
if "DVC_STAGE" in os.environ and any(word.startswith("flows.") for word in sys.orig_argv):
    samples = [(time.time(), time.process_time())]
    def sample():
        while True:
            time.sleep(0.05)
            samples.append((time.time(), time.process_time()))
    def keep():
        samples.append((time.time(), time.process_time()))
        with open(CLOCK_FILE, "a") as sink:
            sink.write(json.dumps({"stage": os.environ["DVC_STAGE"], "samples": samples}) + "\\n")
    atexit.register(keep)
    threading.Thread(target=sample, daemon=True).start()
"""


# ------------------------------------------------------------------ a raw dataset


def write_dataset(root: Path, images: int) -> None:
    """Write a dataset in the official CUHK-PEDES layout: small pictures, all of them different."""
    folders = [root / "imgs" / f"cam_{letter}" for letter in "abcde"]
    for folder in folders:
        folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    entries = []
    for number in range(images):
        person = number // 4
        path = folders[number % 5] / f"{number:06}.jpg"
        pixels = rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, format="JPEG")
        share = person % 10
        entries.append(
            {
                "split": "test" if share == 0 else "val" if share == 1 else "train",
                "captions": ["a person in grey", f"person {person} walks"],
                "file_path": path.relative_to(root / "imgs").as_posix(),
                "id": person,
            }
        )
    (root / "reid_raw.json").write_text(json.dumps(entries))


def declare(project: Project) -> None:
    """Name the dataset in the copy's params.yaml."""
    yaml = YAML()
    path = project.folder / "params.yaml"
    loaded = yaml.load(path.read_text(encoding="utf-8"))
    loaded["ingest"]["datasets"][NAME] = {
        "format": "cuhk-pedes",
        "root": RAW,
        "annotation": f"{RAW}/reid_raw.json",
        "fingerprint": f"{RAW}/fingerprint.json",
        "shard_rows": 8192,
        "min_side": 16,
        "max_side": 1024,
        "images": "imgs",
    }
    with path.open("w", encoding="utf-8") as sink:
        yaml.dump(loaded, sink)


# ------------------------------------------------------------------ nothing to do


def cost_of(project: Project, *command: str) -> tuple[float, float, str]:
    """Wall time and CPU time of a command in the copy, and what it says; see `Project.call`."""
    start, before = time.perf_counter(), os.times()
    said = project.call(*command)
    wall, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system
    return wall, used - before.children_user - before.children_system, said


def without_work(projects: list[Project], rounds: int) -> list[list[tuple[float, float]]]:
    """Wall and CPU seconds of ``dvc repro`` in each of some projects, taken in turns."""
    found: list[list[tuple[float, float]]] = [[] for _ in projects]
    for _ in range(rounds + 1):  # the first warms the page cache
        for times, project in zip(found, projects, strict=True):
            wall, cpu, said = cost_of(project, "dvc", "repro")
            if stages_run(said):
                raise SystemExit(f"a stage ran in {project.folder}:\n{said}")
            times.append((wall, cpu))
    return [times[1:] for times in found]


def spread(times: list[tuple[float, float]]) -> tuple[str, str]:
    """Median and range of wall seconds, median of CPU seconds."""
    wall, cpu = zip(*times, strict=True)
    return (
        f"{statistics.median(wall):.2f} ({min(wall):.2f} to {max(wall):.2f})",
        f"{statistics.median(cpu):.2f}",
    )


# ------------------------------------------------------------------ what is noticed


def notice(project: Project) -> Iterable[tuple[str, str, str]]:
    """Change the dataset's files one after another.

    Yields:
        The change; whether DVC sees it at once; whether after ``pedalign fingerprint``.
    """
    root = project.folder / RAW
    victim = sorted((root / "imgs" / "cam_a").iterdir())[7]
    new = victim.with_name("new.jpg")
    annotation = root / "reid_raw.json"
    content = victim.read_bytes()

    def seen() -> str:
        said = project.call("dvc", "status", f"ingest@{NAME}")
        return "yes" if "modified" in said else "no"

    def case(change: str) -> tuple[str, str, str]:
        before = seen()
        project.call("flows.cli", "fingerprint", RAW)
        row = (change, before, seen())
        project.call("dvc", "commit", "-f", f"ingest@{NAME}")  # the next case starts from here
        return row

    victim.write_bytes(content[:-2] + b"zz")
    yield case("other bytes in an image, same size")
    victim.write_bytes(content + b"more")
    yield case("another size of an image")
    victim.unlink()
    yield case("an image removed")
    new.write_bytes(content)
    yield case("an image added")
    annotation.write_text(annotation.read_text() + "\n")
    yield case("the annotation file changed")


# ------------------------------------------------------------------ a rebuild


@dataclass(frozen=True)
class Span:
    """A stage's process; times in seconds since 1970."""

    stage: str
    start: float
    imported: float
    works: float
    """Its flow began: the first line of the stage's own code."""
    done: float
    end: float
    cpu: float
    """Seconds of CPU until the work began: what waits for other processes is not in it."""

    @property
    def start_up(self) -> float:
        """Seconds until the work begins."""
        return self.works - self.start

    @property
    def seconds(self) -> float:
        """Seconds of the process."""
        return self.end - self.start


def rebuild(project: Project, port: int) -> tuple[list[Span], float]:
    """Rebuild a fresh copy below a running Prefect server.

    Returns:
        The stages' times, and the seconds of the whole ``dvc repro``.
    """
    clock = project.folder / "clock.jsonl"
    (project.folder / "sitecustomize.py").write_text(f"CLOCK_FILE = {str(clock)!r}\n{CLOCK}")
    seconds, _, said = cost_of(project, "dvc", "repro")
    if (ran := len(stages_run(said))) != STAGES:
        raise SystemExit(f"{ran} stages ran:\n{said}")
    (project.folder / "sitecustomize.py").unlink()
    flows, spans = _flow_runs(port), {}
    for line in clock.read_text().splitlines():
        record = json.loads(line)
        stage, samples = record["stage"], np.array(record["samples"])
        if stage in spans and len(samples) < 20:
            continue  # a helper process of the stage
        timing = json.loads((project.folder / f".cache/timings/{stage}.json").read_bytes())
        works, done = flows[stage]
        cpu = float(np.interp(works, samples[:, 0], samples[:, 1]))
        start, end = float(samples[0, 0]), float(samples[-1, 0])
        spans[stage] = Span(stage, start, timing["started"], works, done, end, cpu)
    return sorted(spans.values(), key=lambda span: span.start), seconds


def _flow_runs(port: int) -> dict[str, tuple[float, float]]:
    """When each run's flow began and ended."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/flow_runs/filter",
        data=b'{"limit": 100}',
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        runs = json.load(answer)
    return {run["name"]: (_moment(run["start_time"]), _moment(run["end_time"])) for run in runs}


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# ------------------------------------------------------------------ the tables


def print_rows(head: str, rows: Iterable[Iterable[object]]) -> None:
    """Print a Markdown table."""
    names = head.split("|")
    print(f"\n| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)


def print_load() -> None:
    """Say what else the machine does."""
    print(f"\nload average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)


def print_rebuild(spans: list[Span], seconds: float) -> None:
    """Print where a rebuild's time goes."""
    rows = [
        (
            f"`{span.stage}`",
            f"{span.imported - span.start:.1f}",
            f"{span.works - span.imported:.1f}",
            f"{span.cpu:.1f}",
            f"{span.done - span.works:.1f}",
            f"{span.end - span.done:.1f}",
            f"{100 * span.start_up / span.seconds:.0f} %",
        )
        for span in spans
    ]
    print_rows("stage|imports|server, run|CPU of both|work|end|start's share", rows)
    start_up, cpu = sum(span.start_up for span in spans), sum(span.cpu for span in spans)
    between = seconds - sum(span.seconds for span in spans)
    share = 100 * cpu / len(spans) * TINY_STAGES / TINY_REBUILD
    print(f"\n{seconds:.0f} s in all, {between:.0f} s of them DVC between the stages;")
    print(f"stages' start {start_up:.1f} s ({100 * start_up / seconds:.0f} %), CPU {cpu:.1f} s,")
    print(f"{cpu / len(spans):.1f} s a stage: {share:.0f} % of the default's {TINY_REBUILD} s")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=50_000, help="0: the rebuild only")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serve(Path(name)) as port:
        plain = Project(Path(name) / "plain" / "project")
        plain.folder.mkdir(parents=True)
        plain.create(port)
        print_load()
        print_rebuild(*rebuild(plain, port))
        if options.images:
            crowd = plain.copy(Path(name) / "crowd" / "project")
            write_dataset(crowd.folder / RAW, options.images)
            compare(plain, crowd, options.rounds)


def compare(plain: Project, crowd: Project, rounds: int) -> None:
    """Print what a raw dataset adds to a rerun with nothing to do, and what is noticed."""
    declare(crowd)
    wall, cpu, _ = cost_of(crowd, "flows.cli", "fingerprint", RAW)
    crowd.repro()
    print_load()
    without, with_crowd = without_work([plain, crowd], rounds)
    print_rows(
        "nothing to do|wall seconds, median (range)|CPU seconds",
        [
            ("`dvc repro`", *spread(without)),
            ("`dvc repro`, the raw dataset present", *spread(with_crowd)),
            ("`pedalign fingerprint` of that dataset, once", f"{wall:.1f}", f"{cpu:.1f}"),
        ],
    )
    print_rows("change|DVC sees it|after `pedalign fingerprint`", notice(crowd))


if __name__ == "__main__":
    main()
