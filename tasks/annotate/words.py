"""The paper's object-word ablation: one list of words that every picture is asked for.

The words are the most frequent head nouns of the target's train captions. Unusual: a caption that
many pictures share counts, and is parsed, once; and no other split is looked at, for what a model
is trained on must not know the captions it is tested by.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from tasks.errors import PedAlignError
from tasks.phrases import Phrase, parse
from tasks.phrases.chunking import said_of
from tasks.schemas import OK
from tasks.shards import iter_tables
from tasks.target import TRAIN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spacy.language import Language


@dataclass(frozen=True)
class Word:
    """A word that is looked for in every picture."""

    text: str
    group: str
    """The group in which its phrases are most often."""
    count: int
    """How many phrases of the captions have it for their head noun."""

    def phrase(self) -> Phrase:
        """The word as a phrase, which stands in no caption."""
        said = said_of((self.text,), 0, self.text, self.group)
        return Phrase(self.text, -1, -1, self.text, self.group, *said)


def frequent_words(target: Path, nlp: Language, count: int) -> tuple[Word, ...]:
    """Count the head nouns of a dataset's train captions.

    Args:
        target: Folder of shards of ``images``.
        nlp: From `tasks.phrases.load_parser`.
        count: How many words.

    Returns:
        The most frequent first, the alphabet deciding between equals.

    Raises:
        PedAlignError: The captions name nothing.
    """
    heads: Counter[str] = Counter()
    groups: Counter[tuple[str, str]] = Counter()
    for captions in tqdm(_new_captions(target), desc="words", unit="shard"):
        for phrases in parse(nlp, captions):
            heads.update(phrase.head for phrase in phrases)
            groups.update((phrase.head, phrase.group) for phrase in phrases)
    if not heads:
        raise PedAlignError(
            f"{target}: no noun in any train caption",
            "annotate.phrases: words asks for the most frequent nouns of the target's train split",
            "set inputs.words to a set with captions, or annotate.phrases to parser",
        )
    chosen = sorted(heads, key=lambda head: (-heads[head], head))[:count]
    # The last one given counts: a head's most frequent group.
    usual = dict(sorted(groups, key=lambda of: (-groups[of], of[1]), reverse=True))
    return tuple(Word(head, usual[head], heads[head]) for head in chosen)


def _new_captions(target: Path) -> Iterator[list[str]]:
    """Give the train captions shard by shard, each distinct one once."""
    seen: set[bytes] = set()  # digests: a million captions need no more memory than their number
    for table in iter_tables(target, ["split", "status", "captions"]):
        fresh: dict[bytes, str] = {}
        for row in table.to_pylist():
            if row["split"] == TRAIN and row["status"] == OK:
                fresh |= {
                    hashlib.blake2b(text.encode(), digest_size=8).digest(): text
                    for text in row["captions"]
                }
        yield [text for key, text in fresh.items() if key not in seen]
        seen |= fresh.keys()


def as_meta(words: tuple[Word, ...]) -> list[dict[str, Any]]:
    """The words as a manifest records them."""
    return [{"word": word.text, "group": word.group, "count": word.count} for word in words]
