"""Plain questions that the shipped CLIP's eyes are trained on beside its own two losses.

A CLIP learns what its texts tell apart, and here those texts are learned at the same time, from
nothing: after 2,000 steps such a tower knew the colours of clothes and hardly hair, bags, or man
from woman. A linear layer on the class token that names each part of the truth by itself (hair's
colour; a bag's kind) teaches the eyes at once, and the prompts then have something to point at. The
layer is dropped when training ends: the shipped weights are a CLIP and no more.

Shape legend: B pictures, N of a pool, A attributes, V values of all attributes one after another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from tasks.base.pool import Pool

UNSEEN = -1
"""Number of a value that cannot be seen."""

_OF_PART = {
    "hair": ("hair_length", "hair_colour"),
    "upper": ("upper_colour", "upper_pattern", "upper_kind"),
    "lower": ("lower_colour", "lower_kind"),
    "footwear": ("shoe_kind", "shoe_colour"),
}
"""Part of the picture to what is asked of it only where it can be seen."""
_CARRIED = {"bag": ("bag", "bag_colour"), "hat": ("hat", "hat_colour")}
"""What is none where it cannot be seen."""


def visible_parts(
    labels: Mapping[str, str], seen: Collection[str], action: str, view: str
) -> dict[str, str]:
    """Each part of the truth that a drawing shows, by itself.

    Args:
        labels: Attributes of the person, as `Person.labels` gives them.
        seen: Parts that can be seen.
        action: walking or standing.
        view: From where the person is seen. Left and right are one: pictures are mirrored.
    """
    side = " ".join(word for word in view.split() if word not in {"left", "right"})
    found = {"gender": labels["gender"], "action": action, "view": side or "side"}
    if view.startswith(("front ", "back ")):
        found["view"] += " side"
    for part, names in _OF_PART.items():
        if part in seen:
            found |= {name: labels[name] for name in names}
    for part, names in _CARRIED.items():
        found |= {name: labels[name] if part in seen else "none" for name in names}
    return found


def number_parts(pool: Pool) -> tuple[Tensor, list[int]]:
    """Number the visible parts of a pool's pictures.

    Returns:
        Numbers, (N, A) int64, `UNSEEN` where there is nothing to say; and how many values each
        attribute has.
    """
    columns = (pool.labels, pool.seen, pool.actions, pool.views)
    shown = [visible_parts(*row) for row in zip(*columns, strict=True)]
    names = sorted(set().union(*shown))
    values = {name: sorted({each[name] for each in shown if name in each}) for name in names}
    number_NA = torch.tensor([
        [values[name].index(each[name]) if name in each else UNSEEN for name in names]
        for each in shown
    ])  # fmt: skip
    return number_NA, [len(values[name]) for name in names]


def answer_losses(logits_BV: Tensor, value_BA: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Softmax cross-entropy of each attribute, over the pictures that show it.

    Args:
        logits_BV: The values of all attributes, one attribute after another.
        value_BA: Number of the true value among its attribute's, or `UNSEEN`.
        sizes: How many values each attribute has.

    Returns:
        A scalar an attribute; 0 where no picture shows it.
    """
    losses = []
    for value_B, part_BV in zip(value_BA.T, logits_BV.split(list(sizes), 1), strict=True):
        total = F.cross_entropy(part_BV, value_B, ignore_index=UNSEEN, reduction="sum")
        losses.append(total / (value_B != UNSEEN).sum().clamp(min=1))
    return losses
