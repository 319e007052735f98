"""Captions as people typed them, made safe to store without changing what they say.

Control characters, markup and odd white space go; every word stays. Text that looks wrong but
might be right (mojibake, code fragments, literal escapes, another script, all of which
RSTPReid holds) is kept and counted: a curator decides, not a regular expression.
"""

from __future__ import annotations

import html
import re
import unicodedata

import ftfy.badness

_TAG = re.compile(r"<(?:!--.*?--|/?[a-zA-Z][^<>]*|![a-zA-Z][^<>]*)>", re.DOTALL)
_SPACE = re.compile(r"\s+")
_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\[nrt]\b")
_CODE = re.compile(r"[{}]|;\s*$|==|\bfunction\s*\(|=>|</|\breturn\b.*;|\w\(\)")
_CJK = re.compile(r"[　-ヿ㐀-鿿가-힯＀-￯]")
_JOINER = "\u200d"  # holds the parts of one emoji together

ODDITIES = ("mojibake", "escape", "code", "cjk", "long", "short")
"""What `oddities` looks for."""

LONG, SHORT = 200, 3
"""Captions of more or fewer words than this are odd; the benchmarks' mean is 23 to 37."""


def clean_caption(text: str) -> str:
    """Strip control characters and markup, and make white space single spaces.

    Idempotent: a cleaned caption is left alone.

    Args:
        text: Any string, also with lone surrogates.

    Returns:
        Its words; empty if there are none.
    """
    text = _visible(text)
    while "<" in text or "&" in text:
        # Entities may hide markup and markup may hide entities, so to the fixed point.
        bare = _visible(_TAG.sub(" ", html.unescape(text)))
        if bare == text:
            break
        text = bare
    return _SPACE.sub(" ", text).strip()


def _visible(text: str) -> str:
    if text.isascii() and text.isprintable():  # nearly all captions
        return text
    return "".join(_shown(character) for character in unicodedata.normalize("NFC", text))


def _shown(character: str) -> str:
    kind = unicodedata.category(character)
    if character.isspace() or kind in {"Zl", "Zp"}:
        return " "
    # Cc control, Cs lone surrogate, Cn unassigned, Co private, Cf invisible formatting.
    return "" if kind[0] == "C" and character != _JOINER else character


def oddities(text: str) -> list[str]:
    """Name what looks wrong in a cleaned caption, out of `ODDITIES`."""
    words = text.count(" ") + 1
    looks = {
        "mojibake": not text.isascii() and bool(ftfy.badness.is_bad(text)),
        "escape": bool(_ESCAPE.search(text)),
        "code": bool(_CODE.search(text)),
        "cjk": not text.isascii() and bool(_CJK.search(text)),
        "long": words > LONG,
        "short": words < SHORT,
    }
    return [name for name, found in looks.items() if found]
