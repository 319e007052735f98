"""The embedded parser's tokenizer: English's, and what people forget to put a space around.

``shoes.he``, ``jeans,2 bags``, ``white&blue``, ``bag:none;hair:short``, ``<b>``, ``&amp;`` and the
remains of a curly quote that went through the wrong encoding (``womanâ€™s``) are cut where a reader
would cut them. Nothing is taken for an address: ``shirt.it`` is a shirt.

It is a plain spaCy ``Tokenizer`` and is saved with the pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spacy.symbols import ORTH
from spacy.tokenizer import Tokenizer
from spacy.util import compile_infix_regex, compile_prefix_regex, compile_suffix_regex

if TYPE_CHECKING:
    from spacy.language import Language

_WHOLE = (
    r"</?[A-Za-z][^<>\s]{0,40}>",  # markup
    r"&(?:amp|quot|apos|lt|gt|nbsp|#[0-9]{1,5});",
    r"â[€\x80][™\x99]s?(?![A-Za-z])",  # a curly apostrophe, UTF-8 read as Windows-1252 or Latin-1
    r"â[€\x80][^\sA-Za-z]",  # its relatives: other quotes and dashes
    r"Â(?![a-z])",  # what stood before a no-break space
)
_BETWEEN = (
    r"""[;|<>()\[\]{}"“”„«»&+*=!?,:•·~]""",
    r"(?<=[a-z]{2})\.(?=[A-Za-z]{2})",
    r"(?<=[A-Z]{2})\.(?=[A-Z]{2})",
)


def caption_tokenizer(nlp: Language) -> Tokenizer:
    """Make the tokenizer.

    Args:
        nlp: An English pipeline, for its vocabulary and rules.
    """
    rules = nlp.Defaults
    tokenizer = Tokenizer(
        nlp.vocab,
        rules=rules.tokenizer_exceptions,
        prefix_search=compile_prefix_regex([*_WHOLE, *(rules.prefixes or ())]).search,
        suffix_search=compile_suffix_regex([*_WHOLE, *(rules.suffixes or ())]).search,
        infix_finditer=compile_infix_regex([*_WHOLE, *_BETWEEN, *(rules.infixes or ())]).finditer,
    )
    for word in ("w/", "W/", "w/o", "W/O"):
        tokenizer.add_special_case(word, [{ORTH: word}])
    return tokenizer
