"""Section ``pretrain``: what is trained (a model), by what (an objective) and how.

Two roads, and each is a model with an objective of its own: ``mra`` with regions (arXiv
2507.10195), and ``dual``, UniPT's two encoders, with ``unipt`` (ICCV 2023). A key
``kind`` says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, model_validator

from models.mra import reading_of
from tasks.params import Fraction, NonNegative, Positive, PositiveFloat, Tagged, params
from tasks.tokens import Cleaning
from tasks.training import NonNegativeFloat, TrainingParams

Size = tuple[Positive, Positive]


def _legal(reading: str | dict[str, Any]) -> str | dict[str, Any]:
    """The reading as it is given, if it is one."""
    reading_of(reading)
    return reading


@params
class MraModel:
    """Of MRA, what its starting weights do not decide."""

    kind: Literal["mra"]
    """Swin, BERT, and BERT's upper layers as a fusion encoder."""
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
class DualModel:
    """Of a dual encoder, what its starting weights do not decide."""

    kind: Literal["dual"]
    """An image encoder and a text encoder of transformers, and nothing that sees both."""
    image_size: Size
    """Height and width of the input, in pixels."""
    embed_dim: Positive
    """Width of the feature that images and texts are projected to."""
    max_tokens: Positive
    """Tokens of a caption, start and end included."""
    vision_dropout: Fraction
    """Dropout in the image encoder."""
    drop_path: Fraction
    """Stochastic depth of the image encoder's last block, where it has that (Swin)."""
    text_dropout: Fraction
    """Dropout in the text encoder."""


@params
class MraLosses:
    """ITC + ITM + MLM + beta (RPC + RPM)."""

    kind: Literal["mra"]
    """MRA's, with regions."""
    region_weight: NonNegativeFloat
    """beta, the weight of the region losses; 0 leaves them out, and still crops pictures around a
    drawn region where annotations have any (captions alone: whole pictures)."""
    padding: NonNegative
    """Black border before the box-preserving crop, in pixels of the stored picture."""


@params
class UniptLosses:
    """Symmetric InfoNCE + beta MLM, and no fusion."""

    kind: Literal["unipt"]
    """UniPT's, which needs captions and no regions."""
    temperature: PositiveFloat | None
    """What cosines are divided by; null: by nothing, as published."""
    mlm_weight: NonNegativeFloat
    """beta, the weight of masked language modelling on the text alone; 0 leaves it out."""


def check_kinds(model: str, objective: str, trained_by: Mapping[str, str]) -> None:
    """Check that an objective is the one that trains a kind of model.

    Args:
        model: The model's ``kind``.
        objective: The objective's.
        trained_by: Kind of model to kind of objective, in this stage.

    Raises:
        ValueError: It trains another kind.
    """
    if objective != trained_by[model]:
        raise ValueError(
            f"objective.kind is {objective} and model.kind is {model}, which "
            f"{trained_by[model]} trains"
        )


@params
class PretrainParams:
    """Section ``pretrain`` of params.yaml."""

    init: str
    """``start``: train from the starting weights; ``none``: do not train, publish them;
    or the folder of a retrieval checkpoint, of either kind, to train on from."""
    vision: str
    """Starting weights of the image encoder: a folder in transformers' layout or a name on the hub.
    Of MRA a Swin, which may also be a file under the original names
    (``swin_base_patch4_window7_224_22k.pth``) or a folder with one; of a dual encoder a Swin, ViT,
    DeiT or CLIP."""
    text: str
    """Starting weights of the text encoder, and its tokenizer: a folder in transformers' layout, or
    a name on the hub. A BERT; of a dual encoder also a CLIP."""
    model: Annotated[MraModel | DualModel, Tagged]
    """The model."""
    objective: Annotated[MraLosses | UniptLosses, Tagged]
    """What it is trained by."""
    flip: Fraction
    """Probability of a horizontal flip."""
    erasing: Fraction
    """Probability of erasing a rectangle."""
    cleaning: Cleaning
    """Clean-up of captions: ``raw`` or ``alphanumeric``."""
    training: TrainingParams
    """How to optimise."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        check_kinds(self.model.kind, self.objective.kind, {"mra": "mra", "dual": "unipt"})
        return self
