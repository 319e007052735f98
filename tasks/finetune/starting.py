"""The model that a fine-tuning starts with: a checkpoint at this dataset's image size."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path

import torch

from models.dual import DualEncoder
from models.mra import MRA
from models.mra.heads import HEADS
from models.retrieval import RetrievalModel
from tasks.checkpoints import checkpoint_kind, load_dual, load_mra
from tasks.errors import PedAlignError
from tasks.finetune.parameters import DualChanges, FinetuneParams, MraChanges

log = logging.getLogger(__name__)


def starting_model(start: Path, section: FinetuneParams) -> RetrievalModel:
    """Load the model to fine-tune, as the section's ``model`` wants it.

    Raises:
        PedAlignError: No checkpoint there, one of another kind, or weights that do not fit.
    """
    wanted, kind = section.model, checkpoint_kind(start)
    if kind != wanted.kind:
        raise PedAlignError(
            f"{start} is a checkpoint of kind {kind}, and finetune's model.kind is {wanted.kind}",
            "fine-tuning goes on with the model that pretraining made",
            f"set model.kind to {kind} with its keys and objective, as in "
            f"profiles/{'tiny' if kind == 'mra' else 'unipt'}.yaml, or pretrain the other kind",
        )
    if isinstance(wanted, DualChanges):
        return _dual(start, wanted, section.training.seed)
    return _mra(start, wanted, section.training.seed)


def _mra(start: Path, wanted: MraChanges, seed: int) -> MRA:
    """An MRA; a head of another kind or width starts from random weights, drawn from the seed."""
    model = load_mra(
        start,
        image_size=tuple(wanted.image_size),
        window_size=wanted.window_size,
        vision_dropout=wanted.vision_dropout,
        drop_path=wanted.drop_path,
    )
    if (model.config.head, model.config.embed_dim) == (wanted.head, wanted.embed_dim):
        return model
    log.info(
        "the contrastive heads start afresh: %s %d in the checkpoint, %s %d wanted",
        model.config.head,
        model.config.embed_dim,
        wanted.head,
        wanted.embed_dim,
    )
    torch.manual_seed(seed)
    fresh = MRA(replace(model.config, head=wanted.head, embed_dim=wanted.embed_dim))
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith(HEADS)}
    fresh.load_state_dict(kept, strict=False)
    return fresh


def _dual(start: Path, wanted: DualChanges, seed: int) -> DualEncoder:
    """A dual encoder; parts that the checkpoint does not have are drawn from the seed."""
    torch.manual_seed(seed)
    return load_dual(
        start,
        image_size=tuple(wanted.image_size),
        vision_dropout=wanted.vision_dropout,
        drop_path=wanted.drop_path,
        granularity=asdict(wanted.granularity) if wanted.granularity else None,
    )
