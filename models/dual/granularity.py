"""LGUR's granularity unification: every image and every text as the same few parts.

An image has many small tokens, a text few and coarse ones. A fixed set of learnable queries, the
same for both, asks either for the same parts, so that part k of an image compares with part k of a
text. UniPT fine-tunes with it (ICCV 2023, sec. 4.2); what it is made of is in LGUR's public code
(ACM MM 2022). What of LGUR is left out, and why, is in docs/unipt.md.

What is unusual: ranking may use the parts (`GranularityConfig.ranks`), so the module belongs to the
model and its checkpoint, and `DualEncoder.encode_image` and `encode_text` give what `feature` made.

Shapes: B rows, N tokens of either modality (P of images, L of texts), E width of the projected
tokens, K parts, F width of a part, M entries of the dictionary, H heads, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Ranks = Literal["parts", "global", "both"]


@dataclass(frozen=True)
class GranularityConfig:
    """Sizes; the defaults are those of LGUR's public code, where E is 384.

    Raises:
        ValueError: A size below 1 (0 for the dictionary), or an unknown way to rank.
    """

    parts: int = 6
    """Learnable queries, one a part."""
    part_dim: int = 512
    """Width of a part's feature."""
    depth: int = 2
    """Layers of the decoder that the queries go through."""
    heads: int = 6
    """Attention heads, of the dictionary's layer too."""
    head_dim: int = 512
    """Width of each head of the decoder; the dictionary's have E // heads."""
    inner_dim: int = 512
    """Hidden width of the decoder's feed-forward parts; the dictionary's is 2 E."""
    dictionary: int = 0
    """Entries of the dictionary that tokens are rebuilt from first; 0: none, as the name PGU says.
    In LGUR the dictionary is another module (DGA), of 400 entries."""
    ranks: Ranks = "parts"
    """What ranking compares: the ``parts``, as LGUR does; the ``global`` feature, for which the
    parts are a task in training only; or ``both``, the mean of the two cosines."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        sizes = ("parts", "part_dim", "depth", "heads", "head_dim", "inner_dim")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"granularity.{name} is {getattr(self, name)}: choose at least 1")
        if self.dictionary < 0:
            raise ValueError(
                f"granularity.dictionary is {self.dictionary}: choose a number of entries, or 0 "
                "for none"
            )
        if self.ranks not in ("parts", "global", "both"):
            raise ValueError(
                f"granularity.ranks is {self.ranks!r}: ranking compares parts, global or both"
            )


class Granularity(nn.Module):
    """Parts of images and of texts, by the same queries, decoder and projections.

    Attributes:
        config: Sizes.
        queries_KE: One learnable query a part.
        decoder: Layers in which the queries attend the tokens.
        part_KEF: A 1x1 projection of its own for each part, without bias.
        dictionary_ME: What tokens are rebuilt from; None where there is no dictionary.
        rebuild: The layer that does; None as well.
        foreground: How much of an image's token is a person; None as well.
    """

    dictionary_ME: nn.Parameter | None
    rebuild: Layer | None
    foreground: nn.Linear | None

    def __init__(self, width: int, config: GranularityConfig) -> None:
        """Make the module.

        Args:
            width: E, of the tokens of both modalities.
            config: Sizes.
        """
        super().__init__()
        self.config = config
        self.width = width
        self.queries_KE = nn.Parameter(torch.randn(config.parts, width))
        self.decoder = nn.ModuleList(
            Layer(width, config.heads, config.head_dim, config.inner_dim)
            for _ in range(config.depth)
        )
        kaiming = (2 / config.part_dim) ** 0.5  # by the outputs, as in LGUR's code
        self.part_KEF = nn.Parameter(torch.randn(config.parts, width, config.part_dim) * kaiming)
        if config.dictionary:
            self.dictionary_ME = nn.Parameter(torch.randn(config.dictionary, width))
            head = max(1, width // config.heads)
            self.rebuild = Layer(width, config.heads, head, 2 * width)
            self.foreground = nn.Linear(width, 1)
        else:
            self.dictionary_ME = self.rebuild = self.foreground = None

    def image_parts(self, tokens_BPE: Tensor) -> Tensor:
        """Parts of images, not normalised: (B, K, F).

        Args:
            tokens_BPE: Projected tokens. With a dictionary each is rebuilt from it and weighted by
                how much it belongs to the foreground.
        """
        rebuilt_BPE = self._rebuilt(tokens_BPE)
        if self.foreground is not None:
            rebuilt_BPE = rebuilt_BPE * self.foreground(tokens_BPE).sigmoid()
        return self._decode(rebuilt_BPE, None)

    def text_parts(self, tokens_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        """Parts of texts, not normalised: (B, K, F).

        Args:
            tokens_BLE: Projected tokens.
            mask_BL: 1 for a word piece, 0 for padding, which no query attends.
        """
        return self._decode(self._rebuilt(tokens_BLE), mask_BL)

    def _rebuilt(self, tokens_BNE: Tensor) -> Tensor:
        """The tokens after they attended the dictionary; as they were without one."""
        if self.rebuild is None or self.dictionary_ME is None:
            return tokens_BNE
        rebuilt_BNE: Tensor = self.rebuild(tokens_BNE, self.dictionary_ME[None])
        return rebuilt_BNE

    def _decode(self, tokens_BNE: Tensor, mask_BN: Tensor | None) -> Tensor:
        """Let the queries attend the tokens, and project each part."""
        parts_BKE = self.queries_KE.expand(len(tokens_BNE), -1, -1)
        for layer in self.decoder:
            parts_BKE = layer(parts_BKE, tokens_BNE, mask_BN)
        return torch.einsum("bke,kef->bkf", parts_BKE, self.part_KEF.to(parts_BKE.dtype))

    def feature(self, global_BE: Tensor, parts_BKF: Tensor) -> Tensor:
        """What ranking compares, normalised: (B, `feature_dim`).

        Args:
            global_BE: Max-pooled feature, normalised or not.
            parts_BKF: Parts, not normalised: they are put side by side and normalised as one, as in
                LGUR's code, so a part counts the more the longer it is.
        """
        global_BE, parts_BG = F.normalize(global_BE, dim=-1), unit_parts(parts_BKF)
        if self.config.ranks == "parts":
            return parts_BG
        if self.config.ranks == "global":
            return global_BE
        return torch.cat([global_BE, parts_BG], dim=-1) * 0.5**0.5

    @property
    def feature_dim(self) -> int:
        """Width of what `feature` gives."""
        parts = self.config.parts * self.config.part_dim
        return {"parts": parts, "global": self.width, "both": self.width + parts}[self.config.ranks]


class Layer(nn.Module):
    """Cross-attention and a feed-forward part, each after a norm and around a skip.

    As in LGUR's code the queries do not attend each other, what asks and what is asked share one
    norm, and nothing is dropped.
    """

    def __init__(self, width: int, heads: int, head_dim: int, inner_dim: int) -> None:
        """Make a layer.

        Args:
            width: E.
            heads: H.
            head_dim: d; H d need not be E.
            inner_dim: Hidden width of the feed-forward part.
        """
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, heads * head_dim, bias=False)
        self.key_value = nn.Linear(width, 2 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, width)
        self.inner_norm = nn.LayerNorm(width)
        self.inner = nn.Sequential(
            nn.Linear(width, inner_dim), nn.ReLU(), nn.Linear(inner_dim, width)
        )

    def forward(
        self, asking_BQE: Tensor, asked_BNE: Tensor, mask_BN: Tensor | None = None
    ) -> Tensor:
        """What asks, after it attended what is asked: (B, Q, E).

        Args:
            asking_BQE: Queries, or tokens that are rebuilt.
            asked_BNE: Tokens, or the dictionary; one row serves all.
            mask_BN: 0 for what is not to be attended.
        """
        rows, count = asking_BQE.shape[:2]
        query_BQHd = self.query(self.norm(asking_BQE)).unflatten(2, (self.heads, -1))
        both_BN2Hd = self.key_value(self.norm(asked_BNE)).unflatten(2, (2, self.heads, -1))
        key_BHNd, value_BHNd = (part.transpose(1, 2) for part in both_BN2Hd.unbind(2))
        if len(key_BHNd) != rows:
            key_BHNd, value_BHNd = (t.expand(rows, -1, -1, -1) for t in (key_BHNd, value_BHNd))
        found_BHQd = F.scaled_dot_product_attention(
            query_BQHd.transpose(1, 2),
            key_BHNd,
            value_BHNd,
            attn_mask=None if mask_BN is None else mask_BN[:, None, None].bool(),
        )
        found_BQE = self.out(found_BHQd.transpose(1, 2).reshape(rows, count, -1))
        asking_BQE = asking_BQE + found_BQE
        inner_BQE: Tensor = self.inner(self.inner_norm(asking_BQE))
        return asking_BQE + inner_BQE


def unit_parts(parts_BKF: Tensor) -> Tensor:
    """Parts side by side as one normalised feature: (B, K F)."""
    return F.normalize(parts_BKF.flatten(1), dim=-1)
