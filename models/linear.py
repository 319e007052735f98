"""Linear maps on the processor by oneDNN, where no gradient is wanted.

torch multiplies float32 matrices by MKL, which on AMD's processors leaves half of the vector width
unused: there oneDNN, which torch brings too, was measured twice as fast. It also applies bias and
GELU while a result is still in a register. Values differ from `torch.nn.functional.linear` by
float noise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(layer: nn.Linear, x: Tensor, *, gelu: bool = False) -> Tensor:
    """Apply a linear layer, and GELU if wanted.

    Args:
        layer: The layer.
        x: Rows of its input width.
        gelu: Whether GELU (exact, by the error function) follows.
    """
    if by_onednn(x):
        weight, bias = layer.weight, layer.bias
        kind, how = ("gelu", "none") if gelu else ("none", "")
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, kind, [], how)
        return out
    out = layer(x)
    return F.gelu(out) if gelu else out


def by_onednn(x: Tensor) -> bool:
    """Whether `linear` computes these rows by oneDNN."""
    return bool(
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and len(x) > 0
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
