"""The interface of what finds regions: queries in, boxes with scores out.

`RegionProposer.propose` takes a batch of images with the phrases of each and gives boxes with
scores; a phrase may get no box, one, or several (a filter picks later). A detector that reads
whole sentences is a `CaptionGrounder` as well: `ground` takes captions and finds the phrases too,
each a span of its caption.

Shapes: N boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Query:
    """What is looked for in an image.

    Attributes:
        text: The phrase.
        head: Its head noun, lower case.
        group: Where such a thing is found: person, head, hair, upper, lower, footwear, carried,
            accessory or scene.
        colours: Colour names of it.
    """

    text: str
    head: str = ""
    group: str = ""
    colours: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposals:
    """The boxes of one image.

    Attributes:
        boxes_N4: float32 (N, 4): cx, cy, w, h in [0, 1].
        scores_N: float32 (N,): confidence in [0, 1].
        phrase_N: int64 (N,): which of the image's phrases each box is for.
    """

    boxes_N4: NDArray[np.float32]
    scores_N: NDArray[np.float32]
    phrase_N: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.scores_N)

    @classmethod
    def none(cls) -> Self:
        """No boxes at all."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Grounded:
    """What was found in one image by a detector that names its phrases itself.

    Attributes:
        proposals: The boxes; `proposals.phrase_N` counts through `spans`.
        spans: First and one past the last code point of each phrase in the caption as it was
            given, in order of the text and none twice; every phrase has a box. Two may overlap:
            boxes differ in how much of "a red shirt" they answer to.
    """

    proposals: Proposals
    spans: tuple[tuple[int, int], ...]

    @classmethod
    def none(cls) -> Self:
        """Neither phrases nor boxes."""
        return cls(Proposals.none(), ())


class RegionProposer(Protocol):
    """Anything that finds the regions of phrases."""

    def propose(
        self, images: Sequence[NDArray[np.uint8]], queries: Sequence[Sequence[Query]]
    ) -> list[Proposals]:
        """Find a region for each phrase that has one.

        Args:
            images: uint8 (H, W, 3) RGB, of one size or of several.
            queries: The phrases of each image.

        Returns:
            The boxes of each image; a phrase without a region has none.
        """
        ...


@runtime_checkable
class CaptionGrounder(Protocol):
    """Anything that finds both the phrases of a caption and their regions."""

    def ground(
        self, images: Sequence[NDArray[np.uint8]], captions: Sequence[str]
    ) -> list[Grounded]:
        """Find what the captions name and the images show.

        Args:
            images: uint8 (H, W, 3) RGB, of one size or of several.
            captions: One an image; the whole of it is the prompt.

        Returns:
            The phrases and boxes of each image; both may be none.
        """
        ...


def check_batch(
    images: Sequence[NDArray[np.uint8]],
    queries: Sequence[Sequence[Query]] | Sequence[str],
    what: str = "lists of phrases",
) -> None:
    """Refuse a batch that cannot be meant.

    Raises:
        ValueError: The lists differ in length, or an image is not uint8 (H, W, 3).
    """
    if len(images) != len(queries):
        message = (
            f"{len(images)} images and {len(queries)} {what}; "
            "one an image; pass an empty one for an image of which nothing is said"
        )
        raise ValueError(message)
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            message = (
                f"propose: an image of {image.dtype} {image.shape}; "
                "it must be uint8 (H, W, 3) RGB; decode it with tasks.images.decode"
            )
            raise ValueError(message)


def cut_boxes(boxes_N4: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut boxes (cx, cy, w, h) at the image's border; what lies outside gets no area.

    The corners are cut, not the four numbers: a box half outside loses that half, and its centre
    moves.
    """
    low = np.clip(boxes_N4[:, :2] - boxes_N4[:, 2:] / 2, 0, 1)
    high = np.clip(boxes_N4[:, :2] + boxes_N4[:, 2:] / 2, 0, 1)
    return np.concatenate([(low + high) / 2, high - low], axis=1).astype(np.float32)
