"""Who computes a stage's shards: threads, processes, Dask or Ray (runtime.yaml, ``runner``).

Prefect's task runners do the work of handing out; this module picks one and makes a worker in
another process stand where the stage stands: same folder, same threads, same code and libraries,
and an end when the stage ends. docs/many-devices.md says what workers on other machines need.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import platform
import re
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows import faults
from tasks.errors import PedAlignError
from tasks.provenance import PACKAGES, ROOT, library_versions
from tasks.runtime import claim_device, device, runtime, use_threads

Runner = TaskRunner[PrefectFuture[Any]]

_HERE = uuid.uuid4().hex
"""This process, among all of a cluster's."""
_entered = {_HERE}
"""The stages' processes whose workplace this process stands in: its own, and those it works for."""


def task_runner() -> Runner:
    """The task runner that runtime.yaml asks for.

    Raises:
        PedAlignError: Dask or Ray is asked for and not installed.
    """
    chosen = runtime()
    # Prefect types its runners as invariant in their future.
    if chosen.runner == "threads":
        return cast("Runner", ThreadPoolTaskRunner(max_workers=chosen.workers))
    if chosen.runner == "processes":
        return cast("Runner", ProcessPoolTaskRunner(max_workers=chosen.workers))
    made = _dask if chosen.runner == "dask" else _ray
    try:
        return made(chosen.cluster, chosen.workers)
    except ImportError as error:
        raise PedAlignError(
            f"runtime.yaml: `runner` is {chosen.runner}, and prefect-{chosen.runner} is missing",
            "clusters are extras of this project",
            f"pip install 'pedalign[{chosen.runner}]', or set runner to threads",
        ) from error


def _dask(address: str, workers: int) -> Runner:
    # Every start and end of a connection is news to Dask; set before its import, for workers too.
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")
    from prefect_dask.task_runners import DaskTaskRunner

    if address:
        return cast("Runner", DaskTaskRunner(address=address))
    # One thread a worker: each holds its own model. No dashboard: it would want a port.
    local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    return cast("Runner", DaskTaskRunner(cluster_kwargs=local))


def _ray(address: str, workers: int) -> Runner:
    from prefect_ray.task_runners import RayTaskRunner

    if address:
        return cast("Runner", RayTaskRunner(address=address))
    local = {"num_cpus": workers, "include_dashboard": False}
    return cast("Runner", RayTaskRunner(init_kwargs=local))


def server_for_workers() -> str | None:
    """Start a short-lived Prefect server that workers in other processes can share with the stage.

    Returns:
        Its API, or None where threads work, which share the stage's own. It ends with this process.
    """
    if runtime().runner == "threads":
        return None
    # The whole of Prefect's server: two seconds that other stages need not wait.
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    server.start()
    # Processes that are started later read it at their import of Prefect.
    os.environ["PREFECT_API_URL"] = server.api_url
    return server.api_url


def _code() -> str:
    text = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return text.hexdigest()[:12]


# Read at import: a worker that lives through an edit still runs the old code.
_CODE = _code()


def surroundings(libraries: Iterable[str] = ()) -> dict[str, str]:
    """Name what computes here, so that a worker can be compared with its stage.

    Args:
        libraries: Those that count, by the names of their distributions.
    """
    return {
        "the project's code": _CODE,
        "the device": device().type,
        "the processor": platform.machine(),
        **library_versions(*libraries),
    }


@dataclass(frozen=True)
class Workplace:
    """Where a stage computes, and with what; sent along with every shard."""

    folder: str = field(default_factory=lambda: str(Path.cwd()))
    threads: int = field(default_factory=torch.get_num_threads)
    surroundings: dict[str, str] = field(default_factory=surroundings)
    origin: str = _HERE
    """The stage's process."""

    def enter(self) -> None:
        """Stand where the stage stands; does nothing in the stage's own process.

        Raises:
            PedAlignError: This machine does not have the project's folder, or computes with other
                code, libraries or another class of device than the key of the shard names.
        """
        if self.origin in _entered:
            return
        faults.quieten()
        if not Path(self.folder).is_dir():
            raise PedAlignError(
                f"a worker on {os.uname().nodename} has no folder {self.folder}",
                "workers read the project, its models and input shards where the stage does",
                "share the project's folder with that machine under the same path",
            )
        os.chdir(self.folder)
        runtime.cache_clear()
        self._compare()
        use_threads(self.threads)
        claim_device(_worker_number())
        if (parent := multiprocessing.parent_process()) is not None:
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
        _entered.add(self.origin)

    def _compare(self) -> None:
        here = surroundings(self.surroundings.keys() - surroundings().keys())
        differing = [
            f"{name} is {here[name]}, the stage's {theirs}"
            for name, theirs in self.surroundings.items()
            if here[name] != theirs
        ]
        if differing:
            raise PedAlignError(
                f"a worker on {os.uname().nodename} would give other bytes: {'; '.join(differing)}",
                "a shard's key names code, libraries and device, so all workers have the same",
                "give the worker the stage's commit and constraints.txt, and start it again",
            )


def _end_with(parent: Any) -> None:
    """Leave when the parent process has: nobody would take the result."""
    parent.join()
    os._exit(1)


def _worker_number() -> int:
    """Number of this worker among its fellows, so that each takes a GPU of its own."""
    with contextlib.suppress(ImportError, ValueError):
        from distributed import get_worker

        return int(get_worker().name)
    found = re.search(r"(\d+)$", multiprocessing.current_process().name)
    return int(found[1]) if found else 0
