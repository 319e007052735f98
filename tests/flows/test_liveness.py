"""Notes of living runs; runs of dead processes become crashed. The server is a fake here."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Running, State

from flows import liveness


class FakeServer:
    """Flow runs and their tasks, as far as `liveness` asks."""

    def __init__(self) -> None:
        self.runs: dict[UUID, State[Any]] = {}
        self.tasks: dict[UUID, dict[UUID, State[Any]]] = {}
        self.up = True

    def add(self, state: State[Any], tasks: int = 0) -> UUID:
        run = uuid4()
        self.runs[run] = state
        self.tasks[run] = {uuid4(): Running() for _ in range(tasks)}
        return run

    @contextlib.contextmanager
    def client(self, **_: object) -> Iterator["FakeServer"]:
        if not self.up:
            raise RuntimeError("Failed to reach API")
        yield self

    def read_flow_run(self, run: UUID) -> SimpleNamespace:
        if run not in self.runs:
            raise ObjectNotFound(Exception("no such run"))
        return SimpleNamespace(state=self.runs[run])

    def set_flow_run_state(self, run: UUID, state: State[Any], force: bool) -> None:
        assert force
        self.runs[run] = state

    def read_task_runs(self, *, flow_run_filter: Any, task_run_filter: Any) -> list[Any]:
        [run] = flow_run_filter.id.any_
        wanted = task_run_filter.state.type.any_
        open_still = [t for t, state in self.tasks[run].items() if state.type in wanted]
        return [SimpleNamespace(id=task) for task in open_still[:2]]  # a page

    def set_task_run_state(self, task: UUID, state: State[Any], force: bool) -> None:
        for tasks in self.tasks.values():
            if task in tasks:
                tasks[task] = state


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    fake = FakeServer()
    monkeypatch.setattr(liveness, "get_client", fake.client)
    monkeypatch.setattr(liveness, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(liveness, "server", lambda: "http://here/api")
    return fake


def note(run: UUID, **changes: object) -> liveness.Note:
    """Write this process's note with some fields changed."""
    written = liveness.write_note(run, "restyle")
    changed = dataclasses.replace(written, **changes)  # type: ignore[arg-type]
    changed.path.write_text(json.dumps(dataclasses.asdict(changed)))
    return changed


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_living_process_is_not_dead(server: FakeServer) -> None:
    assert not note(uuid4()).dead()


def test_a_process_that_ended_is_dead(server: FakeServer, gone: int) -> None:
    assert note(uuid4(), pid=gone).dead()


def test_an_unreaped_process_is_dead(server: FakeServer) -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()  # it has closed its end; nobody has waited for it
        started = liveness.psutil.Process(process.pid).create_time()
        while liveness.psutil.Process(process.pid).status() != "zombie":
            pass
        assert note(uuid4(), pid=process.pid, started=started).dead()


def test_a_number_given_anew_is_another_process(server: FakeServer) -> None:
    mine = note(uuid4())
    assert dataclasses.replace(mine, started=mine.started - 60).dead()


def test_another_boot_of_this_host_ended_all(server: FakeServer) -> None:
    assert note(uuid4(), boot="earlier").dead()


def test_another_host_is_not_judged(server: FakeServer, gone: int) -> None:
    run = server.add(Running())
    other = note(run, pid=gone, host="elsewhere", boot="another")
    assert not other.dead()
    assert liveness.bury() == []
    assert other.path.exists()
    assert server.runs[run].is_running()


def test_dead_runs_and_their_open_tasks_are_marked(server: FakeServer, gone: int) -> None:
    run = server.add(Running(), tasks=5)
    finished = uuid4()
    server.tasks[run][finished] = Completed()
    dead = note(run, pid=gone)
    assert liveness.bury() == ["restyle"]
    assert server.runs[run].is_crashed()
    assert f"Process {gone} on" in str(server.runs[run].message)
    assert server.tasks[run].pop(finished).is_completed()
    assert all(state.is_crashed() for state in server.tasks[run].values())
    assert not dead.path.exists()


def test_a_run_that_ended_before_its_process_keeps_its_state(server: FakeServer, gone: int) -> None:
    run = server.add(Completed())
    dead = note(run, pid=gone)
    assert liveness.bury() == []
    assert server.runs[run].is_completed()
    assert not dead.path.exists()


def test_a_living_run_is_left_alone(server: FakeServer) -> None:
    run = server.add(Running())
    mine = note(run)
    assert liveness.bury() == []
    assert mine.path.exists()
    assert server.runs[run].is_running()


def test_notes_wait_for_a_server_that_is_down(server: FakeServer, gone: int) -> None:
    run = server.add(Running())
    dead = note(run, pid=gone)
    server.up = False
    assert liveness.bury() == []
    assert dead.path.exists()
    server.up = True
    assert liveness.bury() == ["restyle"]


def test_a_run_that_its_own_server_forgot_is_forgotten(server: FakeServer, gone: int) -> None:
    ours, theirs = note(uuid4(), pid=gone), note(uuid4(), pid=gone, server="http://team/api")
    assert liveness.bury() == []
    assert not ours.path.exists()
    assert theirs.path.exists()


def test_a_graceful_end_removes_the_note(server: FakeServer) -> None:
    with liveness.noted(uuid4(), "screen"):
        [path] = liveness.folder().iterdir()
        assert json.loads(path.read_bytes())["pid"] == os.getpid()
    assert list(liveness.folder().iterdir()) == []
    with pytest.raises(ValueError, match="bad"), liveness.noted(uuid4(), "screen"):
        raise ValueError("bad")
    assert list(liveness.folder().iterdir()) == []


def test_the_note_outlives_an_end_that_the_server_did_not_hear_of(server: FakeServer) -> None:
    with pytest.raises(httpx.ConnectError), liveness.noted(uuid4(), "screen"):
        raise httpx.ConnectError("refused")
    assert len(list(liveness.folder().iterdir())) == 1


def test_a_broken_note_goes(server: FakeServer) -> None:
    liveness.folder().mkdir(parents=True)
    (liveness.folder() / "x.json").write_text("{")
    (liveness.folder() / "y.json").write_text('{"run": "only"}')
    assert liveness.notes() == []
    assert list(liveness.folder().iterdir()) == []
