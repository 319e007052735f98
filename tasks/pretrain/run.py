"""Train a retrieval model on the pairs of a folder of shards, whichever road its section names.

In: restyled (or plain source) shards, and captions with or without regions. A road brings its model
and its objective, and says what of a pair it needs; pairs, loop, resuming and checkpoint are the
same for all. ``init: none`` publishes the starting weights untrained, which is the paper's baseline
without pretraining. A killed training goes on to the same result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.dual import DualEncoder
from models.dual.pretraining import UniptObjective
from models.mra import MRA
from models.mra.objectives import PretrainObjective
from models.retrieval import RetrievalModel
from models.team import number, processes
from tasks.augment import Recipe
from tasks.batches import PairDataset, Preparation, read_pairs
from tasks.checkpoints import save_checkpoint, summary
from tasks.errors import PedAlignError
from tasks.order import EpochBatches, load
from tasks.pretrain.parameters import MraLosses, PretrainParams, UniptLosses
from tasks.pretrain.starting import WORDS, new_model
from tasks.shards import read_manifest
from tasks.target import TRAIN
from tasks.tokens import Masking, Words, load_tokenizer
from tasks.training import Plan, Row, train

log = logging.getLogger(__name__)

MASKED_SHARE = 0.15
"""Of a caption's pieces that UniPT predicts, BERT's own share; whole words, no longer runs."""


def pretrain(
    images: Path,
    annotations: Path | None,
    section: PretrainParams,
    run_folder: Path,
    device: torch.device,
    *,
    workers: int = 0,
    checkpoint_seconds: float = 30.0,
    progress: Callable[[int, int, Row], None] | None = None,
) -> Path:
    """Pretrain, from the start or from the run folder's running checkpoint.

    Args:
        images: Shards of schema ``restyled`` or ``images``, of which the train split is trained on.
        annotations: Their side tables: ``annotated``, one caption an image with its regions, or
            ``captioned``, of which every caption is a pair; None takes every caption of the shards.
            Region losses need the first.
        section: How.
        run_folder: Belongs to this training alone.
        device: Where to compute. Called in several processes that accelerate has joined,
            each computes its part and the first one writes.
        workers: Processes that prepare batches; changes no result.
        checkpoint_seconds: Wall time between running checkpoints; changes no result.
        progress: Called with step, steps and the newest row of the curve.

    Returns:
        The finished checkpoint, a folder in ``run_folder``.

    Raises:
        PedAlignError: Regions without annotations, no data, weights that do not fit, or a loss
            that is not finite.
    """
    source = section.text if section.init in WORDS else section.init
    tokenizer = load_tokenizer(source)
    model = new_model(section)
    if len(tokenizer) > model.config.vocab_size:
        raise PedAlignError(
            f"{source}: {len(tokenizer)} word pieces for a model of {model.config.vocab_size}",
            "tokenizer and model belong together",
            "take both from one folder",
        )
    finished = run_folder / "finished"
    record: dict[str, Any] = {"stage": "pretrain", "params": asdict(section)}
    if section.init == "none":
        log.info("pretrain.init is none: the starting weights go on untrained")
        return save_checkpoint(finished, model, tokenizer, {**record, "steps": 0}, [])
    words = Words(tokenizer, model.config.max_tokens, section.cleaning)
    regions = _wants_regions(section.objective, annotations)
    objective = _objective(model, section)
    pairs, pictures = read_pairs(images, annotations, split=TRAIN, identity="image")
    preparation = _preparation(model, section, words, regions=regions)
    plan = Plan(len(pairs), section.training.batch, section.training.epochs)
    trained = train(
        objective,
        model,
        partial(from_step, PairDataset(pairs, pictures, preparation), plan, workers),
        plan,
        section.training,
        run_folder,
        device,
        name="pretrain",
        checkpoint_seconds=checkpoint_seconds,
        progress=progress,
    )
    record |= {
        "pairs": len(pairs),
        "regions": len(pairs.box),
        "skipped": dict(pairs.skipped),
        "steps": plan.steps,
        "losses": summary(trained.rows),
    }
    return save_checkpoint(finished, model, tokenizer, record, trained.rows)


def from_step(
    dataset: PairDataset, plan: Plan, workers: int, start: int
) -> Iterator[dict[str, Tensor]]:
    """Give a training's batches from a step on: this process's part of each."""
    order = EpochBatches(
        plan.pairs, plan.batch, plan.epochs, dataset.preparation.seed, start,
        part=(number(), processes()),
    )  # fmt: skip
    return load(dataset, order, workers)


def _objective(model: RetrievalModel, section: PretrainParams) -> nn.Module:
    """What trains the model: the model and its losses in one module.

    Raises:
        PedAlignError: The losses ask for what the model does not have.
    """
    losses, training = section.objective, section.training
    parts = {"chunks": training.chunks, "micro_batch": training.micro_batch}
    if isinstance(losses, MraLosses):
        assert isinstance(model, MRA)  # the section's kinds fit each other
        return PretrainObjective(model, region_weight=losses.region_weight, **parts)
    assert isinstance(model, DualEncoder)
    if losses.mlm_weight and not model.has_mlm:
        raise PedAlignError(
            f"pretrain.objective.mlm_weight is {losses.mlm_weight}, and {section.text} predicts no "
            "words",
            "masked language modelling needs a text encoder with a head for it: a BERT",
            "set mlm_weight to 0, or name a BERT as `text`",
        )
    return UniptObjective(
        model, temperature=losses.temperature, mlm_weight=losses.mlm_weight, **parts
    )


def _wants_regions(losses: MraLosses | UniptLosses, annotations: Path | None) -> bool:
    """Whether pairs come with a region: MRA's do wherever there are any.

    Also at weight 0: a picture is cropped around a drawn region, and whoever compares weights wants
    to change nothing else.

    Raises:
        PedAlignError: They should, and nothing has any.
    """
    if not isinstance(losses, MraLosses):
        return False
    held = read_manifest(annotations).schema_name if annotations else None
    if held == "annotated":
        return True
    if losses.region_weight > 0:
        raise PedAlignError(
            f"pretrain.objective.region_weight is {losses.region_weight}, and there are no "
            f"annotations ({annotations or 'no folder'}{f' is {held}' if held else ''})",
            "region losses need phrases and boxes",
            "run the annotate stage and name its folder, or set region_weight to 0",
        )
    return False


def _preparation(
    model: RetrievalModel, section: PretrainParams, words: Words, *, regions: bool
) -> Preparation:
    """What is made of a pair for the objective: MRA crops and marks regions, UniPT does neither."""
    losses = section.objective
    recipe = Recipe(
        size=model.config.image_size,
        stride=model.config.stride,
        flip=section.flip,
        erasing=section.erasing,
    )
    masking: Masking | None
    if isinstance(losses, MraLosses):
        assert isinstance(model, MRA)
        recipe = replace(recipe, crop=True, padding=losses.padding)
        masking = Masking(pads=model.config.reading.mask_pads)
    else:
        masking = (
            Masking(share=MASKED_SHARE, most=words.length, skipgram=0.0)
            if losses.mlm_weight
            else None
        )
    return Preparation(
        image=recipe,
        words=words,
        masking=masking,
        seed=section.training.seed,
        regions=regions,
        trim=not (model.needs_pads or (masking is not None and masking.pads)),
    )
