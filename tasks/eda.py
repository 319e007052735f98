"""Easy Data Augmentation (Wei & Zou 2019) of captions: synonym, insertion, swap, deletion.

Two users: fine-tuning gives every caption one lightly changed twin (alpha 0.1), and the paper's
``generate`` mode of restyling expands every caption to 20 prompts (alpha 0.5, five of each
operation, 19 kept, and the caption itself; sec. 3.2, release: dataset/eda.py).

What is unusual: everything is drawn from a generator that the caller seeds from a uid, candidates
are sorted before a draw, and the lexicon is named by a parameter, so a prompt is the same on every
machine. WordNet knows no difference between a coat of wool and a coat of paint; the project's own
table (``synonyms.json``) holds words for people and clothes only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from tasks.errors import PedAlignError
from tasks.shards import item_seed

Lexicon = Callable[[str], tuple[str, ...]]
"""Gives the synonyms of a word, sorted and without the word itself."""

LexiconName = Literal["table", "wordnet", "auto"]
"""``table``: this project's; ``wordnet``: nltk's; ``auto``: WordNet where it is installed."""

_TABLE = Path(__file__).with_name("synonyms.json")
_TRIES = 10  # how often an insertion looks for a word that has a synonym

# fmt: off
STOP_WORDS = frozenset({
    "a", "about", "above", "after", "again", "against", "all", "am", "an", "and", "any", "are",
    "as", "at", "be", "because", "been", "before", "being", "below", "between", "both", "but",
    "by", "can", "did", "do", "does", "doing", "don", "down", "during", "each", "few", "for",
    "from", "further", "had", "has", "have", "having", "he", "her", "here", "hers", "herself",
    "him", "himself", "his", "how", "i", "if", "in", "into", "is", "it", "its", "itself", "just",
    "me", "more", "most", "my", "myself", "no", "nor", "not", "now", "of", "off", "on", "once",
    "only", "or", "other", "our", "ours", "ourselves", "out", "over", "own", "s", "same", "she",
    "should", "so", "some", "such", "t", "than", "that", "the", "their", "theirs", "them",
    "themselves", "then", "there", "these", "they", "this", "those", "through", "to", "too",
    "under", "until", "up", "very", "was", "we", "were", "what", "when", "where", "which",
    "while", "who", "whom", "why", "will", "with", "you", "your", "yours", "yourself",
    "yourselves",
})
# fmt: on


class Variant(NamedTuple):
    """One version of a caption."""

    text: str
    operation: str
    """``synonym``, ``insert``, ``swap``, ``delete`` or ``original``."""


# ------------------------------------------------------------------ lexicons


@cache
def _table() -> dict[str, tuple[str, ...]]:
    groups: list[list[str]] = json.loads(_TABLE.read_text(encoding="utf-8"))["groups"]
    found: dict[str, set[str]] = {}
    for group in groups:
        for word in group:
            found.setdefault(word, set()).update(group)
    return {word: tuple(sorted(others - {word})) for word, others in found.items()}


def table_synonyms(word: str) -> tuple[str, ...]:
    """Look a word up in this project's table of words for people and clothes."""
    return _table().get(word, ())


def table_words() -> frozenset[str]:
    """Every word of this project's table."""
    return frozenset(_table())


@cache
def wordnet_synonyms(word: str) -> tuple[str, ...]:
    """Look a word up in nltk's WordNet: the lemmas of all its synsets, letters only."""
    from nltk.corpus import wordnet

    lemmas = {lemma.name() for synset in wordnet.synsets(word) for lemma in synset.lemmas()}
    plain = (re.sub(r"[^a-z ]", "", re.sub(r"[_-]", " ", lemma.lower())) for lemma in lemmas)
    return tuple(sorted({text for text in plain if text.strip()} - {word}))


@cache
def wordnet_installed() -> bool:
    """Whether nltk and its WordNet data are both here."""
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except (ImportError, LookupError):
        return False
    return True


def lexicon(name: LexiconName) -> Lexicon:
    """Choose a lexicon.

    Raises:
        PedAlignError: WordNet is asked for and is not installed.
    """
    if name == "table" or (name == "auto" and not wordnet_installed()):
        return table_synonyms
    if not wordnet_installed():
        raise PedAlignError(
            "synonyms: wordnet, but nltk's WordNet is not installed",
            "the lexicon decides the texts, so it is never replaced silently",
            "pip install nltk && python -m nltk.downloader wordnet, or set synonyms to table",
        )
    return wordnet_synonyms


def lexicon_revision(name: LexiconName) -> str:
    """Say which lexicon a name stands for here: ``auto`` depends on what is installed."""
    if lexicon(name) is table_synonyms:
        return "table"
    from nltk.corpus import wordnet

    return f"WordNet {wordnet.get_version()}"


# ------------------------------------------------------------------ the four operations


def words_of(text: str) -> list[str]:
    """Clean a caption as EDA does: lower case, no apostrophes, all but letters become spaces."""
    text = text.lower().replace("’", "").replace("'", "")
    return re.sub(r"[^a-z]+", " ", text).split()


def _pick(rng: np.random.Generator, among: int) -> int:
    return int(rng.integers(among))


def replace_synonyms(
    words: list[str], times: int, rng: np.random.Generator, synonyms: Lexicon
) -> list[str]:
    """Replace up to ``times`` distinct words, wherever they stand, by a synonym each."""
    words = list(words)
    candidates = sorted({word for word in words if word not in STOP_WORDS})
    replaced = 0
    for at in rng.permutation(len(candidates)):
        word = candidates[at]
        others = synonyms(word)
        if others:
            other = others[_pick(rng, len(others))]
            words = [other if each == word else each for each in words]
            replaced += 1
        if replaced == times:
            break
    return " ".join(words).split()


def insert_synonyms(
    words: list[str], times: int, rng: np.random.Generator, synonyms: Lexicon
) -> list[str]:
    """Insert, ``times`` times, the first synonym of a random word at a random place."""
    words = list(words)
    for _ in range(times):
        for _ in range(_TRIES):
            others = synonyms(words[_pick(rng, len(words))])
            if others:
                words.insert(_pick(rng, len(words)), others[0])
                break
    return " ".join(words).split()


def swap_words(words: list[str], times: int, rng: np.random.Generator) -> list[str]:
    """Swap two random words, ``times`` times."""
    words = list(words)
    if len(words) > 1:
        for _ in range(times):
            a, b = rng.choice(len(words), 2, replace=False)
            words[a], words[b] = words[b], words[a]
    return words


def delete_words(words: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """Delete every word with probability ``share``; one always stays."""
    kept = [word for word, draw in zip(words, rng.random(len(words)), strict=True) if draw > share]
    return kept or [words[_pick(rng, len(words))]]


# ------------------------------------------------------------------ EDA


def vary(
    text: str, rng: np.random.Generator, *, alpha: float, count: int, synonyms: Lexicon
) -> list[Variant]:
    """Make ``count`` changed versions of a caption, the operations in equal parts.

    Args:
        text: The caption; its digits and punctuation are lost in the versions.
        rng: Drawn from in a fixed order.
        alpha: Share of the words that an operation touches; at least one word.
        count: Number of versions. 1 takes one of the four operations at random.
        synonyms: The lexicon.

    Returns:
        The versions; copies of the text, as ``original``, where it has no Latin letter.
    """
    words = words_of(text)
    if not words:
        return [Variant(text, "original")] * count
    times = max(1, int(alpha * len(words)))
    operations: list[tuple[str, Callable[[], list[str]]]] = [
        ("synonym", lambda: replace_synonyms(words, times, rng, synonyms)),
        ("insert", lambda: insert_synonyms(words, times, rng, synonyms)),
        ("swap", lambda: swap_words(words, times, rng)),
        ("delete", lambda: delete_words(words, alpha, rng)),
    ]
    if count == 1:
        # The same distribution as making one of each, shuffling and taking the first.
        name, make = operations[_pick(rng, len(operations))]
        return [Variant(" ".join(make()), name)]
    each = count // len(operations) + 1
    made = [Variant(" ".join(make()), name) for name, make in operations for _ in range(each)]
    return [made[at] for at in rng.permutation(len(made))[:count]]


def expand_prompts(
    caption: str,
    uid: str,
    seed: int,
    *,
    synonyms: Lexicon,
    alpha: float = 0.5,
    variants: int = 20,
) -> list[Variant]:
    """Expand a caption to the prompts of the paper's text-to-image mode (sec. 3.2).

    Args:
        caption: The caption, kept as the last prompt, unchanged.
        uid: Names the caption: the draws depend on it and on ``seed`` only.
        seed: The stage's seed.
        synonyms: The lexicon.
        alpha: Share of the words that an operation touches.
        variants: Number of prompts, the caption included.

    Returns:
        ``variants`` prompts.
    """
    rng = np.random.default_rng(item_seed(uid, seed, "eda"))
    changed = vary(caption, rng, alpha=alpha, count=variants - 1, synonyms=synonyms)
    return [*changed, Variant(caption, "original")]
