"""Sizes of a person encoder: its image tower, and what its pixels were normalised by."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from models.dual.config import BertText, DualConfig, Three, Vision
from models.dual.towers import VISIONS
from models.retrieval import MEAN, STD

_NO_TEXT = BertText(vocab_size=4, dim=2, layers=1, heads=1, inner_dim=2, max_positions=2)
"""What stands where a dual encoder's config wants a text tower; nobody reads anything here."""


@dataclass(frozen=True, kw_only=True)
class ReidConfig:
    """Everything that decides the shape and the meaning of a `PersonEncoder`'s weights."""

    vision: Vision
    """The image encoder."""

    image_size: tuple[int, int]
    """Height and width of the input, in pixels."""

    vision_dropout: float = 0.0
    """Dropout in the image encoder."""

    drop_path: float = 0.0
    """Stochastic depth of its last layer, growing linearly from 0 at the first."""

    image_mean: Three = MEAN
    """What the image encoder's own pixels were normalised by; the model maps to it."""

    image_std: Three = STD
    """See `image_mean`."""

    @property
    def width(self) -> int:
        """Width of the feature: that of one image token."""
        return self.vision.width

    @property
    def stride(self) -> int:
        """Pixels a side that one image token stands for."""
        return self.vision.stride

    @property
    def towers(self) -> DualConfig:
        """The same as the config of a dual encoder that reads nothing.

        Raises:
            ValueError: A value that no model can have.
        """
        return DualConfig(
            vision=self.vision,
            text=_NO_TEXT,
            image_size=self.image_size,
            embed_dim=1,
            max_tokens=2,
            vision_dropout=self.vision_dropout,
            drop_path=self.drop_path,
            image_mean=self.image_mean,
            image_std=self.image_std,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ReidConfig:
        """Read `to_dict`'s data back.

        Raises:
            ValueError: Keys or a kind of image encoder that there are not.
        """
        try:
            vision = dict(data["vision"])
            sizes = VISIONS[vision["kind"]](**_tuples(vision))
            return cls(**_tuples({name: v for name, v in data.items() if name != "vision"}),
                       vision=sizes)  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"config of a person encoder: {type(error).__name__} {error}; it has the keys of "
                "ReidConfig; give a folder that `PersonEncoder.save_pretrained` wrote"
            ) from error


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
