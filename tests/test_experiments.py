"""DVC's experiments: here, queued in a workspace of their own, and watched as one page.

All of them talk to the project's Prefect server, carry their name there, and share ``.cache``.
"""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.projects import Project, stages_run

pytestmark = [pytest.mark.dvc, pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def project(rebuilt: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return rebuilt.copy(tmp_path_factory.mktemp("experiments") / "project")


def runs(port: int, tag: str) -> list[dict[str, Any]]:
    """The flow runs that carry a tag."""
    asked = {"flow_runs": {"tags": {"all_": [tag]}}, "sort": "EXPECTED_START_TIME_ASC"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/flow_runs/filter",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


def test_an_experiment_is_a_page_under_its_name(project: Project, prefect_server: int) -> None:
    said = project.call("flows.repro", "exp", "run", "-n", "near", "-S", "report.seed=1")
    assert stages_run(said) == ["report"]
    [stage] = runs(prefect_server, "experiment:near")
    assert stage["name"] == "report (near)"
    assert stage["state_type"] == "COMPLETED"
    [group] = [tag for tag in stage["tags"] if tag.startswith("rebuild:")]
    [page] = [run for run in runs(prefect_server, group) if run["parent_task_run_id"] is None]
    assert page["name"].endswith("(near)")
    assert page["state"]["message"] == "1 stages ran, 12 skipped"
    project.call("git", "checkout", "-q", ".")


def test_a_queued_experiment_shares_the_store(
    project: Project, prefect_server: int, tmp_path: Path
) -> None:
    kept = project.files("data/screened")
    stored = len(list((project.folder / ".cache" / "shards").glob("*.parquet")))
    poser = ["-S", "screen.poser=none"]
    project.call("dvc", "exp", "run", "--queue", "-n", "far", *poser, "screen")
    project.call("dvc", "exp", "run", "--run-all")
    assert "far" in project.call("dvc", "exp", "list", "--name-only").split()
    [stage] = runs(prefect_server, "experiment:far")
    assert stage["name"] == "screen (far)"
    assert stage["state_type"] == "COMPLETED"
    # It ran in a copy of the project, which is gone; its shards are in the project's store.
    computed, total = project.computed("screen")
    assert computed == total > 1
    assert len(list((project.folder / ".cache" / "shards").glob("*.parquet"))) == stored + total
    assert project.files("data/screened") == kept
    # And the output that it locked was its own, not the project's.
    assert len(list((project.folder / ".cache" / "locks").glob("*exps*screened.lock"))) == 1
