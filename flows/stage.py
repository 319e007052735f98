"""One DVC stage as one Prefect flow run: everything around the work, and none of the work.

``python -m flows.WORD`` is what DVC runs. `run` finds the Prefect server (``PREFECT_API_URL``, else
one that listens on the port of runtime.yaml, else Prefect's own short-lived one), names and tags
the run so that the runs of one rebuild stand together, ends when its parent ends, records time and
memory, and turns a mistake that the user can mend into a paragraph and a non-zero exit.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import resource
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import psutil
from prefect import Flow, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.workers import task_runner
from tasks.errors import PedAlignError
from tasks.params import PARAMS_FILE
from tasks.runtime import cache_root, runtime, use_machine
from tasks.shards import atomic_write
from tasks.store import output_lock

log = logging.getLogger(__name__)

PARENT_VARIABLE = "PEDALIGN_PARENT_RUN"
GROUP_VARIABLE = "PEDALIGN_REBUILD"


# ------------------------------------------------------------------ the run of a stage


def run(flow: Flow[..., Any], *outputs: Path, **arguments: Any) -> None:
    """Run a stage's flow as DVC's command, and exit.

    Args:
        flow: The stage's flow.
        *outputs: The folders it writes; locked meanwhile.
        **arguments: The flow's arguments.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for name in ("flows", "tasks", "models"):
        logging.getLogger(name).setLevel(logging.INFO)
    stage = os.environ.get("DVC_STAGE", flow.name)
    started = time.time()
    _end_with_parent()
    try:
        with ExitStack() as held:
            use_machine(PARAMS_FILE)
            for output in outputs:
                held.enter_context(output_lock(output, cache_root()))
            url = find_server()
            if url:
                held.enter_context(temporary_settings({PREFECT_API_URL: url}))
            else:
                log.warning("no Prefect server: task history is incomplete; `make ui` starts one")
            held.enter_context(tags(f"rebuild:{rebuild_name()}", f"stage:{stage}"))
            flow = imported(flow).with_options(flow_run_name=stage, task_runner=task_runner())
            _run_below_parent(flow, stage, arguments)
    except PedAlignError as error:
        sys.exit(f"{stage} stopped.\n{error}")
    _record_cost(stage, started)


def imported(flow: Flow[..., Any]) -> Flow[..., Any]:
    """The same flow under its module's own name.

    ``python -m flows.WORD`` defines it in ``__main__``, which a worker in another process does not
    have.
    """
    spec = sys.modules["__main__"].__spec__
    if flow.fn.__module__ != "__main__" or spec is None:
        return flow
    module = importlib.import_module(spec.name)
    return cast("Flow[..., Any]", getattr(module, flow.fn.__name__))


def find_server() -> str | None:
    """The API of a Prefect server that is up, or None."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    url = f"http://127.0.0.1:{runtime().port}/api"
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=0.5) as answer:
            return url if answer.status == 200 else None
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


def rebuild_name() -> str:
    """What the runs of one ``dvc repro`` have in common."""
    # DVC's stages share its process group, whatever shell starts them.
    return (
        os.environ.get(GROUP_VARIABLE)
        or os.environ.get("DVC_EXP_NAME")
        or f"{time.strftime('%Y%m%d')}-{os.getpgrp()}"
    )


@task(name="stage", cache_policy=NO_CACHE)
def _marker() -> None:
    """Stands for a stage among the tasks of the rebuild's flow run."""


def _run_below_parent(flow: Flow[..., Any], stage: str, arguments: dict[str, Any]) -> None:
    """Run the flow, as a child of the rebuild's own flow run where there is one.

    Prefect links runs within a process by itself; across processes it takes the three calls that
    ``run_deployment(as_subflow=True)`` makes.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if not parent:
        flow(**arguments)
        return
    with get_client(sync_client=True) as client:
        node = client.create_task_run(
            task=_marker, flow_run_id=UUID(parent), dynamic_key=stage, name=stage
        )
        flow_run = client.create_flow_run(
            flow,
            parameters=arguments,
            parent_task_run_id=node.id,
            name=stage,
            tags=[f"rebuild:{rebuild_name()}", f"stage:{stage}"],
        )
    run_flow(flow, flow_run=flow_run, parameters=arguments)


def _end_with_parent() -> None:
    """End this process when the one that started it ends.

    Killing ``dvc`` alone would otherwise leave an orphan that writes into the output while the
    rerun does. Nothing is lost: what is finished is in the store.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        for child in psutil.Process().children(recursive=True):  # Prefect's own server, workers
            child.kill()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _record_cost(stage: str, started: float) -> None:
    """Keep a stage's time and peak memory for the report; they are no part of any result."""
    folder = cache_root() / "timings"
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "stage": stage,
        "seconds": round(time.time() - started, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "started": round(started, 2),
    }
    atomic_write(folder / f"{stage}.json", json.dumps(record).encode())
