"""The dual encoder's losses as functions of tensors, and what classifies people.

All are computed in float32 whatever autocast says. Where each comes from, and which choices are
ours, is in docs/unipt.md.

Shapes: B rows of the batch, c chunks of n rows, E width of a feature, K features a row (the global
one alone, or the parts), G = K E, C people, R = B K.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Negatives = Literal["semi-hard", "hardest"]
Over = Literal["sum", "mean"]


def cosines(one_BE: Tensor, other_BE: Tensor) -> Tensor:
    """Cosine of every row with every row, (..., B, B), in float32.

    Args:
        one_BE: Features, normalised or not; leading dimensions are kept apart.
        other_BE: As many of the other modality.
    """
    with torch.autocast(one_BE.device.type, enabled=False):
        one_BE, other_BE = (F.normalize(rows.float(), dim=-1) for rows in (one_BE, other_BE))
        return one_BE @ other_BE.mT


def info_nce(
    image_BE: Tensor,
    text_BE: Tensor,
    person_B: Tensor,
    *,
    temperature: float | None = None,
    chunks: int = 1,
) -> Tensor:
    """Symmetric InfoNCE on cosines: each image finds its text, and each text its image.

    Half the sum of both directions' cross-entropies, averaged over rows. A row's one positive is
    its own pair, as in UniPT's code; another pair of the same person, which there cannot be told
    apart from a stranger's, is neither positive nor negative here.

    Args:
        image_BE: Image features.
        text_BE: Text features, row b of the same pair as image b.
        person_B: Rows with equal numbers are no negatives of each other.
        temperature: What cosines are divided by; None is UniPT's plain cosine.
        chunks: Equal consecutive parts of the batch; a row compares within its own.

    Returns:
        The mean over the chunks of their losses; 0 for a row without any negative.
    """
    image_cnE, text_cnE = (rows.unflatten(0, (chunks, -1)) for rows in (image_BE, text_BE))
    person_cn = person_B.unflatten(0, (chunks, -1))
    logits_cnn = cosines(image_cnE, text_cnE) / (1.0 if temperature is None else temperature)
    same_cnn = person_cn[:, :, None] == person_cn[:, None, :]
    own_nn = torch.eye(person_cn.shape[1], dtype=torch.bool, device=person_B.device)
    logits_cnn = logits_cnn.masked_fill(same_cnn & ~own_nn, -torch.inf)
    to_text, to_image = (
        -F.log_softmax(logits_cnn, dim=way).diagonal(dim1=1, dim2=2).mean() for way in (2, 1)
    )
    return (to_text + to_image) / 2


def bidirectional_ranking(
    cosines_BB: Tensor,
    person_B: Tensor,
    *,
    margin: float,
    negatives: Negatives = "semi-hard",
    anchors: Over = "sum",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Triplet loss with an image as anchor, plus the same with a text: ().

    An anchor's positive is its own pair, its negative a row of somebody else; the loss is
    max(0, margin - cos(positive) + cos(negative)).

    ``semi-hard``: a random one of the negatives that are less similar than the positive, but by
    less than the margin; an anchor that has none adds nothing, also where its negatives are all
    harder than that. ``hardest``: the most similar negative.

    A sum over anchors, as in LGUR's code, is for encoders that agree already. Before they do it
    drowns every other loss, and semi-hard has a way down that aligns nothing: spread all cosines
    widely along one axis, and few negatives lie within the margin. The mean leaves room.

    Args:
        cosines_BB: Image i against text j; the diagonal holds the pairs.
        person_B: Rows with equal numbers are no negatives of each other.
        margin: What a positive has to be more similar by.
        negatives: How they are chosen.
        anchors: ``sum`` over the 2 B anchors, or their ``mean``.
        generator: What ``semi-hard`` draws from; None takes torch's own.
    """
    # By whom the anchor is compared with: cosines_BB.mT has the texts as anchors.
    ways = cosines_BB.float(), cosines_BB.float().mT
    other_BB = person_B[:, None] != person_B[None, :]
    lost_2B = torch.stack([_hinges(each, other_BB, margin, negatives, generator) for each in ways])
    return lost_2B.sum() if anchors == "sum" else lost_2B.mean()


def _hinges(
    cosines_BB: Tensor,
    other_BB: Tensor,
    margin: float,
    negatives: Negatives,
    generator: torch.Generator | None,
) -> Tensor:
    """Each anchor's loss, (B,); 0 where there is no negative."""
    # Minus the positive: two equal cosines give exactly 0, which is not semi-hard.
    ahead_BB = cosines_BB - cosines_BB.diagonal()[:, None]
    with torch.no_grad():
        if negatives == "semi-hard":
            allowed_BB = other_BB & (ahead_BB < 0) & (ahead_BB > -margin)
            # On the generator's device: the same draw whatever computes the rest.
            place = ahead_BB.device if generator is None else generator.device
            order_BB = torch.rand(ahead_BB.shape, generator=generator, device=place)
            order_BB = order_BB.to(ahead_BB.device)
        else:
            allowed_BB, order_BB = other_BB, ahead_BB
        picked_B1 = order_BB.masked_fill(~allowed_BB, -torch.inf).argmax(1, keepdim=True)
    hinge_B = F.relu(margin + ahead_BB.gather(1, picked_B1)[:, 0])
    return torch.where(allowed_BB.any(1), hinge_B, 0.0)


class PeopleClassifiers(nn.Module):
    """K linear classifiers of people, each for images and texts alike.

    Training alone needs them: they are no part of the model. Weights start small, biases at 0, as
    in LGUR's code.
    """

    def __init__(self, count: int, width: int, people: int) -> None:
        """Make the classifiers.

        Args:
            count: K, one a feature.
            width: E.
            people: C.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, width, people) * 0.001)
        self.bias = nn.Parameter(torch.zeros(count, people))

    def forward(self, features_BG: Tensor) -> Tensor:
        """Logits (B, K, C), float32.

        Args:
            features_BG: The K features of a row side by side, not normalised.
        """
        with torch.autocast(features_BG.device.type, enabled=False):
            features_BKE = features_BG.float().unflatten(1, self.weight.shape[:2])
            return torch.einsum("bke,kec->bkc", features_BKE, self.weight) + self.bias

    def loss(self, image_BG: Tensor, text_BG: Tensor, person_B: Tensor) -> Tensor:
        """Cross-entropy of images plus that of texts, each averaged over rows and features.

        Args:
            image_BG: Features of images, not normalised.
            text_BG: Features of texts.
            person_B: Who it is, from 0 to C - 1.
        """
        person_R = person_B.repeat_interleave(len(self.bias))
        of_images, of_texts = (
            F.cross_entropy(self(rows_BG).flatten(0, 1), person_R)
            for rows_BG in (image_BG, text_BG)
        )
        return of_images + of_texts
