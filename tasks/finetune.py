"""Stage ``finetune@DATASET``: ITC + ITM + MLM on the target's own pairs, with EDA twins.

In: the dataset's shards and a checkpoint of pretraining (trained or not). Out: a checkpoint folder
(`tasks.checkpoints`). The picture may be larger than in pretraining: Swin's position tables are
resized. The weights that are kept are the last epoch's, or those of the epoch that ranks best on
the validation split; the test split is never looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from models.mra import MRA
from models.mra.objectives import FinetuneObjective
from tasks.augment import Recipe
from tasks.batches import PairDataset, Preparation, read_pairs
from tasks.checkpoints import load_model, save_checkpoint, summary
from tasks.eda import LexiconName, lexicon
from tasks.evaluate import itc_rank1
from tasks.params import Fraction, Positive, params
from tasks.pretrain import Size, from_step
from tasks.tokens import Cleaning, Masking, Words, load_tokenizer
from tasks.training import NonNegativeFloat, Plan, Row, TrainingParams, train

log = logging.getLogger(__name__)


@params
class FinetuneParams:
    """One dataset's section of ``finetune`` in params.yaml."""

    image_size: Size
    """Height and width of the input, in pixels; may differ from pretraining's."""
    window_size: Positive
    """Largest side of Swin's attention windows, in tokens."""
    head: Literal["stripes", "token"]
    """Contrastive feature; another head or width than pretraining's starts afresh."""
    embed_dim: Positive
    """Width of the contrastive feature."""
    vision_dropout: Fraction
    """Dropout in Swin."""
    drop_path: Fraction
    """Stochastic depth of Swin's last block."""
    flip: Fraction
    """Probability of a horizontal flip."""
    erasing: Fraction
    """Probability of erasing a rectangle."""
    cleaning: Cleaning
    """Clean-up of captions, in training and in evaluation: ``raw`` or ``alphanumeric``."""
    label_smoothing: Fraction
    """Of the contrastive targets."""
    eda_weight: NonNegativeFloat
    """Weight of the losses of the EDA twin; 0 leaves it out."""
    eda_alpha: Fraction
    """Share of the words that EDA changes."""
    synonyms: LexiconName
    """Lexicon of EDA: ``table``, ``wordnet``, or ``auto`` for WordNet where it is installed."""
    select: Literal["last", "val"]
    """Which epoch's weights are kept: the last one's, or the best on the validation split."""
    training: TrainingParams
    """How to optimise."""


def finetune(
    images: Path,
    start: Path,
    section: FinetuneParams,
    run_folder: Path,
    device: torch.device,
    *,
    workers: int = 0,
    batch: int = 64,
    checkpoint_seconds: float = 30.0,
    progress: Callable[[int, int, Row], None] | None = None,
) -> Path:
    """Fine-tune, from the start or from the run folder's running checkpoint.

    Args:
        images: The dataset's ingested shards.
        start: The checkpoint to start from, usually pretraining's.
        section: How.
        run_folder: Belongs to this training alone.
        device: Where to compute.
        workers: Processes that prepare batches; changes no result.
        batch: Pictures or captions a validation pass.
        checkpoint_seconds: Wall time between running checkpoints; changes no result.
        progress: Called with step, steps and the newest row of the curve.

    Returns:
        The finished checkpoint, a folder in ``run_folder``.

    Raises:
        PedAlignError: No data, weights that do not fit, or a loss that is not finite.
    """
    tokenizer = load_tokenizer(start)
    model = starting_model(start, section)
    words = Words(tokenizer, model.config.max_tokens, section.cleaning)
    pairs, pictures = read_pairs(images, split="train", identity="person")
    reading = model.config.reading
    preparation = Preparation(
        image=Recipe(
            size=model.config.image_size,
            stride=model.config.stride,
            flip=section.flip,
            erasing=section.erasing,
        ),
        words=words,
        masking=Masking(pads=reading.mask_pads),
        seed=section.training.seed,
        eda_alpha=section.eda_alpha if section.eda_weight > 0 else None,
        lexicon=lexicon(section.synonyms) if section.eda_weight > 0 else None,
        trim=not (reading.pool_pads or reading.mask_pads),
    )
    plan = Plan(len(pairs), section.training.batch, section.training.epochs)
    validate = None
    if section.select == "val":
        held_out = read_pairs(images, split="val", identity="person")
        validate = partial(itc_rank1, model, words, *held_out, device, batch=batch)
    trained = train(
        FinetuneObjective(
            model, eda_weight=section.eda_weight, label_smoothing=section.label_smoothing
        ),
        model,
        partial(from_step, PairDataset(pairs, pictures, preparation), plan, workers),
        plan,
        section.training,
        run_folder,
        device,
        name="finetune",
        validate=validate,
        checkpoint_seconds=checkpoint_seconds,
        progress=progress,
    )
    record = {
        "stage": "finetune",
        "params": asdict(section),
        "pairs": len(pairs),
        "people": len(set(pairs.person.tolist())),
        "skipped": dict(pairs.skipped),
        "steps": plan.steps,
        "losses": summary(trained.rows),
        "validation_r1": trained.scores,
        "kept_epoch": trained.best_epoch or plan.epochs,
    }
    return save_checkpoint(run_folder / "finished", model, tokenizer, record, trained.rows)


def starting_model(start: Path, section: FinetuneParams) -> MRA:
    """Load the model to fine-tune, at this dataset's image size and with its head.

    A head of another kind or width starts from random weights, drawn from the training seed.

    Raises:
        PedAlignError: No checkpoint there, or weights that do not fit.
    """
    model = load_model(
        start,
        image_size=tuple(section.image_size),
        window_size=section.window_size,
        vision_dropout=section.vision_dropout,
        drop_path=section.drop_path,
    )
    if (model.config.head, model.config.embed_dim) == (section.head, section.embed_dim):
        return model
    log.info(
        "the contrastive heads start afresh: %s %d in the checkpoint, %s %d wanted",
        model.config.head,
        model.config.embed_dim,
        section.head,
        section.embed_dim,
    )
    torch.manual_seed(section.training.seed)
    fresh = MRA(replace(model.config, head=section.head, embed_dim=section.embed_dim))
    kept = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(("vision_proj.", "text_proj."))
    }
    fresh.load_state_dict(kept, strict=False)
    return fresh
