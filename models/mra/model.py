"""The MRA retrieval model: image encoder, text encoder, fusion encoder and their heads.

Shapes: B rows, C channels, H x W pixels, P image tokens (token 0 is their mean), L word pieces,
D width (image or text), E width of the contrastive feature, R pairs.

An image and a text each become tokens and one normalised feature; features are compared by their
cosine (ITC), tokens by the fusion encoder, whose [CLS] the matching head judges (ITM). The
architecture is the paper's sec. 4; `MRAConfig.reading` says where the paper's text and where the
released code is followed. What trains it is in `objectives`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.mra.config import MRAConfig, Reading
from models.mra.heads import apply_head, contrastive_head, normalise
from models.mra.pooling import STRIPES, masked_mean, stripe_pool
from models.mra.text import ImageKeys, TextEncoder, bert_config
from models.mra.vision import VisionEncoder, swin_config
from models.retrieval import RetrievalModel


class MRA(RetrievalModel):
    """Image-text retrieval with a fusion encoder.

    Attributes:
        config: Sizes and reading.
        vision_encoder: Swin; images to tokens.
        text_encoder: BERT; texts to tokens, pairs to fused tokens, and the MLM head.
        vision_proj, text_proj: Contrastive heads.
        region_proj, phrase_proj: Those of regions and phrases under `reading.region_heads`,
            otherwise None.
        itm_head: Matching head on a pair's fused [CLS]; its class 1 is "they match".
        temp: Learnable temperature; logits are cosines divided by it.
    """

    config: MRAConfig
    fuses: ClassVar[bool] = True

    def __init__(self, config: MRAConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_encoder = VisionEncoder(swin_config(config))
        self.text_encoder = TextEncoder(
            bert_config(config), text_layers=config.text_layers, image_dim=config.vision_width
        )
        image, text = (config.vision_width, STRIPES), (config.text_dim, 1 + STRIPES)
        self.vision_proj = contrastive_head(config, *image)
        self.text_proj = contrastive_head(config, *text)
        self.itm_head = nn.Sequential(
            nn.Linear(config.text_dim, 2 * config.text_dim),
            nn.LayerNorm(2 * config.text_dim),
            nn.GELU(),
            nn.Linear(2 * config.text_dim, 2),
        )
        self.temp = nn.Parameter(torch.tensor(config.temperature))
        own = config.reading.region_heads
        self.region_proj = contrastive_head(config, *image) if own else None
        self.phrase_proj = contrastive_head(config, *text) if own else None

    @classmethod
    def from_config(cls, config: MRAConfig) -> MRA:
        """A model with random weights (from torch's current seed)."""
        return cls(config)

    @property
    def needs_pads(self) -> bool:
        """See `RetrievalModel`: so it is under `reading.pool_pads`."""
        return self.config.reading.pool_pads

    # --- one modality ---------------------------------------------------------------------------

    def encode_image(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            image_BCHW: Normalised pixels of `config.image_size`.

        Returns:
            Tokens (B, 1 + P, D) and normalised features (B, E).
        """
        tokens_BPD: Tensor = self.vision_encoder(image_BCHW)
        return tokens_BPD, normalise(self.image_feature(tokens_BPD))

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Encode texts.

        Args:
            ids_BL: Word-piece ids. Under `reading.pool_pads` every text has to be padded to
                `config.max_tokens`, because its feature averages over the padding.
            mask_BL: 1 for a word piece, 0 for padding.

        Returns:
            Tokens (B, L, D) and normalised features (B, E).
        """
        tokens_BLD = self.text_encoder.encode(ids_BL, mask_BL)
        return tokens_BLD, normalise(self.text_feature(tokens_BLD, mask_BL))

    def image_feature(self, tokens_BPD: Tensor, chunks: int = 1) -> Tensor:
        """Contrastive feature of whole images, not yet normalised: (B, E).

        Args:
            tokens_BPD: Tokens of `encode_image`.
            chunks: Parts of the batch with BatchNorm statistics of their own (`apply_head`).
        """
        if self.config.head == "stripes":
            return apply_head(self.vision_proj, stripe_pool(tokens_BPD[:, 1:]), chunks)
        return apply_head(self.vision_proj, tokens_BPD[:, 0])

    def region_feature(self, tokens_BPD: Tensor, inside_BP: Tensor, chunks: int = 1) -> Tensor:
        """Contrastive feature of a region of each image, not yet normalised: (B, E).

        Under the paper's reading it is the image feature's own pooling over the region's tokens,
        so a region that is the whole image has the image's feature. The released stripe head pools
        the whole image whatever the region (its models/mra.py).

        Args:
            tokens_BPD: Tokens of `encode_image`, token 0 included.
            inside_BP: 1 for a patch inside the region, token 0 not included.
            chunks: Parts of the batch with BatchNorm statistics of their own.
        """
        head = self.vision_proj if self.region_proj is None else self.region_proj
        if self.config.head == "token":
            return apply_head(head, masked_mean(tokens_BPD[:, 1:], inside_BP))
        mask = inside_BP if self.config.reading.region_pooling else None
        return apply_head(head, stripe_pool(tokens_BPD[:, 1:], mask), chunks)

    def text_feature(self, tokens_BLD: Tensor, mask_BL: Tensor, chunks: int = 1) -> Tensor:
        """Contrastive feature of texts, not yet normalised: (B, E)."""
        return apply_head(self.text_proj, self._pool_text(tokens_BLD, mask_BL), chunks)

    def phrase_feature(self, tokens_BLD: Tensor, mask_BL: Tensor, chunks: int = 1) -> Tensor:
        """Contrastive feature of region phrases: a text's, unless phrases have their own head."""
        head = self.text_proj if self.phrase_proj is None else self.phrase_proj
        return apply_head(head, self._pool_text(tokens_BLD, mask_BL), chunks)

    def _pool_text(self, tokens_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """What a text's head is given: [CLS], and for the stripe head three stripes beside it."""
        first_BD = tokens_BLD[:, 0]
        if self.config.head == "token":
            return first_BD
        mask = None if self.config.reading.pool_pads else mask_BL[:, 1:]
        return torch.cat([first_BD, stripe_pool(tokens_BLD[:, 1:], mask)], dim=1)

    # --- pairs ----------------------------------------------------------------------------------

    def match(
        self,
        text_BLD: Tensor,
        text_mask_BL: Tensor,
        image_BPD: Tensor,
        image_mask_BP: Tensor | None = None,
    ) -> Tensor:
        """Matching logits (B, 2) of text b with image b; class 1 is "they match".

        Args:
            text_BLD: Tokens of `encode_text`.
            text_mask_BL: 1 for a word piece, 0 for padding.
            image_BPD: Tokens of `encode_image`.
            image_mask_BP: 1 for an image token to attend (token 0 included), None for all.
        """
        return self.match_pairs(text_BLD, text_mask_BL, self.image_keys(image_BPD), image_mask_BP)

    def image_keys(self, image_BPD: Tensor) -> list[ImageKeys]:
        """An image's keys and values for every fusion layer: do this once an image."""
        return self.text_encoder.image_keys(image_BPD)

    def match_pairs(
        self,
        text_BLD: Tensor,
        text_mask_BL: Tensor,
        keys: list[ImageKeys],
        image_mask_GP: Tensor | None = None,
        *,
        text_index_R: Tensor | None = None,
        image_index_R: Tensor | None = None,
    ) -> Tensor:
        """Matching logits (R, 2) of any pairs of B texts and G images.

        Args:
            text_BLD: Tokens of `encode_text`.
            text_mask_BL: 1 for a word piece, 0 for padding.
            keys: What `image_keys` gave for the images.
            image_mask_GP: 1 for an image token to attend, None for all.
            text_index_R: The text of each pair; None pairs text b with image b.
            image_index_R: The image of each pair.
        """
        first_B1 = torch.zeros(len(text_BLD), 1, dtype=torch.int64, device=text_BLD.device)
        fused = self.text_encoder.fuse(
            text_BLD,
            text_mask_BL,
            keys,
            image_mask_GP,
            text_index_R=text_index_R,
            image_index_R=image_index_R,
            positions_BK=first_B1,
        )
        return self.itm_head(fused[:, 0])

    # --- folders --------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json (with the reading) and model.safetensors into a folder."""
        from models.mra.checkpoint import save

        save(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        reading: Reading | None = None,
        any_reading: bool = False,
        **changes: Any,
    ) -> MRA:
        """Load what `save_pretrained` wrote.

        Args:
            folder: The folder.
            reading: The reading wanted; None takes the checkpoint's.
            any_reading: Take `reading` even if the weights were trained under another one.
            changes: Fields of `MRAConfig` to change. With another image size or window, position
                tables are resized; another shape of any other tensor is an error.

        Raises:
            ValueError: A folder that holds no such model, or weights of another shape or reading.
        """
        from models.mra.checkpoint import load

        return load(Path(folder), reading=reading, any_reading=any_reading, changes=changes)

    def load_starting_weights(
        self, vision_folder: str | Path | None, text_folder: str | Path | None
    ) -> dict[str, list[str]]:
        """Start the encoders from plain Swin and BERT folders in transformers' layout.

        Returns:
            Parameter names under "loaded", "resized" (position tables) and "new" (left as they
            were initialised: cross-attention, heads).

        Raises:
            ValueError: A folder whose sizes do not fit this model.
        """
        from models.mra.starting import load_starting_weights

        return load_starting_weights(self, vision_folder, text_folder)

    def start_from(self, folder: str | Path) -> dict[str, list[str]]:
        """Start the encoders from a checkpoint of either road.

        A dual encoder has a Swin and a BERT, nothing that fuses: BERT's upper layers go into the
        fusion encoder, as where training starts from a plain BERT; its cross-attention starts
        afresh, and so do all heads. (`from_pretrained` goes on with a whole MRA.)

        Returns:
            Parameter names under "loaded", "resized" (position tables) and "new".

        Raises:
            ValueError: A folder without a checkpoint, or with other encoders.
        """
        from models.dual.continuing import start_mra

        return start_mra(self, Path(folder))
