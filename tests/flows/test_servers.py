"""Rebuilds share a Prefect server: nobody loses it because another one is done."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.projects import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

USE = """
from flows.servers import shared_server
with shared_server() as url:
    print(url, flush=True)
    input()
"""


class Rebuild:
    """A process that uses the server until it is told to go."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USE], cwd=folder, text=True,
            env=environment(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def url(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> int:
        self.process.communicate("\n", timeout=60)
        return self.process.returncode


def environment(folder: Path) -> dict[str, str]:
    """One temporary folder and one home of Prefect for all, and nobody else's server."""
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return kept | {
        "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "PREFECT_HOME": str(folder / "prefect"),
    }  # fmt: skip


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "runtime.yaml").write_text(f"port: {port}\n")
    yield tmp_path
    for process in psutil.process_iter():  # where an assertion left something behind
        with_folder = False
        try:
            with_folder = process.environ().get("TMPDIR") == str(tmp_path)
        except psutil.Error:
            continue
        if with_folder:
            process.kill()


def test_the_last_rebuild_ends_the_server(folder: Path) -> None:
    first = Rebuild(folder)
    url = first.url()
    second = Rebuild(folder)
    assert second.url() == url
    assert first.leave() == 0
    assert answers(url)  # which the second one still uses
    # Killed, it says nothing; the next one finds that nobody else is there.
    second.process.send_signal(signal.SIGKILL)
    second.process.wait()
    third = Rebuild(folder)
    assert third.url() == url
    assert third.leave() == 0
    assert not answers(url)
    (shared,) = folder.glob("pedalign-*")
    assert [path.name for path in shared.iterdir()] == ["changing.lock"]


def test_a_server_that_somebody_else_started_is_left_alone(folder: Path) -> None:
    port = (folder / "runtime.yaml").read_text().split()[1]
    (folder / "api").mkdir()
    (folder / "api" / "health").write_text("true")
    own = subprocess.Popen(
        [sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1"],
        cwd=folder, env=environment(folder), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}/api"
    while not answers(url):
        assert own.poll() is None
    rebuild = Rebuild(folder)
    assert rebuild.url() == url
    assert rebuild.leave() == 0
    assert answers(url)
    own.kill()
    own.wait()
