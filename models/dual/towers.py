"""Sizes of the towers that a dual encoder is made of.

They are told apart by transformers' `model_type`: `vit`, `deit`, `clip` and `swin` see, `bert` and
`clip` read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from models.mra.config import fit_window


@dataclass(frozen=True, kw_only=True)
class PatchVision:
    """A vision transformer over patches, with tokens in front of them: ViT, DeiT or CLIP's."""

    kind: Literal["vit", "deit", "clip"]
    """transformers' model type. A DeiT without distillation token is a `vit` there."""

    patch_size: int
    """Side of a patch in pixels."""

    dim: int
    """Width of a token."""

    layers: int
    """Transformer layers."""

    heads: int
    """Attention heads a layer."""

    inner_dim: int
    """Width of the feed-forward parts."""

    activation: str = "gelu"
    """Of the feed-forward parts, by transformers' name."""

    eps: float = 1e-12
    """Of LayerNorm."""

    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""

    @property
    def prefix(self) -> int:
        """Tokens before the patches: the class token, and DeiT's distillation token."""
        return 2 if self.kind == "deit" else 1

    @property
    def width(self) -> int:
        """Width of an image token."""
        return self.dim

    @property
    def stride(self) -> int:
        """Pixels a side that one token stands for."""
        return self.patch_size

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Token rows and columns; what does not fill a patch is left over, as by transformers."""
        return image_size[0] // self.patch_size, image_size[1] // self.patch_size


@dataclass(frozen=True, kw_only=True)
class SwinVision:
    """Swin, as `models.mra.vision` runs it: the mean of its tokens stands before them."""

    kind: Literal["swin"] = "swin"
    """transformers' model type."""

    patch_size: int
    """Side of a patch in pixels."""

    dim: int
    """Width of the first stage; every later one doubles it."""

    depths: tuple[int, ...]
    """Blocks a stage."""

    heads: tuple[int, ...]
    """Attention heads a stage."""

    window_size: int
    """Largest side of an attention window, in tokens; each stage's is fitted to its grid."""

    @property
    def prefix(self) -> int:
        """Tokens before the patches: their mean."""
        return 1

    @property
    def width(self) -> int:
        """Width of an image token."""
        return int(self.dim * 2 ** (len(self.depths) - 1))

    @property
    def stride(self) -> int:
        """Pixels a side that one token of the last stage stands for."""
        return int(self.patch_size * 2 ** (len(self.depths) - 1))

    def grids(self, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """Token rows and columns of every stage; an odd side is padded when halved."""
        grids = [(image_size[0] // self.patch_size, image_size[1] // self.patch_size)]
        for _ in self.depths[1:]:
            grids.append(((grids[-1][0] + 1) // 2, (grids[-1][1] + 1) // 2))
        return grids

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Token rows and columns of the last stage."""
        return self.grids(image_size)[-1]

    def windows(self, image_size: tuple[int, int]) -> list[int]:
        """Attention window of every stage, in tokens a side."""
        return [fit_window(grid, self.window_size) for grid in self.grids(image_size)]


@dataclass(frozen=True, kw_only=True)
class _Text:
    """A transformer over the tokens of a text."""

    kind: str
    """transformers' model type."""

    vocab_size: int
    """Entries of the vocabulary: word pieces, or CLIP's byte pairs."""

    dim: int
    """Width of a token."""

    layers: int
    """Transformer layers."""

    heads: int
    """Attention heads a layer."""

    inner_dim: int
    """Width of the feed-forward parts."""

    max_positions: int
    """Rows of the position table; CLIP has 77."""

    activation: str = "gelu"
    """Of the feed-forward parts, by transformers' name."""

    eps: float = 1e-12
    """Of LayerNorm."""


@dataclass(frozen=True, kw_only=True)
class BertText(_Text):
    """BERT with its masked language head."""

    kind: Literal["bert"] = "bert"


@dataclass(frozen=True, kw_only=True)
class ClipText(_Text):
    """CLIP's text tower: causal, and without anything that would predict masked words."""

    kind: Literal["clip"] = "clip"
    activation: str = "quick_gelu"
    eps: float = 1e-5


Vision = PatchVision | SwinVision
Text = BertText | ClipText
VISIONS: Mapping[str, type[Vision]] = {
    "vit": PatchVision,
    "deit": PatchVision,
    "clip": PatchVision,
    "swin": SwinVision,
}
TEXTS: Mapping[str, type[Text]] = {"bert": BertText, "clip": ClipText}
VISION_KINDS = tuple(VISIONS)
TEXT_KINDS = tuple(TEXTS)
