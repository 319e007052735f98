"""Cleaning keeps the words; what looks wrong is named, not mended."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.ingest.captions import clean_caption, oddities


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a man\n\tin  red ", "a man in red"),
        ("a <b>red</b> coat<br/>and hat", "a red coat and hat"),
        ("<!-- x -->A man", "A man"),
        ("jeans &amp; shirt", "jeans & shirt"),
        ("&lt;script&gt;x()&lt;/script&gt; a man", "x() a man"),
        ("&amp;lt;b&amp;gt;bold", "bold"),
        ("height < 2 m and > 1 m", "height < 2 m and > 1 m"),
        ("null\x00byte\x1b[31m", "nullbyte[31m"),
        ("\ufeffa\u200b man\u202e", "a man"),
        ("a man \ud83d in red", "a man in red"),
        ("cafe\u0301", "café"),
        ("woman 👩‍🎓 in 黑色", "woman 👩‍🎓 in 黑色"),
        ("\u3000wide\u3000space", "wide space"),
        ("donâ€™t", "donâ€™t"),
        ("", ""),
        (" \n<br>\x07 ", ""),
    ],
)
def test_cleaning(raw, clean):
    assert clean_caption(raw) == clean


def test_five_hundred_words_stay():
    text = " ".join(f"word{i}" for i in range(500))
    assert clean_caption(text) == text
    assert oddities(text) == ["long"]


ANY = st.text(st.characters(), max_size=60)
PIECES = st.lists(
    st.sampled_from(
        ["<", ">", "&lt;", "&amp;", "&gt;", "b", " ", "\u0338", "/", "!--", "--", "lt;"]
    ),
    max_size=14,
).map("".join)


@given(ANY | PIECES)
def test_cleaning_twice_is_cleaning_once_and_the_result_can_be_stored(text):
    once = clean_caption(text)
    assert clean_caption(once) == once
    assert once == " ".join(once.split())
    assert not any(unicodedata.category(c) in {"Cc", "Cs"} for c in once)
    assert once.encode("utf-8").decode("utf-8") == once


@given(st.lists(st.text("abcdefghij,.-'", min_size=1), min_size=1, max_size=9))
def test_plain_words_all_stay(words):
    assert clean_caption("  ".join(words)).split() == words


@pytest.mark.parametrize(
    ("caption", "kinds"),
    [
        ("A man wears a red coat.", []),
        ("The man isnâ€™t wearing a hat", ["mojibake"]),
        (r"a man\u3002 with a bag", ["escape"]),
        ("function() { return x; } and a woman", ["code"]),
        ("The woman 穿 a coat today", ["cjk"]),
        ("man", ["short"]),
        ("50% off; a woman with blue jeans", []),
    ],
)
def test_oddities(caption, kinds):
    assert oddities(caption) == kinds
