"""What pretrains a dual encoder: UniPT's InfoNCE plus masked words predicted from the text alone.

L = L_con + mlm_weight L_mlm (ICCV 2023, sec. 4.1). The calling convention is that of
`models.mra.objectives`, so the training loop does not know which of them it trains. What of the
released code is left out is in docs/unipt.md.

Each process encodes its own rows; features are gathered, so the losses are those of one process
with the whole batch. `chunks` stands for the released run's devices, which compared within
themselves: its 512 rows in chunks of 64 are 8.

Shapes: B rows, L tokens of a text, M masked tokens, E width of the feature.

Batch keys: image (B, 3, H, W); ids, mask (B, L); person (B,), equal for the same person (or image,
where people are unknown); for MLM masked_ids, masked_labels (B, L), labels -100 where nothing is
predicted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.dual.losses import info_nce
from models.dual.model import DualEncoder
from models.mra.losses import IGNORED, summed_token_loss
from models.recomputing import in_parts
from models.team import gather, shared

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]

KEYS = ("image", "ids", "mask", "person")
MASKED_KEYS = ("masked_ids", "masked_labels")


class UniptObjective(nn.Module):
    """InfoNCE + mlm_weight MLM.

    Attributes:
        chunks: Parts into which the whole batch is divided.
    """

    def __init__(
        self,
        model: DualEncoder,
        *,
        temperature: float | None = None,
        mlm_weight: float = 1.0,
        chunks: int = 1,
        micro_batch: int = 0,
    ) -> None:
        """Wrap a model.

        Args:
            model: The model to train. Its granularity module, if it has one, is left as it is.
            temperature: Of InfoNCE; None compares plain cosines, as published.
            mlm_weight: beta; 0 skips MLM, and then the batch need not have masked texts.
            chunks: Equal consecutive parts of the whole batch, each compared within itself.
            micro_batch: Rows encoded at a time; 0 takes all at once.

        Raises:
            ValueError: A temperature or weight out of range, or MLM for a text encoder without a
                head for it.
        """
        super().__init__()
        if temperature is not None and not temperature > 0:
            raise ValueError(
                f"temperature {temperature}: cosines are divided by it; choose a positive one, or "
                "none for plain cosines"
            )
        if not mlm_weight >= 0:
            raise ValueError(f"mlm_weight {mlm_weight}: choose 0 (no MLM) or more")
        if mlm_weight and not model.has_mlm:
            raise ValueError(
                f"mlm_weight {mlm_weight} with a text encoder that predicts no words: set it to 0, "
                "or take one with a head for it (BERT)"
            )
        self.model = model
        self.temperature, self.mlm_weight = temperature, mlm_weight
        self.chunks, self.micro_batch = chunks, micro_batch
        # DDP has to know what a step leaves alone.
        for parameter in model.mlm_parameters():
            parameter.requires_grad_(mlm_weight > 0)
        if model.granularity is not None:
            model.granularity.requires_grad_(False)

    def forward(self, batch: Batch, _: torch.Generator | None = None) -> Losses:
        """Losses of one batch; nothing is drawn, so the generator is not used.

        Args:
            batch: See the top of this file.

        Returns:
            "itc" and, with MLM, "mlm", weights applied, and their sum "loss".

        Raises:
            ValueError: A key is missing, or the chunks do not part the batch.
        """
        require(batch, KEYS + (MASKED_KEYS if self.mlm_weight else ()))
        person_B = gather(batch["person"])
        if len(person_B) % self.chunks:
            raise ValueError(
                f"a batch of {len(person_B)} rows in {self.chunks} chunks: it is divided in equal "
                "parts; choose another batch or number of chunks"
            )
        losses = {
            "itc": info_nce(
                gather(in_parts(self._see, batch["image"], size=self.micro_batch)),
                gather(in_parts(self._read, batch["ids"], batch["mask"], size=self.micro_batch)),
                person_B,
                temperature=self.temperature,
                chunks=self.chunks,
            )
        }
        if self.mlm_weight:
            losses["mlm"] = self.mlm_weight * self._predict_masked(batch)
        return total(losses)

    def _see(self, image_BCHW: Tensor) -> Tensor:
        """Global features of images."""
        return self.model.image_feature(self.model.image_tokens(image_BCHW))

    def _read(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Global features of texts."""
        return self.model.text_feature(self.model.text_tokens(ids_BL, mask_BL), mask_BL)

    def _predict_masked(self, batch: Batch) -> Tensor:
        """MLM: encode the masked text, predict the labelled positions only; their mean."""

        def some(ids_BL: Tensor, mask_BL: Tensor, labels_BL: Tensor) -> Tensor:
            states_BLD = self.model.word_states(ids_BL, mask_BL)
            chosen = labels_BL != IGNORED
            logits_MV = self.model.mlm_logits(states_BLD[chosen])
            return summed_token_loss(logits_MV, labels_BL[chosen])[None]

        labels_BL = batch["masked_labels"]
        count = gather((labels_BL != IGNORED).sum()[None]).sum()
        summed = in_parts(
            some, batch["masked_ids"], batch["mask"], labels_BL, size=self.micro_batch
        ).sum()
        return shared(summed / count.clamp(min=1))


def require(batch: Batch, keys: tuple[str, ...]) -> None:
    """Check a batch's keys.

    Raises:
        ValueError: A key is missing.
    """
    if missing := [key for key in keys if key not in batch]:
        raise ValueError(f"batch without {missing}: this objective needs {list(keys)}")


def total(losses: Losses) -> Losses:
    """The losses and their sum."""
    return {**losses, "loss": torch.stack(list(losses.values())).sum()}
