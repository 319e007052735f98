"""The interface of what finds regions: queries in, boxes with scores out.

`RegionProposer.propose` takes a batch of images with the phrases of each and gives boxes with
scores; a phrase may get no box, one, or several (a filter picks later).

Shapes: N boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

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


def check_batch(images: Sequence[NDArray[np.uint8]], queries: Sequence[Sequence[Query]]) -> None:
    """Refuse a batch that cannot be meant.

    Raises:
        ValueError: The lists differ in length, or an image is not uint8 (H, W, 3).
    """
    if len(images) != len(queries):
        message = (
            f"propose: {len(images)} images and {len(queries)} lists of phrases; "
            "one list an image; pass an empty list for an image without phrases"
        )
        raise ValueError(message)
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            message = (
                f"propose: an image of {image.dtype} {image.shape}; "
                "it must be uint8 (H, W, 3) RGB; decode it with tasks.images.decode"
            )
            raise ValueError(message)
