"""spaCy component ``pedalign_tagger``: one tag character a token, for person descriptions.

Unusual: it is no statistical model. Words are looked up in `tasks.phrases.lexicon` by their hash,
one dictionary access a token; only the few words whose tag depends on their neighbours ("her left
hand", "to the left") are visited in Python. The tag goes to ``token.tag_``, the universal part of
speech to ``token.pos_``, so the rest of spaCy works on top of it.

Run alone: ``python -m tasks.phrases "a man in a red shirt"``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from spacy.attrs import LOWER, POS, SPACY, TAG
from spacy.language import Language
from spacy.parts_of_speech import IDS

from tasks.phrases.lexicon import (
    ACTION_MODIFIERS,
    ACTION_THINGS,
    BARE_IDIOMS,
    NOUN_OR_VERB,
    TAG_OF,
    TAGS,
    guess,
    wordset,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spacy.tokens import Doc
    from spacy.vocab import Vocab

_NOUNISH = frozenset("NXJCAMBQnfkpqvcwx#")
_ADJECTIVAL = frozenset("DCAMR#")
_TRANSITIVE = wordset(
    """wearing holding carrying pushing pulling having showing covering using wears dressed
    clad carried with displaying featuring sporting donning"""
)
_PARTICLES = wordset("button buttoned zip zipped lace laced pull rolled pinned done made")
_WEAR_KINDS = wordset(
    """sports sport foot leisure casual under rain swim outer active formal office head"""
)
_HYPHENS = frozenset(["-", "–", "—", "/", "‐", "‑", "−", "_"])

# Provisional codes of words that `_settle` decides; every other code is final (see TAGS).
_SPECIAL = (
    dict.fromkeys(NOUN_OR_VERB, "n")
    | dict.fromkeys(BARE_IDIOMS & {"hand", "foot", "home"}, "f")
    | dict.fromkeys(("left", "right"), "l")
    | dict.fromkeys(("up", "down"), "u")
    | dict.fromkeys(_HYPHENS, "y")
    | {"back": "k", "top": "p", "picture": "p", "camera": "q", "cut": "c", "cuts": "c"}
    | {"wear": "w", "t": "T", "cross": "x", "crossing": "n", "parking": "n"}
    | {",": ",", ";": ".", ":": ":", ".": ".", "：": ":", "，": ","}
)
_UNSETTLED = re.compile("[vnfluykpqcwxTX]")


def _provisional(word: str) -> str:
    if word in _SPECIAL:
        return _SPECIAL[word]
    if word.isspace() or not word:
        return "_"
    tag = TAG_OF.get(word) or guess(word)
    if tag == "V" and word.endswith(("ing", "ed")):
        return "v"
    if tag == "X" and len(word) == 1:
        return "A"  # v neck, u shape
    return tag


class PhraseTagger:
    """Assigns tags by lexicon, spelling and neighbours.

    Attributes:
        words: Words added to the lexicon or overriding it, word -> key of `TAGS`.
    """

    def __init__(self, vocab: Vocab, words: Mapping[str, str]) -> None:
        """Prepare the table of word hashes.

        Raises:
            ValueError: An added word has a tag that is not a key of `TAGS`.
        """
        wrong = {w: t for w, t in words.items() if t not in TAGS}
        if wrong:
            raise ValueError(
                f"pedalign_tagger: unknown tags {wrong}; a tag is one of {''.join(TAGS)}; "
                "correct the `words` setting"
            )
        self.words = dict(words)
        self._strings = vocab.strings
        self._code: dict[int, str] = {}
        for word in [*TAG_OF, *_SPECIAL, *words]:
            key = vocab.strings.add(word)
            self._code[key] = words.get(word) or _provisional(word)
        for tag in TAGS:
            vocab.strings.add(tag)
        self._row = {t: (vocab.strings[t], IDS[pos]) for t, (pos, _) in TAGS.items()}

    def __call__(self, doc: Doc) -> Doc:
        """Set ``tag`` and ``pos`` of every token."""
        if not len(doc):
            return doc
        values = doc.to_array([LOWER, SPACY])
        keys = values[:, 0].tolist()
        code = self._code
        try:
            tags = [code[key] for key in keys]
        except KeyError:
            tags = [code.get(key) or self._learn(key) for key in keys]
        joined = "".join(tags)
        if _UNSETTLED.search(joined):
            spaced = values[:, 1].tolist()
            for match in _UNSETTLED.finditer(joined):
                i = match.start()
                tags[i] = self._settle(i, tags, keys, spaced)
        row = self._row
        table = np.array([row[t] for t in tags], dtype=np.uint64)
        doc.from_array([TAG, POS], table)
        return doc

    def _learn(self, key: int) -> str:
        if len(self._code) > 500_000:  # a stream of rubbish must not fill the memory
            for old in list(self._code)[len(TAG_OF) + 1000 :]:
                del self._code[old]
        tag = self._code[key] = _provisional(self._strings[key])
        return tag

    def _settle(self, i: int, tags: list[str], keys: list[int], spaced: list[int]) -> str:
        """Decide the tag of token `i`; tokens before it are final, those after provisional."""
        code = tags[i]
        before = tags[i - 1] if i else "."
        after = tags[i + 1] if i + 1 < len(tags) else "."
        if code == "X":
            if before == "W" or (before == "N" and after == "D"):
                return "V"
            return "X"
        if code == "y":
            joint = i > 0 and not spaced[i - 1] and not spaced[i] and after != "."
            return "h" if joint else "-"
        if code == "l":
            return "A" if after in "NJXfnk" or (after == "A" and before == "D") else "B"
        if code == "f":
            bare = before == "P" and after not in _NOUNISH
            return "B" if bare else "N"
        if code == "u":
            word = self._strings[keys[i - 1]] if i else ""
            puffy = word in _PARTICLES or (before in "DCA" and self._strings[keys[i]] == "down")
            return "A" if after in "NCMAXJ" and puffy else "P"
        if code == "v":
            return self._participle(i, before, after, tags, keys)
        return self._noun_or_not(code, before, after, i, keys)

    def _noun_or_not(self, code: str, before: str, after: str, i: int, keys: list[int]) -> str:
        previous = self._strings[keys[i - 1]] if i else ""
        if code == "k":
            if after == "I":
                return "B"
            return "N" if before in _ADJECTIVAL or previous == "on" or after == "N" else "P"
        if code == "p":
            return "B" if after == "I" or previous == "on" else "N"
        if code == "q":  # "facing the camera": the one that took the picture
            return "B" if previous in {"the", "from"} else "N"
        if code == "c":
            return "N" if before in "DCAMNJh" and previous != "hair" else "V"
        if code == "x":  # a cross body bag
            return "A" if before in _ADJECTIVAL and after in _NOUNISH else "V"
        if code == "w":
            return "N" if previous in _WEAR_KINDS else "V"
        if code == "T":
            return "t" if after in "Ny-" else "A"
        # Nouns that are verbs as well: "the man ties his hair", "a shirt and tie".
        if before == "W" or (before in "NXb" and after in "DCAMR"):
            return "V"
        acts = self._strings[keys[i]] in {"faces", "heads", "crossing"}
        return "V" if acts and before in "NXb" else "N"

    def _participle(self, i: int, before: str, after: str, tags: list[str], keys: list[int]) -> str:
        """Verb, or modifier of the noun that follows ("running shoes", "ripped jeans")."""
        word = self._strings[keys[i]]
        if before == "h":
            return "A"
        if word in _TRANSITIVE:
            return "V"
        if after == "u" and i + 2 < len(tags):
            after = tags[i + 2]
        if word.endswith("ing"):
            if after not in _NOUNISH:
                return "V"
            following = self._strings[keys[i + 1]]
            kind = word in ACTION_MODIFIERS and following in ACTION_THINGS
            return "A" if before in _ADJECTIVAL or kind else "V"
        if after in _NOUNISH:
            return "A" if before in "DCAMR#V,&PBo.-" else "V"
        return "A" if after in ",&" and before in "DCAR" else "V"


@Language.factory(
    "pedalign_tagger", default_config={"words": {}}, assigns=["token.tag", "token.pos"]
)
def make_tagger(nlp: Language, name: str, words: dict[str, str]) -> PhraseTagger:
    """Factory of `PhraseTagger`; ``words`` is kept in the pipeline's config.cfg."""
    del name
    return PhraseTagger(nlp.vocab, words)
