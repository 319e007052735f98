"""Sections ``finetune.datasets.NAME``: on what, what of the model changes, by what, and how.

As in pretraining a model of kind ``mra`` has its objective and one of kind ``dual`` has its own.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import model_validator

from models.dual.granularity import Ranks
from models.dual.losses import Negatives, Over
from tasks.eda import LexiconName
from tasks.evaluate.run import EvaluateParams
from tasks.params import Fraction, NonNegative, Positive, PositiveFloat, Tagged, params
from tasks.pretrain.parameters import Size, check_kinds
from tasks.selection import Select
from tasks.tokens import Cleaning
from tasks.training import NonNegativeFloat, TrainingParams


@params
class MraChanges:
    """What an MRA is fine-tuned with; the rest stays as it was pretrained."""

    kind: Literal["mra"]
    """The kind of the checkpoint that is started from."""
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


@params
class MraLosses:
    """ITC + ITM + MLM, and ITC and ITM of a text that EDA changed."""

    kind: Literal["mra"]
    """MRA's."""
    label_smoothing: Fraction
    """Of the contrastive targets."""
    eda_weight: NonNegativeFloat
    """Weight of the losses of the EDA twin; 0 leaves it out."""
    eda_alpha: Fraction
    """Share of the words that EDA changes."""
    synonyms: LexiconName
    """Lexicon of EDA: ``table``, ``wordnet``, or ``auto`` for WordNet where it is installed."""


@params
class Granularity:
    """LGUR's parts (`models.dual.granularity`)."""

    parts: Positive
    """Learnable queries, one a part."""
    part_dim: Positive
    """Width of a part's feature."""
    depth: Positive
    """Layers of the decoder that the queries go through."""
    heads: Positive
    """Attention heads of a layer."""
    head_dim: Positive
    """Width of each head of the decoder."""
    inner_dim: Positive
    """Hidden width of the decoder's feed-forward parts."""
    dictionary: NonNegative
    """Entries of the dictionary that tokens are rebuilt from first; 0: none."""
    ranks: Ranks
    """What ranking compares: ``parts``, the ``global`` feature, or ``both``."""


@params
class DualChanges:
    """What a dual encoder is fine-tuned with; the rest stays as it was pretrained."""

    kind: Literal["dual"]
    """The kind of the checkpoint that is started from."""
    image_size: Size
    """Height and width of the input, in pixels; may differ from pretraining's."""
    vision_dropout: Fraction
    """Dropout in the image encoder."""
    drop_path: Fraction
    """Stochastic depth of the image encoder's last layer."""
    granularity: Granularity | None
    """Parts of images and texts, drawn afresh unless the checkpoint has the same; null: none."""


@params
class IdentityLosses:
    """L_id + L_rk + gamma L_pgu: which person it is, and whose picture a text is nearest to."""

    kind: Literal["identity"]
    """UniPT's."""
    margin: PositiveFloat
    """Of L_rk, in cosines."""
    negatives: Negatives
    """Of L_rk: ``semi-hard``, drawn among those within the margin, or the ``hardest``."""
    anchors: Over
    """L_rk is their ``sum``, as LGUR's code has it, or their ``mean``, which leaves encoders that
    pretraining has not aligned a way to learn (docs/unipt.md)."""
    contrast_temperature: PositiveFloat | None
    """Of an InfoNCE of the global features beside the two; null: none, as published."""
    granularity_weight: NonNegativeFloat
    """gamma, the weight of the same losses on the parts; 0 where there are none."""


@params
class FinetuneParams:
    """One dataset's section of ``finetune`` in params.yaml."""

    images: str
    """The dataset's shards."""
    model: Annotated[MraChanges | DualChanges, Tagged]
    """What the model is fine-tuned with."""
    objective: Annotated[MraLosses | IdentityLosses, Tagged]
    """What it is trained by."""
    flip: Fraction
    """Probability of a horizontal flip."""
    erasing: Fraction
    """Probability of erasing a rectangle."""
    cleaning: Cleaning
    """Clean-up of captions, in training and in evaluation: ``raw`` or ``alphanumeric``."""
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

    @model_validator(mode="after")
    def _fit(self) -> Self:
        check_kinds(self.model.kind, self.objective.kind, {"mra": "mra", "dual": "identity"})
        if isinstance(self.model, DualChanges) and isinstance(self.objective, IdentityLosses):
            weight, parts = self.objective.granularity_weight, self.model.granularity
            if weight and parts is None:
                raise ValueError(
                    f"objective.granularity_weight is {weight} and model.granularity is null: "
                    "without parts their losses have no weight"
                )
            if parts is not None and not weight and parts.ranks != "global":
                raise ValueError(
                    f"objective.granularity_weight is 0 and model.granularity.ranks is "
                    f"{parts.ranks}: ranking would compare parts that nothing trains"
                )
        return self
