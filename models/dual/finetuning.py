"""What fine-tunes a dual encoder on people whose identity is known.

L = L_id + L_rk + granularity_weight L_pgu (UniPT, ICCV 2023, sec. 4.2), L_pgu being
L_id + L_rk once more on the parts of `granularity`. The authors released no fine-tuning; where the
paper is silent, LGUR's code (same first author) is followed, see docs/unipt.md. Ours: L_rk may be a
mean, and a contrastive loss may stand beside it, without which encoders that pretraining has not
aligned stay at chance.

The calling convention is that of `models.mra.objectives`. Each process encodes its own rows;
features are gathered, so the losses are those of one process with the whole batch.

Shapes: B rows, L tokens of a text, E width of the global feature, K parts of width F, G = K F.

Batch keys: image (B, 3, H, W); ids, mask (B, L); person (B,), from 0 to `people` - 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.dual.losses import (
    Negatives,
    Over,
    PeopleClassifiers,
    bidirectional_ranking,
    cosines,
    info_nce,
)
from models.dual.model import DualEncoder
from models.dual.pretraining import KEYS, Batch, Losses, require, total
from models.recomputing import in_parts
from models.team import gather


class IdentityObjective(nn.Module):
    """L_id + L_rk on global features, and the same on parts.

    Attributes:
        identity: Classifier of the global feature, for both modalities.
        part_identity: One a part; None without granularity.
    """

    def __init__(
        self,
        model: DualEncoder,
        *,
        people: int,
        margin: float = 0.2,
        negatives: Negatives = "semi-hard",
        anchors: Over = "sum",
        contrast_temperature: float | None = None,
        granularity_weight: float = 1.0,
        micro_batch: int = 0,
    ) -> None:
        """Wrap a model.

        Args:
            model: The model to train. MLM is no part of it, so its head is left as it is.
            people: Classes of L_id.
            margin: Of L_rk, in cosines.
            negatives: How L_rk chooses them (`losses.bidirectional_ranking`).
            anchors: Whether L_rk is a sum over anchors or their mean.
            contrast_temperature: Of an InfoNCE of global features beside the others; None: no such.
            granularity_weight: gamma; 0 leaves the granularity module as it is. It does not count
                for a model without one.
            micro_batch: Rows encoded at a time; 0 takes all at once.

        Raises:
            ValueError: A value out of range, or ranking by parts that nothing trains.
        """
        super().__init__()
        if people < 1:
            raise ValueError(f"{people} people to tell apart: choose at least 1")
        if not margin > 0:
            raise ValueError(f"margin {margin}: choose a positive one, 0.2 as published")
        if negatives not in ("semi-hard", "hardest"):
            raise ValueError(f"negatives {negatives!r}: they are semi-hard or hardest")
        if anchors not in ("sum", "mean"):
            raise ValueError(f"anchors {anchors!r}: L_rk is their sum or their mean")
        if contrast_temperature is not None and not contrast_temperature > 0:
            raise ValueError(
                f"contrast_temperature {contrast_temperature}: choose a positive one, or None"
            )
        if not granularity_weight >= 0:
            raise ValueError(f"granularity_weight {granularity_weight}: choose 0 or more")
        self.model = model
        self.people, self.margin, self.negatives = people, margin, negatives
        self.anchors, self.contrast_temperature = anchors, contrast_temperature
        self.granularity_weight, self.micro_batch = granularity_weight, micro_batch
        self.identity = PeopleClassifiers(1, model.config.embed_dim, people)
        self.part_identity: PeopleClassifiers | None = None
        for parameter in model.mlm_parameters():  # DDP has to know what a step leaves alone
            parameter.requires_grad_(False)
        module = model.granularity
        if module is None:
            return
        module.requires_grad_(granularity_weight > 0)
        if granularity_weight > 0:
            sizes = module.config
            self.part_identity = PeopleClassifiers(sizes.parts, sizes.part_dim, people)
        elif module.config.ranks != "global":
            raise ValueError(
                f"granularity_weight 0 with granularity.ranks {module.config.ranks}: ranking would "
                "compare parts that nothing trains; set ranks to global, or a weight"
            )

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """Losses of one batch.

        Args:
            batch: See the top of this file.
            generator: What semi-hard negatives are drawn from.

        Returns:
            "id", "rank", with a temperature "contrast" and, with granularity, "pgu_id" and
            "pgu_rank", weights applied, and their sum "loss".

        Raises:
            ValueError: A key is missing, or a person's number is out of range.
        """
        require(batch, KEYS)
        person_B = gather(batch["person"])
        if not bool(((person_B >= 0) & (person_B < self.people)).all()):
            raise ValueError(
                f"persons from {int(person_B.min())} to {int(person_B.max())}: this objective "
                f"tells {self.people} apart, numbered from 0; renumber them"
            )
        seen = gather(in_parts(self._see, batch["image"], size=self.micro_batch))
        read = gather(in_parts(self._read, batch["ids"], batch["mask"], size=self.micro_batch))
        width = self.model.config.embed_dim
        image_BE, text_BE = seen[:, :width], read[:, :width]
        losses = {
            "id": self.identity.loss(image_BE, text_BE, person_B),
            "rank": self._rank(image_BE, text_BE, person_B, generator),
        }
        if self.contrast_temperature is not None:
            losses["contrast"] = info_nce(
                image_BE, text_BE, person_B, temperature=self.contrast_temperature
            )
        if self.part_identity is not None:
            image_BG, text_BG = seen[:, width:], read[:, width:]
            of_parts = {
                "pgu_id": self.part_identity.loss(image_BG, text_BG, person_B),
                "pgu_rank": self._rank(image_BG, text_BG, person_B, generator),
            }
            losses |= {name: self.granularity_weight * loss for name, loss in of_parts.items()}
        return total(losses)

    def _rank(
        self, image_BE: Tensor, text_BE: Tensor, person_B: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """L_rk of features."""
        return bidirectional_ranking(
            cosines(image_BE, text_BE),
            person_B,
            margin=self.margin,
            negatives=self.negatives,
            anchors=self.anchors,
            generator=generator,
        )

    def _see(self, image_BCHW: Tensor) -> Tensor:
        """Global feature and parts of images, side by side."""
        tokens_BPE = self.model.image_tokens(image_BCHW)
        features = [self.model.image_feature(tokens_BPE)]
        if self.part_identity is not None and self.model.granularity is not None:
            patches_BPE = tokens_BPE[:, self.model.config.prefix :]
            features.append(self.model.granularity.image_parts(patches_BPE).flatten(1))
        return torch.cat([each.float() for each in features], dim=1)

    def _read(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Global feature and parts of texts, side by side."""
        tokens_BLE = self.model.text_tokens(ids_BL, mask_BL)
        features = [self.model.text_feature(tokens_BLE, mask_BL)]
        if self.part_identity is not None and self.model.granularity is not None:
            features.append(self.model.granularity.text_parts(tokens_BLE, mask_BL).flatten(1))
        return torch.cat([each.float() for each in features], dim=1)
