"""Shards through the store: what exists is reused, what is missing is computed by workers.

A stage lists its shards as jobs, each with the key of its computation; `compute_shards` maps them
over Prefect's task runner, `have_training` does the same for a training, of which there is one.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE
from tqdm import tqdm

from flows import windows
from flows.workers import Workplace, surroundings
from models.loading import ALONE
from tasks.locks import training
from tasks.provenance import imported_libraries
from tasks.runtime import cache_root, device, runtime
from tasks.shards import ShardRecord, atomic_write
from tasks.store import ShardStore, TrainingStore

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class ShardJob:
    """One shard to have: its file name and the key of the computation that gives it."""

    name: str
    key: str


@dataclass(frozen=True)
class ShardWork:
    """How a stage's shards are computed."""

    stage: str
    schema_name: str
    compute: Callable[[str], pa.Table]
    """From a shard's file name to its table. A partial of a module's function, so that it can be
    sent to another process."""


def have_shard(
    job: ShardJob, work: ShardWork, store: ShardStore, place: Workplace
) -> tuple[ShardRecord, bool]:
    """Have one shard in the store, wherever this runs.

    Returns:
        Its record, and whether it was there already.
    """
    place.enter()
    record = store.find(job.key)
    if record is not None:
        return record, True
    table = work.compute(job.name)
    return store.save(job.key, job.name, table, work.schema_name), False


# Not a decorator: other processes find the plain function by its name.
_shard = task(name="shard", task_run_name="{work.stage} {job.name}", cache_policy=NO_CACHE)(
    have_shard
)


def once_a_worker(load: Callable[P, T]) -> Callable[P, T]:
    """Load a model once in every worker thread, one thread at a time.

    A sampler keeps its place between steps, so two shards in flight must not share one; and
    transformers' loading is not safe in two threads at once.
    """
    own = threading.local()

    @functools.wraps(load)
    def loaded(*args: P.args, **kwargs: P.kwargs) -> T:
        models: dict[Any, T] = own.__dict__.setdefault("models", {})
        key = (args, tuple(sorted(kwargs.items())))
        if key not in models:
            with ALONE:
                models[key] = load(*args, **kwargs)
        return models[key]

    return loaded


def once_a_device(load: Callable[P, T]) -> Callable[P, T]:
    """Load models once for every device, for all worker threads that compute on it.

    For models that several threads may use at once. Two workers of one GPU then hold its memory
    once, and while one writes its shard the other's batches keep the GPU busy.
    """
    models: dict[Any, T] = {}

    @functools.wraps(load)
    def loaded(*args: P.args, **kwargs: P.kwargs) -> T:
        key = (str(device()), args, tuple(sorted(kwargs.items())))
        with ALONE:
            if key not in models:
                models[key] = load(*args, **kwargs)
            return models[key]

    return loaded


def shard_store() -> ShardStore:
    """The project's store of shards."""
    shared = runtime().store
    return ShardStore(cache_root().resolve() / "shards", shared and f"{shared}/shards")


def compute_shards(jobs: Sequence[ShardJob], work: ShardWork) -> list[tuple[str, str, ShardRecord]]:
    """Have every shard: reuse what the store holds, compute the rest.

    Returns:
        ``(key, name, record)`` in the jobs' order, as `ShardStore.publish` takes them.

    Raises:
        Exception: Whatever a shard's computation raised, after the others were tried.
    """
    store = shard_store()
    # What the shards' keys name is what a worker has to have.
    place = Workplace(surroundings=surroundings(imported_libraries(f"flows.{work.stage}")))
    futures = [_shard.submit(job, work, store, place) for job in jobs]
    entries, reused, first_error = [], 0, None
    progress = windows.Progress(f"{work.stage}: {len(jobs)} shards", len(jobs))
    for job, future in zip(jobs, tqdm(futures, desc=work.stage, unit="shard"), strict=True):
        try:
            record, found = future.result()
        except Exception as error:  # the other shards' work is kept
            first_error = first_error or error
            continue
        reused += found
        entries.append((job.key, job.name, record))
        progress.advance()
    if first_error is not None:
        raise first_error
    log.info("%s: %d shards, %d reused from the store", work.stage, len(jobs), reused)
    _record_reuse(work.stage, len(jobs), reused)
    return entries


def have_training(key: str, output: Path, make: Callable[[Path], Path]) -> None:
    """Publish a training: the finished one of this key, else a new or continued one.

    Args:
        key: From `tasks.provenance.computation_key`.
        output: The stage's output folder.
        make: Trains; given the folder for running checkpoints, in which an interrupted call left
            its own, and returns the folder, below that one, that holds everything to keep.
    """
    store = TrainingStore(cache_root(), runtime().store)
    with training(cache_root(), key):
        found = store.find(key) is not None
        if found:
            log.info("%s: this training is finished already", output)
        else:
            store.save(key, make(store.running(key)))
        store.publish(key, output)
    _record_reuse(output.as_posix(), 1, int(found))


def _record_reuse(stage: str, shards: int, reused: int) -> None:
    folder = cache_root() / "reuse"
    folder.mkdir(parents=True, exist_ok=True)
    name = os.environ.get("DVC_STAGE", stage.replace("/", "-"))  # of a training: its output
    record = {"stage": name, "shards": shards, "reused": reused}
    atomic_write(folder / f"{name}.json", json.dumps(record).encode())
