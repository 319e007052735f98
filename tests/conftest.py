"""What tests of several folders share: one Prefect server and one rebuild a session.

``make test`` parts the tests over two processes by file. The files that share a server or a rebuild
go to one of them, and first, so that each is made once.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from tests.projects import ROOT, STAGES, Project, serve

SHARED = ("prefect_server", "rebuilt")
"""Fixtures that are made once for tests of many files."""


@cache
def shares(file: str) -> bool:
    """Say whether a test file, relative to the project, uses what is shared."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return any(f"{name}: " in text or f"({name}" in text for name in SHARED)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that share something before the others."""
    items.sort(key=lambda item: not shares(item.nodeid.partition("::")[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Make of ``--dist loadfile`` one that keeps together what shares something."""
    # The marks of ``--dist loadgroup`` would say the same, but pytest-xdist 3.8 writes them into
    # names that pytest 9 no longer reads.
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "shared" if shares(file) else file

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


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
