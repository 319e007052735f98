"""Typing errors: the known word that one slip would turn into the one that was typed.

A slip is one letter too many, too few, another one, or two neighbours swapped. Every known word is
filed under itself and under what is left of it without one of its letters; so is the word that is
looked up, and where the two meet a slip may lie between them. A look-up costs as many dictionary
accesses as the word has letters, however many words are known.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST = 16
"""Letters of the longest word that is looked up."""


class Spelling:
    """Known words, to be found from what was typed."""

    def __init__(self, words: Iterable[str]) -> None:
        """File the words."""
        self._under: defaultdict[str, list[str]] = defaultdict(list)
        for word in words:
            for key in _shorter(word):
                self._under[key].append(word)

    def near(self, typed: str) -> list[str]:
        """Known words one slip away, sorted; swaps of neighbours, the commonest slip, first.

        Args:
            typed: A lower-case word; other than 3 to `LONGEST` ASCII letters nothing is near.
        """
        if not (3 <= len(typed) <= LONGEST and typed.isascii() and typed.isalpha()):
            return []
        under = self._under
        met = {word for key in _shorter(typed) if key in under for word in under[key]}
        found = [word for word in met if one_slip(typed, word)]
        found.sort(key=lambda word: (not _swapped(typed, word), word))
        return found


def _shorter(word: str) -> set[str]:
    return {word} | {word[:i] + word[i + 1 :] for i in range(len(word))}


def _swapped(one: str, other: str) -> bool:
    return len(one) == len(other) and sorted(one) == sorted(other)


def one_slip(one: str, other: str) -> bool:
    """Whether exactly one slip parts two words."""
    if one == other or abs(len(one) - len(other)) > 1:
        return False
    start = 0
    shortest = min(len(one), len(other))
    while start < shortest and one[start] == other[start]:
        start += 1
    end = 0
    while end < shortest - start and one[-1 - end] == other[-1 - end]:
        end += 1
    left, right = one[start : len(one) - end], other[start : len(other) - end]
    return max(len(left), len(right)) == 1 or (len(left) == 2 and left == right[::-1])
