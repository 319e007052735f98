"""How diverse a set of captions is: distinct n-grams, vocabulary, repeats, and words shared.

The field finds caption diversity worth more than anything else about a pretraining set, so it is
measured wherever captions change: prompts, the source's captions, the new ones, the target's.

Two things are unusual. Sets of different sizes cannot be compared by distinct-n (the same writer
is the less distinct, the longer he writes), so each set also keeps a *sample*: the captions whose
names hash lowest, the same ones whatever the order of the shards; `at_equal_size` compares the
sets on as many captions each. And memory: words become numbers, n-grams of numbers one 64-bit
integer, so that a million captions are counted in some tens of megabytes, a shard at a time.

    counted = Counting(seed=0)
    for table in iter_tables(folder, ["uid", "captions"]):
        counted.add(names, texts)
    counted.diversity()
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from tasks.shards import item_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

N = (1, 2, 3)
"""Lengths of the n-grams that are counted."""

SAMPLE = 4000
"""Captions that a set keeps at most for comparisons at equal size."""

_BITS = 21
"""Bits of a word's number: three of them make an integer of 63. Two million words are enough for
any language; what comes after is one word, "another"."""


def words_of(text: str) -> list[str]:
    """A caption's words: runs of letters and digits in lower case, "t-shirt" and "man's" whole."""
    return re.findall(r"\w+(?:[-'’]\w+)*", text.lower())


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """A set of captions in numbers."""

    captions: int
    """How many there are."""
    distinct_1: float
    """Different words as a share of all words (Li et al., NAACL 2016)."""
    distinct_2: float
    """The same of pairs of neighbouring words within a caption."""
    distinct_3: float
    """The same of three neighbouring words."""
    vocabulary: int
    """Different words."""
    mean_length: float
    """Words a caption."""
    repeated: float
    """Share of captions that say word for word what one before them has said."""


class Counting:
    """Counts the captions of a set, as they come.

    Args:
        seed: Of the choice of the sample.
        sample: Captions to keep for comparisons; see `at_equal_size`.
    """

    def __init__(self, seed: int = 0, sample: int = SAMPLE) -> None:
        self._seed, self._most = seed, sample
        self._number: dict[str, int] = {}
        self._grams: list[NDArray[np.int64]] = [np.empty(0, np.int64) for _ in N]
        self._totals = [0 for _ in N]
        self._captions = 0
        self._sentences: NDArray[np.uint64] = np.empty(0, np.uint64)
        # A heap of the lowest, by their negated hash: the highest of them stands first.
        self._sample: list[tuple[int, str, str]] = []

    def add(self, names: Sequence[str], texts: Sequence[str]) -> None:
        """Count some captions.

        Args:
            names: What each is called, in the whole set once: its uid and number.
            texts: The captions; those without a word are passed over.
        """
        spoken = [(name, words_of(text)) for name, text in zip(names, texts, strict=True)]
        spoken = [(name, words) for name, words in spoken if words]
        if not spoken:
            return
        number = self._number
        most = 2**_BITS - 1
        ids = np.array(
            [min(number.setdefault(w, len(number)), most) for _, words in spoken for w in words],
            np.int64,
        )
        lengths = np.array([len(words) for _, words in spoken])
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(ids))
        code = np.zeros(len(ids), np.int64)
        for place, n in enumerate(N):
            # The n-gram that starts at each word, where the caption has so many words left.
            code = (code[: len(ids) - n + 1] << _BITS) | ids[n - 1 :]
            found = code[left[: len(code)] >= n]
            self._totals[place] += len(found)
            self._grams[place] = np.union1d(self._grams[place], found)
        self._captions += len(spoken)
        said = [_hash(" ".join(words)) for _, words in spoken]
        self._sentences = np.union1d(self._sentences, np.array(said, np.uint64))
        for name, words in spoken if self._most else ():
            entry = (-item_seed(name, self._seed, "diversity"), name, " ".join(words))
            if len(self._sample) < self._most:
                heapq.heappush(self._sample, entry)
            elif entry > self._sample[0]:
                heapq.heapreplace(self._sample, entry)

    def diversity(self) -> Diversity:
        """The numbers of everything that was counted."""
        one, two, three = (
            len(grams) / total if total else 0.0
            for grams, total in zip(self._grams, self._totals, strict=True)
        )
        count = self._captions
        return Diversity(
            captions=count,
            distinct_1=one,
            distinct_2=two,
            distinct_3=three,
            vocabulary=len(self._number),
            mean_length=self._totals[0] / count if count else 0.0,
            repeated=1 - len(self._sentences) / count if count else 0.0,
        )

    def sample(self, count: int = SAMPLE) -> list[str]:
        """Up to ``count`` captions of the set, the same ones in whatever order they came.

        As words with single spaces between; a smaller sample is the start of a larger one.
        """
        lowest = sorted(self._sample, reverse=True)[:count]
        return [text for _, _, text in lowest]


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def measure(texts: Sequence[str]) -> Diversity:
    """The diversity of captions that are at hand."""
    counting = Counting(sample=0)
    counting.add([""] * len(texts), texts)
    return counting.diversity()


def at_equal_size(sets: Mapping[str, Counting]) -> dict[str, Diversity]:
    """Measure several sets on as many captions each: those of the smallest, `SAMPLE` at most.

    Sets without a caption are left out.
    """
    samples = {name: counting.sample() for name, counting in sets.items()}
    samples = {name: texts for name, texts in samples.items() if texts}
    size = min((len(texts) for texts in samples.values()), default=0)
    return {name: measure(texts[:size]) for name, texts in samples.items()}


def covered(wanted: Iterable[str], by: Iterable[str]) -> float:
    """Share of the words of some captions that occur in others, counted as often as they stand.

    How much of what people say about the target a model has read before; 0 where nothing is
    wanted.
    """
    known = {word for text in by for word in words_of(text)}
    counts = Counter(word for text in wanted for word in words_of(text))
    total = counts.total()
    return sum(count for word, count in counts.items() if word in known) / total if total else 0.0
