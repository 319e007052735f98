"""ITC, ITM and MLM as functions of tensors, and the drawing of hard negatives.

Shapes: B rows of the batch, N keys compared with (N = B on one device), E feature width,
L word pieces, V vocabulary, R pairs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of a position whose word piece is not to be predicted."""


def positive_targets(
    row_ids_B: Tensor, column_ids_N: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Soft targets (B, N): all keys of the same id share the row, the rest is smoothed.

    t = (1 - eps) * same / sum(same) + eps / N. Every row's own key is among the N.
    """
    same = (row_ids_B[:, None] == column_ids_N[None, :]).float()
    targets = same / same.sum(1, keepdim=True)
    return (1 - label_smoothing) * targets + label_smoothing / len(column_ids_N)


def contrastive_loss(
    image_BE: Tensor,
    text_BE: Tensor,
    temperature: Tensor,
    ids_B: Tensor,
    *,
    label_smoothing: float = 0.0,
    share: int = 1,
) -> Tensor:
    """ITC (and RPC): InfoNCE with several positives, image to text and back, averaged.

    Args:
        image_BE: Normalised image (or region) features.
        text_BE: Normalised text (or phrase) features.
        temperature: Logits are cosines divided by it.
        ids_B: Rows with equal ids are positives of each other.
        label_smoothing: eps of `positive_targets`.
        share: What the gradient is divided by on its way into the features; the temperature's is
            not, and neither is the value.
    """
    if share > 1:
        image_BE, text_BE = _divide_gradient(image_BE, share), _divide_gradient(text_BE, share)
    logits_BB = image_BE @ text_BE.t() / temperature
    targets_BB = positive_targets(ids_B, ids_B, label_smoothing)  # symmetric but for its rows' sums
    to_text = -(targets_BB * F.log_softmax(logits_BB, dim=1)).sum(1).mean()
    to_image = -(targets_BB * F.log_softmax(logits_BB.t(), dim=1)).sum(1).mean()
    return (to_text + to_image) / 2


class _DividedGradient(torch.autograd.Function):
    """The same values; backwards, the gradient divided."""

    @staticmethod
    def forward(context: Any, values: Tensor, share: int) -> Tensor:
        context.share = share
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient / context.share, None


def _divide_gradient(values: Tensor, share: int) -> Tensor:
    divided: Tensor = _DividedGradient.apply(values, share)
    return divided


class Negatives(NamedTuple):
    """A hard negative for every row; `valid` is false where the batch holds none."""

    image_B: Tensor
    """For text b, the index of an image of somebody else."""
    text_B: Tensor
    """For image b, the index of a text of somebody else."""
    valid_B: Tensor
    """False where every row that could be drawn has the same id."""


@torch.no_grad()
def hard_negatives(
    image_BE: Tensor,
    text_BE: Tensor,
    temperature: Tensor,
    ids_B: Tensor,
    generator: torch.Generator | None = None,
    *,
    chunks: int = 1,
) -> Negatives:
    """Draw one image for every text and one text for every image, likelier if more similar.

    The weights are softmax(cos / temperature) + 1e-5, 0 for the same id (release:
    models/mra.py). All rows are drawn at once, on the generator's device, so the draw depends on
    the generator alone. Where there is one id only, the released code fails; here such rows are
    marked.

    Args:
        image_BE: Normalised image (or region) features.
        text_BE: Normalised text (or phrase) features.
        temperature: Logits are cosines divided by it.
        ids_B: Rows with equal ids are no negatives of each other.
        generator: What is drawn from; None takes torch's own.
        chunks: Equal consecutive parts of the batch; a row's negatives come from its own part,
            and so does the softmax (c parts of n rows below).
    """
    image_cnE, text_cnE = (part.unflatten(0, (chunks, -1)) for part in (image_BE, text_BE))
    ids_cn = ids_B.unflatten(0, (chunks, -1))
    logits_cnn = image_cnE @ text_cnE.mT / temperature
    same_Bn = (ids_cn[:, :, None] == ids_cn[:, None, :]).flatten(0, 1)
    valid_B = ~same_Bn.all(1)
    rows = ids_cn.shape[1]
    first_B = torch.arange(chunks, device=ids_B.device).repeat_interleave(rows) * rows

    def draw(logits_cnn: Tensor) -> Tensor:
        weights_Bn = F.softmax(logits_cnn.flatten(0, 1), dim=1) + 1e-5
        weights_Bn = torch.where(valid_B[:, None], weights_Bn.masked_fill(same_Bn, 0.0), 1.0)
        device = weights_Bn.device if generator is None else generator.device
        drawn = torch.multinomial(weights_Bn.to(device), 1, generator=generator)[:, 0]
        return first_B + drawn.to(ids_B.device)

    return Negatives(image_B=draw(logits_cnn.mT), text_B=draw(logits_cnn), valid_B=valid_B)


def matching_pairs(negatives: Negatives) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The 3 B pairs of ITM: the B that match, every text's negative image, every image's text.

    Returns:
        Text index, image index, label (1 matches) and weight (0 for a row without a negative),
        each (3 B,).
    """
    rows_B = torch.arange(len(negatives.image_B), device=negatives.image_B.device)
    text_R = torch.cat([rows_B, rows_B, negatives.text_B])
    image_R = torch.cat([rows_B, negatives.image_B, rows_B])
    valid_B = negatives.valid_B
    label_R = torch.cat([torch.ones_like(rows_B), torch.zeros_like(torch.cat([rows_B, rows_B]))])
    weight_R = torch.cat([torch.ones_like(valid_B), valid_B, valid_B]).float()
    return text_R, image_R, label_R, weight_R


def matching_loss(
    logits_R2: Tensor, label_R: Tensor, weight_R: Tensor, total: Tensor | None = None
) -> Tensor:
    """ITM (and RPM): two-way cross-entropy, averaged over the pairs with weight.

    Args:
        logits_R2: Logits; class 1 is "they match".
        label_R: 1 where they match.
        weight_R: 0 for a pair that does not count.
        total: What to divide by, where these pairs are a share of more; None: their own weight.
    """
    losses_R = F.cross_entropy(logits_R2.float(), label_R, reduction="none")
    return (losses_R * weight_R).sum() / (weight_R.sum() if total is None else total)


def summed_token_loss(logits_MV: Tensor, labels_M: Tensor) -> Tensor:
    """MLM before its average: cross-entropy summed over the labelled positions.

    Args:
        logits_MV: Logits over the vocabulary.
        labels_M: The hidden word pieces, `IGNORED` where there is none.
    """
    return F.cross_entropy(logits_MV.float(), labels_M, ignore_index=IGNORED, reduction="sum")
