"""Fine-tune a model on a dataset's own pairs, whichever road its section names.

In: the dataset's shards and a checkpoint of pretraining (trained or not), whose position tables are
resized where the picture is larger. Pairs, loop and resuming are pretraining's. Which epoch's
weights are kept is `tasks.selection`'s matter: validation's choice unless another is asked for, and
the test split is not opened otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.dual import DualEncoder
from models.dual.finetuning import IdentityObjective
from models.mra import MRA
from models.mra.objectives import FinetuneObjective
from models.retrieval import RetrievalModel
from tasks.augment import Recipe
from tasks.batches import PairDataset, Pairs, Preparation, read_pairs
from tasks.checkpoints import save_checkpoint, summary
from tasks.eda import lexicon
from tasks.evaluate.run import (
    MEASURES,
    EvaluateParams,
    check_protocol,
    evaluate_model,
    itc_measures,
)
from tasks.finetune.parameters import FinetuneParams, MraLosses
from tasks.finetune.starting import starting_model
from tasks.pictures import Pictures
from tasks.pretrain.run import from_step
from tasks.selection import BY_TEST, Choice, named, plan_selection
from tasks.shards import location
from tasks.tokens import Masking, Words, load_tokenizer
from tasks.training import Plan, Row, train


def finetune(
    start: Path,
    section: FinetuneParams,
    run_folder: Path,
    device: torch.device,
    *,
    workers: int = 0,
    checkpoint_seconds: float = 30.0,
    progress: Callable[[int, int, Row], None] | None = None,
) -> Path:
    """Fine-tune, from the start or from the run folder's running checkpoint.

    Args:
        start: The checkpoint to start from, usually pretraining's.
        section: On what, and how.
        run_folder: See `tasks.pretrain.pretrain`, as for all that follow.
        device: Where to compute.
        workers: For batches.
        checkpoint_seconds: Between running checkpoints.
        progress: Told of steps.

    Returns:
        The finished checkpoint, a folder in ``run_folder``.

    Raises:
        PedAlignError: No data, nobody to choose the epoch, weights that do not fit, or a loss that
            is not finite.
    """
    images = location(section.images)
    selection = plan_selection(
        images, section.select, section.holdout, keep_test_choice=section.keep_test_choice
    )
    tokenizer = load_tokenizer(start)
    model = starting_model(start, section)
    words = Words(tokenizer, model.config.max_tokens, section.cleaning)
    if section.protocol is not None:
        check_protocol(model, section.protocol, str(start))
    pairs, pictures = read_pairs(images, split="train", identity="person", people=selection.trains)
    pairs = numbered(pairs)
    preparation = _preparation(model, section, words)
    plan = Plan(len(pairs), section.training.batch, section.training.epochs)
    judges = {judge: selection.read(images, judge) for judge in selection.judges}

    def validate() -> dict[str, float]:
        scores: dict[str, float] = {}
        for judge, those in judges.items():
            scores |= named(judge, _measures(model, words, *those, section.protocol, device))
        return scores

    trained = train(
        _objective(model, section, pairs),
        model,
        partial(from_step, PairDataset(pairs, pictures, preparation), plan, workers),
        plan,
        section.training,
        run_folder,
        device,
        name="finetune",
        validate=validate if judges else None,
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
        "selection": selection.record(
            {judge: those[0] for judge, those in judges.items()},
            trained.scores,
            reranked=section.protocol is not None and section.protocol.top_k > 0,
        ),
    }

    def keep(folder: Path, choice: Choice) -> Path:
        epoch = plan.epochs
        if choice != "last" and trained.best:  # the first of several processes judges and writes
            epoch = trained.best_epoch(choice)
            model.load_state_dict(trained.best[choice])
        chosen = {"chosen_on": choice, "kept_epoch": epoch}
        return save_checkpoint(folder, model, tokenizer, {**record, **chosen}, trained.rows)

    finished = keep(run_folder / "finished", selection.chosen_on)
    if section.keep_test_choice:
        keep(finished / BY_TEST, "test")
    return finished


def numbered(pairs: Pairs) -> Pairs:
    """The pairs with their people numbered from 0 without a gap, as a classifier needs them.

    A picture of nobody known is of a person of its own.
    """
    numbers = np.unique(pairs.person, return_inverse=True)[1].astype(np.int64)
    return replace(pairs, person=numbers)


def _objective(model: RetrievalModel, section: FinetuneParams, pairs: Pairs) -> nn.Module:
    """What trains the model: the model and its losses in one module."""
    losses, training = section.objective, section.training
    if isinstance(losses, MraLosses):
        assert isinstance(model, MRA)  # the section's kinds fit each other
        return FinetuneObjective(
            model,
            eda_weight=losses.eda_weight,
            label_smoothing=losses.label_smoothing,
            chunks=training.chunks,
            micro_batch=training.micro_batch,
        )
    assert isinstance(model, DualEncoder)
    torch.manual_seed(training.seed)  # of the classifiers
    return IdentityObjective(
        model,
        people=int(pairs.person.max()) + 1,
        margin=losses.margin,
        negatives=losses.negatives,
        anchors=losses.anchors,
        contrast_temperature=losses.contrast_temperature,
        granularity_weight=losses.granularity_weight,
        micro_batch=training.micro_batch,
    )


def _preparation(model: RetrievalModel, section: FinetuneParams, words: Words) -> Preparation:
    """What is made of a pair for the objective: MRA masks words and edits texts."""
    losses = section.objective
    plain = Preparation(
        image=Recipe(
            size=model.config.image_size,
            stride=model.config.stride,
            flip=section.flip,
            erasing=section.erasing,
        ),
        words=words,
        masking=None,
        seed=section.training.seed,
        trim=not model.needs_pads,
    )
    if not isinstance(losses, MraLosses):
        return plain
    assert isinstance(model, MRA)
    pads, twin = model.config.reading.mask_pads, losses.eda_weight > 0
    return replace(
        plain,
        masking=Masking(pads=pads),
        eda_alpha=losses.eda_alpha if twin else None,
        lexicon=lexicon(losses.synonyms) if twin else None,
        trim=plain.trim and not pads,
    )


def _measures(
    model: RetrievalModel,
    words: Words,
    pairs: Pairs,
    pictures: Pictures,
    protocol: EvaluateParams | None,
    device: torch.device,
) -> dict[str, float]:
    """R1, R5, R10, mAP and mINP in percent, as the protocol ranks or by features alone.

    Passes have a fixed size: another would change the last bits, and with them perhaps the choice.
    """
    if protocol is None:
        return itc_measures(model, words, pairs, pictures, device)
    found = evaluate_model(model, words, pairs, pictures, protocol, device)
    return {name: float(found.metrics[name]) for name in MEASURES}
