"""What trains a person encoder: who it is, and batch-hard triplets.

L = L_id + triplet_weight L_triplet (Luo et al. 2019, without its centre loss). L_id is the
cross-entropy with smoothed labels of a linear classifier behind the neck; the triplets are of
features before it. The calling convention is that of `models.mra.objectives`: of several processes
each encodes its own rows, features are gathered, so the losses and the neck's statistics are those
of one process with the whole batch.

Shapes: B rows, D width, C people.

Batch keys: image (B, 3, H, W); person (B,), from 0 to `people` - 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.recomputing import in_parts
from models.reid.losses import batch_hard_triplet
from models.reid.model import PersonEncoder
from models.team import gather


class ReidObjective(nn.Module):
    """A person encoder with its losses.

    Attributes:
        classifier: (D -> C) without bias; training alone needs it.
    """

    def __init__(
        self,
        model: PersonEncoder,
        *,
        people: int,
        margin: float = 0.3,
        label_smoothing: float = 0.1,
        triplet_weight: float = 1.0,
        micro_batch: int = 0,
    ) -> None:
        """Wrap a model.

        Args:
            model: What is trained.
            people: Classes of L_id.
            margin: Of the triplets, in units of distance.
            label_smoothing: Of L_id's targets.
            triplet_weight: 0 leaves the triplets out.
            micro_batch: Rows encoded at a time; 0 takes all at once.

        Raises:
            ValueError: A value out of range.
        """
        super().__init__()
        if people < 2:
            raise ValueError(f"{people} people to tell apart: choose at least 2")
        if not margin >= 0 or not triplet_weight >= 0:
            raise ValueError(f"margin {margin}, triplet_weight {triplet_weight}: choose 0 or more")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing {label_smoothing}: 0 or more and below 1")
        self.model = model
        self.people, self.margin = people, margin
        self.label_smoothing, self.triplet_weight = label_smoothing, triplet_weight
        self.micro_batch = micro_batch
        self.classifier = nn.Linear(model.config.width, people, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(
        self,
        batch: dict[str, Tensor],
        generator: torch.Generator | None = None,  # noqa: ARG002  # the loop's convention
    ) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            batch: See the top of this file.
            generator: Not used: the hardest rows are not drawn.

        Returns:
            "id", "triplet", its weight applied, and their sum "loss".

        Raises:
            ValueError: A person's number is out of range.
        """
        person_B = gather(batch["person"])
        if not bool(((person_B >= 0) & (person_B < self.people)).all()):
            raise ValueError(
                f"persons from {int(person_B.min())} to {int(person_B.max())}: this objective "
                f"tells {self.people} apart, numbered from 0; renumber them"
            )
        feature_BD = gather(in_parts(self.model, batch["image"], size=self.micro_batch))
        behind_BD = self.model.neck(feature_BD)
        with torch.autocast(feature_BD.device.type, enabled=False):
            logits_BC = self.classifier(behind_BD)
            identity = F.cross_entropy(logits_BC, person_B, label_smoothing=self.label_smoothing)
        losses = {"id": identity}
        if self.triplet_weight:
            triplet = batch_hard_triplet(feature_BD, person_B, self.margin)
            losses["triplet"] = self.triplet_weight * triplet
        return losses | {"loss": torch.stack(list(losses.values())).sum()}
