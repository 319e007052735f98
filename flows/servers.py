"""The Prefect server that stages report to: found, or started by a rebuild for its while.

Rebuilds and stages of one user and machine share it (`flows.leases`): the first rebuild starts it,
and the last process that uses it ends it, so none loses its server because another one is done, or
was killed. To that end it is nobody's child, and the guard of a rebuild looks after it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from flows.leases import Shared
from tasks.errors import PedAlignError
from tasks.runtime import cache_root, runtime

# Starts the rest of its arguments in a session of their own, and says the number.
_DETACH = (
    "import subprocess, sys;"
    "print(subprocess.Popen("
    "sys.argv[1:], start_new_session=True, stdin=subprocess.DEVNULL, stdout=2).pid)"
)


def local_url() -> str:
    """The API of a server on this machine, at the port that runtime.yaml names."""
    return f"http://127.0.0.1:{runtime().port}/api"


def shared() -> Shared:
    """What rebuilds of this user share at that port."""
    return Shared(Path.home() / ".cache" / "pedalign" / f"server-{runtime().port}")


def find_server() -> str | None:
    """The API of a Prefect server that is up, or None.

    What ``PREFECT_API_URL`` names is taken to be up, unless it is this machine's own.
    """
    named = os.environ.get("PREFECT_API_URL")
    if named and named != local_url():
        return named
    url = local_url()
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return url if answer.status == 200 else None
    except urllib.error.URLError as error:
        # Where nothing listens the answer comes at once; a busy machine takes its time.
        return url if isinstance(error.reason, TimeoutError) else None
    except TimeoutError:
        return url
    except ConnectionError:
        return None


@contextlib.contextmanager
def using_server() -> Iterator[str | None]:
    """Yield the API of the server that is up, or None; one of this machine's stays up meanwhile."""
    if (url := find_server()) != local_url():
        yield url
        return
    with contextlib.ExitStack() as held:
        with _changing():
            url = find_server()  # it may have ended meanwhile
            if url is not None:
                held.enter_context(shared().using())
        yield url


@contextlib.contextmanager
def shared_server() -> Iterator[str]:
    """Yield the API of a running Prefect server, started for the while if none is up.

    Raises:
        PedAlignError: None is up, and none could be started.
    """
    from prefect.logging.handlers import APILogWorker

    try:
        with contextlib.ExitStack() as held:
            with _changing():
                url = find_server() or _start()
                held.enter_context(shared().using())
            try:
                yield url
            finally:
                APILogWorker.drain_all(timeout=5)  # the last lines, while somebody listens
    finally:
        shared().release()


@contextlib.contextmanager
def _changing() -> Iterator[None]:
    try:
        lock = shared().changing()
        lock.acquire()
    except OSError as error:
        raise PedAlignError(
            f"{shared().folder}: {error}",
            "rebuilds say there that they use the Prefect server",
            "make it a folder of your own, or start a server elsewhere and name it in "
            "PREFECT_API_URL",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _start() -> str:
    """Start a server and note which process it is; one that is just starting is waited for."""
    port, log_file = runtime().port, cache_root() / "logs" / "prefect-server.log"
    if shared().process() is None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("wb") as sink:
            # Ctrl-C is for the stages; the server has to live on to hear of it.
            started = subprocess.run(
                [sys.executable, "-c", _DETACH, sys.executable, "-m", "prefect", "server", "start",
                 "--host", "127.0.0.1"],
                env=os.environ | {"PREFECT_SERVER_API_PORT": str(port), "DO_NOT_TRACK": "1"},
                stdout=subprocess.PIPE, stderr=sink, check=True,
            )  # fmt: skip
        shared().note(int(started.stdout))
    deadline = time.monotonic() + 60
    while not (url := find_server()):
        if shared().process() is None or time.monotonic() > deadline:
            shared().end()
            raise PedAlignError(
                f"the Prefect server did not start on port {port}",
                "flows.repro needs a server, or a free port to start one on",
                f"see {log_file}; another `port` in runtime.yaml may be free",
            )
        time.sleep(0.2)
    return url
