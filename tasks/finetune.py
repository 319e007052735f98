"""Stage ``finetune@DATASET``: ITC + ITM + MLM on the target's own pairs, with EDA twins.

In: the dataset's shards and a checkpoint of pretraining (trained or not). Out: a checkpoint folder
(`tasks.checkpoints`). The picture may be larger than in pretraining: Swin's position tables are
resized. Which epoch's weights are kept is `tasks.selection`'s matter: validation's choice unless
another is asked for, and the test split is not opened otherwise.
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
from models.mra.heads import HEADS
from models.mra.objectives import FinetuneObjective
from tasks.augment import Recipe
from tasks.batches import PairDataset, Pairs, Preparation, read_pairs
from tasks.checkpoints import load_model, save_checkpoint, summary
from tasks.eda import LexiconName, lexicon
from tasks.evaluate.run import EvaluateParams, evaluate_model, itc_rank1
from tasks.params import Fraction, Positive, params
from tasks.pictures import Pictures
from tasks.pretrain import Size, from_step
from tasks.selection import BY_TEST, Choice, Select, plan_selection
from tasks.shards import location
from tasks.tokens import Cleaning, Masking, Words, load_tokenizer
from tasks.training import NonNegativeFloat, Plan, Row, TrainingParams, train

log = logging.getLogger(__name__)


@params
class FinetuneParams:
    """One dataset's section of ``finetune`` in params.yaml."""

    images: str
    """The dataset's shards."""
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
    select: Select
    """Which epoch's weights are kept: the ``last``, or the best on ``val`` or, to reproduce
    published numbers, on ``test``."""
    holdout: Fraction
    """With ``val``, where the dataset has no such split: about which share of the train people is
    held out to choose the epoch."""
    keep_test_choice: bool
    """Whether the weights that the test split would have chosen are kept beside, in ``by-test``."""
    protocol: EvaluateParams | None
    """How an epoch is ranked: as an evaluation does it, which the released code did; or null, by
    features alone, which is quick."""
    training: TrainingParams
    """How to optimise."""


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
        run_folder: Belongs to this training alone.
        device: Where to compute.
        workers: Processes that prepare batches; changes no result.
        checkpoint_seconds: Wall time between running checkpoints; changes no result.
        progress: Called with step, steps and the newest row of the curve.

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
    pairs, pictures = read_pairs(images, split="train", identity="person", people=selection.trains)
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
    judges = {judge: selection.read(images, judge) for judge in selection.judges}

    def validate() -> dict[str, float]:
        return {
            judge: _rank1(model, words, *those, section.protocol, device)
            for judge, those in judges.items()
        }

    trained = train(
        FinetuneObjective(
            model,
            eda_weight=section.eda_weight,
            label_smoothing=section.label_smoothing,
            chunks=section.training.chunks,
            micro_batch=section.training.micro_batch,
        ),
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
            reranked=section.protocol is not None,
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


def _rank1(
    model: MRA,
    words: Words,
    pairs: Pairs,
    pictures: Pictures,
    protocol: EvaluateParams | None,
    device: torch.device,
) -> float:
    """R@1 in percent, as the protocol ranks or by features alone.

    Passes have a fixed size: another would change the last bits, and with them perhaps the choice.
    """
    if protocol is None:
        return itc_rank1(model, words, pairs, pictures, device)
    found = evaluate_model(model, words, pairs, pictures, protocol, device)
    return float(found.metrics["R1"])


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
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith(HEADS)}
    fresh.load_state_dict(kept, strict=False)
    return fresh
