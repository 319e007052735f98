"""A training's running checkpoint: where a killed run goes on.

It holds what the rest of a run follows from (weights, optimiser, step, curve), is either absent or
whole, and is refused where it belongs to another training. Each loop says what is in it.

    write_running(path, {"step": 7, "steps": 100, ...})
    with read_running(path, 100, device) as state:
        if state is not None:
            model.load_state_dict(state["model"])
"""

from __future__ import annotations

from contextlib import contextmanager
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch

from tasks.errors import PedAlignError
from tasks.shards import atomic_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

RUNNING = "running.pt"
"""Its name in a run folder."""


def write_running(path: Path, state: Mapping[str, Any]) -> None:
    """Write a running checkpoint.

    Args:
        path: In the run folder.
        state: Tensors and plain values, with ``steps``: how many steps the whole training has.
    """
    with atomic_file(path) as sink:
        torch.save(dict(state), sink)


@contextmanager
def read_running(
    path: Path, steps: int, device: torch.device | str
) -> Iterator[dict[str, Any] | None]:
    """Open a running checkpoint; what does not fit while it is taken over is explained.

    Args:
        path: In the run folder.
        steps: How many steps this training has.
        device: Where its tensors go.

    Yields:
        The state, or None if there is no checkpoint.

    Raises:
        PedAlignError: It belongs to another training, or is damaged.
    """
    if not path.exists():
        yield None
        return
    try:
        # Runs no code that the file may hold.
        state = torch.load(path, map_location=device, weights_only=True)
        if state["steps"] != steps:
            raise ValueError(f"{state['steps']} steps, not {steps}")
        yield state
    except (RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        reason = " ".join((str(error) or repr(error)).split())[:300]
        raise PedAlignError(
            f"{path}: of another training, or damaged ({reason})",
            "a run folder belongs to one training: same data, parameters and code",
            f"delete {path.parent}",
        ) from error
