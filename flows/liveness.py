"""Runs whose process is gone: found at the next start, and marked crashed.

A process that is killed cannot tell the Prefect server, which shows its run as running for ever.
So every living run keeps a note, ``.cache/running/<flow-run-id>.json``, that says which process on
which host it is; a graceful end removes it. `bury` looks for notes of processes that this host no
longer has, sets their runs and unfinished tasks to Crashed, and removes the notes. A note waits
while its server cannot be reached, and other hosts' notes are theirs to judge.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.settings import PREFECT_API_URL, PREFECT_HOME
from prefect.states import Crashed

from flows import guard
from tasks.runtime import cache_root
from tasks.shards import atomic_write

log = logging.getLogger(__name__)

UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.SCHEDULED, StateType.PAUSED]
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# What a server that is down, gone or in trouble makes of a call.
UNREACHABLE = (httpx.HTTPError, PrefectException, RuntimeError, OSError)


def folder() -> Path:
    """Where the notes are; a project and its experiments share it."""
    return cache_root() / "running"


def here() -> tuple[str, str]:
    """Name this host and its present boot, where the system tells boots apart."""
    with contextlib.suppress(OSError):
        return platform.node(), BOOT_ID.read_text(encoding="ascii").strip()
    return platform.node(), ""


def server() -> str:
    """The server that records this process's runs; a short-lived one is known by its folder."""
    return str(PREFECT_API_URL.value() or PREFECT_HOME.value().absolute())


@dataclass(frozen=True)
class Note:
    """Which process a run lives in."""

    run: str
    """The flow run's id."""
    name: str
    pid: int
    started: float
    """When the process was created, seconds since 1970: its number may be given anew."""
    host: str
    boot: str
    server: str

    @property
    def path(self) -> Path:
        """The note's file."""
        return folder() / f"{self.run}.json"

    def dead(self) -> bool:
        """Say whether this host knows the process to be gone."""
        host, boot = here()
        if self.host != host:
            return False
        if self.boot != boot:
            return True
        try:
            process = psutil.Process(self.pid)
            # The clock may have been set meanwhile; a number returns only after all the others.
            return abs(process.create_time() - self.started) > 2 or not guard.lives(process)
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


def write_note(run: UUID | str, name: str) -> Note:
    """Write down that a flow run lives in this process."""
    process = psutil.Process()
    host, boot = here()
    note = Note(str(run), name, process.pid, process.create_time(), host, boot, server())
    folder().mkdir(parents=True, exist_ok=True)
    atomic_write(note.path, json.dumps(asdict(note)).encode())
    return note


@contextlib.contextmanager
def noted(run: UUID | str, name: str) -> Iterator[None]:
    """Keep a run's note while it lives.

    The note outlives an end that the server may not have heard of.
    """
    note = write_note(run, name)
    try:
        yield
    except (httpx.HTTPError, PrefectException):
        raise
    except BaseException:
        note.path.unlink(missing_ok=True)
        raise
    note.path.unlink(missing_ok=True)


def notes() -> list[Note]:
    """Read every note; one that cannot be read is of no use and goes."""
    found = []
    for path in sorted(folder().glob("*.json")):
        try:
            found.append(Note(**json.loads(path.read_bytes())))
        except FileNotFoundError:
            continue
        except (ValueError, TypeError):
            path.unlink(missing_ok=True)
    return found


def bury() -> list[str]:
    """Mark the runs of dead processes crashed on the server in use.

    Returns:
        The names of the runs that were marked.
    """
    dead = [note for note in notes() if note.dead()]
    if not dead:
        return []
    marked: list[str] = []
    try:
        with get_client(sync_client=True) as client:
            marked.extend(note.name for note in dead if _mark(client, note))
    except UNREACHABLE as error:
        log.warning("runs of killed processes stay marked as running for now: %s", error)
    if marked:
        log.info("marked as crashed, their process was gone: %s", ", ".join(marked))
    return marked


def bury_soon(patience: float = 5.0) -> list[str]:
    """Mark the runs of processes that are about to end, as a stage does after its ``dvc``.

    Args:
        patience: Seconds to wait for them.
    """
    host, _ = here()
    deadline = time.monotonic() + patience
    marked = bury()
    while time.monotonic() < deadline and any(
        note.host == host and note.pid != os.getpid() for note in notes()
    ):
        time.sleep(0.2)
        marked += bury()
    return marked


def _mark(client: SyncPrefectClient, note: Note) -> bool:
    try:
        state = client.read_flow_run(UUID(note.run)).state
    except ObjectNotFound:
        if note.server == server():  # its database was made anew
            note.path.unlink(missing_ok=True)
        return False
    open_still = state is None or not state.is_final()
    if open_still:
        crash(
            client,
            UUID(note.run),
            f"Process {note.pid} on {note.host} ended without a word: it was killed, or the "
            "machine stopped. The next start goes on from what was finished.",
        )
    note.path.unlink(missing_ok=True)
    return open_still


def crash(client: SyncPrefectClient, run: UUID, message: str) -> None:
    """Set a flow run and its unfinished tasks to Crashed."""
    client.set_flow_run_state(run, Crashed(message=message), force=True)
    done: set[UUID] = set()
    while waiting := [r for r in _unfinished_tasks(client, run) if r not in done]:
        for task_run in waiting:
            client.set_task_run_state(task_run, Crashed(message=message), force=True)
            done.add(task_run)


def _unfinished_tasks(client: SyncPrefectClient, run: UUID) -> list[UUID]:
    """Read ids of unfinished task runs, as many as the server gives at a time."""
    found = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])),
        task_run_filter=TaskRunFilter(
            state=TaskRunFilterState(type=TaskRunFilterStateType(any_=UNFINISHED))
        ),
    )
    return [task_run.id for task_run in found]


def end(run: UUID, state: State[Any]) -> None:
    """Set a run's last state, whatever it was before; in vain if the server is gone."""
    with contextlib.suppress(*UNREACHABLE), get_client(sync_client=True) as client:
        client.set_flow_run_state(run, state, force=True)


def leave(run: UUID, message: str) -> None:
    """Set a run to Crashed from a process that is about to end, in vain if the server is gone."""
    with contextlib.suppress(*UNREACHABLE), get_client(sync_client=True) as client:
        crash(client, run, message)
        (folder() / f"{run}.json").unlink(missing_ok=True)
