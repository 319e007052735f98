"""A tiny dual encoder and a batch for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.dual.config import BertText, DualConfig, PatchVision
from models.dual.model import DualEncoder

TINY = DualConfig(
    vision=PatchVision(kind="vit", patch_size=8, dim=16, layers=1, heads=2, inner_dim=24),
    text=BertText(vocab_size=40, dim=12, layers=1, heads=2, inner_dim=24, max_positions=24),
    image_size=(32, 16),
    embed_dim=10,
    max_tokens=20,
)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., DualEncoder]:
    """A random tiny model whose attention and features are not nearly flat."""

    def make(**changes: Any) -> DualEncoder:
        torch.manual_seed(0)
        model = DualEncoder(dataclasses.replace(TINY, **changes))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)
        return model

    return make


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Six pairs of five people; texts of 4 to 9 tokens, one with nothing to predict."""
    return new_batch()


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., dict[str, Tensor]]:
    """Gives such batches, where one is not enough."""
    return new_batch


def new_batch() -> dict[str, Tensor]:
    """The batch of `batch`."""
    generator = torch.Generator().manual_seed(5)
    mask = (torch.arange(9) < torch.tensor([9, 5, 7, 4, 8, 6])[:, None]).long()
    ids = torch.randint(5, 40, (6, 9), generator=generator) * mask
    labels = torch.full_like(ids, -100)
    labels[:, 1] = ids[:, 1]
    labels[2, 2] = ids[2, 2]
    labels[4] = -100
    return {
        "image": torch.randn(6, 3, 32, 16, generator=generator),
        "ids": ids,
        "mask": mask,
        "person": torch.tensor([0, 1, 2, 1, 3, 4]),
        "masked_ids": ids.where(labels == -100, 4),
        "masked_labels": labels,
    }
