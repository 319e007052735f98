"""What a training step of an MRA is made of: encode once, compare, match, predict.

The objectives of `objectives.py` put it together; shapes and batch keys are explained there.

One step encodes each image once, computes its keys and values once for ITM, RPM and MLM, encodes
clean and masked text in one pass and fuses positives and negatives in one pass. With several
processes B are the rows of one, and after encoding those of all (`models.team`). With
`micro_batch` rows are encoded, and pairs fused, so many at a time, and again in the backward pass
(`models.recomputing`); what compares rows still sees all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from models.mra.heads import normalise
from models.mra.losses import (
    IGNORED,
    contrastive_loss,
    hard_negatives,
    matching_loss,
    matching_pairs,
    summed_token_loss,
)
from models.mra.model import MRA
from models.mra.pooling import masked_mean
from models.mra.text import ImageKeys, select
from models.recomputing import in_parts
from models.team import gather, own_share, shared

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]


@dataclass
class Encoded:
    """Images and clean texts of a batch, of all processes, encoded once."""

    model: MRA
    image_BPD: Tensor
    image_feature_BE: Tensor
    text_BLD: Tensor
    masked_BLD: Tensor
    mask_BL: Tensor
    text_feature_BE: Tensor
    region_BD: Tensor | None = None
    """The region's mean token, where RPM attends it."""

    @property
    def tokens(self) -> int:
        """Image tokens, token 0 included, the region's not."""
        return self.image_BPD.shape[1]

    @cached_property
    def all_keys(self) -> list[ImageKeys]:
        """Keys and values of the image's tokens and, last, of the region's mean token."""
        tokens = self.image_BPD
        if self.region_BD is not None:
            tokens = torch.cat([tokens, self.region_BD[:, None]], dim=1)
        return self.model.image_keys(tokens)

    @cached_property
    def keys(self) -> list[ImageKeys]:
        """Keys and values of the image's tokens."""
        return [keys.tokens(0, self.tokens) for keys in self.all_keys]


class Step(nn.Module):
    """The part that pretraining and fine-tuning share.

    Attributes:
        chunks: Parts into which the whole batch is divided where the reading says so; 1 where it
            never does.
        doubled: Expressions for the parameters that the reading lets learn twice as fast.
    """

    def __init__(
        self, model: MRA, *, label_smoothing: float, chunks: int, micro_batch: int, regions: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing
        self.micro_batch = micro_batch
        reading = model.config.reading
        statistics = reading.local_statistics and model.config.head == "stripes"
        self.statistics_chunks = chunks if statistics else 1
        self.negative_chunks = chunks if reading.local_negatives else 1
        self.contrast_share = chunks if reading.shared_contrast else 1
        self.chunks = max(self.statistics_chunks, self.negative_chunks, self.contrast_share)
        heads: tuple[str, ...] = ("vision_proj", "text_proj")
        if model.region_proj is not None and model.phrase_proj is not None:
            # A step without regions leaves these heads alone, and DDP has to know.
            model.region_proj.requires_grad_(regions)
            model.phrase_proj.requires_grad_(regions)
            heads += ("region_proj", "phrase_proj") if regions else ()
        self.doubled = tuple(rf"\b{head}\." for head in heads) if reading.double_heads else ()

    def check(self, whole: Batch) -> None:
        """Check that the chunks part the whole batch.

        Raises:
            ValueError: They do not, or a chunk is too small for statistics and negatives.
        """
        rows = len(whole["person"])
        if self.chunks > 1 and (rows % self.chunks or rows < 2 * self.chunks):
            raise ValueError(
                f"a batch of {rows} rows in {self.chunks} chunks: the reading divides it in equal "
                "parts of two rows at least; choose another batch or number of chunks"
            )

    def encode(self, batch: Batch, whole: Batch, inside_BP: Tensor | None = None) -> Encoded:
        """Encode own images once, own clean and masked text in one pass; gather those of all.

        Args:
            batch: Own rows.
            whole: Rows of all processes.
            inside_BP: Patches of the regions, of all.
        """
        model, chunks = self.model, self.statistics_chunks
        image_BPD = gather(in_parts(model.vision_encoder, batch["image"], size=self.micro_batch))
        both = self._encode_words(
            torch.cat([batch["ids"], batch["masked_ids"]]), batch["mask"].repeat(2, 1)
        )
        text_BLD, masked_BLD = (gather(part) for part in both.chunk(2))
        region_BD = None
        if inside_BP is not None and model.config.reading.region_token:
            region_BD = masked_mean(image_BPD[:, 1:], inside_BP)
        text_BD = model.text_feature(text_BLD, whole["mask"], chunks)
        return Encoded(
            model=model,
            image_BPD=image_BPD,
            image_feature_BE=normalise(model.image_feature(image_BPD, chunks)),
            text_BLD=text_BLD,
            masked_BLD=masked_BLD,
            mask_BL=whole["mask"],
            text_feature_BE=normalise(text_BD),
            region_BD=region_BD,
        )

    def encode_text(self, batch: Batch, name: str) -> Tensor:
        """Encode own rows of another text of the batch; the tokens of all."""
        return gather(self._encode_words(batch[f"{name}_ids"], batch[f"{name}_mask"]))

    def _encode_words(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        return in_parts(self.model.text_encoder.encode, ids_BL, mask_BL, size=self.micro_batch)

    def contrast(self, image_BE: Tensor, text_BE: Tensor, ids_B: Tensor) -> Tensor:
        """ITC or RPC."""
        return contrastive_loss(
            image_BE,
            text_BE,
            self.model.temp,
            ids_B,
            label_smoothing=self.label_smoothing,
            share=self.contrast_share,
        )

    def match(
        self,
        keys: list[ImageKeys],
        image_mask_BP: Tensor | None,
        image_BE: Tensor,
        text_BLD: Tensor,
        mask_BL: Tensor,
        text_BE: Tensor,
        ids_B: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """ITM or RPM: hard negatives by the current features, positives and negatives at once."""
        negatives = hard_negatives(
            image_BE, text_BE, self.model.temp, ids_B, generator, chunks=self.negative_chunks
        )
        pairs = matching_pairs(negatives)
        total = pairs[-1].sum()
        text_R, image_R, label_R, weight_R = (own_share(part) for part in pairs)

        def some(text_R: Tensor, image_R: Tensor) -> Tensor:
            return self.model.match_pairs(
                text_BLD, mask_BL, keys, image_mask_BP, text_index_R=text_R, image_index_R=image_R
            )

        def few(text_R: Tensor, image_R: Tensor) -> Tensor:
            # Of few pairs no text comes often enough to share its first self-attention.
            return self.model.match_pairs(
                select(text_BLD, text_R),
                select(mask_BL, text_R),
                keys,
                image_mask_BP,
                image_index_R=image_R,
            )

        call = few if self.micro_batch else some
        logits_R2 = in_parts(call, text_R, image_R, size=self.micro_batch)
        return shared(matching_loss(logits_R2, label_R, weight_R, total))

    def predict_masked(self, encoded: Encoded, labels_BL: Tensor) -> Tensor:
        """MLM: fuse the masked text with its image, predict the labelled positions only."""
        total = (labels_BL != IGNORED).sum()
        rows_B = own_share(torch.arange(len(labels_BL), device=labels_BL.device))
        labelled_BL = own_share(labels_BL) != IGNORED
        # Labelled positions first, in order; K is the most that any row has.
        most = max(int(labelled_BL.sum(1).max()), 1)
        positions_BK = labelled_BL.int().argsort(dim=1, descending=True, stable=True)[:, :most]

        def some(rows_B: Tensor, positions_BK: Tensor) -> Tensor:
            index = None if len(rows_B) == len(labels_BL) else rows_B  # None: all, uncopied
            fused_BKD = self.model.text_encoder.fuse(
                select(encoded.masked_BLD, index),
                select(encoded.mask_BL, index),
                encoded.keys,
                image_index_R=index,
                positions_BK=positions_BK,
            )
            labels_BK = labels_BL[rows_B].gather(1, positions_BK)
            chosen = labels_BK != IGNORED
            logits_MV = self.model.text_encoder.cls(fused_BKD[chosen])
            return summed_token_loss(logits_MV, labels_BK[chosen])[None]

        summed = in_parts(some, rows_B, positions_BK, size=self.micro_batch).sum()
        return shared(summed / total.clamp(min=1))

    def image_text(
        self, batch: Batch, encoded: Encoded, generator: torch.Generator | None
    ) -> Losses:
        """ITC, ITM and MLM of the batch."""
        return {
            "itc": self.contrast(
                encoded.image_feature_BE, encoded.text_feature_BE, batch["person"]
            ),
            "itm": self.match(
                encoded.keys,
                None,
                encoded.image_feature_BE,
                encoded.text_BLD,
                encoded.mask_BL,
                encoded.text_feature_BE,
                batch["person"],
                generator,
            ),
            "mlm": self.predict_masked(encoded, batch["masked_labels"]),
        }
