"""Sizes of a dual encoder: which two towers, and how their tokens become one feature.

A config is plain data and goes into a checkpoint's config.json whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from models.dual.granularity import GranularityConfig
from models.dual.towers import (
    TEXTS,
    VISIONS,
    BertText,
    ClipText,
    PatchVision,
    SwinVision,
    Text,
    Vision,
)
from models.retrieval import MEAN, STD

__all__ = [
    "BertText",
    "ClipText",
    "DualConfig",
    "GranularityConfig",
    "PatchVision",
    "Pooling",
    "SwinVision",
    "Text",
    "Three",
    "Vision",
    "granularity_of",
    "same_parts",
]

Pooling = Literal["max", "own"]
Three = tuple[float, float, float]


def _require(holds: bool, found: str, remedy: str) -> None:
    """Raise a ValueError that names the value and the remedy.

    Raises:
        ValueError: `holds` is false.
    """
    if not holds:
        raise ValueError(f"{found}: {remedy}")


@dataclass(frozen=True, kw_only=True)
class DualConfig:
    """Everything that decides the shape and the meaning of a `DualEncoder`'s weights."""

    vision: Vision
    """The image encoder."""

    text: Text
    """The text encoder."""

    image_size: tuple[int, int] = (384, 128)
    """Height and width of the input in pixels."""

    embed_dim: int = 768
    """Width of a projected token and of the feature that is pooled from them."""

    max_tokens: int = 100
    """Longest text in tokens, start and end included."""

    pooling: Pooling = "max"
    """How tokens become a feature: ``max`` over all of them, pads left out (UniPT), or each tower's
    ``own`` token: CLIP's class token and its end token, so that the features are CLIP's."""

    vision_dropout: float = 0.0
    """Dropout in the image encoder."""

    drop_path: float = 0.0
    """Stochastic depth of the last vision layer, growing linearly from 0 at the first."""

    text_dropout: float = 0.0
    """Dropout in the text encoder."""

    image_mean: Three = MEAN
    """What the image encoder's own pixels were normalised by; the model maps to it."""

    image_std: Three = STD
    """See `image_mean`."""

    granularity: GranularityConfig | None = None
    """LGUR's parts (`models.dual.granularity`), or none."""

    def __post_init__(self) -> None:
        """Check what no later error would name.

        Raises:
            ValueError: A value that no model can have; the message gives the rule.
        """
        vision, text = self.vision, self.text
        if isinstance(vision, SwinVision):
            _require(
                len(vision.heads) == len(vision.depths) > 0,
                f"vision heads {vision.heads} for depths {vision.depths}",
                "give one number of heads a stage",
            )
            widths = [(vision.dim * 2**at, each) for at, each in enumerate(vision.heads)]
        else:
            widths = [(vision.dim, vision.heads)]
        for width, heads in [*widths, (text.dim, text.heads)]:
            _require(
                heads > 0 and width % heads == 0,
                f"{heads} attention heads for a width of {width}",
                "choose heads that divide the width",
            )
        _require(
            all(side > 0 and side % vision.patch_size == 0 for side in self.image_size),
            f"image_size {self.image_size} with patches of {vision.patch_size}",
            "choose an image whose sides are multiples of the patch",
        )
        _require(
            2 <= self.max_tokens <= text.max_positions,
            f"max_tokens {self.max_tokens} with a {text.kind} of {text.max_positions} positions",
            "max_tokens lies between 2 (start and end) and the text encoder's positions",
        )
        _require(self.embed_dim > 0, f"embed_dim {self.embed_dim}", "give at least 1")
        for name in ("vision_dropout", "drop_path", "text_dropout"):
            rate = getattr(self, name)
            _require(0 <= rate < 1, f"{name} {rate}", "a rate is 0 or more and below 1")
        _require(self.pooling in ("max", "own"), f"pooling {self.pooling!r}", "choose max or own")
        _require(
            self.pooling == "max" or vision.kind == text.kind == "clip",
            f"pooling own with a {vision.kind} and a {text.kind}",
            "only CLIP's towers have one token each that was trained to stand for all: choose max",
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Token rows and columns of the encoded image, without the tokens in front."""
        return self.vision.grid(self.image_size)

    @property
    def stride(self) -> int:
        """Pixels a side that one image token stands for."""
        return self.vision.stride

    @property
    def prefix(self) -> int:
        """Image tokens that stand before the patches."""
        return self.vision.prefix

    @property
    def vision_dim(self) -> int:
        """Width of an image token."""
        return self.vision.width

    @property
    def text_dim(self) -> int:
        """Width of a text token."""
        return self.text.dim

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer's vocabulary."""
        return self.text.vocab_size

    @property
    def has_mlm(self) -> bool:
        """Whether the text encoder predicts masked words."""
        return self.text.kind == "bert"

    def changed(self, changes: Mapping[str, Any]) -> DualConfig:
        """This config with some fields changed.

        Args:
            changes: Fields; `granularity` also as a mapping; `window_size` is Swin's.

        Raises:
            ValueError: A field that is unknown or has no place in this model.
        """
        given = dict(changes)
        if "window_size" in given:
            window = given.pop("window_size")
            _require(
                isinstance(self.vision, SwinVision),
                f"window_size {window} for a {self.vision.kind}",
                "only a Swin attends in windows: leave it out",
            )
            given["vision"] = dataclasses.replace(self.vision, window_size=window)
        names = {field.name for field in dataclasses.fields(self)}
        unknown = sorted(set(given) - names)
        _require(
            not unknown, f"changes {unknown}", f"fields are {sorted(names)}, and Swin's window_size"
        )
        given["granularity"] = granularity_of(given.get("granularity", self.granularity))
        if "image_size" in given:
            given["image_size"] = tuple(given["image_size"])
        return dataclasses.replace(self, **given)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DualConfig:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: A key that is unknown or missing, or a tower of another kind.
        """
        values = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        values["vision"] = _tower(data, "vision", VISIONS)
        values["text"] = _tower(data, "text", TEXTS)
        values["granularity"] = granularity_of(data.get("granularity"))
        return _built(cls, values, "config")


def granularity_of(
    value: GranularityConfig | Mapping[str, Any] | None,
) -> GranularityConfig | None:
    """Sizes of a granularity module, as they are or from a mapping.

    Raises:
        ValueError: A key that is unknown or missing.
    """
    if value is None or isinstance(value, GranularityConfig):
        return value
    return _built(GranularityConfig, value, "granularity")


def same_parts(one: GranularityConfig | None, other: GranularityConfig | None) -> bool:
    """Whether weights of the one are weights of the other: all but what ranking compares agrees."""
    if one is None or other is None:
        return one is other
    return dataclasses.replace(one, ranks=other.ranks) == other


def _tower(data: Mapping[str, Any], name: str, kinds: Mapping[str, type[Any]]) -> Any:
    """A tower of a stored config."""
    stored = data.get(name)
    kind = stored.get("kind") if isinstance(stored, Mapping) else None
    _require(
        isinstance(stored, Mapping) and kind in kinds,
        f"{name} of kind {kind!r}",
        f"a dual encoder's config.json names one of {list(kinds)}",
    )
    assert isinstance(stored, Mapping)
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in stored.items()}
    return _built(kinds[str(kind)], values, name)


def _built(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """A dataclass from plain data, every key accounted for."""
    fields = dataclasses.fields(kind)
    unknown = sorted(set(values) - {field.name for field in fields})
    _require(
        not unknown,
        f"{where} with {unknown}",
        "this version does not know them: load with the version that wrote the checkpoint",
    )
    missing = sorted(
        field.name
        for field in fields
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    )
    _require(not missing, f"{where} without {missing}", "give all of its fields")
    return kind(**values)
