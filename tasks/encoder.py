"""What turns images and sentences into comparable vectors: the retrieval model, as a Protocol.

Search needs three things of a model: vectors of images, vectors of sentences, and, where it has a
fusion encoder, a closer look at a few pairs. `RetrievalEncoder` gives them from a folder that
training wrote, an MRA's or a dual encoder's; tests put a toy there.

Shapes: B images, H x W pixels, 3 colours, Q sentences, L word pieces, P image tokens, D width of a
token, E width of a feature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from models.mra import MRA
from models.mra.reranking import match_texts, prepare_texts
from tasks.augment import MEAN, STD
from tasks.checkpoints import load_model
from tasks.errors import PedAlignError
from tasks.runtime import device as chosen_device
from tasks.shards import file_digest
from tasks.tokens import Words, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from models.retrieval import RetrievalModel


class Encoder(Protocol):
    """What turns images and sentences into comparable unit vectors."""

    size: tuple[int, int]
    """Height and width of the images that it takes, pixels."""
    revision: str
    """Digest of the weights; an index belongs to one."""
    fuses: bool
    """Whether it can `match`."""

    def encode_images(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit vectors (B, E) of images."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (Q, E) of sentences."""
        ...

    def match(self, text: str, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Matching logits (B,) of one sentence with images, where the model `fuses`."""
        ...


class RetrievalEncoder:
    """The retrieval model behind `Encoder`. Load it with `RetrievalEncoder.load`."""

    def __init__(
        self, model: RetrievalModel, words: Words, revision: str, device: torch.device
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: Any retrieval model in evaluation mode.
            words: `tasks.tokens.Words` of its length.
            revision: Digest of the weights.
            device: Where the model is.
        """
        self.model, self.words, self.revision, self.device = model, words, revision, device
        self.fuses = model.fuses
        self.size = (int(model.config.image_size[0]), int(model.config.image_size[1]))

    @classmethod
    def load(cls, folder: Path, device: torch.device | None = None) -> RetrievalEncoder:
        """Load a model folder that pretraining or fine-tuning wrote, its tokenizer beside it.

        Raises:
            PedAlignError: The folder holds no such model or no tokenizer.
        """
        model = load_model(folder).eval()
        revision = file_digest(folder / "model.safetensors")
        words = Words(load_tokenizer(folder), model.config.max_tokens)
        where = chosen_device() if device is None else device
        return cls(model.to(where), words, revision, where)

    def _pixels(self, pixels_BHWC: NDArray[np.uint8]) -> torch.Tensor:
        batch = torch.from_numpy(pixels_BHWC).to(self.device).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (MEAN, STD))
        return (batch - mean) / std

    def _tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = self.words.encode(list(texts))
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)

    def encode_images(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Encoder`."""
        with torch.inference_mode():
            _, feature_BE = self.model.encode_image(self._pixels(pixels_BHWC))
        return np.asarray(feature_BE.float().cpu())

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `Encoder`."""
        with torch.inference_mode():
            _, feature_QE = self.model.encode_text(*self._tokens(texts))
        return np.asarray(feature_QE.float().cpu())

    def match(self, text: str, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Encoder`.

        Raises:
            PedAlignError: The model has no fusion encoder.
        """
        model = self.model
        if not isinstance(model, MRA):
            raise PedAlignError(
                "a dual encoder was asked to judge pairs",
                "only a model with a fusion encoder, such as MRA, looks at pairs again",
                "rank by the cosine: search without --rerank",
            )
        with torch.inference_mode():
            ids, mask = self._tokens([text])
            text_1LD, _ = model.encode_text(ids, mask)
            image_BPD, _ = model.encode_image(self._pixels(pixels_BHWC))
            texts = prepare_texts(model, text_1LD[mask.bool()], mask.sum(1).cpu().numpy())
            each = np.arange(len(image_BPD))
            keys = model.image_keys(image_BPD)
            logits_B2 = match_texts(model, texts, keys, np.zeros_like(each), each)
        return np.asarray(logits_B2[:, 1].float().cpu())
