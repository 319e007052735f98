"""What tests of several folders share: one Prefect server and one rebuild a session."""

from collections.abc import Iterator

import pytest

from tests.projects import STAGES, Project, serve


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a Prefect server of this session's own."""
    with serve(tmp_path_factory.mktemp("prefect")) as port:
        yield port


@pytest.fixture(scope="session")
def rebuilt(prefect_server: int, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after one ``dvc repro`` and one commit. Take a copy; leave this one alone."""
    project = Project(tmp_path_factory.mktemp("rebuilt") / "project")
    project.create(prefect_server)
    assert len(project.repro()) == STAGES
    project.commit("A rebuild")
    return project
