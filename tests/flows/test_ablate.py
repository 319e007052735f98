"""An experiment end to end on a few pictures: shared, killed, gone on with, and what failed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.ablate import Ablation
from tasks.ablate.workspaces import Workspace
from tests.projects import ROOT, Project

pytestmark = [pytest.mark.dvc, pytest.mark.slow, pytest.mark.timeout(900)]

EXPERIMENT = """
profile: profiles/micro.yaml
note: A test's.
finetune: target
direct: direct
tuned: finetuned
seeds: 1
contrasts:
  texts against none: {better: pairs, plain: pairs-no-eda}
arms:
  pairs:
    change:
      inputs.pretrain_images: data/ingested/source
      inputs.pretrain_annotations: data/nothing
      pretrain.objective.region_weight: 0.0
  pairs-no-eda:
    change:
      inputs.pretrain_images: data/ingested/source
      inputs.pretrain_annotations: data/nothing
      pretrain.objective.region_weight: 0.0
      finetune.datasets.target.objective.eda_weight: 0.0
  pairs-broken:
    change:
      inputs.pretrain_images: data/ingested/source
      inputs.pretrain_annotations: data/nothing
      pretrain.objective.region_weight: 0.0
      finetune.datasets.target.training.rates: {no such part: 2.0}
"""
COMMAND = [sys.executable, "-m", "flows.ablate", "experiments/small.yaml", "--jobs", "1"]


@pytest.fixture
def project(prefect_server: int, tmp_path: Path) -> Project:
    made = Project(tmp_path / "project")
    made.create(prefect_server)
    (made.folder / "experiments").mkdir()
    (made.folder / "experiments" / "small.yaml").write_text(EXPERIMENT)
    return made


def results(project: Project) -> dict[str, Path]:
    """Records by arm."""
    root = project.folder / ".cache" / "ablate" / "records" / "small"
    return {path.parent.parent.name: path for path in root.glob("*/seed-0/result.json")}


def kill_after_the_first(project: Project) -> None:
    """Compute, and SIGKILL the command when one run is finished."""
    with (project.folder / "killed.log").open("wb") as log:
        process = subprocess.Popen(
            COMMAND, cwd=project.folder, env=project.environment, stdout=log, stderr=log
        )
        try:
            while not results(project):
                assert process.poll() is None, (project.folder / "killed.log").read_text()
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()


def test_an_experiment_goes_on_after_a_kill_and_a_failure(project: Project) -> None:
    assert "0 of 1" in project.call(*COMMAND[2:], "--plan")
    kill_after_the_first(project)
    assert set(results(project)) == {"pairs"}
    first = results(project)["pairs"]
    before = first.stat().st_mtime_ns
    runs = project.folder / ".cache" / "ablate" / "runs"
    trained = {path.parent.name: path.stat().st_mtime_ns for path in runs.glob("*/finished")}
    said = project.call(*COMMAND[2:], "--plan")
    assert "(1 finished)" in said
    assert "Spent 0 " in said or "Spent 1 " in said

    done = subprocess.run(
        COMMAND, cwd=project.folder, env=project.environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "pairs-broken, seed 0: ended with 1" in done.stderr
    assert "pairs, seed" not in done.stderr
    found = results(project)
    assert set(found) == {"pairs", "pairs-no-eda"}
    assert first.stat().st_mtime_ns == before
    # One pretraining for all, a fine-tuning each; and one project, as the data is the same.
    after = {path.parent.name: path.stat().st_mtime_ns for path in runs.glob("*/finished")}
    assert len(after) == 3
    assert trained.items() <= after.items()
    root = project.folder / ".cache" / "ablate"
    assert len(list((root / "projects").iterdir())) == 1
    assert {path.name for path in root.parent.iterdir()} == {"ablate"}  # complete in itself
    assert {"dvc", "store", "runs", "records"} <= {path.name for path in root.iterdir()}

    told = json.loads(found["pairs-no-eda"].read_bytes())
    assert (told["arm"], told["seed"]) == ("pairs-no-eda", 0)
    assert told["direct"] == json.loads(first.read_bytes())["direct"]
    assert all(seconds > 0 for seconds in told["core_seconds"].values())
    assert len(told["curve"]) == 1
    rows = pq.read_table(found["pairs-no-eda"].with_name("tuned.parquet")).to_pylist()
    hits = [row["rank_of_first"] == 1 for row in rows]
    assert told["tuned"]["R1"] == pytest.approx(100 * sum(hits) / len(hits), abs=0.01)
    assert "(2 finished)" in project.call(*COMMAND[2:], "--plan")


def test_the_gap_is_measured_once_and_after_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("flows.ablate.cache_root", lambda: tmp_path)
    (tmp_path / "small.yaml").write_text(f"{EXPERIMENT}gap: pairs\n")
    found = Ablation(tmp_path / "small.yaml", seeds=0)  # no runs
    each, asked = found.plan.arms["pairs"], []
    outcomes = [("dvc stopped with 1", 1.0), ("", 3.0)]

    def rebuild(self: Ablation, folder: Path, targets: Sequence[str]) -> tuple[str, float]:
        asked.append((folder, *targets))
        return outcomes[len(asked) - 1]

    monkeypatch.setattr(Ablation, "_rebuild", rebuild)
    monkeypatch.setattr(Workspace, "refresh", lambda self, each: None)
    assert found.compute() == []
    assert asked == []
    project = found.workspace.project(each.variant)
    project.mkdir(parents=True)
    found.workspace.finish(each, {}, "abc")
    assert found.compute() == ["gap of pairs: dvc stopped with 1"]
    assert found.workspace.gap(*found._gap_of("pairs")) is None
    assert found.compute() == []
    assert found.workspace.gap(*found._gap_of("pairs")) == 3.0
    assert found.compute() == []
    assert asked == [(project, "--single-item", "gap")] * 2
