"""Captions to phrases: the parts of a sentence that a person could point at in the picture.

Two parsers, one result. The *embedded* one is ``spacy.blank("en")`` with two components of this
project (`tagging`, `chunking`), needs no download and is built for captions as people write them.
A *trained* one (``en_core_web_sm``, any spaCy package or folder) gives noun chunks, which `repair`
mends. Either is a plain spaCy ``Language``: ``parser.to_disk(folder)`` and ``spacy.load(folder)``
work, the factories being found through the package's entry points or by importing this module.

Unusual: every distinct caption is parsed once, and texts are cut at `MAX_CHARACTERS`, so no caption
can stall a shard.

Run alone: ``python -m tasks.phrases "a man in a red shirt and white sneakers"``.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import spacy

from tasks.errors import PedAlignError
from tasks.phrases.chunking import Phrase, PhraseChunker
from tasks.phrases.lexicon import GROUPS
from tasks.phrases.repair import NounChunkRepair
from tasks.phrases.tagging import PhraseTagger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from spacy.language import Language

__all__ = [
    "EMBEDDED",
    "GROUPS",
    "NounChunkRepair",
    "Phrase",
    "PhraseChunker",
    "PhraseTagger",
    "embedded_parser",
    "load_parser",
    "parse",
    "phrases_of",
]

EMBEDDED = "embedded"
"""Name of the parser that needs no download."""

MAX_CHARACTERS = 20_000
"""What is read of one caption. Longer ones are not descriptions of a person."""


def embedded_parser(words: Mapping[str, str] | None = None) -> Language:
    """Build the embedded pipeline.

    Args:
        words: Words to add to its lexicon, word -> tag (see `tasks.phrases.lexicon.TAGS`).

    Returns:
        A spaCy pipeline of a tokenizer, ``pedalign_tagger`` and ``pedalign_chunker``.
    """
    nlp = spacy.blank("en")
    nlp.add_pipe("pedalign_tagger", config={"words": dict(words or {})})
    nlp.add_pipe("pedalign_chunker")
    return nlp


@lru_cache(maxsize=4)
def load_parser(name: str = EMBEDDED) -> Language:
    """Load a parser by name.

    Args:
        name: ``"embedded"``, a spaCy package, or a folder saved by ``Language.to_disk``.

    Returns:
        A pipeline that sets ``doc._.phrases``. A trained pipeline without this project's
        components gets the noun chunk repair appended.

    Raises:
        PedAlignError: There is no such package or folder, or it has no syntactic parser.
    """
    if name == EMBEDDED:
        return embedded_parser()
    try:
        nlp = spacy.load(name)
    except (OSError, ValueError) as error:
        raise PedAlignError(
            f"annotate.parser is {name!r}: {' '.join(str(error).split())[:200]}",
            f"it is {EMBEDDED!r}, an installed spaCy package or the folder of a saved pipeline",
            f"python -m spacy download {name}, or set annotate.parser to {EMBEDDED}",
        ) from error
    if not {"pedalign_chunker", "pedalign_noun_chunks"} & set(nlp.component_names):
        if "parser" not in nlp.pipe_names:
            raise PedAlignError(
                f"annotate.parser is {name!r}, a pipeline of {nlp.pipe_names}",
                "noun chunks need a trained syntactic parser",
                f"use a pipeline such as en_core_web_sm, or set annotate.parser to {EMBEDDED}",
            )
        for unused in {"ner", "lemmatizer"} & set(nlp.pipe_names):
            nlp.disable_pipe(unused)
        nlp.add_pipe("pedalign_noun_chunks", last=True)
    return nlp


def parse(
    nlp: Language, captions: Iterable[str], *, batch_size: int = 256, processes: int = 1
) -> list[list[Phrase]]:
    """Find the phrases of many captions; each distinct one is parsed once.

    Args:
        nlp: From `load_parser`.
        captions: Any text.
        batch_size: Captions handed to spaCy at a time.
        processes: Worker processes. Worth their start for a trained pipeline on many captions.

    Returns:
        The phrases of each caption, in the order of the captions and of the text.
    """
    texts = [caption[:MAX_CHARACTERS] for caption in captions]
    distinct = list(dict.fromkeys(texts))
    docs = nlp.pipe(distinct, batch_size=batch_size, n_process=processes)
    found: dict[str, Sequence[Phrase]] = {
        text: doc._.phrases for text, doc in zip(distinct, docs, strict=True)
    }
    return [list(found[text]) for text in texts]


def phrases_of(caption: str, parser: str = EMBEDDED) -> list[dict[str, Any]]:
    """The phrases of one caption as plain objects, for the command line.

    Args:
        caption: Any text.
        parser: See `load_parser`.

    Returns:
        One mapping a phrase: text, start, end, head, group, colours.
    """
    (phrases,) = parse(load_parser(parser), [caption])
    return [{**asdict(p), "colours": list(p.colours)} for p in phrases]
