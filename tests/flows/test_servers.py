"""Rebuilds and stages share a Prefect server: nobody loses it because another one is done."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows import servers
from flows.leases import Shared
from tests.projects import ROOT

PROGRAMS = {
    "rebuild": """
from flows import guard
from flows.servers import shared, shared_server
with guard.start(shared().folder), shared_server() as url:
    print(url, flush=True)
    input()
""",
    "stage": """
from flows.servers import using_server
with using_server() as url:
    print(url, flush=True)
    input()
""",
}


class User:
    """A process that uses the server until it is told to go."""

    def __init__(self, folder: Path, program: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAMS[program]], cwd=folder, text=True,
            env=environment(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def url(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> int:
        self.process.communicate("\n", timeout=60)
        return self.process.returncode

    def die(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def environment(folder: Path) -> dict[str, str]:
    """One home for all, and nobody else's server."""
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    home = {"HOME": str(folder), "PREFECT_HOME": str(folder / "prefect")}
    return kept | home | {"PYTHONPATH": str(ROOT)}


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def gone(url: str, within: float = 40.0) -> bool:
    deadline = time.monotonic() + within
    while answers(url) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not answers(url)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "runtime.yaml").write_text(f"port: {port}\n")
    yield tmp_path
    for process in psutil.process_iter():  # where an assertion left something behind
        try:
            if process.environ().get("HOME") == str(tmp_path):
                process.kill()
        except psutil.Error:
            continue


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_last_one_ends_the_server_whoever_started_it(folder: Path) -> None:
    first = User(folder, "rebuild")
    url = first.url()
    second, stage = User(folder, "rebuild"), User(folder, "stage")
    assert second.url() == stage.url() == url
    # Killed, the one that started it says nothing; its guard sees that others are there.
    first.die()
    assert not gone(url, within=4)
    assert second.leave() == 0
    assert answers(url)  # which a plain `dvc repro` still uses
    # A stage ends no server: the next rebuild does, or the guard of one that is killed.
    assert stage.leave() == 0
    third = User(folder, "rebuild")
    assert third.url() == url
    third.die()
    assert gone(url)
    (shared,) = (folder / ".cache" / "pedalign").iterdir()
    deadline = time.monotonic() + 20  # it stops answering before it ends
    while (shared / "process.json").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [path.name for path in shared.iterdir()] == ["changing.lock"]


@pytest.mark.slow
@pytest.mark.timeout(300)
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
    rebuild = User(folder, "rebuild")
    assert rebuild.url() == url
    assert rebuild.leave() == 0
    assert answers(url)
    own.kill()
    own.wait()


# ------------------------------------------------------------------ what counts as up


@pytest.mark.parametrize(
    ("fault", "up"),
    [
        (urllib.error.URLError(ConnectionRefusedError()), False),
        (urllib.error.URLError(TimeoutError()), True),
        (TimeoutError(), True),  # busy: a second server would be a mistake
        (ConnectionResetError(), False),
    ],
)
def test_a_slow_answer_is_one(monkeypatch: pytest.MonkeyPatch, fault: OSError, up: bool) -> None:
    def ask(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", ask)
    assert servers.find_server() == (servers.local_url() if up else None)
    monkeypatch.setenv("PREFECT_API_URL", "https://team/api")
    assert servers.find_server() == "https://team/api"


# ------------------------------------------------------------------ leases


def test_who_is_gone_is_forgotten(tmp_path: Path) -> None:
    shared = Shared(tmp_path / "x")
    assert not shared.in_use()
    with shared.changing(), shared.using():
        assert shared.in_use()
    assert not shared.in_use()
    (tmp_path / "x" / "123-abc.user").touch()  # of a process that was killed
    assert not shared.in_use()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["changing.lock"]


def test_only_the_very_process_that_was_noted_is_ended(tmp_path: Path) -> None:
    shared = Shared(tmp_path)
    assert shared.process() is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    shared.note(child.pid)
    note = tmp_path / "process.json"
    told = note.read_text()
    note.write_text(told.replace('"created": ', '"created": 1'))  # the number given anew
    shared.release()
    assert child.poll() is None
    assert not note.exists()
    shared.note(child.pid)
    with shared.using():
        shared.release()
        assert child.poll() is None
    shared.release()
    assert child.wait(10) != 0
    note.write_text("{")
    assert shared.process() is None


def test_a_folder_that_cannot_be_made_is_a_paragraph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".cache").write_text("a file")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(servers.PedAlignError, match="rebuilds say there"), servers._changing():
        pass
