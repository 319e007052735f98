"""The model that a pretraining starts with: from two encoders, or from an earlier checkpoint.

A checkpoint of the other kind gives its encoders: so UniPT's image and text encoder, pretrained on
pictures that nobody described, go on as MRA's. What it does not have starts afresh, and the log
says how much that is.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, SwinConfig

from models.dual import DualConfig, DualEncoder, dual_config
from models.dual.checkpoint import read_config as read_dual_config
from models.dual.config import BertText, SwinVision
from models.dual.continuing import mra_towers
from models.mra import MRA, MRAConfig, reading_of
from models.mra.checkpoint import read_config as read_mra_config
from models.mra.starting import vision_config
from models.retrieval import RetrievalModel
from tasks.checkpoints import checkpoint_kind, load_mra
from tasks.errors import PedAlignError
from tasks.pretrain.parameters import DualModel, MraModel, PretrainParams

WORDS = ("start", "none")
"""Values of ``init`` that name no checkpoint."""


def new_model(section: PretrainParams) -> RetrievalModel:
    """Build the model that pretraining starts with.

    Sizes come from the starting folders' own configs or from the checkpoint, random weights
    (cross-attention, heads, projections) from the training seed.

    Raises:
        PedAlignError: A folder is missing or does not fit.
    """
    wanted = section.model
    if section.init not in WORDS:
        kind = checkpoint_kind(Path(section.init))
        if isinstance(wanted, DualModel):
            return _dual_from(Path(section.init), kind, wanted, section.training.seed)
        if kind == "dual":
            return _mra_from_dual(Path(section.init), wanted, section.training.seed)
        return _mra_from_mra(Path(section.init), wanted)
    model: MRA | DualEncoder
    try:
        if isinstance(wanted, MraModel):
            vision, text = vision_config(section.vision), BertConfig.from_pretrained(section.text)
            config = mra_config(wanted, vision, text)
            torch.manual_seed(section.training.seed)
            model = MRA.from_config(config)
        else:
            sizes = dual_config(
                section.vision, section.text, embed_dim=wanted.embed_dim, **_changes(wanted)
            )
            torch.manual_seed(section.training.seed)
            model = DualEncoder.from_config(sizes)
        model.load_starting_weights(section.vision, section.text)
    except (ValueError, OSError) as error:
        raise PedAlignError(
            f"pretrain: no model of {section.vision} and {section.text} ({error})",
            f"starting weights are {_STARTS[wanted.kind]} in transformers' layout that fit `model`",
            "correct the path, or download the models once while there is a network",
        ) from error
    return model


_STARTS = {
    "mra": "a Swin and a BERT",
    "dual": "a Swin, ViT, DeiT or CLIP and a BERT or CLIP",
}


def _mra_from_mra(folder: Path, wanted: MraModel) -> MRA:
    """Go on with an MRA: all of it, at another size if that is wanted."""
    return load_mra(
        folder,
        reading=reading_of(wanted.reading),
        any_reading=wanted.any_reading,
        image_size=tuple(wanted.image_size),
        window_size=wanted.window_size,
        vision_dropout=wanted.vision_dropout,
        drop_path=wanted.drop_path,
        text_dropout=wanted.text_dropout,
        head_dropout=wanted.head_dropout,
    )


def _mra_from_dual(folder: Path, wanted: MraModel, seed: int) -> MRA:
    """Make an MRA of a dual encoder's encoders; fusion's cross-attention and heads are new."""
    try:
        stored = read_dual_config(folder)
        config = mra_config(wanted, *_towers(stored))
        torch.manual_seed(seed)
        model = MRA.from_config(config)
        model.start_from(folder)
    except ValueError as error:
        raise _unfit(folder, error) from error
    return model


def _dual_from(folder: Path, kind: str, wanted: DualModel, seed: int) -> DualEncoder:
    """Make a dual encoder of a checkpoint; projections are new where it has none of that width."""
    try:
        dual = kind == "dual"
        stored = read_dual_config(folder) if dual else mra_towers(read_mra_config(folder))
        config = dataclasses.replace(
            stored, embed_dim=wanted.embed_dim, granularity=None, **_changes(wanted)
        )
        torch.manual_seed(seed)
        model = DualEncoder.from_config(config)
        model.start_from(folder)
    except ValueError as error:
        raise _unfit(folder, error) from error
    return model


def _unfit(folder: Path, error: Exception) -> PedAlignError:
    return PedAlignError(
        f"pretrain.init: {folder} is no start for this model ({error})",
        "of a checkpoint the image and the text encoder carry over, so those of `model` are like "
        "them",
        "name another checkpoint, or set init to start",
    )


def _changes(wanted: DualModel) -> dict[str, Any]:
    """What a dual encoder's starting weights do not decide, but for the feature's width."""
    return {
        "image_size": tuple(wanted.image_size),
        "max_tokens": wanted.max_tokens,
        "vision_dropout": wanted.vision_dropout,
        "drop_path": wanted.drop_path,
        "text_dropout": wanted.text_dropout,
    }


def _towers(dual: DualConfig) -> tuple[SwinConfig, BertConfig]:
    """The encoders of a dual encoder as transformers' configs.

    Raises:
        ValueError: They are others than MRA's.
    """
    vision, text = dual.vision, dual.text
    if not isinstance(vision, SwinVision) or not isinstance(text, BertText):
        raise ValueError(
            f"its encoders are a {vision.kind} and a {text.kind}; MRA's are a Swin and a BERT"
        )
    swin = SwinConfig(
        patch_size=vision.patch_size,
        embed_dim=vision.dim,
        depths=list(vision.depths),
        num_heads=list(vision.heads),
    )
    bert = BertConfig(
        vocab_size=text.vocab_size,
        hidden_size=text.dim,
        num_hidden_layers=text.layers,
        num_attention_heads=text.heads,
        intermediate_size=text.inner_dim,
        max_position_embeddings=text.max_positions,
    )
    return swin, bert


def mra_config(model: MraModel, swin: SwinConfig, bert: BertConfig) -> MRAConfig:
    """Put a model's config together from its parameters and its starting weights' configs."""
    return MRAConfig(
        image_size=model.image_size,
        patch_size=swin.patch_size,
        vision_dim=swin.embed_dim,
        depths=tuple(swin.depths),
        vision_heads=tuple(swin.num_heads),
        window_size=model.window_size,
        vision_dropout=model.vision_dropout,
        drop_path=model.drop_path,
        vocab_size=bert.vocab_size,
        text_dim=bert.hidden_size,
        text_layers=model.text_layers,
        fusion_layers=bert.num_hidden_layers - model.text_layers,
        text_heads=bert.num_attention_heads,
        text_inner_dim=bert.intermediate_size,
        max_positions=bert.max_position_embeddings,
        max_tokens=model.max_tokens,
        text_dropout=model.text_dropout,
        head=model.head,
        embed_dim=model.embed_dim,
        head_dropout=model.head_dropout,
        temperature=model.temperature,
        reading=reading_of(model.reading),
    )
