"""What is looked for in a picture, and the boxes found: the three ways of ``annotate.phrases``.

``parser``: the caption's phrases, known beforehand. ``words``: the same list for every picture.
``detector``: the caption whole; which parts of it are phrases is the detector's finding, as in the
paper, and a parser then says what each names. With flips the mirrored picture is asked as well.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from models.regions.proposals import Proposals, Query
from tasks.annotate.mirror import in_mirror, joined, mirrored, mirrored_back, origins, other_side
from tasks.phrases import Phrase, parse
from tasks.phrases.chunking import group_of, said_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from spacy.language import Language

    from models.regions.proposals import CaptionGrounder, RegionProposer

    Span = tuple[int, int]
    Found = list[tuple[list[Phrase], Proposals]]

_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


def query_of(phrase: Phrase) -> Query:
    """What a proposer is told of a phrase."""
    return Query(phrase.text, phrase.head, phrase.group, phrase.colours)


def find_known(
    images: Sequence[NDArray[np.uint8]],
    phrases: Sequence[Sequence[Phrase]],
    proposer: RegionProposer,
    *,
    flips: bool,
) -> Found:
    """Find the boxes of phrases.

    Args:
        images: uint8 (H, W, 3) RGB.
        phrases: Those of each image.
        proposer: Finds regions.
        flips: Whether to look at the mirrored pictures, too.

    Returns:
        Of each image the phrases and the boxes.
    """
    queries = [[query_of(phrase) for phrase in each] for each in phrases]
    found = proposer.propose(images, queries)
    if flips:
        queries = [[in_mirror(query) for query in each] for each in queries]
        there = proposer.propose(mirrored(images), queries)
        found = [joined(a, mirrored_back(b)) for a, b in zip(found, there, strict=True)]
    return [(list(each), boxes) for each, boxes in zip(phrases, found, strict=True)]


def find_words(
    images: Sequence[NDArray[np.uint8]],
    words: Sequence[Phrase],
    proposer: RegionProposer,
    *,
    flips: bool,
) -> Found:
    """Ask every image for the same words. See `find_known`.

    Returns:
        Of each image the words that have a box, and the boxes.
    """
    out = []
    for _, found in find_known(images, [words] * len(images), proposer, flips=flips):
        named, phrase_N = np.unique(found.phrase_N, return_inverse=True)
        boxes = Proposals(found.boxes_N4, found.scores_N, phrase_N.astype(np.int64))
        out.append(([words[n] for n in named], boxes))
    return out


def find_named(
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    grounder: CaptionGrounder,
    nlp: Language,
    *,
    flips: bool,
) -> Found:
    """Let a detector find phrases and boxes.

    Args:
        images: uint8 (H, W, 3) RGB.
        captions: One an image.
        grounder: Finds both.
        nlp: Says what a phrase names.
        flips: Whether to look at the mirrored pictures, too.

    Returns:
        Of each image the phrases in the order of its caption, and the boxes.
    """
    found = grounder.ground(images, captions)
    looks = [[(each.proposals, each.spans)] for each in found]
    if flips:
        there = grounder.ground(mirrored(images), [other_side(caption) for caption in captions])
        for look, each, caption in zip(looks, there, captions, strict=True):
            came = origins(caption)
            spans = tuple((came[start][0], came[end - 1][1]) for start, end in each.spans)
            look.append((mirrored_back(each.proposals), spans))
    merged = [_merged(look) for look in looks]
    texts = [
        caption[start:end]
        for caption, (spans, _) in zip(captions, merged, strict=True)
        for start, end in spans
    ]
    parsed = iter(parse(nlp, texts))
    return [
        ([_named(caption, span, next(parsed)) for span in spans], boxes)
        for caption, (spans, boxes) in zip(captions, merged, strict=True)
    ]


def _merged(looks: Sequence[tuple[Proposals, Sequence[Span]]]) -> tuple[list[Span], Proposals]:
    """The boxes of all looks at a picture, over one list of spans in the order of the caption."""
    spans = sorted({span for _, of in looks for span in of})
    number = {span: n for n, span in enumerate(spans)}
    parts = [
        replace(found, phrase_N=np.array([number[of[n]] for n in found.phrase_N], np.int64))
        for found, of in looks
    ]
    return spans, reduce(joined, parts)


def _named(caption: str, span: Span, found: Sequence[Phrase]) -> Phrase:
    """A span of a caption as a phrase: named by the first of the phrases that stand in it.

    The first, because what follows describes it: "a man in a red shirt" is a man. A span without
    one ("striped") is named by its last word.
    """
    start, end = span
    text = caption[start:end]
    if found:
        return replace(found[0], text=text, start=start, end=end)
    words = _WORD.findall(text.lower()) or [text.lower()]
    group = group_of(words[-1], _WORD.findall(caption[:start].lower()), "")
    said = said_of(tuple(words), len(words) - 1, words[-1], group)
    return Phrase(text, start, end, words[-1], group, *said)
