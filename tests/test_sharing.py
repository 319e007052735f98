"""Two people share a project: what the second runs (nothing), and what DVC says has changed.

The steps are those of docs/sharing.md. Ana has a rebuilt project, a git repository and a DVC
remote, both in folders; Bo clones and pulls. Each has a DVC cache and a shard store of their own.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.projects import Project, stages_run

pytestmark = [pytest.mark.dvc, pytest.mark.slow, pytest.mark.timeout(1500)]

CLEAN = "Data and pipelines are up to date."
WEIGHT = "evaluate.runs.direct.protocol.similarity_weight"
METRICS = "data/reports/evaluate/direct/metrics.json"
# Figure: its axes, and the files that it draws.
CURVES = {
    "loss of adapt": ("step", "loss", ["checkpoints/dad/curve.csv"]),
    "loss of pretrain": ("step", "loss", ["checkpoints/pretrain/curve.csv"]),
    "loss of finetune@target": ("step", "loss", ["checkpoints/finetune/target/curve.csv"]),
    "before and after fine-tuning": (
        "rank",
        "recall",
        ["reports/evaluate/direct/cmc.csv", "reports/evaluate/finetuned/cmc.csv"],
    ),
}


@dataclass(frozen=True)
class Team:
    """Ana's project and where she shares it."""

    ana: Project
    hub: Path
    first: str
    """The commit of the shared state."""

    def joins(self, folder: Path) -> Project:
        """Somebody clones the project: code, parameters, dvc.lock, metrics, and no data."""
        self.ana.call("git", "clone", "-q", str(self.hub), str(folder))
        (folder / "runtime.yaml").write_text((self.ana.folder / "runtime.yaml").read_text())
        return Project(folder)


@pytest.fixture(scope="module")
def team(rebuilt: Project, tmp_path_factory: pytest.TempPathFactory) -> Team:
    place = tmp_path_factory.mktemp("team")
    hub = place / "hub.git"
    ana = rebuilt.copy(place / "ana" / "project")
    ana.call("git", "init", "-q", "--bare", "-b", "main", str(hub))
    ana.call("git", "remote", "add", "origin", str(hub))
    ana.call("dvc", "remote", "add", "-d", "team", str(place / "remote"))
    first = ana.commit("Say where the data is shared")
    ana.call("dvc", "push")
    ana.call("git", "push", "-q", "origin", "main")
    return Team(ana, hub, first)


@pytest.fixture(scope="module")
def bo(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Project:
    bo = team.joins(tmp_path_factory.mktemp("bo") / "project")
    bo.call("dvc", "pull")
    return bo


@pytest.fixture(scope="module")
def experiment(team: Team) -> str:
    """Ana tries another value, as an experiment, and pushes it under its name."""
    said = team.ana.call("dvc", "exp", "run", "-n", "half-cosine", "-S", f"{WEIGHT}=0.5")
    assert stages_run(said) == ["evaluate@direct", "report"]
    team.ana.call("dvc", "exp", "push", "origin", "half-cosine")
    return "half-cosine"


def changes(project: Project, what: str, *commits: str) -> dict[str, Any]:
    found = json.loads(project.call("dvc", what, "diff", "--json", *commits))
    assert isinstance(found, dict)
    return found


def test_a_colleague_pulls_and_runs_nothing(team: Team, bo: Project) -> None:
    assert bo.repro() == []
    assert bo.call("dvc", "status").strip() == CLEAN
    assert "in sync" in bo.call("dvc", "status", "--cloud")
    assert bo.call("git", "status", "--porcelain") == ""
    # Byte for byte what Ana has, and nothing of it made here. data/raw is drawn by a stage.
    theirs = {k: v for k, v in team.ana.files("data").items() if not k.startswith("raw/")}
    assert bo.files("data") == theirs
    assert not (bo.folder / ".cache" / "shards").exists()
    assert not (bo.folder / ".cache" / "trainings").exists()


def test_an_experiment_arrives_with_its_results(team: Team, bo: Project, experiment: str) -> None:
    assert experiment in bo.call("dvc", "exp", "list", "origin")
    bo.call("dvc", "exp", "pull", "origin", experiment)
    bo.call("dvc", "exp", "apply", experiment)
    assert bo.repro() == []
    second = bo.commit("Rank by half the cosine")

    # Exactly the parameter, and only metrics of the evaluation that it concerns.
    parameters = changes(bo, "params", team.first, second)
    assert {path: set(found) for path, found in parameters.items()} == {"params.yaml": {WEIGHT}}
    assert parameters["params.yaml"][WEIGHT]["old"] == 1.0
    assert parameters["params.yaml"][WEIGHT]["new"] == 0.5
    metrics = changes(bo, "metrics", team.first, second)
    assert set(metrics) == {METRICS}
    before, after = (
        json.loads(bo.call("git", "show", f"{commit}:{METRICS}")) for commit in (team.first, second)
    )
    assert before["itc"] == after["itc"]  # the weight is of the second ranking
    for name, change in metrics[METRICS].items():
        assert (change["old"], change["new"]) == (before[name], after[name])
    assert set(metrics[METRICS]) == {name for name in before if before[name] != after[name]}

    # Curves of both commits, drawn over each other.
    command = ("plots", "diff", team.first, second)
    drawn = json.loads(bo.call("dvc", *command, "--json"))
    assert "errors" not in drawn
    data = bo.files("data")
    for name, (x, y, files) in CURVES.items():
        (figure,) = drawn["data"][name]
        rows = figure["content"]["data"]["values"]
        per_commit = Counter(row["rev"] for row in rows)
        assert set(per_commit) == set(figure["revisions"])
        assert len(per_commit) == 2
        expected = sum(len(data[file].splitlines()) - 1 for file in files)
        assert set(per_commit.values()) == {expected}
        assert all(float(row[x]) >= 1 and float(row[y]) >= 0 for row in rows)
    bo.call("dvc", *command, "-o", "plots")
    page = (bo.folder / "plots" / "index.html").read_text(encoding="utf-8")
    assert [name for name in CURVES if name not in page] == []


def test_repro_fetches_what_somebody_ran(team: Team, experiment: str, tmp_path: Path) -> None:
    team.ana.call("dvc", "push", "--run-cache")
    cleo = team.joins(tmp_path / "project")
    # Outputs that dvc.lock names are fetched on the way …
    assert cleo.repro("--pull") == []
    assert (cleo.folder / "data" / "reports" / "report" / "index.html").exists()
    assert cleo.call("dvc", "status").strip() == CLEAN
    # … and so are those of runs that it does not name, if somebody made them before. But DVC
    # pushes no output that git keeps, so an evaluation, whose metrics git keeps, runs again.
    cleo.set(WEIGHT, 0.5)
    said = cleo.call("dvc", "repro", "--pull")
    assert stages_run(said) == ["evaluate@direct"]
    assert "Stage 'report' is cached - skipping run" in said
    assert cleo.files("data/reports") == team.ana.files("data/reports")
