"""What trains an MRA: model plus losses in one module, so the loop does not know which it trains.

`PretrainObjective`: ITC + ITM + MLM + beta (RPC + RPM). `FinetuneObjective`: ITC + ITM + MLM, and
ITC and ITM again with an EDA-edited text (PAPERS 1.6). Both take a batch of tensors and return
named losses, weights applied, and their sum under "loss".

Shapes: B rows, L word pieces (one L for `ids` and `masked_ids`, another for regions and EDA),
P image patches.

Batch keys: image (B, 3, H, W); ids, mask (B, L); person (B,), equal for the same person;
masked_ids, masked_labels (B, L), labels -100 where nothing is predicted; for pretraining
region_ids, region_mask (B, L'), phrase_id (B,), patch_mask (B, P) with 1 inside the region; for the
EDA branch eda_ids, eda_mask (B, L').

One step encodes each image once, computes its keys and values once for ITM, RPM and MLM, encodes
clean and masked text in one pass and fuses positives and negatives in one pass. With several
processes B are the rows of one, and after encoding those of all (`models.team`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from models.mra.losses import (
    contrastive_loss,
    hard_negatives,
    masked_token_loss,
    matching_loss,
    matching_pairs,
)
from models.mra.model import MRA, normalise
from models.mra.pooling import masked_mean
from models.mra.text import ImageKeys
from models.team import gather, gather_batch, own_share, processes, shared

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]

TEXT_KEYS = ("image", "ids", "mask", "person", "masked_ids", "masked_labels")
REGION_KEYS = ("region_ids", "region_mask", "phrase_id", "patch_mask")
EDA_KEYS = ("eda_ids", "eda_mask")
OWN = ("image",)
"""What the process that has it encodes; of the rest the losses need the rows of all."""
PADDING = {"masked_labels": -100}


@dataclass
class _Encoded:
    """Images and clean texts of a batch, of all processes, encoded once."""

    model: MRA
    image_BPD: Tensor
    """Image tokens; the last one is the region's mean where `with_region` is set."""
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


class _Objective(nn.Module):
    """The part that pretraining and fine-tuning share."""

    def __init__(self, model: MRA, *, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def _encode(self, batch: Batch, whole: Batch, inside_BP: Tensor | None = None) -> _Encoded:
        """Encode own images once, own clean and masked text in one pass; gather those of all.

        Args:
            batch: Own rows.
            whole: Rows of all processes.
            inside_BP: Patches of the regions, of all.
        """
        model = self.model
        image_BPD = gather(model.vision_encoder(batch["image"]))
        both = model.text_encoder.encode(
            torch.cat([batch["ids"], batch["masked_ids"]]), batch["mask"].repeat(2, 1)
        )
        text_BLD, masked_BLD = (gather(part) for part in both.chunk(2))
        region_BD = None
        if inside_BP is not None and model.config.reading.region_token:
            region_BD = masked_mean(image_BPD[:, 1:], inside_BP)
        return _Encoded(
            model=model,
            image_BPD=image_BPD,
            image_feature_BE=normalise(model.image_feature(image_BPD)),
            text_BLD=text_BLD,
            masked_BLD=masked_BLD,
            mask_BL=whole["mask"],
            text_feature_BE=normalise(model.text_feature(text_BLD, whole["mask"])),
            region_BD=region_BD,
        )

    def _encode_text(self, batch: Batch, whole: Batch, name: str) -> tuple[Tensor, Tensor]:
        """Encode own rows of another text of the batch; tokens and features of all."""
        own_BLD = self.model.text_encoder.encode(batch[f"{name}_ids"], batch[f"{name}_mask"])
        text_BLD, mask_BL = gather(own_BLD), whole[f"{name}_mask"]
        return text_BLD, normalise(self.model.text_feature(text_BLD, mask_BL))

    def _contrast(self, image_BE: Tensor, text_BE: Tensor, ids_B: Tensor) -> Tensor:
        """ITC or RPC."""
        return contrastive_loss(
            image_BE, text_BE, self.model.temp, ids_B, label_smoothing=self.label_smoothing
        )

    def _match(
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
        negatives = hard_negatives(image_BE, text_BE, self.model.temp, ids_B, generator)
        pairs = matching_pairs(negatives)
        total = pairs[-1].sum()
        text_R, image_R, label_R, weight_R = (own_share(part) for part in pairs)
        logits_R2 = self.model.match_pairs(
            text_BLD, mask_BL, keys, image_mask_BP, text_index_R=text_R, image_index_R=image_R
        )
        return shared(matching_loss(logits_R2, label_R, weight_R, total))

    def _predict_masked(self, encoded: _Encoded, labels_BL: Tensor) -> Tensor:
        """MLM: fuse the masked text with its image, predict the labelled positions only."""
        total = (labels_BL != -100).sum()
        rows = None  # text b with image b
        if processes() > 1:
            rows = own_share(torch.arange(len(labels_BL), device=labels_BL.device))
        labels_BL = own_share(labels_BL)
        labelled_BL = labels_BL != -100
        # Labelled positions first, in order; K is the most that any row has.
        most = max(int(labelled_BL.sum(1).max()), 1)
        positions_BK = labelled_BL.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        labels_BK = labels_BL.gather(1, positions_BK)
        fused_BKD = self.model.text_encoder.fuse(
            own_share(encoded.masked_BLD),
            own_share(encoded.mask_BL),
            encoded.keys,
            image_index_R=rows,
            positions_BK=positions_BK,
        )
        chosen = labels_BK != -100
        logits_MV = self.model.text_encoder.cls(fused_BKD[chosen])
        return shared(masked_token_loss(logits_MV, labels_BK[chosen], total))

    def _image_text(
        self, batch: Batch, encoded: _Encoded, generator: torch.Generator | None
    ) -> Losses:
        """ITC, ITM and MLM of the batch."""
        return {
            "itc": self._contrast(
                encoded.image_feature_BE, encoded.text_feature_BE, batch["person"]
            ),
            "itm": self._match(
                encoded.keys,
                None,
                encoded.image_feature_BE,
                encoded.text_BLD,
                encoded.mask_BL,
                encoded.text_feature_BE,
                batch["person"],
                generator,
            ),
            "mlm": self._predict_masked(encoded, batch["masked_labels"]),
        }


class PretrainObjective(_Objective):
    """ITC + ITM + MLM + beta (RPC + RPM)."""

    def __init__(
        self, model: MRA, *, region_weight: float = 0.8, label_smoothing: float = 0.0
    ) -> None:
        """Wrap a model.

        Args:
            model: The model to train.
            region_weight: beta; applied twice under `reading.beta_twice`. 0 skips the regions,
                and then the batch need not have them.
            label_smoothing: eps of the contrastive targets.
        """
        super().__init__(model, label_smoothing=label_smoothing)
        self.region_weight = region_weight

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """Losses of one batch.

        Args:
            batch: See the top of this file.
            generator: What hard negatives are drawn from.

        Returns:
            "itc", "itm", "mlm", "rpc", "rpm", weights applied, and their sum "loss".

        Raises:
            ValueError: A key is missing.
        """
        regions = self.region_weight > 0
        _require(batch, TEXT_KEYS + (REGION_KEYS if regions else ()))
        whole = gather_batch(batch, OWN, PADDING)
        if not regions:
            return _total(self._image_text(whole, self._encode(batch, whole), generator))
        inside_BP = whole_if_empty(whole["patch_mask"])
        encoded = self._encode(batch, whole, inside_BP)
        losses = self._image_text(whole, encoded, generator)
        rpc, rpm = self._regions(batch, whole, encoded, inside_BP, generator)
        beta = self.region_weight**2 if self.model.config.reading.beta_twice else self.region_weight
        return _total({**losses, "rpc": beta * rpc, "rpm": beta * rpm})

    def _regions(
        self,
        batch: Batch,
        whole: Batch,
        encoded: _Encoded,
        inside_BP: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """RPC and RPM, without their weight."""
        model = self.model
        phrase_BLD, phrase_BE = self._encode_text(batch, whole, "region")
        region_BE = normalise(model.region_feature(encoded.image_BPD, inside_BP))
        rpc = self._contrast(region_BE, phrase_BE, whole["phrase_id"])
        # Token 0 stands for the whole image, so a region never attends it.
        parts = [torch.zeros_like(inside_BP[:, :1]), inside_BP]
        if encoded.region_BD is not None:
            parts.append(torch.ones_like(inside_BP[:, :1]))
        rpm = self._match(
            encoded.all_keys,
            torch.cat(parts, dim=1),
            region_BE,
            phrase_BLD,
            whole["region_mask"],
            phrase_BE,
            whole["phrase_id"],
            generator,
        )
        return rpc, rpm


class FinetuneObjective(_Objective):
    """ITC + ITM + MLM, and ITC and ITM of the EDA-edited text."""

    def __init__(
        self, model: MRA, *, eda_weight: float = 0.8, label_smoothing: float = 0.2
    ) -> None:
        """Wrap a model.

        Args:
            model: The model to train.
            eda_weight: Weight of the EDA branch; 0 skips it, and then the batch need not have it.
            label_smoothing: eps of the contrastive targets.
        """
        super().__init__(model, label_smoothing=label_smoothing)
        self.eda_weight = eda_weight

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """Losses of one batch.

        Args:
            batch: See the top of this file.
            generator: What hard negatives are drawn from.

        Returns:
            "itc", "itm", "mlm" and, with the EDA branch, "itc_eda" and "itm_eda", weights applied,
            and their sum "loss".

        Raises:
            ValueError: A key is missing.
        """
        edits = self.eda_weight > 0
        _require(batch, TEXT_KEYS + (EDA_KEYS if edits else ()))
        whole = gather_batch(batch, OWN, PADDING)
        encoded = self._encode(batch, whole)
        losses = self._image_text(whole, encoded, generator)
        if edits:
            eda_BLD, eda_BE = self._encode_text(batch, whole, "eda")
            itc = self._contrast(encoded.image_feature_BE, eda_BE, whole["person"])
            itm = self._match(
                encoded.keys,
                None,
                encoded.image_feature_BE,
                eda_BLD,
                whole["eda_mask"],
                eda_BE,
                whole["person"],
                generator,
            )
            losses |= {"itc_eda": self.eda_weight * itc, "itm_eda": self.eda_weight * itm}
        return _total(losses)


def whole_if_empty(patch_mask_BP: Tensor) -> Tensor:
    """The mask, with the whole image for a row that has no patch (no box, or one off the image)."""
    return torch.where(patch_mask_BP.any(1, keepdim=True), patch_mask_BP, 1)


def _require(batch: Batch, keys: tuple[str, ...]) -> None:
    """Check a batch's keys.

    Raises:
        ValueError: A key is missing.
    """
    missing = [key for key in keys if key not in batch]
    if missing:
        raise ValueError(
            f"batch without {missing}: this objective needs {list(keys)}; "
            "set the weight of a branch to 0 to train without it"
        )


def _total(losses: Losses) -> Losses:
    """The losses and their sum."""
    return {**losses, "loss": torch.stack(list(losses.values())).sum()}
