"""Three-stripe pooling of tokens, over all of them or over those of a mask.

Shapes: B rows, L tokens in order, D width, S stripes.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRIPES = 3


def stripe_weights(mask_BL: Tensor, stripes: int = STRIPES) -> Tensor:
    """Weights that average the masked-in tokens of each row in `stripes` runs.

    Token i of the n that count belongs to stripe s where floor(s n / S) <= i < ceil((s + 1) n / S),
    the rule of `torch.nn.AdaptiveAvgPool1d`, which this is for a full mask.
    With n < S a token serves several stripes; a row without any token gets zeros.

    Args:
        mask_BL: 1 for a token that counts.
        stripes: S.

    Returns:
        Float weights (B, S, L) whose rows sum to 1.
    """
    counted = mask_BL.bool()
    order_BL = counted.cumsum(1) - 1
    total_B1 = counted.sum(1, keepdim=True)
    stripe_S = torch.arange(stripes, device=mask_BL.device)
    start_BS = (stripe_S * total_B1) // stripes
    stop_BS = ((stripe_S + 1) * total_B1 + stripes - 1) // stripes
    inside = (order_BL[:, None, :] >= start_BS[:, :, None]) & (
        order_BL[:, None, :] < stop_BS[:, :, None]
    )
    inside &= counted[:, None, :]
    return inside / (stop_BS - start_BS).clamp(min=1)[:, :, None]


def stripe_pool(tokens_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:
    """Three stripes of tokens, side by side: (B, 3 D).

    Args:
        tokens_BLD: Tokens in order (raster order for an image: the stripes are then horizontal).
        mask_BL: 1 for a token that counts; None for all.
    """
    if mask_BL is None:
        mask_BL = torch.ones(1, tokens_BLD.shape[1], device=tokens_BLD.device)
    weights = stripe_weights(mask_BL).to(tokens_BLD.dtype)
    return (weights @ tokens_BLD).flatten(1)


def masked_mean(tokens_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Mean of the masked-in tokens: (B, D). A row without any token gives zeros."""
    weights = mask_BL.to(tokens_BLD.dtype)
    return (weights[:, None, :] @ tokens_BLD).squeeze(1) / weights.sum(1, keepdim=True).clamp(min=1)
