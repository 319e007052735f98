"""Stage ``pretrain``: ITC + ITM + MLM + beta (RPC + RPM) on annotated synthetic pairs.

In: restyled (or plain source) shards and their annotations. Out: a checkpoint folder
(`tasks.checkpoints`). The encoders start from a Swin and a BERT folder in transformers' layouts,
ImageNet's and bert-base-uncased in the full profile; ``init: none`` leaves it at that, which is
the paper's baseline without pretraining. A killed training goes on to the same result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor
from transformers import BertConfig, SwinConfig

from models.mra import MRA, MRAConfig, reading_of
from models.mra.objectives import PretrainObjective
from models.mra.starting import vision_config
from models.team import number, processes
from tasks.augment import Recipe
from tasks.batches import PairDataset, Preparation, read_pairs
from tasks.checkpoints import load_model, save_checkpoint, summary
from tasks.errors import PedAlignError
from tasks.order import EpochBatches, load
from tasks.params import Fraction, NonNegative, Positive, PositiveFloat, params
from tasks.tokens import Cleaning, Masking, Words, load_tokenizer
from tasks.training import NonNegativeFloat, Plan, Row, TrainingParams, train

log = logging.getLogger(__name__)

Size = tuple[Positive, Positive]


def _legal(reading: str | dict[str, Any]) -> str | dict[str, Any]:
    """The reading as it is given, if it is one."""
    reading_of(reading)
    return reading


@params
class ModelParams:
    """Of the model, what its starting weights do not decide."""

    image_size: Size
    """Height and width of the input, in pixels."""
    window_size: Positive
    """Largest side of Swin's attention windows, in tokens."""
    text_layers: Positive
    """BERT layers that see text only; those above attend the image too."""
    max_tokens: Positive
    """Word pieces of a caption, [CLS] and [SEP] included."""
    head: Literal["stripes", "token"]
    """Contrastive feature: three stripes through BatchNorm, or a linear map of token 0."""
    embed_dim: Positive
    """Width of the contrastive feature."""
    head_dropout: Fraction
    """Dropout in the stripe heads."""
    vision_dropout: Fraction
    """Dropout in Swin."""
    drop_path: Fraction
    """Stochastic depth of Swin's last block."""
    text_dropout: Fraction
    """Dropout in BERT."""
    temperature: PositiveFloat
    """What the learnable temperature starts from."""
    reading: Annotated[str | dict[str, bool | int | str], AfterValidator(_legal)]
    """Whose method, where the paper's text and its released code differ (docs/deviations.md):
    ``paper``, ``released``, or a mapping, ``like`` one of them with other values of any field."""
    any_reading: bool
    """Whether ``init`` may be a checkpoint that was trained under another reading."""


@params
class PretrainParams:
    """Section ``pretrain`` of params.yaml."""

    init: str
    """``start``: train from the starting weights; ``none``: do not train, publish them;
    or the folder of a retrieval checkpoint to train on from."""
    vision: str
    """Swin's starting weights: a folder in transformers' layout, a file under the original names
    (``swin_base_patch4_window7_224_22k.pth``) or a folder with one, or a name on the hub."""
    text: str
    """BERT's starting weights and tokenizer: a folder in transformers' layout, or a name on the
    hub."""
    model: ModelParams
    """The model."""
    region_weight: NonNegativeFloat
    """beta, the weight of the region losses; 0 leaves them out."""
    padding: NonNegative
    """Black border before the box-preserving crop, in pixels of the stored picture."""
    flip: Fraction
    """Probability of a horizontal flip."""
    erasing: Fraction
    """Probability of erasing a rectangle."""
    cleaning: Cleaning
    """Clean-up of captions: ``raw`` or ``alphanumeric``."""
    training: TrainingParams
    """How to optimise."""


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
        images: Shards of schema ``restyled`` or ``images``.
        annotations: Their side tables; None is legal where ``region_weight`` is 0, every
            caption of an image is then a pair.
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
    tokenizer = load_tokenizer(section.text if section.init in _WORDS else section.init)
    model = new_model(section)
    if len(tokenizer) > model.config.vocab_size:
        raise PedAlignError(
            f"{section.text}: {len(tokenizer)} word pieces for a model of "
            f"{model.config.vocab_size}",
            "tokenizer and model belong together",
            "take both from one folder",
        )
    finished = run_folder / "finished"
    record: dict[str, Any] = {"stage": "pretrain", "params": asdict(section)}
    if section.init == "none":
        log.info("pretrain.init is none: the starting weights go on untrained")
        return save_checkpoint(finished, model, tokenizer, {**record, "steps": 0}, [])
    if annotations is None and section.region_weight > 0:
        raise PedAlignError(
            f"pretrain.region_weight is {section.region_weight}, and there are no annotations",
            "region losses need phrases and boxes",
            "run the annotate stage, or set region_weight to 0",
        )
    pairs, pictures = read_pairs(images, annotations, split=None, identity="image")
    reading = model.config.reading
    preparation = Preparation(
        image=Recipe(
            size=model.config.image_size,
            stride=model.config.stride,
            crop=True,
            padding=section.padding,
            flip=section.flip,
            erasing=section.erasing,
        ),
        words=Words(tokenizer, model.config.max_tokens, section.cleaning),
        masking=Masking(pads=reading.mask_pads),
        seed=section.training.seed,
        regions=section.region_weight > 0,
        trim=not (reading.pool_pads or reading.mask_pads),
    )
    plan = Plan(len(pairs), section.training.batch, section.training.epochs)
    trained = train(
        PretrainObjective(
            model,
            region_weight=section.region_weight,
            chunks=section.training.chunks,
            micro_batch=section.training.micro_batch,
        ),
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


_WORDS = ("start", "none")


def from_step(
    dataset: PairDataset, plan: Plan, workers: int, start: int
) -> Iterator[dict[str, Tensor]]:
    """Give a training's batches from a step on: this process's part of each."""
    order = EpochBatches(
        plan.pairs, plan.batch, plan.epochs, dataset.preparation.seed, start,
        part=(number(), processes()),
    )  # fmt: skip
    return load(dataset, order, workers)


def new_model(section: PretrainParams) -> MRA:
    """Build the model that pretraining starts with.

    Sizes come from the starting folders' own configs, random weights (cross-attention and heads)
    from the training seed.

    Raises:
        PedAlignError: A folder is missing or does not fit.
    """
    if section.init not in _WORDS:
        wanted = section.model
        return load_model(
            Path(section.init),
            reading=reading_of(wanted.reading),
            any_reading=wanted.any_reading,
            image_size=tuple(wanted.image_size),
            window_size=wanted.window_size,
            vision_dropout=wanted.vision_dropout,
            drop_path=wanted.drop_path,
            text_dropout=wanted.text_dropout,
            head_dropout=wanted.head_dropout,
        )
    try:
        config = model_config(
            section.model,
            vision_config(section.vision),
            BertConfig.from_pretrained(section.text),
        )
        torch.manual_seed(section.training.seed)
        model = MRA.from_config(config)
        model.load_starting_weights(section.vision, section.text)
    except (ValueError, OSError) as error:
        raise PedAlignError(
            f"pretrain: no model of {section.vision} and {section.text} ({error})",
            "starting weights are a Swin and a BERT in transformers' layout that fit `model`",
            "correct the path, or download the models once while there is a network",
        ) from error
    return model


def model_config(model: ModelParams, swin: SwinConfig, bert: BertConfig) -> MRAConfig:
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
