"""Profile ``sd15`` as a user runs it: datasets and weights on disk at its paths, then `dvc repro`.

The datasets are miniatures in their official layouts (`tests.official`), the models tiny ones in
the layouts of the hub (`tests.weights`), the project is a real copy and so is DVC. No process of
the rebuild reaches a network: each has its sockets guarded. What the test changes in the profile is
`OVERRIDES` and nothing else.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.params import read_yaml
from tasks.shards import iter_tables, read_manifest
from tests.official import CUHK, ICFG, RSTP, write_benchmarks
from tests.projects import ROOT, Project, stages_run
from tests.weights import CAPTION, PHRASES, write_weights

pytestmark = [pytest.mark.dvc, pytest.mark.slow, pytest.mark.timeout(1500)]

OVERRIDES: tuple[tuple[str, object, str], ...] = (
    ("machine.threads", 1, "two cores, which other tests use too"),
    ("diffusion.size", [128, 64], "at full size the sheets of adapt's page alone take a core a "
     "minute and a half"),
    ("adapt.epochs", 1, "one pass shows that it trains"),
    ("restyle.variants", 2, "20 prompts a caption are ten times the pictures"),
    ("restyle.steps", 2, "what random weights denoise does not get better with steps"),
    ("pretrain.training.epochs", 1, "one pass shows that it trains"),
    ("pretrain.training.batch", 16, "62 pairs fill no batch of 160; 4 chunks divide 16"),
    ("pretrain.training.warmup", 1, "2,600 steps of warm-up, of 3"),
    ("finetune.datasets.*.training.epochs", 2, "two, so that there is an epoch to choose"),
    ("finetune.datasets.*.training.batch", 8, "20 pairs fill no batch of 160; 4 chunks divide 8"),
    ("finetune.datasets.icfg-pedes.holdout", 0.3, "0.05 of ten people is nobody"),
    ("gap.judge.least", 2, "31 captions name no value 50 times"),
    ("gap.judge.epochs", 2, "two passes show that it trains"),
    ("screen.file_bytes_max", 0, "a random decoder paints noise"),
)  # fmt: skip
"""Key, value, reason; ``*`` for every dataset."""

NETWORK_GUARD = """\
import socket
_real = socket.socket.connect
def connect(self, address):
    host = address[0] if isinstance(address, tuple) else ""
    if host and host not in ("127.0.0.1", "::1", "localhost"):
        with open(LOG, "a") as log:
            log.write(f"connect {address}\\n")
        raise OSError(f"this test has no network: {address}")
    return _real(self, address)
_look_up = socket.getaddrinfo
def getaddrinfo(host, *rest, **more):
    name = host.decode() if isinstance(host, bytes) else host
    if name not in (None, "", "127.0.0.1", "::1", "localhost", "0.0.0.0"):
        with open(LOG, "a") as log:
            log.write(f"look up {host}\\n")
        raise socket.gaierror(f"this test has no network: {host}")
    return _look_up(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
"""
"""Runs at the start of every Python process of the rebuild; Prefect's server is on this machine."""


@pytest.fixture(scope="module")
def project(prefect_server: int, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with the profile, the datasets and all weights but the captioner's."""
    made = Project(tmp_path_factory.mktemp("benchmarks") / "project")
    made.create(prefect_server, "sd15")
    with (made.folder / "runtime.yaml").open("a") as sink:
        sink.write("device: cpu\n")
    guard = f"LOG = {str(made.folder / 'network.log')!r}\n{NETWORK_GUARD}"
    (made.folder / "sitecustomize.py").write_text(guard)
    write_benchmarks(made.folder / "data" / "raw")
    write_weights(made.folder / "data" / "weights")
    datasets = list(params(made)["finetune"]["datasets"])
    for key, value, _ in OVERRIDES:
        for dataset in datasets if "*" in key else [""]:
            made.set(key.replace("*", dataset), value)
    return made


@pytest.fixture(scope="module")
def rebuild(project: Project) -> list[str]:
    """What ran in one whole `dvc repro`."""
    return project.repro()


def params(project: Project) -> dict[str, Any]:
    return read_yaml(project.folder / "params.yaml")


def rows(project: Project, folder: str, columns: list[str]) -> list[dict[str, Any]]:
    tables = list(iter_tables(project.folder / "data" / folder, columns))
    return pa.concat_tables(tables).to_pylist()


def read(project: Project, path: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((project.folder / "data" / path).read_bytes())
    return loaded


def test_missing_weights_stop_the_rebuild_before_its_first_stage(project: Project) -> None:
    captioner = project.folder / "data/weights/blip2-flan-t5-xl"
    captioner.rename(captioner.with_name("away"))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "repro"],
            cwd=project.folder, env=project.environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        captioner.with_name("away").rename(captioner)
    assert done.returncode != 0
    assert len(stages_run(done.stdout)) == 1
    assert "data/weights/blip2-flan-t5-xl (inputs.captioner: no such folder" in done.stderr
    assert "docs/weights.md" in done.stderr
    assert not list((project.folder / "data").glob("ingested/*/manifest.json"))


def test_the_profile_is_changed_in_nothing_else(project: Project) -> None:
    changed = params(project)
    original = read_yaml(ROOT / "profiles" / "sd15.yaml")
    for key, _, _ in OVERRIDES:
        for dataset in original["finetune"]["datasets"] if "*" in key else [""]:
            *parents, last = key.replace("*", dataset).split(".")
            left, right = changed, original
            for part in parents:
                left, right = left[part], right[part]
            assert left.pop(last) != right.pop(last), key
    assert changed == original


def test_every_stage_runs_once_and_nobody_asks_the_network(
    project: Project, rebuild: list[str]
) -> None:
    sections = params(project)
    assert len(rebuild) == len(set(rebuild))
    assert set(rebuild) == {
        "adapt", "restyle", "screen", "caption", "annotate", "pretrain", "gap", "report",
        *(f"ingest@{name}" for name in sections["ingest"]["datasets"]),
        *(f"finetune@{name}" for name in sections["finetune"]["datasets"]),
        *(f"evaluate@{name}" for name in sections["evaluate"]["runs"]),
    }  # fmt: skip
    asked = project.folder / "network.log"
    assert not asked.exists(), asked.read_text()
    assert project.repro() == []


@pytest.mark.usefixtures("rebuild")
def test_each_benchmark_is_read_whole(project: Project) -> None:
    for name, people, images, captions in (
        # A split's last person has one picture; the first picture has three captions.
        ("cuhk-pedes", CUHK, {s: 2 * n - 1 for s, n in CUHK.items()}, {"train": 31}),
        ("icfg-pedes", ICFG, {s: 2 * n for s, n in ICFG.items()}, {"train": 20, "test": 8}),
        ("rstpreid", RSTP, {s: 5 * n for s, n in RSTP.items()}, {"train": 40}),
    ):
        found = rows(project, f"ingested/{name}", ["split", "person_id", "captions", "status"])
        assert {row["status"] for row in found} == {"ok"}
        for split, count in people.items():
            part = [row for row in found if row["split"] == split]
            assert len(part) == images[split]
            assert len({row["person_id"] for row in part}) == count
            said = sum(len(row["captions"]) for row in part)
            assert said == captions.get(split, 2 * images[split])
        assert {row["split"] for row in found} == set(people)


@pytest.mark.usefixtures("rebuild")
def test_pictures_come_from_the_train_captions_alone(project: Project) -> None:
    made = rows(project, "restyled", ["split", "status", "prompt", "eda_op", "width", "height"])
    good = [row for row in made if row["status"] == "ok"]
    assert len(good) == 31 * 2
    assert {row["split"] for row in good} == {"train"}
    assert {(row["height"], row["width"]) for row in good} == {(128, 64)}
    assert [row["eda_op"] for row in good].count("original") == 31
    train = {
        text
        for row in rows(project, "ingested/cuhk-pedes", ["split", "captions"])
        if row["split"] == "train"
        for text in row["captions"]
    }
    assert {row["prompt"] for row in good if row["eda_op"] == "original"} == train
    assert len(made) - len(good) == 5 + 7  # val and test pass through


@pytest.mark.usefixtures("rebuild")
def test_every_picture_is_screened_captioned_and_annotated(project: Project) -> None:
    screened = rows(project, "screened", ["keep", "pose_score", "reason"])
    kept = [row for row in screened if row["keep"]]
    assert len(kept) == 62, [row["reason"] for row in screened]
    assert min(row["pose_score"] for row in kept) > 0.3
    said = [row["captions"] for row in rows(project, "captioned", ["captions"]) if row["captions"]]
    assert said == [[CAPTION]] * 62
    annotated = rows(project, "annotated", ["phrases", "regions", "status"])
    annotated = [row for row in annotated if row["status"] == "ok"]
    assert len(annotated) == 62
    for row in annotated:
        assert [phrase["text"] for phrase in row["phrases"]] == PHRASES
    assert sum(len(row["regions"]) for row in annotated) > 62


@pytest.mark.usefixtures("rebuild")
def test_training_reads_the_pairs_that_it_should(project: Project) -> None:
    pretrained = read(project, "checkpoints/pretrain/training.json")
    assert pretrained["pairs"] == 62
    assert pretrained["regions"] > 62
    tuned = {
        name: read(project, f"checkpoints/finetune/{name}/training.json")
        for name in params(project)["finetune"]["datasets"]
    }
    for record in (pretrained, *tuned.values()):
        assert all(math.isfinite(value) for value in record["losses"].values())
    assert {name: record["chosen_on"] for name, record in tuned.items()} == {
        "cuhk-pedes": "val", "icfg-pedes": "held-out", "icfg-pedes-published": "test",
        "rstpreid": "val",
    }  # fmt: skip
    assert tuned["cuhk-pedes"]["pairs"] == 31
    assert tuned["rstpreid"]["pairs"] == 40
    assert tuned["icfg-pedes-published"]["people"] == ICFG["train"]
    held = tuned["icfg-pedes"]["selection"]["judges"]["held-out"]
    assert 0 < held["people"] < ICFG["train"]
    assert held["people"] + tuned["icfg-pedes"]["people"] == ICFG["train"]
    assert held["pairs"] + tuned["icfg-pedes"]["pairs"] == 20


QUERIES = {"cuhk-pedes": (14, 7), "icfg-pedes": (8, 8), "rstpreid": (20, 10)}
"""Captions and pictures of each test split."""


@pytest.mark.usefixtures("rebuild")
def test_every_evaluation_ranks_its_test_split(project: Project) -> None:
    for name, run in params(project)["evaluate"]["runs"].items():
        found = read(project, f"reports/evaluate/{name}/metrics.json")
        queries, gallery = QUERIES[Path(run["images"]).name]
        assert (found["queries"], found["gallery"]) == (queries, gallery), name
        assert found["without_match"] == 0
        for metric in ("R1", "R5", "R10", "mAP", "mINP"):
            assert 0 <= found[metric] <= 100, (name, metric)
        assert found["R1"] <= found["R5"] <= found["R10"]
        assert (project.folder / "data/reports/evaluate" / name / "queries.parquet").exists()


@pytest.mark.usefixtures("rebuild")
def test_one_dataset_alone_needs_only_its_own_files(project: Project, tmp_path: Path) -> None:
    """`dvc repro` of one evaluation, while another dataset is not on this disk."""
    away = project.folder / "data/raw/rstpreid"
    away.rename(tmp_path / "away")
    try:
        assert project.repro("evaluate@cuhk-pedes-finetuned") == []
    finally:
        (tmp_path / "away").rename(away)


@pytest.mark.usefixtures("rebuild")
def test_the_manifests_name_the_weights_that_were_used(project: Project) -> None:
    used = {
        name: read_manifest(project.folder / "data" / name).meta["revisions"]
        for name in ("restyled", "screened", "captioned", "annotated")
    }
    assert set(used["restyled"]) == {"base", "dad", "synonyms"}
    assert set(used["annotated"]) == {"parser", "proposer"}
    for revisions in used.values():
        for part, digest in revisions.items():
            assert len(digest) == 64 or part == "synonyms"
