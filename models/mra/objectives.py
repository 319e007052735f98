"""What trains an MRA: a module around the model that turns a batch into losses.

`PretrainObjective`: ITC + ITM + MLM + beta (RPC + RPM). `FinetuneObjective`: ITC + ITM + MLM, and
ITC and ITM again with an EDA-edited text. Both take a batch of tensors and return
named losses, weights applied, and their sum under "loss". What they share is in `step.py`.

Shapes: B rows, L word pieces (one L for `ids` and `masked_ids`, another for regions and EDA),
P image patches.

Batch keys: image (B, 3, H, W); ids, mask (B, L); person (B,), equal for the same person;
masked_ids, masked_labels (B, L), labels -100 where nothing is predicted; for pretraining
region_ids, region_mask (B, L'), phrase_id (B,), patch_mask (B, P) with 1 inside the region; for the
EDA branch eda_ids, eda_mask (B, L').
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.mra.heads import normalise
from models.mra.losses import IGNORED
from models.mra.model import MRA
from models.mra.step import Batch, Encoded, Losses, Step
from models.team import gather_batch

TEXT_KEYS = ("image", "ids", "mask", "person", "masked_ids", "masked_labels")
REGION_KEYS = ("region_ids", "region_mask", "phrase_id", "patch_mask")
EDA_KEYS = ("eda_ids", "eda_mask")
OWN = ("image",)
"""What the process that has it encodes; of the rest the losses need the rows of all."""
PADDING = {"masked_labels": IGNORED}

INNER_BETA = 0.8
"""What the released model multiplies region losses by before its loop does so again."""


class PretrainObjective(Step):
    """ITC + ITM + MLM + beta (RPC + RPM)."""

    def __init__(
        self,
        model: MRA,
        *,
        region_weight: float = 0.8,
        label_smoothing: float = 0.0,
        chunks: int = 1,
        micro_batch: int = 0,
    ) -> None:
        """Wrap a model.

        Args:
            model: The model to train.
            region_weight: beta; under `reading.beta_twice` times `INNER_BETA`. 0 skips the regions,
                and then the batch need not have them.
            label_smoothing: eps of the contrastive targets.
            chunks: Equal consecutive parts of the whole batch that stand for the released run's
                devices; it counts where the reading has `local_negatives`, `local_statistics` or
                `shared_contrast`.
            micro_batch: Rows encoded, and pairs fused, at a time; 0 takes all at once.
        """
        super().__init__(
            model,
            label_smoothing=label_smoothing,
            chunks=chunks,
            micro_batch=micro_batch,
            regions=region_weight > 0,
        )
        self.region_weight = region_weight

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """Losses of one batch.

        Args:
            batch: See the top of this file.
            generator: What hard negatives are drawn from.

        Returns:
            "itc", "itm", "mlm", "rpc", "rpm", weights applied, and their sum "loss".

        Raises:
            ValueError: A key is missing, or the chunks do not part the batch.
        """
        regions = self.region_weight > 0
        _require(batch, TEXT_KEYS + (REGION_KEYS if regions else ()))
        whole = gather_batch(batch, OWN, PADDING)
        self.check(whole)
        if not regions:
            return _total(self.image_text(whole, self.encode(batch, whole), generator))
        inside_BP = whole_if_empty(whole["patch_mask"])
        encoded = self.encode(batch, whole, inside_BP)
        losses = self.image_text(whole, encoded, generator)
        rpc, rpm = self._regions(batch, whole, encoded, inside_BP, generator)
        beta = self.region_weight * (INNER_BETA if self.model.config.reading.beta_twice else 1.0)
        return _total({**losses, "rpc": beta * rpc, "rpm": beta * rpm})

    def _regions(
        self,
        batch: Batch,
        whole: Batch,
        encoded: Encoded,
        inside_BP: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """RPC and RPM, without their weight."""
        model, chunks = self.model, self.statistics_chunks
        phrase_BLD = self.encode_text(batch, "region")
        phrase_BE = normalise(model.phrase_feature(phrase_BLD, whole["region_mask"], chunks))
        region_BE = normalise(model.region_feature(encoded.image_BPD, inside_BP, chunks))
        rpc = self.contrast(region_BE, phrase_BE, whole["phrase_id"])
        # Token 0 stands for the whole image, so a region never attends it.
        parts = [torch.zeros_like(inside_BP[:, :1]), inside_BP]
        if encoded.region_BD is not None:
            parts.append(torch.ones_like(inside_BP[:, :1]))
        rpm = self.match(
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


class FinetuneObjective(Step):
    """ITC + ITM + MLM, and ITC and ITM of the EDA-edited text."""

    def __init__(
        self,
        model: MRA,
        *,
        eda_weight: float = 0.8,
        label_smoothing: float = 0.2,
        chunks: int = 1,
        micro_batch: int = 0,
    ) -> None:
        """Wrap a model.

        Args:
            model: The model to train.
            eda_weight: Weight of the EDA branch; 0 skips it, and then the batch need not have it.
            label_smoothing: eps of the contrastive targets.
            chunks: Equal consecutive parts of the whole batch that stand for the released run's
                devices; it counts where the reading has `local_negatives`, `local_statistics` or
                `shared_contrast`.
            micro_batch: Rows encoded, and pairs fused, at a time; 0 takes all at once.
        """
        super().__init__(
            model,
            label_smoothing=label_smoothing,
            chunks=chunks,
            micro_batch=micro_batch,
            regions=False,
        )
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
            ValueError: A key is missing, or the chunks do not part the batch.
        """
        edits = self.eda_weight > 0
        _require(batch, TEXT_KEYS + (EDA_KEYS if edits else ()))
        whole = gather_batch(batch, OWN, PADDING)
        self.check(whole)
        encoded = self.encode(batch, whole)
        losses = self.image_text(whole, encoded, generator)
        if edits:
            eda_BLD = self.encode_text(batch, "eda")
            eda_BE = normalise(
                self.model.text_feature(eda_BLD, whole["eda_mask"], self.statistics_chunks)
            )
            itc = self.contrast(encoded.image_feature_BE, eda_BE, whole["person"])
            itm = self.match(
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
