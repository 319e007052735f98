"""The mirrored picture: asked for the same things, its boxes mirrored back (``annotate.flips``).

The paper's ablation detects on flipped pictures too (v1 and v3 of its table of losses). In a mirror
the right hand is a left one, so the words change sides with the picture.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from models.regions.proposals import Proposals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.regions.proposals import Query

_SIDE = re.compile(r"\b(left|right)(?=(?:most|wards?)?\b)", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


def mirrored(images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Mirror pictures, uint8 (H, W, 3)."""
    return [np.ascontiguousarray(image[:, ::-1]) for image in images]


def other_side(text: str) -> str:
    """Change left for right and right for left."""
    return _SIDE.sub(lambda match: _cased(match.group()), text)


def in_mirror(query: Query) -> Query:
    """What to look for in the mirrored picture."""
    return replace(query, text=other_side(query.text))


def origins(text: str) -> list[tuple[int, int]]:
    """Where each character of `other_side` of a text comes from.

    Returns:
        First and one past the last character of the text that it stands for: of an exchanged word,
        the whole word.
    """
    found: list[tuple[int, int]] = []
    at = 0
    for match in _SIDE.finditer(text):
        found += [(i, i + 1) for i in range(at, match.start())]
        found += [match.span()] * len(_cased(match.group()))
        at = match.end()
    return found + [(i, i + 1) for i in range(at, len(text))]


def mirrored_back(proposals: Proposals) -> Proposals:
    """Boxes of the mirrored picture as boxes of the picture."""
    boxes = proposals.boxes_N4.copy()
    boxes[:, 0] = 1 - boxes[:, 0]
    return Proposals(boxes, proposals.scores_N, proposals.phrase_N)


def joined(one: Proposals, other: Proposals) -> Proposals:
    """Two lists of boxes of one picture as one."""
    return Proposals(
        np.concatenate([one.boxes_N4, other.boxes_N4]),
        np.concatenate([one.scores_N, other.scores_N]),
        np.concatenate([one.phrase_N, other.phrase_N]),
    )


def _cased(word: str) -> str:
    other = _OTHER[word.lower()]
    return other.upper() if word.isupper() else other.title() if word[0].isupper() else other
