"""Compute again instead of keeping: activations are made a second time in the backward pass.

`recomputed` keeps only what a call was given. `in_parts` also splits the rows, so that the backward
pass holds the activations of one part at a time while a loss still compares all rows: gradient
caching (Gao et al. 2021), which autograd does by itself where each part is recomputed. The random
state is put back for the second pass, so dropout drops the same.

Shapes: B rows, the first dimension of every tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(call: Callable[..., Tensor], *args: Any, again: bool = True) -> Tensor:
    """What a call gives, its activations computed again in the backward pass.

    Args:
        call: Anything whose result follows from its arguments, parameters and the random state.
        args: What it is given. On a GPU one of them has to be a tensor there.
        again: False calls it plainly, and so does a pass without gradients.
    """
    if not again or not torch.is_grad_enabled():
        return call(*args)
    found: Tensor = checkpoint(call, *args, use_reentrant=False)
    return found


def in_parts(call: Callable[..., Tensor], *rows_B: Tensor, size: int) -> Tensor:
    """What a call gives for rows, computed for `size` rows at a time and recomputed.

    Args:
        call: Rows to rows, each from itself alone.
        rows_B: Tensors of equally many rows.
        size: Rows at a time; 0 takes all at once and keeps the activations.
    """
    if size == 0:
        return call(*rows_B)
    kind = rows_B[0].device.type

    def alone(*part: Tensor) -> Tensor:
        # Autocast would keep one half-precision copy of each weight for all parts, and their
        # gradients would then be summed in half precision.
        with torch.autocast(
            kind,
            torch.get_autocast_dtype(kind),
            enabled=torch.is_autocast_enabled(kind),
            cache_enabled=False,
        ):
            return call(*part)

    parts = zip(*(rows.split(size) for rows in rows_B), strict=True)
    return torch.cat([recomputed(alone, *part) for part in parts])


def recompute_layers(module: nn.Module, again: bool) -> None:
    """Let the layers of the encoders inside a module keep their activations, or compute them again.

    Args:
        module: Whatever holds encoders; those have an attribute `recompute`.
        again: Whether to compute them again.
    """
    parts: Iterable[Any] = module.modules()
    for part in parts:
        if hasattr(part, "recompute"):
            part.recompute = again
