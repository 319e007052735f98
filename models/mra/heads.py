"""Contrastive heads: from pooled tokens to the feature that is compared.

Shapes: B rows, D width of what was pooled, E width of the feature.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mra.config import MRAConfig

HEADS = ("vision_proj.", "text_proj.", "region_proj.", "phrase_proj.")
"""How the names of their weights in a model begin."""


def contrastive_head(config: MRAConfig, width: int, parts: int) -> nn.Module:
    """The contrastive head of one side.

    Over `parts` pooled tokens: BatchNorm, dropout and a linear map that starts almost at zero, as
    released. Over token 0: a plain linear map.
    """
    if config.head == "token":
        return nn.Linear(width, config.embed_dim)
    width = parts * width
    linear = nn.Linear(width, config.embed_dim)
    nn.init.normal_(linear.weight, std=1e-5)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.BatchNorm1d(width), nn.Dropout(config.head_dropout), linear)


def apply_head(head: nn.Module, pooled_BD: Tensor, chunks: int = 1) -> Tensor:
    """Features (B, E), not yet normalised.

    Args:
        head: What `contrastive_head` made.
        pooled_BD: Pooled tokens.
        chunks: Equal consecutive parts of the batch. In training each is normalised by its own
            mean and variance, and the first alone moves the running ones, as where each part lay
            on a device of its own and DDP sent the first device's buffers to all.
    """
    if chunks == 1 or not head.training or not isinstance(head, nn.Sequential):
        features: Tensor = head(pooled_BD)
        return features
    norm, dropout, linear = head
    first, *others = pooled_BD.tensor_split(chunks)
    normed = [norm(first), *(_own_statistics(norm, part) for part in others)]
    found: Tensor = linear(dropout(torch.cat(normed)))
    return found


def _own_statistics(norm: Any, part_BD: Tensor) -> Tensor:
    """BatchNorm in training that leaves its running statistics alone."""
    return F.batch_norm(part_BD, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


def normalise(feature_BE: Tensor) -> Tensor:
    """Features of unit length, in float32 whatever they came in."""
    return F.normalize(feature_BE.float(), dim=-1)
