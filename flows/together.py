"""One training in several processes of this machine, a GPU each (runtime.yaml, ``processes``).

accelerate joins them: the batch is parted, the losses see all of it (`models.team`), and
gradients are averaged. The first process writes checkpoints and tells the stage how far it is. A
training that was begun with one number of processes is another computation than one with another
number: the last bits of its sums differ, so the number is part of its key (`team_revision`).
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import ProcessException, ProcessRaisedException, start_processes

from flows.workers import Workplace
from tasks.errors import PedAlignError
from tasks.runtime import claim_device, device, runtime

Progress = Callable[[int, int, Mapping[str, float]], None]


def team_revision() -> dict[str, str]:
    """What a training's key says of the processes: nothing where there is one."""
    count = runtime().processes
    return {} if count == 1 else {"processes": str(count)}


def train_together(train: Callable[..., Path], progress: Progress) -> Path:
    """Run a training, here or in as many processes as runtime.yaml says.

    Args:
        train: Takes ``device`` and ``progress``, and returns the finished folder. A partial of a
            module's function, so that it can be sent.
        progress: Called in this process with step, steps and the newest row of the curve.

    Raises:
        PedAlignError: What the training raised, too few GPUs, or a process that was killed.
    """
    count = runtime().processes
    if count == 1:
        return train(device=device(), progress=progress)
    if device().type == "cuda" and torch.cuda.device_count() < count:
        raise PedAlignError(
            f"runtime.yaml: `processes` is {count}, and there are {torch.cuda.device_count()} GPUs",
            "each process of a training has a GPU of its own",
            f"set processes to {torch.cuda.device_count()} or less",
        )
    told = multiprocessing.get_context("spawn").SimpleQueue()
    team = start_processes(
        _member,
        args=(count, _free_port(), train, Workplace(), told),
        nprocs=count,
        join=False,
        start_method="spawn",
    )
    heard: dict[str, Any] = {}
    try:
        while not team.join(timeout=0.2):
            _hear(told, progress, heard)
    except ProcessException as error:
        _hear(told, progress, heard)
        if "fault" in heard:
            raise heard["fault"] from None
        if isinstance(error, ProcessRaisedException):
            raise
        raise PedAlignError(
            f"a process of the training ended ({error})",
            "all processes of a training live until it ends",
            "run the same command again, which goes on from the last checkpoint; if it comes "
            "back, memory may be short: lower processes in runtime.yaml",
        ) from error
    finally:  # also where `progress` raised, or Ctrl-C came
        for member in team.processes:
            member.kill()
    _hear(told, progress, heard)
    return Path(heard["finished"])


def _hear(told: Any, progress: Progress, heard: dict[str, Any]) -> None:
    """Take in what the members have told."""
    while not told.empty():
        word, content = told.get()
        if word == "step":
            progress(*content)
        else:
            heard.setdefault(word, content)


def _member(
    number: int, count: int, port: int, train: Callable[..., Path], place: Workplace, told: Any
) -> None:
    """Be one of the processes."""
    os.environ.update(
        RANK=str(number),
        LOCAL_RANK=str(number),
        WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        # Else accelerate sets a number of its own, and the last bits follow it.
        OMP_NUM_THREADS=str(place.threads),
    )
    place.enter()
    claim_device(number)
    from accelerate import PartialState  # reads the variables above

    # The first process may encode or validate for hours while the others wait; one that ends is
    # seen by the stage.
    PartialState(cpu=device().type == "cpu", timeout=timedelta(days=7))
    try:
        progress = partial(_tell, told) if number == 0 else None
        finished = train(device=device(), progress=progress)
    except PedAlignError as error:
        told.put(("fault", error))
        sys.exit(1)
    if number == 0:
        told.put(("finished", str(finished)))
    distributed.destroy_process_group()


def _tell(told: Any, step: int, steps: int, row: Mapping[str, float]) -> None:
    told.put(("step", (step, steps, dict(row))))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
