"""The released model's names: reading its weights and writing them back.

The released Swin keeps query, key and value in one tensor (`attn.qkv`) and stores buffers that
follow from the sizes; everything else is a renaming. Text encoder, heads and temperature have the
same names on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.mra.checkpoint import TIED
from models.mra.config import RELEASED, MRAConfig

# (released, ours), inside "vision_encoder."
_RENAMES = (
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("patch_embed.norm.", "embeddings.norm."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.o_proj."),
    (
        ".attn.relative_position_bias_table",
        ".attention.relative_position_bias.relative_position_bias_table",
    ),
)
_VISION = "vision_encoder."
_DERIVED = ("relative_position_index", "attn_mask", "position_ids")
_PARTS = ("q_proj", "k_proj", "v_proj")


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under this project's names from weights under the released ones."""
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(_DERIVED) or name in TIED:
            continue
        if not name.startswith(_VISION):
            ours[name] = tensor
            continue
        inner = name.removeprefix(_VISION)
        for released, own in _RENAMES:
            inner = inner.replace(released, own)
        if inner.startswith("layers."):
            inner = f"encoder.{inner}"
        elif inner.startswith("norm."):
            inner = f"layernorm.{inner.removeprefix('norm.')}"
        if ".attn.qkv." in inner:
            for part, piece in zip(_PARTS, tensor.chunk(3), strict=True):
                ours[_VISION + inner.replace(".attn.qkv.", f".attention.{part}.")] = piece
        else:
            ours[_VISION + inner] = tensor
    return ours


def to_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights (or gradients) under the released names, without the buffers that are derived."""
    released: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in TIED:
            continue
        if not name.startswith(_VISION):
            released[name] = tensor
            continue
        inner = name.removeprefix(_VISION)
        if re.search(r"\.[kv]_proj\.", inner):
            continue  # joined with its query below
        if inner.startswith("layernorm."):
            inner = f"norm.{inner.removeprefix('layernorm.')}"
        inner = inner.removeprefix("encoder.")
        for there, own in _RENAMES:
            inner = inner.replace(own, there)
        if ".q_proj." in inner:
            tensor = torch.cat([state[name.replace("q_proj", part)] for part in _PARTS])
            inner = inner.replace(".attention.q_proj.", ".attn.qkv.")
        released[_VISION + inner] = tensor
    return released


def released_config(
    vision: Mapping[str, Any],
    text: Mapping[str, Any],
    temperature: float,
    state: Mapping[str, Tensor],
) -> MRAConfig:
    """The config of released weights; what the weights themselves show is read off them.

    Args:
        vision: The released vision config (h, w, window_size, embed_dim, depths, ...).
        text: The released text config (BERT's, with fusion_layer).
        temperature: The released `temp`, what the temperature started from.
        state: The weights under the released names.

    Returns:
        A config under the released reading.

    Raises:
        ValueError: Shifted windows where this model has none, or the other way round.
    """
    stripes = "vision_proj.2.weight" in state
    projection = state["vision_proj.2.weight" if stripes else "vision_proj.weight"]
    windows = tuple(
        (round(len(state[f"{_VISION}layers.{stage}.blocks.0.attn.{_TABLE}"]) ** 0.5) + 1) // 2
        for stage in range(len(vision["depths"]))
    )
    config = MRAConfig(
        image_size=(vision["h"], vision["w"]),
        vision_dim=vision["embed_dim"],
        depths=tuple(vision["depths"]),
        vision_heads=tuple(vision["num_heads"]),
        window_size=vision["window_size"],
        stage_windows=windows,
        vision_dropout=vision.get("drop_rate", 0.0),
        drop_path=vision.get("drop_path_rate", 0.0),
        vocab_size=text["vocab_size"],
        text_dim=text["hidden_size"],
        text_layers=text["fusion_layer"],
        fusion_layers=text["num_hidden_layers"] - text["fusion_layer"],
        text_heads=text["num_attention_heads"],
        text_inner_dim=text["intermediate_size"],
        max_positions=text["max_position_embeddings"],
        max_tokens=min(MRAConfig.max_tokens, text["max_position_embeddings"]),
        text_dropout=text["hidden_dropout_prob"],
        head="stripes" if stripes else "token",
        embed_dim=projection.shape[0],
        temperature=temperature,
        reading=RELEASED,
    )
    for stage, (grid, window) in enumerate(zip(config.stage_grids, windows, strict=True)):
        for block in range(1, config.depths[stage], 2):
            stored = f"{_VISION}layers.{stage}.blocks.{block}.attn_mask" in state
            if stored != (min(grid) > window):
                raise ValueError(
                    f"stage {stage}, block {block}: window {window} on a grid of {grid} is "
                    f"{'shifted' if stored else 'not shifted'} in these weights; the image size "
                    "of the vision config is not the one that they were saved at"
                )
    return config


_TABLE = "relative_position_bias_table"
