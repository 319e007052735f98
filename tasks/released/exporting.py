"""This project's checkpoint folders as released files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoint_files import TIED
from models.mra import MRAConfig
from models.mra.released import derived_buffers, to_released
from tasks.checkpoints import checkpoint_kind, load_mra
from tasks.errors import PedAlignError
from tasks.released.files import require_absent
from tasks.shards import atomic_file


def export_released(checkpoint: Path, out: Path) -> dict[str, Tensor]:
    """Write a checkpoint under the released names: {"model": state dict, "config": sizes}.

    The state dict is what the released class gives and takes strictly: learned tensors, BatchNorm's
    statistics, the buffers that follow from the sizes, and the tied decoder's second names (one
    storage, so the file does not grow). `config` has the released keys of the sizes, and the
    encoders' configs under `vision` and `text`; the released code reads "model" only.

    Args:
        checkpoint: A checkpoint folder of this project, of any reading: names are the same.
        out: A new file.

    Returns:
        The state dict.

    Raises:
        PedAlignError: No checkpoint, an existing `out`, or a model that the released code does not
            have.
    """
    require_absent(out)
    if checkpoint_kind(checkpoint) != "mra":
        raise PedAlignError(
            f"{checkpoint}: a dual encoder",
            "the released code (MRA, APTM) has no such model, so it has no names for its tensors",
            "export an MRA's checkpoint; a dual encoder's folder is config.json and safetensors",
        )
    model = load_mra(checkpoint).eval()
    config = model.config
    if config.reading.region_heads:
        raise PedAlignError(
            f"{checkpoint}: has heads of its own for regions",
            "the released model has one pair of contrastive heads",
            "export a checkpoint whose reading has region_heads: false",
        )
    try:
        state = to_released(model.state_dict()) | derived_buffers(model)
    except ValueError as error:
        raise PedAlignError(
            f"{checkpoint}: {error}",
            "the released code computes whole windows only",
            "fine-tune or export at an image size that the windows tile",
        ) from error
    state |= {copy: state[source] for copy, source in TIED.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as sink:
        torch.save({"model": state, "config": _settings(config)}, sink)
    return state


def _settings(config: MRAConfig) -> dict[str, Any]:
    """A model's sizes under the keys of the released configs."""
    height, width = config.image_size
    return {
        "image_res": height,
        "h": height,
        "w": width,
        "patch_size": config.stride,
        "window_size": config.window_size,
        "embed_dim": config.embed_dim,
        "itc_dop": config.head_dropout,
        "temp": config.temperature,
        "max_tokens": config.max_tokens,
        "max_words": config.max_tokens,
        "vision": {
            "vision_width": config.vision_width,
            "image_res": height,
            "h": height,
            "w": width,
            "window_size": config.window_size,
            "embed_dim": config.vision_dim,
            "depths": list(config.depths),
            "num_heads": list(config.vision_heads),
            "drop_rate": config.vision_dropout,
            "drop_path_rate": config.drop_path,
        },
        "text": {
            "model_type": "bert",
            "vocab_size": config.vocab_size,
            "hidden_size": config.text_dim,
            "num_hidden_layers": config.text_layers + config.fusion_layers,
            "num_attention_heads": config.text_heads,
            "intermediate_size": config.text_inner_dim,
            "max_position_embeddings": config.max_positions,
            "hidden_dropout_prob": config.text_dropout,
            "attention_probs_dropout_prob": config.text_dropout,
            "fusion_layer": config.text_layers,
            "encoder_width": config.vision_width,
        },
    }
