"""The Prefect server that stages report to: found, or started by a rebuild for its while.

Rebuilds of one machine share it: the first starts it, and the last that uses it ends it, so none
loses its server because another one is done. Who uses it is a locked file each in a folder below
the system's temporary one; a lock ends with its process, however that ends.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from prefect.logging.handlers import APILogWorker

from flows import guard
from tasks.errors import PedAlignError
from tasks.runtime import cache_root, runtime

_STARTED = "server.json"


def local_url() -> str:
    """The API of a server on this machine, at the port that runtime.yaml names."""
    return f"http://127.0.0.1:{runtime().port}/api"


def find_server() -> str | None:
    """The API of a Prefect server that is up, or None.

    What ``PREFECT_API_URL`` names is taken to be up, unless it is this machine's own.
    """
    named = os.environ.get("PREFECT_API_URL")
    if named and named != local_url():
        return named
    url = local_url()
    try:
        # Where nothing listens the answer comes at once; a busy machine takes its time.
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return url if answer.status == 200 else None
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


@contextlib.contextmanager
def shared_server() -> Iterator[str]:
    """Yield the API of a running Prefect server, started for the while if none is up.

    Raises:
        PedAlignError: None is up, and none could be started.
    """
    folder = Path(tempfile.gettempdir()) / f"pedalign-{getpass.getuser()}-{runtime().port}"
    folder.mkdir(mode=0o700, exist_ok=True)
    changing, mine = FileLock(folder / "changing.lock"), FileLock(folder / f"{os.getpid()}.user")
    with changing, contextlib.ExitStack() as failed:
        mine.acquire()
        failed.callback(_leave, mine)
        url = find_server() or _start(folder)
        failed.pop_all()
    try:
        yield url
    finally:
        APILogWorker.drain_all(timeout=5)  # the last lines, while somebody listens
        with changing:
            _leave(mine)
            if not _in_use(folder):
                _end(folder)


def _leave(mine: FileLock) -> None:
    mine.release()
    Path(mine.lock_file).unlink(missing_ok=True)


def _in_use(folder: Path) -> bool:
    """Say whether a living process uses the server; forget the dead."""
    for path in folder.glob("*.user"):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        _leave(lock)
    return False


def _start(folder: Path) -> str:
    """Start a server, and note which process it is."""
    port = runtime().port
    log_folder = cache_root() / "logs"
    log_folder.mkdir(parents=True, exist_ok=True)
    with (log_folder / "prefect-server.log").open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"],
            env=os.environ | {"PREFECT_SERVER_API_PORT": str(port), "DO_NOT_TRACK": "1"},
            stdout=sink,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the stages; the server has to live on to hear of it.
            start_new_session=True,
        )
        note = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
        (folder / _STARTED).write_text(json.dumps(note))
        deadline = time.monotonic() + 60
        while not (url := find_server()):
            if process.poll() is not None or time.monotonic() > deadline:
                _end(folder)
                raise PedAlignError(
                    f"the Prefect server did not start on port {port}",
                    "flows.repro needs a server, or a free port to start one on",
                    f"see {sink.name}; another `port` in runtime.yaml may be free",
                )
            time.sleep(0.2)
    return url


def _end(folder: Path) -> None:
    """End the server that a rebuild started; one that somebody else started is left alone."""
    path = folder / _STARTED
    with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
        note = json.loads(path.read_text())
        process = psutil.Process(note["pid"])
        if process.create_time() == note["created"]:
            process.terminate()
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(10)
            guard.kill([process])
    path.unlink(missing_ok=True)
