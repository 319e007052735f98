"""What ranking, search and checkpoints ask of a retrieval model, whichever road trained it.

There are two: `models.mra.MRA`, whose fusion encoder may judge pairs a second time, and
`models.dual.DualEncoder`, two encoders and nothing else. Whoever needs more than stands here has to
say which of them it takes.

Shapes: B rows, C channels, H x W pixels, P image tokens, L text tokens, D width of a token, E width
of the feature.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""How pixels are normalised for every model (CLIP's, as MRA uses them): `tasks.augment` does it. A
model whose encoder was trained otherwise maps them itself."""


class RetrievalSizes(Protocol):
    """What every model's config says."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        ...

    @property
    def stride(self) -> int:
        """Pixels a side that one image token stands for."""
        ...

    @property
    def embed_dim(self) -> int:
        """Width of the contrastive projection; `RetrievalModel.feature_dim` is what is compared."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens, start and end included."""
        ...

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer's vocabulary that the text encoder has vectors for."""
        ...

    @property
    def text_dim(self) -> int:
        """Width of the text encoder's tokens."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain data for config.json."""
        ...


class RetrievalModel(nn.Module, ABC):
    """Images and texts to features that are compared by their cosine.

    Attributes:
        config: Sizes, and whatever else decides what the weights mean.
        fuses: Whether pairs can be judged by a fusion encoder too (`models.mra.reranking`).
    """

    config: RetrievalSizes
    fuses: ClassVar[bool]

    @property
    def needs_pads(self) -> bool:
        """Whether a text's feature depends on its padding.

        Every text is then padded to `config.max_tokens`, in training and in search.
        """
        return False

    @property
    def feature_dim(self) -> int:
        """Width E of the features that are compared."""
        return self.config.embed_dim

    @abstractmethod
    def encode_image(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            image_BCHW: Pixels of `config.image_size`, normalised as `tasks.augment` does.

        Returns:
            Tokens (B, P, D) and normalised features (B, E), float32.
        """

    @abstractmethod
    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Encode texts.

        Args:
            ids_BL: Ids of the model's tokenizer.
            mask_BL: 1 for a token, 0 for padding.

        Returns:
            Tokens (B, L, D) and normalised features (B, E), float32.
        """

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into a folder."""
