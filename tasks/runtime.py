"""What may differ between machines without changing a result: devices, workers, batch sizes.

Read from the untracked ``runtime.yaml`` where there is one; every key has a default here. Thread
counts are not among them: they change the last bits of a sum, so they are a parameter
(``machine.threads``).
"""

from __future__ import annotations

import itertools
import os
import threading
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from tasks.errors import PedAlignError
from tasks.params import Positive, PositiveFloat, check_section, params, read_section, read_yaml

RUNTIME_FILE = "runtime.yaml"


@params
class Runtime:
    """The keys of runtime.yaml."""

    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` takes a GPU where there is one."""
    workers: Positive = 2
    """Shards in flight at once, each with its own models. With one thread a model (the default
    profile) two workers use two cores, and no thread waits for another at a barrier."""
    runner: Literal["threads", "processes", "dask", "ray"] = "threads"
    """Where they work: threads or processes of the stage, or workers of a Dask or Ray cluster."""
    cluster: str = ""
    """Address of a running Dask or Ray cluster; empty starts ``workers`` on this machine."""
    store: str = ""
    """A shared store behind ``.cache``: any location of fsspec, ``s3://team/pedalign`` say."""
    processes: Positive = 1
    """Processes of one training on this machine, each with a GPU; they part every batch. The last
    bits of a result depend on it, so it is part of a training's key."""
    batch_size: Positive = 64
    """Images a forward pass where the size cannot change a result beyond float noise."""
    memory_mb: Positive = 2048
    """Memory that an evaluation may use for tokens, keys and scores, besides the model and the
    features; tokens that do not fit wait in a file in the system's temporary folder (TMPDIR)."""
    recompute: bool = False
    """Whether a training computes the activations of every Swin block and BERT layer, and of
    adapt's UNet and ControlNet, again in the backward pass instead of keeping them: less memory
    for about a third more time."""
    compile: bool = False
    """Whether restyling's networks go through torch.compile: minutes before the first picture, for
    a GPU that makes a great many."""
    checkpoint_seconds: PositiveFloat = 30.0
    """Time between a training's running checkpoints: what a kill can cost."""
    port: Positive = 4200
    """Where the Prefect server listens."""


@params
class MachineParams:
    """Section ``machine`` of params.yaml: what does change the last bits."""

    threads: Positive
    """Threads of one torch operation. Sums are split among them, so results depend on it."""


def project_root() -> Path:
    """The project that DVC runs. Experiments run in a copy but share their parent's stores."""
    return Path(os.environ.get("DVC_ROOT", "."))


def cache_root() -> Path:
    """The folder of everything that can be recomputed, ``.cache`` in the project."""
    return project_root() / ".cache"


@cache
def runtime() -> Runtime:
    """Read runtime.yaml, once.

    Raises:
        PedAlignError: An unknown key or a bad value.
    """
    path = project_root() / RUNTIME_FILE
    if not path.exists():
        return Runtime()
    return check_section(Runtime, read_yaml(path), "runtime", path)


_claims = itertools.count()
_own = threading.local()


def claim_device(number: int | None = None) -> int:
    """Number of the calling worker thread, for good: its GPU where a machine has several.

    Args:
        number: What to claim; None keeps the thread's own, or takes the next.
    """
    if number is not None or not hasattr(_own, "number"):
        _own.number = next(_claims) if number is None else number
    return int(_own.number)


def device() -> torch.device:
    """The device to compute on; with several GPUs each worker thread has one of its own.

    Raises:
        PedAlignError: The device that runtime.yaml names is not there.
    """
    name = runtime().device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.device_count() > 1:
        name = f"cuda:{claim_device() % torch.cuda.device_count()}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise PedAlignError(
            f"{RUNTIME_FILE}: `device` is {name!r} ({str(error).splitlines()[0]})",
            "it names a device that torch can use here",
            "set it to auto or cpu",
        ) from error
    return torch.device(name)


def use_machine(path: Path) -> MachineParams:
    """Set what decides the last bits of a result: threads and deterministic kernels."""
    machine = read_section(MachineParams, "machine", path)
    use_threads(machine.threads)
    return machine


def use_threads(threads: int) -> None:
    """Set the threads of one torch operation, and deterministic kernels."""
    torch.set_num_threads(threads)
    # Some CUDA kernels have no deterministic form: there torch says so instead of stopping. (The
    # newer name of this switch imports torch's compiler, a second and a half.)
    torch.set_deterministic_debug_mode("warn")
    # It would also fill all new memory with NaN, to show who reads what nobody wrote: time alone.
    # (A property that torch hangs on the module itself, which no stub tells of.)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
