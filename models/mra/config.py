"""Sizes of the retrieval model, and its reading: where the paper and its released code differ.

The defaults of `MRAConfig` are the paper's (Swin-B at 224x224, BERT-base, stripes to 2,048;
226.58 M parameters). A config is plain data: it is written to a checkpoint's config.json with its
reading, because weights trained under one reading do not mean the same under another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any, Literal

Head = Literal["stripes", "token"]


def _require(holds: bool, found: str, remedy: str) -> None:
    """Raise a ValueError that names the value and the remedy.

    Raises:
        ValueError: `holds` is false.
    """
    if not holds:
        raise ValueError(f"{found}: {remedy}")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The points on which the paper's text and its released code disagree, each settable alone."""

    region_pooling: bool
    """RPC's image feature is pooled over the region's tokens (paper). The released stripe head
    pools the whole image instead, so that RPC never sees the region; its token head does."""

    region_token: bool
    """RPM attends the region's mean token beside its patches (paper). Released: masked out."""

    beta_twice: bool
    """The region losses are weighted by beta once inside the model and once more in the loop
    (released: a constant 0.8 inside, so 0.8 becomes 0.64)."""

    pool_pads: bool
    """The stripes of the text feature average over padding too (released). Every text must then
    be padded to the same length, in training and in search."""

    mask_pads: bool
    """Padding and [SEP] may be chosen for masked language modelling (released). The model does
    not mask texts; whoever prepares a batch reads this."""

    double_heads: bool
    """The contrastive heads learn at twice the rate (what the release's `lr_x` is for). In the
    released code the setting is dead (optim.py)."""

    local_negatives: bool
    """Hard negatives come from a row's own chunk of the batch (released, where a chunk is what one
    device holds); otherwise from the whole batch. An objective is told the number of chunks."""

    local_statistics: bool
    """BatchNorm in the stripe heads normalises each chunk by its own statistics, and the running
    statistics follow the first chunk only (released: DDP sends the first device's buffers to all);
    otherwise by those of the whole batch."""

    shared_contrast: bool
    """The gradient of ITC and RPC is divided by the number of chunks on its way into heads and
    encoders; their values and the temperature's gradient are not (released: gathering hands back
    a device's own slice, and DDP averages)."""

    score_processes: int
    """Processes of the evaluation whose fused score is imitated: with more than one, filler rows
    take part in the scaling of scores, which weighs the contrastive part about four hundred times
    more (released: 4; eval.py). The model does not score; whoever evaluates reads this."""

    region_heads: bool
    """Regions and phrases have contrastive heads of their own (the paper's "different MLPs"),
    `region_proj` and `phrase_proj`. Its 226.5 M parameters leave no room for them, so they are off
    in both named readings."""

    def __post_init__(self) -> None:
        """Check the types: a reading comes from a file or from parameters.

        Raises:
            ValueError: A field of another type, or a number of processes below 1.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "score_processes":
                legal, rule = type(value) is int and value >= 1, "a whole number from 1 on"
            else:
                legal, rule = type(value) is bool, "true or false"
            _require(legal, f"reading's {field.name} {value!r}", f"it is {rule}")


PAPER = Reading(
    region_pooling=True,
    region_token=True,
    beta_twice=False,
    pool_pads=False,
    mask_pads=False,
    double_heads=True,
    local_negatives=False,
    local_statistics=False,
    shared_contrast=False,
    score_processes=1,
    region_heads=False,
)
"""What the paper's text says."""

RELEASED = Reading(
    region_pooling=False,
    region_token=False,
    beta_twice=True,
    pool_pads=True,
    mask_pads=True,
    double_heads=False,
    local_negatives=True,
    local_statistics=True,
    shared_contrast=True,
    score_processes=4,
    region_heads=False,
)
"""What the released code does."""

READINGS: Mapping[str, Reading] = {"paper": PAPER, "released": RELEASED}


def reading_of(value: str | Mapping[str, Any]) -> Reading:
    """A reading by its name, or as a named one with changes.

    Args:
        value: "paper", "released", or a mapping: `like` names the reading to change (without it
            every field has to be given), the other keys are fields of `Reading`.

    Raises:
        ValueError: An unknown name or field, a missing field, or a value of another type.
    """
    if isinstance(value, str):
        _require(
            value in READINGS,
            f"reading {value!r}",
            f"choose one of {list(READINGS)}, or a mapping: like: one of them, and what differs",
        )
        return READINGS[value]
    names = [field.name for field in dataclasses.fields(Reading)]
    given = dict(value)
    base = given.pop("like", None)
    unknown = sorted(set(given) - set(names))
    _require(not unknown, f"reading with {unknown}", f"its fields are {names}, and `like`")
    if base is not None:
        _require(base in READINGS, f"reading like {base!r}", f"choose one of {list(READINGS)}")
        return dataclasses.replace(READINGS[base], **given)
    missing = [name for name in names if name not in given]
    _require(not missing, f"reading without {missing}", "give all fields, or `like: paper`")
    return Reading(**given)


@dataclass(frozen=True, kw_only=True)
class MRAConfig:
    """Everything that decides the shape and the meaning of an `MRA`'s weights."""

    image_size: tuple[int, int] = (224, 224)
    """Height and width of the input in pixels."""

    patch_size: int = 4
    """Side of a patch in pixels."""

    vision_dim: int = 128
    """Width of Swin's first stage; every later stage doubles it."""

    depths: tuple[int, ...] = (2, 2, 18, 2)
    """Swin blocks a stage. The total stride is patch_size * 2 ** (stages - 1)."""

    vision_heads: tuple[int, ...] = (4, 8, 16, 32)
    """Attention heads a stage."""

    window_size: int = 7
    """Largest side of an attention window in tokens; `windows` says what each stage gets."""

    stage_windows: tuple[int, ...] | None = None
    """Window of each stage, where it is not what `fit_window` gives. None: fitted."""

    vision_dropout: float = 0.0
    """Dropout in Swin (0.1 in the paper's pretraining, 0 in fine-tuning)."""

    drop_path: float = 0.2
    """Stochastic depth of the last Swin block, growing linearly from 0 at the first."""

    vocab_size: int = 30522
    """Word pieces."""

    text_dim: int = 768
    """Width of the text and fusion encoder."""

    text_layers: int = 6
    """BERT layers that see text only."""

    fusion_layers: int = 6
    """BERT layers after them that also attend the image."""

    text_heads: int = 12
    """Attention heads of every BERT layer."""

    text_inner_dim: int = 3072
    """Width of BERT's feed-forward layers."""

    max_positions: int = 512
    """Rows of BERT's position table."""

    max_tokens: int = 56
    """Longest text in word pieces, [CLS] and [SEP] included."""

    text_dropout: float = 0.1
    """Dropout in BERT."""

    head: Head = "stripes"
    """Contrastive feature: "stripes" (three stripes through BatchNorm; CUHK-PEDES, ICFG-PEDES)
    or "token" (a linear map of token 0; RSTPReid)."""

    embed_dim: int = 2048
    """Width of the contrastive feature (256 with the token head)."""

    head_dropout: float = 0.5
    """Dropout in the stripe heads."""

    temperature: float = 0.07
    """What the learnable temperature starts from."""

    reading: Reading = PAPER
    """Where this model follows the paper and where the released code."""

    def __post_init__(self) -> None:
        """Check what no later error would name.

        Raises:
            ValueError: A value that no model can have; the message gives the rule.
        """
        stages = len(self.depths)
        _require(
            len(self.vision_heads) == stages,
            f"vision_heads {self.vision_heads} for depths {self.depths}",
            "give one number of heads a stage",
        )
        _require(
            self.stage_windows is None or len(self.stage_windows) == stages,
            f"stage_windows {self.stage_windows} for depths {self.depths}",
            "give one window a stage, or None to have them fitted",
        )
        for heads, dim in zip(self.vision_heads, self.stage_dims, strict=True):
            _require(
                heads > 0 and dim % heads == 0,
                f"vision_heads {self.vision_heads}: {heads} for a stage of width {dim}",
                "choose vision_heads that divide vision_dim * 2 ** stage",
            )
        _require(
            self.text_dim % self.text_heads == 0,
            f"text_heads {self.text_heads} for text_dim {self.text_dim}",
            "choose text_heads that divide text_dim",
        )
        _require(
            2 <= self.max_tokens <= self.max_positions,
            f"max_tokens {self.max_tokens} with max_positions {self.max_positions}",
            "max_tokens lies between 2 ([CLS] and [SEP]) and max_positions",
        )
        _require(
            self.head in ("stripes", "token"),
            f"head {self.head!r}",
            'choose "stripes" or "token"',
        )
        _require(self.fusion_layers > 0, f"fusion_layers {self.fusion_layers}", "give at least 1")
        _require(
            all(side % self.patch_size == 0 and side > 0 for side in self.image_size),
            f"image_size {self.image_size} with patch_size {self.patch_size}",
            "choose an image whose sides are multiples of the patch",
        )

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Width of every Swin stage."""
        return tuple(self.vision_dim * 2**stage for stage in range(len(self.depths)))

    @property
    def stage_grids(self) -> tuple[tuple[int, int], ...]:
        """Token rows and columns of every Swin stage; an odd side is padded when halved."""
        grids = [(self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size)]
        for _ in self.depths[1:]:
            grids.append(((grids[-1][0] + 1) // 2, (grids[-1][1] + 1) // 2))
        return tuple(grids)

    @property
    def windows(self) -> tuple[int, ...]:
        """Attention window of every Swin stage, in tokens a side."""
        if self.stage_windows is not None:
            return self.stage_windows
        return tuple(fit_window(grid, self.window_size) for grid in self.stage_grids)

    @property
    def stride(self) -> int:
        """Pixels a side that one token of the last stage stands for."""
        return int(self.patch_size * 2 ** (len(self.depths) - 1))

    @property
    def grid(self) -> tuple[int, int]:
        """Token rows and columns of the encoded image, without token 0."""
        return self.stage_grids[-1]

    @property
    def vision_width(self) -> int:
        """Width of an image token."""
        return self.stage_dims[-1]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MRAConfig:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: A key that this version does not know, or a missing reading.
        """
        unknown = set(data) - {field.name for field in dataclasses.fields(cls)}
        _require(
            not unknown,
            f"config keys {sorted(unknown)}",
            "this version does not know them: load with the version that wrote the checkpoint",
        )
        _require(
            isinstance(data.get("reading"), Mapping),
            f"reading {data.get('reading')!r}",
            "a checkpoint's config.json carries its reading; convert it with the importer",
        )
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        values["reading"] = _stored_reading(data["reading"])
        return cls(**values)


def _stored_reading(data: Mapping[str, Any]) -> Reading:
    """The reading of a checkpoint, whose every field is written down.

    Raises:
        ValueError: Fields are missing (an older version's checkpoint) or unknown (a newer one's).
    """
    names = {field.name for field in dataclasses.fields(Reading)}
    missing, unknown = sorted(names - set(data)), sorted(set(data) - names)
    _require(
        not unknown,
        f"a checkpoint's reading with {unknown}",
        "this version does not know them: load with the version that wrote the checkpoint",
    )
    _require(
        not missing,
        f"a checkpoint's reading without {missing}",
        "an older version wrote it, and how it was trained in these points is not on record: train "
        "it anew, import it again, or add the fields to its config.json if you know them",
    )
    return Reading(**data)


def fit_window(grid: tuple[int, int], window: int) -> int:
    """Largest attention window that tiles a token grid.

    The released model takes min(window, shorter side), and 4 instead of 8 on the 12x8 grid of its
    last stage at 384x256, because 8 does not divide 12. The largest common divisor of both sides
    that is not above `window` is the same number wherever the released rule works. A grid without
    such a divisor above 1 (13x7) takes min(window, shorter side) and is padded.

    Args:
        grid: Token rows and columns.
        window: Largest side wanted.

    Returns:
        The side of the window in tokens.
    """
    common = gcd(*grid)
    fitting = max(side for side in range(1, window + 1) if common % side == 0)
    return fitting if fitting > 1 else min(window, *grid)
