"""Captions to phrases: the parts of a sentence that a person could point at in the picture.

Two parsers, one result. The *embedded* one is ``spacy.blank("en")`` with two components of this
project (`tagging`, `chunking`), needs no download and is built for captions as people write them.
A *trained* one (``en_core_web_sm``, any spaCy package or folder) gives noun chunks, which `repair`
mends. Either is a plain spaCy ``Language``: ``parser.to_disk(folder)`` and ``spacy.load(folder)``
work, the factories being found through the package's entry points or by importing this module.

Unusual: every distinct caption is parsed once. Texts are cut at `MAX_CHARACTERS` and words at
`LONGEST_TOKEN`, so no caption can stall a shard.

Run alone: ``python -m tasks.phrases "a man in a red shirt and white sneakers"``.
"""

from __future__ import annotations

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import spacy
from spacy.tokenizer import Tokenizer

from tasks.errors import PedAlignError
from tasks.phrases.attributes import KINDS, Attribute
from tasks.phrases.chunking import Phrase, PhraseChunker
from tasks.phrases.lexicon import GROUPS
from tasks.phrases.repair import NounChunkRepair
from tasks.phrases.tagging import PhraseTagger
from tasks.phrases.tokenizing import caption_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from spacy.language import Language

__all__ = [
    "EMBEDDED",
    "GROUPS",
    "KINDS",
    "LONGEST_TOKEN",
    "MAX_CHARACTERS",
    "Attribute",
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

OWN = ("pedalign_chunker", "pedalign_noun_chunks")
"""This project's components that set ``doc._.phrases``; a pipeline has one of them."""

MAX_CHARACTERS = 20_000
"""What is read of one caption. Longer ones are not descriptions of a person."""


LONGEST_TOKEN = 200
"""Characters without a space from which the rest is not read: spaCy's tokenizer takes the square of
their number."""

_HALVES = re.compile("[\ud800-\udfff]")
_ENDLESS = re.compile(rf"(?<!\S)(\S{{{LONGEST_TOKEN}}})(\S{{3,}})")


def embedded_parser(
    words: Mapping[str, str] | None = None, groups: Mapping[str, str] | None = None
) -> Language:
    """Build the embedded pipeline.

    Args:
        words: Words to add to its lexicon, word -> tag (see `tasks.phrases.lexicon.TAGS`).
        groups: Nouns -> group (one of `GROUPS`); what has no tag in ``words`` is a noun.

    Returns:
        A spaCy pipeline of a tokenizer, ``pedalign_tagger`` and ``pedalign_chunker``.
    """
    nlp = spacy.blank("en")
    nlp.tokenizer = caption_tokenizer(nlp)
    groups = dict(groups or {})
    nouns = {noun: "N" for noun in groups if " " not in noun}
    nlp.add_pipe("pedalign_tagger", config={"words": {**nouns, **(words or {})}})
    nlp.add_pipe("pedalign_chunker", config={"groups": groups})
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
    if set(OWN) & set(nlp.component_names):
        return nlp
    parses = any("token.dep" in nlp.get_pipe_meta(pipe).assigns for pipe in nlp.pipe_names)
    if not parses or nlp.vocab.get_noun_chunks is None:
        raise PedAlignError(
            f"annotate.parser is {name!r}, a {nlp.lang!r} pipeline of {nlp.pipe_names}",
            "noun chunks need a trained syntactic parser, and rules for them in spaCy",
            f"use a pipeline such as en_core_web_sm, or set annotate.parser to {EMBEDDED}",
        )
    for unused in {"ner", "lemmatizer"} & set(nlp.pipe_names):
        nlp.disable_pipe(unused)
    if type(nlp.tokenizer) is Tokenizer and nlp.lang == "en":
        nlp.tokenizer = caption_tokenizer(nlp)
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
    if processes > 1 and len(distinct) > batch_size:
        shares = [distinct[at : at + batch_size] for at in range(0, len(distinct), batch_size)]
        # Not by forking: the caller may have threads. Not spaCy's own way: it sends documents.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, _adopt, (nlp,)) as pool:
            phrases = [found for share in pool.map(_parse_share, shares) for found in share]
    else:
        phrases = _phrases(nlp, distinct, batch_size)
    found = dict(zip(distinct, phrases, strict=True))
    return [list(found[text]) for text in texts]


def _phrases(nlp: Language, texts: Sequence[str], batch_size: int) -> list[list[Phrase]]:
    whole = [_readable(text) for text in texts]
    without = {name: {"spans": False} for name in OWN}
    docs = nlp.pipe(whole, batch_size=batch_size, component_cfg=without)
    return [
        doc._.phrases
        if text == read
        else [replace(p, text=text[p.start : p.end]) for p in doc._.phrases]
        for text, read, doc in zip(texts, whole, docs, strict=True)
    ]


def _readable(text: str) -> str:
    """A text of the same length that spaCy reads in a time linear in it."""
    # Half a character (a command line that is no UTF-8, a cut JSON escape) is none to spaCy.
    text = _HALVES.sub("\ufffd", text)
    if len(text) <= LONGEST_TOKEN:
        return text
    return _ENDLESS.sub(lambda run: run[1] + " . ".ljust(len(run[2])), text)


_adopted: list[Language] = []
"""The pipeline of a worker process."""


def _adopt(nlp: Language) -> None:
    _adopted[:] = [nlp]


def _parse_share(texts: Sequence[str]) -> list[list[Phrase]]:
    return _phrases(_adopted[0], texts, len(texts))


def phrases_of(caption: str, parser: str = EMBEDDED) -> list[dict[str, Any]]:
    """The phrases of one caption as plain objects, for the command line.

    Args:
        caption: Any text.
        parser: See `load_parser`.

    Returns:
        One mapping a phrase: text, start, end, head, group, colours, attributes.
    """
    (phrases,) = parse(load_parser(parser), [caption])
    return [p.record() for p in phrases]
