"""The released model's names: reading its weights and writing them back.

The released Swin is the original one: it keeps query, key and value in one tensor (`attn.qkv`) and
stores buffers that follow from the sizes; everything else is a renaming, and the four sub-patches
of a merge come in the same order on both sides. Text encoder, heads and temperature have the same
names on both sides. Sizes are read off the weights (`released_sizes`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from models.checkpoint_files import TIED
from models.mra.config import RELEASED, MRAConfig
from models.mra.released_sizes import VISION, VisionSizes, head_of, text_sizes, vision_sizes

if TYPE_CHECKING:
    from models.mra.model import MRA

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
_PARTS = ("q_proj", "k_proj", "v_proj")
_POSITIONS = "text_encoder.bert.embeddings.position_ids"

PATCHES = tuple(
    f"{VISION}embeddings.patch_embeddings.projection.{kind}" for kind in ("weight", "bias")
)
"""This project's names of the patch embedding."""

Pixels = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation a colour, of values in [0, 1]."""

DERIVED = ("relative_position_index", "attn_mask", "position_ids")
"""How the names of stored buffers end that follow from the sizes."""


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under this project's names from weights under the released ones."""
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(DERIVED) or name in TIED:
            continue
        parts = own_names(name)
        pieces = tensor.chunk(len(parts)) if len(parts) > 1 else (tensor,)
        ours |= dict(zip(parts, pieces, strict=True))
    return ours


def own_names(name: str) -> tuple[str, ...]:
    """This project's names of a released tensor: three for a joined query, key and value."""
    if not name.startswith(VISION):
        return (name,)
    inner = name.removeprefix(VISION)
    for released, own in _RENAMES:
        inner = inner.replace(released, own)
    if inner.startswith("layers."):
        inner = f"encoder.{inner}"
    elif inner.startswith("norm."):
        inner = f"layernorm.{inner.removeprefix('norm.')}"
    if ".attn.qkv." in inner:
        return tuple(VISION + inner.replace(".attn.qkv.", f".attention.{part}.") for part in _PARTS)
    return (VISION + inner,)


def to_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights (or gradients) under the released names, without the buffers that are derived."""
    released: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in TIED:
            continue
        if not name.startswith(VISION):
            released[name] = tensor
            continue
        inner = name.removeprefix(VISION)
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
        released[VISION + inner] = tensor
    return released


def derived_buffers(model: MRA) -> dict[str, Tensor]:
    """The buffers that the released code stores beside its weights, for a model's sizes.

    Each attention's `relative_position_index`, the `attn_mask` of each block with shifted windows
    and BERT's `position_ids`: without them the released code does not load strictly.

    Raises:
        ValueError: A window that does not tile its grid, which the released code cannot compute.
    """
    buffers: dict[str, Tensor] = {}
    config = model.config
    places = zip(config.stage_grids, config.windows, strict=True)
    for stage, ((rows, columns), window) in enumerate(places):
        if rows % window or columns % window:
            raise ValueError(
                f"stage {stage}: window {window} on a grid of {rows} x {columns}: the released "
                "code has no padding; choose an image size that the windows tile"
            )
        blocks: Any = model.vision_encoder.encoder.layers[stage].blocks
        for number, block in enumerate(blocks):
            name = f"{VISION}layers.{stage}.blocks.{number}."
            index = block.attention.relative_position_bias.relative_position_index
            square = window * window
            buffers[f"{name}attn.relative_position_index"] = index.cpu().view(square, square)
            mask = block.get_attn_mask(rows, columns, torch.float32, torch.device("cpu"))
            if mask is not None:
                buffers[f"{name}attn_mask"] = mask
    buffers[_POSITIONS] = torch.arange(config.max_positions)[None]
    return buffers


def check_derived(model: MRA, state: Mapping[str, Tensor]) -> list[str]:
    """Compare the buffers that released weights carry with those of a model.

    A stored mask says how a block shifts its windows, and at which image size.

    Returns:
        The names compared.

    Raises:
        ValueError: One differs, or a mask is on one side only.
    """
    wanted = derived_buffers(model)
    found = {name: tensor for name, tensor in state.items() if name.endswith(DERIVED)}
    masks = {name for name in wanted if name.endswith("attn_mask")}
    # Weights whose masks were all stripped say nothing; some without the others do.
    bare = not any(name.endswith("attn_mask") for name in found)
    missing = set() if bare else masks - found.keys()
    wrong = sorted(
        {name for name in found if name not in wanted or not _same(found[name], wanted[name])}
        | missing
    )
    if wrong:
        raise ValueError(
            f"{wrong[:3]}{' and more' if len(wrong) > 3 else ''}: not what windows "
            f"{list(model.config.windows)} at image size {model.config.image_size} give; the image "
            "size is not the one that these weights were saved at, or they shift otherwise"
        )
    return sorted(found)


def for_pixels(state: Mapping[str, Tensor], there: Pixels, here: Pixels) -> dict[str, Tensor]:
    """The patch embedding for pixels that are normalised another way, exactly.

    The embedding is a convolution without padding, so that a scale and an offset a colour can go
    into its weight (D, 3, patch, patch) and bias.

    Args:
        state: Weights under this project's names.
        there: Mean and deviation a colour that the weights expect.
        here: Mean and deviation that they will get.

    Returns:
        The tensors named by `PATCHES`.
    """
    weight, bias = (state[name].double() for name in PATCHES)
    (mean, deviation), (own_mean, own_deviation) = (
        (torch.tensor(way[0]).double(), torch.tensor(way[1]).double()) for way in (there, here)
    )
    offset = (own_mean - mean) / deviation
    changed = weight * (own_deviation / deviation)[:, None, None]
    shifted = bias + (weight.sum((2, 3)) * offset).sum(1)
    return {
        name: tensor.to(state[name])
        for name, tensor in zip(PATCHES, (changed, shifted), strict=True)
    }


def released_config(
    vision: Mapping[str, Any],
    text: Mapping[str, Any],
    temperature: float,
    state: Mapping[str, Tensor],
    **changes: Any,
) -> MRAConfig:
    """The config of released weights; what the weights themselves show is read off them.

    Args:
        vision: The released vision config: `h` and `w`, or `image_res`; `window_size`,
            `drop_rate` and `drop_path_rate` where known.
        text: The released text config, BERT's: `num_attention_heads` and dropout count.
        temperature: The released `temp`, what the temperature started from.
        state: The weights under the released names.
        changes: Further fields of `MRAConfig`.

    Returns:
        A config under the released reading.

    Raises:
        ValueError: Configs that contradict the weights, or that no `MRAConfig` can express.
    """
    swin, bert = vision_sizes(state, VISION), text_sizes(state)
    head, embed_dim = head_of(state)
    for key, found in (
        ("embed_dim", swin.dim),
        ("depths", swin.depths),
        ("num_heads", swin.heads),
        ("vision_width", swin.dim * 2 ** (len(swin.depths) - 1)),
    ):
        _agree("vision", key, vision, found)
    for key, value in (
        ("vocab_size", bert.vocab),
        ("hidden_size", bert.dim),
        ("num_hidden_layers", bert.text_layers + bert.fusion_layers),
        ("fusion_layer", bert.text_layers),
        ("intermediate_size", bert.inner),
        ("max_position_embeddings", bert.positions),
        ("layer_norm_eps", 1e-12),
        ("hidden_act", "gelu"),
    ):
        _agree("text", key, text, value)
    fields: dict[str, Any] = {
        "image_size": _image_size(vision, swin),
        "patch_size": swin.patch,
        "vision_dim": swin.dim,
        "depths": swin.depths,
        "vision_heads": swin.heads,
        "window_size": int(vision.get("window_size", max(swin.windows))),
        "stage_windows": swin.windows,
        "vision_dropout": float(vision.get("drop_rate", 0.0)),
        "drop_path": float(vision.get("drop_path_rate", 0.1)),
        "vocab_size": bert.vocab,
        "text_dim": bert.dim,
        "text_layers": bert.text_layers,
        "fusion_layers": bert.fusion_layers,
        "text_heads": int(text["num_attention_heads"]),
        "text_inner_dim": bert.inner,
        "max_positions": bert.positions,
        "max_tokens": min(MRAConfig.max_tokens, bert.positions),
        "text_dropout": float(text.get("hidden_dropout_prob", 0.1)),
        "head": head,
        "embed_dim": embed_dim,
        "temperature": temperature,
        "reading": RELEASED,
    }
    return MRAConfig(**{**fields, **changes})


def _image_size(vision: Mapping[str, Any], swin: VisionSizes) -> tuple[int, int]:
    """The image size that a vision config names, or else the one that the masks show.

    Raises:
        ValueError: Neither tells.
    """
    if "image_res" in vision or {"h", "w"} <= vision.keys():
        sides = (vision.get(side, vision.get("image_res")) for side in ("h", "w"))
        height, width = (int(side) for side in sides)
        return height, width
    if swin.image_size is None:
        raise ValueError(
            "vision config without h and w, and weights without a mask of shifted windows: "
            "the image size is unknown; give it"
        )
    return swin.image_size


def _agree(kind: str, key: str, config: Mapping[str, Any], found: Any) -> None:
    """Check one entry of a config against the weights.

    Raises:
        ValueError: They differ.
    """
    given = config.get(key, found)
    if (tuple(given) if isinstance(given, list) else given) != found:
        raise ValueError(
            f"{kind} config with {key} {given!r}, and weights (or this model) with {found!r}: "
            "config and weights belong together"
        )


def _same(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and bool((found == wanted).all())
