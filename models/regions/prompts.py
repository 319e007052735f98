"""Prompts of a detector that reads text: phrases or a caption in, and back from tokens to words.

Grounding DINO reads one line of lower-cased text in which full stops (and question marks) part
what may not look at each other. `phrase_prompts` joins given phrases so, `caption_prompts` takes a
caption as it is; `named_span` finds the words of a caption that a box answers to.

Unusual: a model reads 256 tokens at most, and the library cuts off what is beyond. Here a picture
gets as many prompts as it needs, cut between phrases, or between a caption's sentences; only a
single phrase longer than all of a prompt loses its end. A prompt keeps where its pieces came from,
in code points of what was given: lower-casing here never changes a length.

Shapes: T tokens of the prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_STOPS = ".?"
"""What parts a prompt for Grounding DINO, beside [CLS] and [SEP]."""
_OVERHEAD = 3
"""Tokens of a prompt beside the words of its only piece: [CLS], the full stop, [SEP]."""
_SIGN = "(?:[^\\W_]|[\u0300-\u036f])"
_WORD = re.compile(f"[^\\W_]{_SIGN}*(?:[-'\u2010\u2011\u2019]{_SIGN}+)*")
"""A word: letters and digits with their accents, held together by hyphens and apostrophes."""


@dataclass(frozen=True)
class Prompt:
    """A line of text for the detector.

    Attributes:
        text: The line.
        spans: First and one past the last character of each phrase in it; none for a caption.
        owners: Which of the picture's phrases each is.
        start: For a caption, where in it the line begins.
        end: For a caption, how much of the line is the caption's.
    """

    text: str
    spans: tuple[tuple[int, int], ...] = ()
    owners: tuple[int, ...] = ()
    start: int = 0
    end: int = 0


def lower(text: str) -> str:
    """Lower-case without changing any position.

    One letter's lower case is two code points long (the Turkish dotted I); it stays, and the
    tokenizer lowers it. Lower-cased text also spells no special token: "[SEP]" in a caption would
    be one.
    """
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)


def clean_phrase(phrase: str) -> str:
    """Write a phrase as a prompt holds it: lower case, single blanks, no stops inside."""
    for stop in _STOPS:
        phrase = phrase.replace(stop, " ")
    return " ".join(lower(phrase).split()) or "thing"


def join_phrases(phrases: Sequence[str], owners: Sequence[int] | None = None) -> Prompt:
    """Join clean phrases, each ended by a full stop.

    Args:
        phrases: From `clean_phrase`.
        owners: Which of the picture's phrases each is; by default in turn.
    """
    text, spans = "", []
    for phrase in phrases:
        spans.append((len(text), len(text) + len(phrase)))
        text += phrase + " . "
    which = tuple(range(len(spans)) if owners is None else owners)
    return Prompt(text.strip(), tuple(spans), which)


def phrase_prompts(
    tokenizer: Any, phrases: Sequence[Sequence[str]], limit: int
) -> list[list[Prompt]]:
    """Build the prompts of each picture: as few as hold its phrases.

    The same words twice in a picture are asked once, for the phrase that comes first: asked twice,
    rounding would decide which of the two a box goes to.

    Args:
        tokenizer: A fast BERT tokenizer.
        phrases: Of each picture.
        limit: Most tokens of a prompt.

    Returns:
        The prompts of each picture; none where there are no phrases.
    """
    cleaned = [[clean_phrase(phrase) for phrase in of] for of in phrases]
    texts = list(dict.fromkeys(text for of in cleaned for text in of))
    room = limit - _OVERHEAD
    fitting: dict[str, tuple[str, int]] = {}
    for text, offsets in zip(texts, _offsets(tokenizer, texts), strict=True):
        cut = text if len(offsets) <= room else text[: offsets[_word_start(offsets, room)][0]]
        fitting[text] = (cut.strip(), min(len(offsets), room))
    out = []
    for of in cleaned:
        first: dict[str, int] = {}
        for at, text in enumerate(of):
            first.setdefault(fitting[text][0], at)
        parts: list[list[int]] = []
        used = limit
        for at in first.values():
            needed = fitting[of[at]][1] + 1
            if used + needed > limit - 2:
                parts.append([])
                used = 0
            parts[-1].append(at)
            used += needed
        out.append([join_phrases([fitting[of[at]][0] for at in part], part) for part in parts])
    return out


def caption_prompts(tokenizer: Any, captions: Sequence[str], limit: int) -> list[list[Prompt]]:
    """Build the prompts of each picture from its caption: one, or several for a long one.

    A prompt is lower-cased and ends in a full stop (Grounding DINO's own `predict`; the paper gives
    it the whole caption).

    Args:
        tokenizer: A fast BERT tokenizer.
        captions: Of each picture.
        limit: Most tokens of a prompt.

    Returns:
        The prompts of each picture; none where the caption holds no word.
    """
    lowered = [lower(caption) for caption in captions]
    out = []
    for text, offsets in zip(lowered, _offsets(tokenizer, lowered), strict=True):
        pieces = _pieces(text, offsets, limit - _OVERHEAD)
        lines = [(start, text[start:end].rstrip()) for start, end in pieces]
        out.append(
            [
                Prompt(line if line.endswith(".") else f"{line}.", start=start, end=len(line))
                for start, line in lines
                if _WORD.search(line)
            ]
        )
    return out


def _offsets(tokenizer: Any, texts: list[str]) -> list[list[tuple[int, int]]]:
    """Where the tokens of each text stand, without special tokens and uncut."""
    if not texts:
        return []
    found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets: list[list[tuple[int, int]]] = found["offset_mapping"]
    return offsets


def _word_start(offsets: Sequence[tuple[int, int]], at: int) -> int:
    """The first token of the word that token `at` is in; `at` if that word is all there is."""
    first = at
    while first > 0 and offsets[first - 1][1] == offsets[first][0]:
        first -= 1
    return first or at


def _pieces(text: str, offsets: Sequence[tuple[int, int]], room: int) -> list[tuple[int, int]]:
    """Cut a text into pieces of at most `room` tokens: after stops, else before a word."""
    pieces, at = [], 0
    while len(offsets) - at > room:
        stops = [n for n in range(at, at + room) if text[slice(*offsets[n])] in _STOPS]
        cut = stops[-1] + 1 if stops else _word_start(offsets, at + room)
        cut = cut if cut > at else at + room
        pieces.append((offsets[at][0], offsets[cut][0]))
        at = cut
    if at < len(offsets):
        pieces.append((offsets[at][0], len(text)))
    return pieces


# ------------------------------------------------------------------ from tokens to words


@dataclass(frozen=True)
class Words:
    """The words of a prompt.

    Attributes:
        spans: First and one past the last character of each.
        word_T: Which word each token is of; -1 for stops, punctuation and special tokens.
        sentence: How many stops stand before each word.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    word_T: NDArray[np.int64]
    sentence: tuple[int, ...]


def find_words(prompt: Prompt, offsets_T2: NDArray[np.int64]) -> Words:
    """Find the words of a caption's prompt and which tokens make them up."""
    spans = tuple(found.span() for found in _WORD.finditer(prompt.text, 0, prompt.end))
    starts = np.array([start for start, _ in spans], np.int64)
    ends = np.array([end for _, end in spans], np.int64)
    word_T = np.searchsorted(starts, offsets_T2[:, 0], side="right") - 1
    real = (offsets_T2[:, 1] > offsets_T2[:, 0]) & (word_T >= 0)
    if len(spans):
        real &= offsets_T2[:, 0] < ends[word_T]
    stops = np.cumsum([letter in _STOPS for letter in prompt.text])
    return Words(
        prompt.text,
        spans,
        np.where(real, word_T, -1),
        tuple(int(stops[start]) for start, _ in spans),
    )


def named_span(
    words: Words, probability_T: NDArray[np.float32], threshold: float
) -> tuple[int, int] | None:
    """The words that a box answers to, as one stretch of the prompt.

    The library's rule (`get_phrases_from_posmap`) strings together all tokens above the threshold,
    wherever they stand. Here a phrase must be found again in the caption, so

    - a word fires if one of its tokens does, and is taken whole;
    - words that fire make up one run where they stand side by side in a sentence, or with a single
      silent word between them and nothing but blanks ("red *and* white");
    - of several runs the one with the surest token names the box.

    Where the tokens that fire are whole words side by side, both rules give the same words.

    Args:
        words: From `find_words`.
        probability_T: Of each token, for one box.
        threshold: What a token must exceed (the paper's text threshold).

    Returns:
        First and one past the last character, or None if no word fires.
    """
    loud = np.flatnonzero((probability_T > threshold) & (words.word_T >= 0))
    if not len(loud):
        return None
    firing = sorted({int(word) for word in words.word_T[loud]})
    surest = int(words.word_T[loud[np.argmax(probability_T[loud])]])
    middle = firing.index(surest)
    first = last = middle
    while first > 0 and _together(words, firing[first - 1], firing[first]):
        first -= 1
    while last + 1 < len(firing) and _together(words, firing[last], firing[last + 1]):
        last += 1
    return words.spans[firing[first]][0], words.spans[firing[last]][1]


def _together(words: Words, one: int, other: int) -> bool:
    """Whether two words that fire, and none between them, belong to one run."""
    if words.sentence[one] != words.sentence[other]:
        return False
    if other - one == 1:
        return True
    (_, before), silent, (after, _) = words.spans[one], words.spans[one + 1], words.spans[other]
    return other - one == 2 and not (
        words.text[before : silent[0]].strip() or words.text[silent[1] : after].strip()
    )
