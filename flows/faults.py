"""Faults that a user can mend, as a paragraph: what was found, the rule, the remedy.

`mendable` recognises them behind whatever exception a library made of them; `quieten` keeps
Prefect from printing a traceback for them. Anything else is a defect and keeps its traceback.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import httpx
import torch

from tasks.errors import PedAlignError
from tasks.runtime import cache_root

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# How libraries that keep no errno say it: safetensors, SQLite, torch.save.
FULL_TEXTS = (
    "no space left on device",
    "disk quota exceeded",
    "database or disk is full",
    "pytorchstreamwriter failed",
)
PREFECT_PATHS = tuple(
    f"/api/{part}"
    for part in ("flow_runs", "flows", "task_runs", "artifacts", "admin", "health", "csrf-token")
)
MEMORY_TEXTS = ("can't allocate memory", "not enough memory", "out of memory", "cannot allocate")
# What fills memory in a stage, and whether it belongs to params.yaml or to runtime.yaml.
LOWER = {
    "adapt": "adapt.batch in params.yaml",
    "restyle": "batch_size or workers in runtime.yaml",
    "screen": "workers in runtime.yaml",
    "caption": "batch of the method's part of caption in params.yaml, or workers in runtime.yaml",
    "annotate": "annotate.batch in params.yaml, or workers in runtime.yaml",
    "pretrain": "pretrain.training.batch in params.yaml",
    "finetune": "finetune.datasets.{key}.training.batch in params.yaml",
    "reid": "reid.datasets.{key}.training.batch in params.yaml",
    "evaluate": "batch_size in runtime.yaml",
    "gap": "gap.pictures in params.yaml",
    "ingest": "ingest.datasets.{key}.shard_rows in params.yaml",
}
FAILED = "Finished in state Failed("  # as Prefect words it
INTERRUPTED = (
    "Interrupted. Nothing that was finished is lost: shards are in the store, a training goes on "
    "from its last checkpoint.\n  remedy: run the same command again"
)


def mendable(error: BaseException, stage: str) -> PedAlignError | None:
    """Find the fault that a user can mend behind an exception.

    Args:
        error: What a stage raised.
        stage: DVC's name of the stage; remedies name its parameters.

    Returns:
        The paragraph, or None for a defect of the program.
    """
    for link in _chain(error):
        if isinstance(link, PedAlignError):
            return link
        text = str(link).lower()
        if getattr(link, "errno", None) in FULL or any(t in text for t in FULL_TEXTS):
            return _full(link)
        if isinstance(link, MemoryError | torch.OutOfMemoryError) or (
            isinstance(link, RuntimeError) and any(t in text for t in MEMORY_TEXTS)
        ):
            return _memory(link, stage)
        if _of_prefect(link):
            return PedAlignError(
                f"the Prefect server does not answer: {text[:200]}",
                "a stage reports to the server that was up when it started, or that "
                "PREFECT_API_URL names",
                "start it (`make ui`), or unset PREFECT_API_URL; then run the same command again, "
                "which keeps what was finished",
            )
        if isinstance(link, BrokenProcessPool) or type(link).__name__ == "KilledWorker":
            return _worker(stage)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Walk from an exception to those that it came from."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _of_prefect(error: BaseException) -> bool:
    """Say whether a call of Prefect's own server failed, and no other call."""
    if isinstance(error, RuntimeError) and "Failed to reach API" in str(error):
        return True
    if not isinstance(error, httpx.TransportError):
        return False
    try:
        return error.request.url.path.startswith(PREFECT_PATHS)
    except RuntimeError:  # no request is known
        return False


def _full(error: BaseException) -> PedAlignError:
    # A failed rename names two files; the one that was to be made is the second.
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    where = Path(os.fsdecode(name)).parent if isinstance(name, str | bytes) else cache_root()
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free / 2**20
    return PedAlignError(
        f"{where.absolute()}: no space left ({free:,.0f} MiB free, or a quota is reached)",
        "a stage writes its result whole or not at all; what was finished is kept",
        "free space, with `pedalign gc` (the store) or `dvc gc --workspace` (DVC's cache), then "
        "run the same command again",
    )


def _memory(error: BaseException, stage: str) -> PedAlignError:
    word, _, key = stage.partition("@")
    what = str(error).strip().splitlines()[0][:200] if str(error).strip() else "MemoryError"
    device = "the GPU's" if "CUDA" in what or isinstance(error, torch.OutOfMemoryError) else "the"
    remedy = LOWER.get(word, "workers or batch_size in runtime.yaml").format(key=key)
    return PedAlignError(
        f"{device} memory is used up: {what}",
        "a batch and the models that compute it must fit into memory",
        f"lower {remedy}; then run the same command again, which keeps what was finished",
    )


def _worker(stage: str) -> PedAlignError:
    return PedAlignError(
        f"a worker of {stage} was killed, most often by the system when memory runs out",
        "workers live until their stage ends",
        "run the same command again, which computes only what is missing; if it comes back, "
        "lower workers in runtime.yaml",
    )


class _NoTraceback(logging.Filter):
    """Cuts a record of a fault that a user can mend to its first line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, such a one without its traceback."""
        if str(record.msg).startswith(FAILED):  # its reason stands in the record before
            record.msg = FAILED.rstrip("(")
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        fault = mendable(error, "a stage") if error is not None else None
        if fault is not None:
            record.exc_info = record.exc_text = None
            record.msg, record.args = "stopped: %s", (fault.found,)
        return True


def quieten() -> None:
    """Keep Prefect from printing tracebacks of faults that a user can mend."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(f, _NoTraceback) for f in logger.filters):
            logger.addFilter(_NoTraceback())
