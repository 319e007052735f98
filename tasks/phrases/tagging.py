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

from tasks.phrases.lexicon import GROUP_OF, TAG_OF, TAGS, guess
from tasks.phrases.vocabulary import (
    ACTION_MODIFIERS,
    ACTION_THINGS,
    BARE_IDIOMS,
    HYPHENS,
    NOUN_OR_VERB,
    wordset,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spacy.tokens import Doc
    from spacy.vocab import Vocab

_NOUNISH = frozenset("NXJCAMBQnfkpqvcwxLsmgzKd#")
_ADJECTIVAL = frozenset("DCAMR#")
_TRANSITIVE = wordset(
    """wearing holding carrying pushing pulling having showing covering using wears dressed
    clad carried with displaying featuring sporting donning"""
)
_PARTICLES = wordset("button buttoned zip zipped lace laced pull rolled pinned done made")
_WEAR_KINDS = wordset(
    """sports sport foot leisure casual under rain swim outer active formal office head"""
)
_ACTS = wordset("faces heads crossing steps shops bikes cycles skates phones boards exits poses")
_PARTS_SAID = wordset(
    """long short half full quarter v u crew round scoop high low turtle polo boat wide straight
    open cowl mock deep square stand roll"""
)
"""What stands before a part of a garment that describes the garment: a long sleeve navy shirt."""
_LENGTHS = wordset("knee ankle shoulder waist hip thigh calf floor chin")

# Provisional codes of words that `_settle` decides; every other code is final (see TAGS).
_SPECIAL: dict[str, str] = (
    dict.fromkeys((*NOUN_OR_VERB, *_ACTS), "n")
    | dict.fromkeys(BARE_IDIOMS & {"hand", "foot", "home"}, "f")
    | dict.fromkeys(("left", "right"), "l")
    | dict.fromkeys(("up", "down"), "u")
    | dict.fromkeys(HYPHENS, "y")
    | dict.fromkeys(("sleeve", "neck", "leg", "heel", "toe"), "s")
    | dict.fromkeys(_LENGTHS, "m")
    | dict.fromkeys(("button", "lace"), "L")
    | dict.fromkeys('"“”„«»', "_")
    | dict.fromkeys(("adult", "child", "teenager", "teen", "kid", "elder", "youth"), "d")
    | {"length": "g", "walk": "z", "case": "K", "=": ":"}
    | {"back": "k", "top": "p", "picture": "p", "camera": "q", "cut": "c", "cuts": "c"}
    | {"wear": "w", "t": "T", "cross": "x", "crossing": "n", "parking": "n"}
    | {",": ",", ";": ".", ":": ":", ".": ".", "：": ":", "，": ","}
)
_UNSETTLED = re.compile("[vnfluykpqcwxTXsmLgzKd]")


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
        if len(doc):
            row = self._row
            table = np.array([row[t] for t in self.tags_of(doc)], dtype=np.uint64)
            doc.from_array([TAG, POS], table)
        return doc

    def tags_of(self, doc: Doc) -> list[str]:
        """The tag of every token; the document stays as it is."""
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
        return tags

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
            acts = before == "N" and after in "PRV" and self._strings[keys[i]].endswith("s")
            return "V" if acts and self._is_person(keys[i - 1]) else "X"
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
            # "with the sleeves rolled up": of the sleeves, not of what follows.
            apart = i > 1 and tags[i - 1] == "A" and tags[i - 2] in "NX"
            if apart:
                return "P"
            puffy = word in _PARTICLES or (before in "DCA" and self._strings[keys[i]] == "down")
            return "A" if after in "NCMAXJ" and puffy else "P"
        if code == "v":
            return self._participle(i, before, after, tags, keys)
        if code in "smgL":
            return self._part_or_length(code, before, after, i, tags, keys)
        return self._noun_or_not(code, before, after, i, keys)

    def _is_person(self, key: int) -> bool:
        return GROUP_OF.get(self._strings[key]) == "person"

    def _part_or_length(
        self, code: str, before: str, after: str, i: int, tags: list[str], keys: list[int]
    ) -> str:
        """Parts of garments and of the body, which name a length or describe the garment, too."""
        strings = self._strings
        previous = strings[keys[i - 1]] if i else ""
        following = strings[keys[i + 1]] if i + 1 < len(keys) else ""
        if code == "m":  # shoulder length dark hair, knee high boots
            return "M" if following in {"length", "high", "long"} else "N"
        if code == "g":
            return "A" if before in "MAh" and after in _NOUNISH and after != "B" else "B"
        if code == "L":  # a button up shirt
            further = tags[i + 2] if i + 2 < len(tags) else "."
            return "M" if after == "u" and further in _NOUNISH else "N"
        if before in "h-" and i > 1:
            previous = strings[keys[i - 2]]
        describes = before in "Ah-" and previous in _PARTS_SAID
        return "A" if describes and (after in _NOUNISH or after == "T") else "N"

    def _noun_or_not(self, code: str, before: str, after: str, i: int, keys: list[int]) -> str:
        previous = self._strings[keys[i - 1]] if i else ""
        if code == "d":  # age: adult
            key = i > 1 and before == ":" and self._strings[keys[i - 2]] == "age"
            return "A" if key else "N"
        if code == "z":
            return "N" if previous == "cross" else "B"
        if code == "K":  # a black case; in this case
            return "N" if before in "CANMJ" or previous == "a" else "B"
        if code == "k":
            if after == "I":
                return "B"
            return "N" if before in _ADJECTIVAL or previous == "on" or after == "N" else "P"
        if code == "p":
            shows = self._strings[keys[i]] == "picture" and after in "vVbP" and before == "D"
            return "B" if after == "I" or previous == "on" or shows else "N"
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
        acts = self._strings[keys[i]] in _ACTS
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
