"""Who computes a stage's shards: threads, processes, or a Dask cluster (runtime.yaml, ``runner``).

Prefect's task runners do the work of handing out; this module picks one and makes a worker in
another process stand where the stage stands: same folder, same threads, and an end when the stage
ends. Workers on other machines need this project at the same commit and path, its environment, and
either a shared file system or the shared store of runtime.yaml.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from tasks.errors import PedAlignError
from tasks.runtime import claim_device, runtime, use_threads

Runner = TaskRunner[PrefectFuture[Any]]

_entered: set[str] = set()
"""Workplaces that this process stands in: its own, or those that it was sent."""


def task_runner() -> Runner:
    """The task runner that runtime.yaml asks for.

    Raises:
        PedAlignError: Dask is asked for and not installed.
    """
    chosen = runtime()
    # Prefect types its runners as invariant in their future.
    if chosen.runner == "threads":
        return cast("Runner", ThreadPoolTaskRunner(max_workers=chosen.workers))
    if chosen.runner == "processes":
        return cast("Runner", ProcessPoolTaskRunner(max_workers=chosen.workers))
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise PedAlignError(
            "runtime.yaml: `runner` is dask, and prefect-dask is not installed",
            "Dask is an extra of this project",
            "pip install 'pedalign[dask]', or set runner to threads",
        ) from error
    if chosen.dask:
        return cast("Runner", DaskTaskRunner(address=chosen.dask))
    # One thread a worker: each holds its own model. No dashboard: it would want a port.
    local = {"n_workers": chosen.workers, "threads_per_worker": 1, "dashboard_address": None}
    return cast("Runner", DaskTaskRunner(cluster_kwargs=local))


@dataclass(frozen=True)
class Workplace:
    """Where a stage computes; sent along with every shard."""

    folder: str = field(default_factory=lambda: str(Path.cwd()))
    threads: int = field(default_factory=torch.get_num_threads)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        """Note that the process that makes it stands in it."""
        _entered.add(self.token)

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the fields alone, so that the receiving process has not entered."""
        return _received, (self.folder, self.threads, self.token)

    def enter(self) -> None:
        """Stand where the stage stands; does nothing in the stage's own process.

        Raises:
            PedAlignError: This machine does not have the project's folder.
        """
        if self.token in _entered:
            return
        if not Path(self.folder).is_dir():
            raise PedAlignError(
                f"a worker on {os.uname().nodename} has no folder {self.folder}",
                "workers read the project, its models and input shards where the stage does",
                "share the project's folder with that machine under the same path",
            )
        os.chdir(self.folder)
        use_threads(self.threads)
        claim_device(_worker_number())
        if (parent := multiprocessing.parent_process()) is not None:
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
        _entered.add(self.token)


def _received(folder: str, threads: int, token: str) -> Workplace:
    known = token in _entered
    place = Workplace(folder=folder, threads=threads, token=token)
    if not known:
        _entered.discard(token)
    return place


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
