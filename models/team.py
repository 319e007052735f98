"""Processes that train one model together: who is in them, and a batch that is seen whole.

accelerate joins the processes (`join`) and averages their gradients. Each encodes its own rows of a
batch. What compares rows (contrastive loss, negatives, BatchNorm in the heads) works on the rows of
all, gathered with gradient; costly pairs are shared out. So the losses are those of one process
with the same whole batch, whatever the number of processes; the release instead draws negatives
and predicts words within each process. Alone, every function here gives back what it
got, and accelerate is not touched.

Gradients: a process's backward pass gives the gradient of its own sum of losses, and the average is
taken over processes. A loss that every process computes whole comes out right as it is; a share is
multiplied by the number of processes (`shared`), so that the average is the whole.

Shapes: B rows of one process, N rows of all.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


def processes() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def number() -> int:
    """Number of this process among them; the first, 0, writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait() -> None:
    """Wait until all processes are here."""
    if processes() > 1:
        dist.barrier()


def join(module: nn.Module) -> nn.Module:
    """What to call in a module's place, so that gradients become the average over processes."""
    if processes() == 1:
        return module
    on_cpu = next(module.parameters()).device.type == "cpu"
    joined: nn.Module = Accelerator(cpu=on_cpu).prepare_model(module)
    return joined


@torch.no_grad()
def average(values: Tensor) -> Tensor:
    """The average over processes, of a loss that is to be told."""
    if processes() == 1:
        return values
    dist.all_reduce(values)
    return values / processes()


def gather(rows_B: Tensor, padding: int = 0) -> Tensor:
    """The rows of all processes (N, ...), in order, with gradient to each process's own.

    Args:
        rows_B: Own rows; the same number in every process. Where the second dimension differs
            (word pieces), the shorter are padded behind.
        padding: With what.
    """
    if processes() == 1:
        return rows_B
    if rows_B.ndim > 1:
        longest = torch.tensor(rows_B.shape[1], device=rows_B.device)
        dist.all_reduce(longest, dist.ReduceOp.MAX)
        behind = [0, 0] * (rows_B.ndim - 2) + [0, int(longest) - rows_B.shape[1]]
        rows_B = F.pad(rows_B, behind, value=padding)
    gathered: Tensor = _Gather.apply(rows_B)
    return gathered


class _Gather(torch.autograd.Function):
    """All processes' rows; backwards, each row's gradient from all processes comes home."""

    @staticmethod
    def forward(_: FunctionCtx, rows_B: Tensor) -> Tensor:
        parts = [torch.empty_like(rows_B) for _ in range(processes())]
        dist.all_gather(parts, rows_B.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_: FunctionCtx, gradient_N: Tensor) -> Tensor:
        gradient_N = gradient_N.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient_N)
        return gradient_N.chunk(processes())[number()]


def gather_batch(
    batch: dict[str, Tensor], own: tuple[str, ...], padding: Mapping[str, int]
) -> dict[str, Tensor]:
    """A batch's rows of all processes.

    Args:
        batch: Own rows.
        own: Names that are left out, since their own process alone works on them.
        padding: What stands behind the shorter rows, by name; elsewhere 0.
    """
    if processes() == 1:
        return batch
    return {
        name: gather(rows, padding.get(name, 0))
        for name, rows in sorted(batch.items())
        if name not in own
    }


def own_part(rows_N: Tensor) -> Tensor:
    """The run of rows that is this process's own, as the loader parts a batch."""
    return rows_N if processes() == 1 else rows_N.tensor_split(processes())[number()]


def own_share(rows_N: Tensor) -> Tensor:
    """Every how-many-th row, so that all processes get as much of each kind; all where alone."""
    return rows_N if processes() == 1 else rows_N[number() :: processes()]


def shared(loss: Tensor) -> Tensor:
    """Weigh a share of a loss so that the average over processes is the whole."""
    return loss if processes() == 1 else loss * processes()
