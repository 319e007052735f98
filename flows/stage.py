"""One DVC stage as one Prefect flow run: everything around the work, and none of the work.

``python -m flows.WORD`` is what DVC runs. `run` finds the Prefect server (``PREFECT_API_URL``, else
one that listens on the port of runtime.yaml, else Prefect's own short-lived one), names and tags
the run so that the runs of one rebuild or experiment stand together, marks runs that were killed
earlier, ends when its parent ends, records time and memory, and turns a mistake that the user can
mend into a paragraph and a non-zero exit.
"""

from __future__ import annotations

import contextvars
import gc
import importlib
import json
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import Flow, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import Failed

from flows import faults, guard, liveness, mending, supplies
from flows.servers import using_server
from flows.workers import server_for_workers, task_runner
from tasks.disk import cache_use
from tasks.locks import output_lock
from tasks.params import PARAMS_FILE
from tasks.runtime import cache_root, project_root, use_machine
from tasks.shards import atomic_write

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
    gc.freeze()  # what was imported stays
    gc.set_threshold(700, 10, 10)
    os.environ.setdefault("DO_NOT_TRACK", "1")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for name in ("flows", "tasks", "models"):
        logging.getLogger(name).setLevel(logging.INFO)
    stage = os.environ.get("DVC_STAGE", flow.name)
    started = time.time()
    guard.end_with_parent()
    on_interrupt = _Interrupt(stage)
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        if "DVC_STAGE" in os.environ:
            supplies.check_for_dvc()
        with ExitStack() as held:
            if url := held.enter_context(using_server()):
                held.enter_context(temporary_settings({PREFECT_API_URL: url}))
            else:
                log.warning("no Prefect server: task history is incomplete; `make ui` starts one")
                if os.environ.pop("PREFECT_API_URL", None):  # that of a rebuild, killed since
                    os.environ.pop(PARENT_VARIABLE, None)
                    held.enter_context(temporary_settings(restore_defaults={PREFECT_API_URL}))
                held.enter_context(guard.start())  # Prefect's own server must not outlive a kill
                if (home := project_root().resolve()) != Path.cwd():
                    # An experiment's copy of the project goes away; what ran in it is kept.
                    held.enter_context(temporary_settings({PREFECT_HOME: home / ".prefect"}))
                if own := server_for_workers():
                    held.enter_context(temporary_settings({PREFECT_API_URL: own}))
            if "DVC_STAGE" in os.environ:
                mending.keep_lock()
            faults.quieten()
            held.enter_context(tags(*run_tags(stage)))
            liveness.bury()
            with get_client(sync_client=True) as client:
                flow_run = _create_run(client, flow, stage, arguments)
            on_interrupt.run = flow_run.id
            held.enter_context(liveness.noted(flow_run.id, stage))
            _work(flow, flow_run, stage, outputs, arguments)
        _record_cost(stage, started)
    except Exception as error:
        fault = faults.mendable(error, stage)
        if fault is None:
            raise
        sys.exit(f"{stage} stopped.\n{fault}")


def _work(
    flow: Flow[..., Any],
    flow_run: FlowRun,
    stage: str,
    outputs: tuple[Path, ...],
    arguments: dict[str, Any],
) -> None:
    """Hold the outputs and run the flow; the run's state says what stopped it."""
    try:
        with ExitStack() as held:
            use_machine(PARAMS_FILE)
            for output in outputs:
                # An experiment's copy of the project writes outputs of its own.
                held.enter_context(output_lock(output.absolute(), cache_root()))
            flow = imported(flow).with_options(task_runner=task_runner())
            run_flow(flow, flow_run=flow_run, parameters=arguments)
    except Exception as error:
        fault = faults.mendable(error, stage)
        if fault is None:
            raise
        liveness.end(flow_run.id, Failed(message=str(fault)))
        raise fault from error


def _thread(function: Callable[..., Any], *arguments: Any) -> threading.Thread:
    """Start a thread that knows Prefect's settings, which are variables of the context."""
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(function, *arguments), daemon=True)
    thread.start()
    return thread


class _Interrupt:
    """Ctrl-C: say so, mark the run and leave at once.

    Unwinding would wait for the shards in flight, minutes each. Nothing needs it: results are
    written whole or not at all, and the system drops the locks.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.run: UUID | None = None
        self._leaving = threading.Event()

    def __call__(self, *_: object) -> None:
        """Leave by a thread of its own: the interrupted one may hold any lock."""
        if not self._leaving.is_set():
            self._leaving.set()
            _thread(self._leave)

    def _leave(self) -> None:
        sys.stderr.write(f"\n{self.stage} stopped.\n{faults.INTERRUPTED}\n")
        if self.run is not None:
            _thread(liveness.leave, self.run, "Interrupted from the keyboard.").join(5)
        guard.end_children()
        os._exit(130)


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


def rebuild_name() -> str:
    """What the runs of one ``dvc repro``, or of one experiment, have in common."""
    # DVC's stages share its process group, whatever shell starts them.
    return (
        os.environ.get(GROUP_VARIABLE)
        or os.environ.get("DVC_EXP_NAME")
        or f"{time.strftime('%Y%m%d')}-{os.getpgrp()}"
    )


def run_tags(stage: str) -> list[str]:
    """Tags of a stage's run; `rebuild:` finds its fellows, `experiment:` those of `dvc exp`."""
    experiment = os.environ.get("DVC_EXP_NAME")
    found = [f"rebuild:{rebuild_name()}", f"stage:{stage}"]
    return [*found, f"experiment:{experiment}"] if experiment else found


@task(name="stage", cache_policy=NO_CACHE)
def _marker() -> None:
    """Stands for a stage among the tasks of the rebuild's flow run."""


def _create_run(
    client: SyncPrefectClient, flow: Flow[..., Any], stage: str, arguments: Mapping[str, Any]
) -> FlowRun:
    """Create a stage's flow run, as a child of the rebuild's own run where there is one.

    Prefect links runs within a process by itself; across processes it takes the three calls that
    ``run_deployment(as_subflow=True)`` makes.
    """
    experiment = os.environ.get("DVC_EXP_NAME")
    name = f"{stage} ({experiment})" if experiment else stage
    node = None
    if parent := os.environ.get(PARENT_VARIABLE):
        node = client.create_task_run(
            task=_marker, flow_run_id=UUID(parent), dynamic_key=name, name=name
        ).id
    return client.create_flow_run(
        flow,
        parameters=dict(arguments),
        parent_task_run_id=node,
        name=name,
        tags=run_tags(stage),
    )


def _record_cost(stage: str, started: float) -> None:
    """Keep a stage's time and peak memory for the report; they are no part of any result."""
    folder = cache_root() / "timings"
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "stage": stage,
        "seconds": round(time.time() - started, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "started": round(started, 2),
        "cache": cache_use(cache_root()),
    }
    atomic_write(folder / f"{stage}.json", json.dumps(record).encode())
