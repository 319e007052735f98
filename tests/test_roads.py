"""The DAG of every road, as DVC itself sees it: which stages there are and what reads what.

Nothing is run. An empty ``describe.datasets`` or ``finetune.datasets`` is an empty ``foreach``,
which has no stage; that this holds for the pinned DVC is one of the things tested.
"""

from __future__ import annotations

import shutil

import pytest

from tests.projects import ROOT, Project

pytestmark = [pytest.mark.dvc, pytest.mark.slow, pytest.mark.timeout(300)]

COMMON = {"ingest@source", "ingest@target", "adapt", "restyle", "screen", "caption", "annotate",
          "pretrain", "evaluate@direct", "gap", "report"}  # fmt: skip
TUNED = {"finetune@target", "evaluate@finetuned", "evaluate@finetuned-by-test"}


Graph = tuple[set[str], set[tuple[str, str]]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("roads") / "p")
    made.folder.mkdir()
    made.create(1, "tiny")
    return made


@pytest.fixture
def road(project: Project, request: pytest.FixtureRequest) -> Graph:
    """Stages and edges of a profile."""
    shutil.copy(ROOT / "profiles" / f"{request.param}.yaml", project.folder / "params.yaml")
    edges = project.edges()
    return {stage for edge in edges for stage in edge}, edges


@pytest.mark.parametrize("road", ["tiny"], indirect=True)
def test_the_default_describes_nothing(road: Graph) -> None:
    stages, edges = road
    assert stages == COMMON | TUNED
    assert {("adapt", "restyle"), ("annotate", "pretrain")} <= edges


@pytest.mark.parametrize("road", ["unlabelled"], indirect=True)
def test_an_unlabelled_target_is_described_and_never_tuned_on(road: Graph) -> None:
    stages, edges = road
    assert stages == COMMON | {"describe@target"}
    readers = {after for before, after in edges if before == "describe@target"}
    assert readers == {"adapt", "restyle", "gap", "report"}
    # What else reads the target: it is tested on.
    assert {after for before, after in edges if before == "ingest@target"} == {
        "describe@target", "adapt", "gap", "evaluate@direct", "report",
    }  # fmt: skip
    assert ("adapt", "restyle") in edges


@pytest.mark.parametrize("road", ["unipt"], indirect=True)
def test_unipt_adapts_nothing_and_pretrains_on_texts(road: Graph) -> None:
    stages, edges = road
    assert stages == COMMON | TUNED
    assert ("adapt", "restyle") not in edges
    assert ("caption", "pretrain") in edges
    assert ("annotate", "pretrain") not in edges
    assert ("ingest@target", "pretrain") not in edges
