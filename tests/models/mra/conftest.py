"""A tiny model and a batch for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.mra import MRA, PAPER, MRAConfig, Reading

TINY = MRAConfig(
    image_size=(48, 24),
    vision_dim=8,
    depths=(2, 2),
    vision_heads=(1, 2),
    window_size=3,
    drop_path=0.0,
    vocab_size=40,
    text_dim=16,
    text_layers=1,
    fusion_layers=2,
    text_heads=2,
    text_inner_dim=32,
    max_positions=24,
    max_tokens=20,
    text_dropout=0.0,
    embed_dim=12,
    head_dropout=0.0,
)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., MRA]:
    """A random tiny model whose attention and features are not nearly flat."""

    def make(reading: Reading = PAPER, **changes: Any) -> MRA:
        torch.manual_seed(0)
        model = MRA(dataclasses.replace(TINY, reading=reading, **changes))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)
        return model.eval()

    return make


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Six rows of five people, with a region and an edited text each."""
    return new_batch()


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., dict[str, Tensor]]:
    """Gives such batches, where one is not enough."""
    return new_batch


def new_batch(rows: int = 6) -> dict[str, Tensor]:
    """The batch of `batch`, or a longer one with as many more people."""
    generator = torch.Generator().manual_seed(5)

    def text(longest: int) -> tuple[Tensor, Tensor]:
        lengths = torch.randint(3, longest + 1, (rows,), generator=generator)
        lengths[0] = longest
        mask = (torch.arange(longest) < lengths[:, None]).long()
        return torch.randint(5, 40, (rows, longest), generator=generator) * mask, mask

    ids, mask = text(11)
    region_ids, region_mask = text(6)
    eda_ids, eda_mask = text(9)
    labels = torch.full_like(ids, -100)
    labels[:, 1] = ids[:, 1]
    labels[2, 2] = ids[2, 2]
    masked = ids.where(labels == -100, 4)
    return {
        "image": torch.randn(rows, 3, 48, 24, generator=generator),
        "ids": ids,
        "mask": mask,
        "person": torch.tensor([0, 1, 2, 2, 3, 4, *range(5, rows - 1)]),
        "masked_ids": masked,
        "masked_labels": labels,
        "region_ids": region_ids,
        "region_mask": region_mask,
        "phrase_id": torch.tensor([0, 0, 1, 2, 3, 4, *range(5, rows - 1)]),
        "patch_mask": (torch.rand(rows, 18, generator=generator) < 0.4).long(),
        "eda_ids": eda_ids,
        "eda_mask": eda_mask,
    }
