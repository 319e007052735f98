"""Sizes of released or original weights, read off the tensors themselves.

Shapes: N tokens a window, W windows.

Only two sizes do not show: the number of BERT's attention heads, and the image size of weights
without a mask of shifted windows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isqrt

from torch import Tensor

from models.mra.config import Head

VISION = "vision_encoder."
BERT = "text_encoder.bert."
_TABLE = "attn.relative_position_bias_table"


@dataclass(frozen=True)
class VisionSizes:
    """Sizes of a Swin under its original names."""

    patch: int
    """Pixels a side of a patch."""
    dim: int
    """Width of the first stage."""
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...]
    """Side of each stage's window, in tokens."""
    image_size: tuple[int, int] | None
    """Height and width in pixels; None without a mask of shifted windows."""


@dataclass(frozen=True)
class TextSizes:
    """Sizes of BERT with cross-attention in its upper layers."""

    vocab: int
    dim: int
    inner: int
    positions: int
    text_layers: int
    fusion_layers: int


def vision_sizes(state: Mapping[str, Tensor], prefix: str = "") -> VisionSizes:
    """Sizes of a Swin under its original names.

    Args:
        state: Weights; other tensors may be among them.
        prefix: What the Swin's names start with.

    Raises:
        ValueError: Tensors are missing, a window is not square, or masks contradict each other.
    """
    patches = _need(state, f"{prefix}patch_embed.proj.weight")
    depths: list[int] = []
    while f"{prefix}layers.{len(depths)}.blocks.0.norm1.weight" in state:
        stage = re.escape(f"{prefix}layers.{len(depths)}.blocks.") + r"(\d+)\."
        depths.append(1 + _largest(stage, state))
    tables = [
        _need(state, f"{prefix}layers.{stage}.blocks.0.{_TABLE}") for stage in range(len(depths))
    ]
    if not tables:
        _need(state, f"{prefix}layers.0.blocks.0.norm1.weight")
    windows = tuple(_window(len(table), stage) for stage, table in enumerate(tables))
    patch = patches.shape[2]
    sizes = {
        size
        for stage, window in enumerate(windows)
        for block in range(depths[stage])
        if (mask := state.get(f"{prefix}layers.{stage}.blocks.{block}.attn_mask")) is not None
        for size in [_masked_size(mask, window, patch * 2**stage)]
    }
    if len(sizes) > 1:
        raise ValueError(f"masks of the image sizes {sorted(sizes)}: one model has one")
    return VisionSizes(
        patch=patch,
        dim=len(patches),
        depths=tuple(depths),
        heads=tuple(table.shape[1] for table in tables),
        windows=windows,
        image_size=next(iter(sizes), None),
    )


def text_sizes(state: Mapping[str, Tensor]) -> TextSizes:
    """Sizes of the released text and fusion encoder.

    Raises:
        ValueError: Tensors are missing, or cross-attention is not in the upper layers.
    """
    vocab, dim = _need(state, f"{BERT}embeddings.word_embeddings.weight").shape
    layers = 1 + _largest(re.escape(f"{BERT}encoder.layer.") + r"(\d+)\.", state)
    crossing = [
        layer
        for layer in range(layers)
        if f"{BERT}encoder.layer.{layer}.crossattention.self.query.weight" in state
    ]
    if not crossing or crossing != list(range(crossing[0], layers)):
        raise ValueError(
            f"cross-attention in layers {crossing} of {layers}: the released model has it in all "
            "layers from the fusion layer on"
        )
    return TextSizes(
        vocab=vocab,
        dim=dim,
        inner=len(_need(state, f"{BERT}encoder.layer.0.intermediate.dense.weight")),
        positions=len(_need(state, f"{BERT}embeddings.position_embeddings.weight")),
        text_layers=crossing[0],
        fusion_layers=len(crossing),
    )


def head_of(state: Mapping[str, Tensor]) -> tuple[Head, int]:
    """The kind of the contrastive head, and the width of the feature.

    Raises:
        ValueError: There is none.
    """
    if "vision_proj.2.weight" in state:
        return "stripes", len(state["vision_proj.2.weight"])
    return "token", len(_need(state, "vision_proj.weight"))


def _window(rows: int, stage: int) -> int:
    """The side of a square window from the rows of its position table."""
    side = isqrt(rows)
    if side * side != rows or side % 2 == 0:
        raise ValueError(f"stage {stage}: a position table of {rows} rows is of no square window")
    return (side + 1) // 2


def _masked_size(mask_WNN: Tensor, window: int, stride: int) -> tuple[int, int]:
    """The image size that a mask of shifted windows is for.

    A window is masked where it holds tokens from both ends of an axis: those of the last column
    and of the last row. The first masked one ends the first row, which gives the columns.
    """
    masked = mask_WNN.flatten(1).ne(0).any(1).nonzero()
    columns = int(masked[0]) + 1 if len(masked) else 0
    if not columns or len(mask_WNN) % columns:
        raise ValueError(f"a mask of {len(mask_WNN)} windows that no shift gives")
    rows = len(mask_WNN) // columns
    return rows * window * stride, columns * window * stride


def _largest(pattern: str, names: Iterable[str]) -> int:
    """The largest number that a pattern's group takes in names that start with it; -1: none."""
    return max((int(m[1]) for name in names if (m := re.match(pattern, name))), default=-1)


def _need(state: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor that every such model has.

    Raises:
        ValueError: It is missing.
    """
    if name not in state:
        raise ValueError(
            f"weights without {name}: they should hold the whole model under the released names"
        )
    return state[name]
