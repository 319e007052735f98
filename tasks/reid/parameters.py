"""Sections ``reid.datasets.NAME``: from what, on whom, and how."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.params import Fraction, Positive, params
from tasks.training import NonNegativeFloat, TrainingParams

Size = tuple[Positive, Positive]


@params
class ReidParams:
    """One entry of ``reid.datasets`` in params.yaml."""

    images: str
    """The dataset's shards; its people train, and others of its test split are looked for."""
    start: str
    """Where the image encoder comes from: a checkpoint's folder (MRA or dual encoder), or plain
    weights, a folder in transformers' layout or Swin's file. DVC watches it, so it is a path."""
    image_size: Size
    """Height and width of the input, in pixels."""
    window_size: Positive | None
    """Largest side of Swin's attention windows, in tokens; null keeps the start's."""
    vision_dropout: Fraction
    """Dropout in the image encoder."""
    drop_path: Fraction
    """Stochastic depth of its last block."""
    margin: NonNegativeFloat
    """Of the triplets, in units of the feature's Euclidean distance."""
    triplet_weight: NonNegativeFloat
    """Weight of the triplet loss beside the identity loss; 0 leaves it out."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """Of the identity loss's targets."""
    pictures: Annotated[int, Field(ge=2)]
    """K, pictures of a person in a batch; ``training.batch`` divided by it is P, its people."""
    flip: Fraction
    """Probability of a horizontal flip."""
    erasing: Fraction
    """Probability of erasing a rectangle."""
    shift: Annotated[float, Field(ge=0, le=0.5)]
    """Farthest random shift, as a share of each side; black comes in from outside."""
    mirror: bool
    """Whether a picture's feature is that of it and its mirror image together, in evaluation."""
    select: Literal["last", "val"]
    """Which epoch's weights are kept: the ``last``, or that of the highest mAP on the ``val``
    split."""
    training: TrainingParams
    """How to optimise."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        batch = self.training.batch
        if batch % self.pictures or batch < 2 * self.pictures:
            raise ValueError(
                f"training.batch is {batch} and pictures is {self.pictures}: a batch holds that "
                "many pictures of each of its people, and two people at least"
            )
        return self

    @property
    def people(self) -> int:
        """P, people in a batch."""
        return self.training.batch // self.pictures
