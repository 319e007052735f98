"""Lines of styled words: what fits, what is cut, and that no text stops the pen."""

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from tasks.lettering import PLAIN, Run, Style, clean, font, lay_out, leading, wrap, write

RED, DOTS = Style("#ff0000", bold=True), Style("#00ff00", dotted=True)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300), st.integers(40, 400), st.integers(1, 5))
def test_wrapped_text_fits_and_loses_nothing_but_its_end(text, width, lines):
    found = wrap(text, width, 16, lines)
    assert len(found) <= lines
    # Only a letter alone may be wider than the line.
    assert all(font(16).getlength(line) <= width or len(line) <= 2 for line in found)
    whole = "".join("".join(found).split())
    given_text = "".join(clean(text).split())
    if found and found[-1].endswith("…"):
        whole = whole[:-1]
    assert given_text.startswith(whole)


def test_stretches_keep_their_style_over_the_end_of_a_line():
    text = "a man in a red shirt"
    (line,) = lay_out(text, {(0, 5): RED, (11, 20): DOTS}, 1000, 16, 3)
    assert line == [Run("a man", RED), Run(" in a ", PLAIN), Run("red shirt", DOTS)]
    # Room for "a red" and not for "a red shirt".
    first, second = lay_out("a red shirt", {(0, 11): RED}, 80, 16, 3)
    assert (first, second) == ([Run("a red", RED)], [Run("shirt", RED)])


def test_the_first_of_two_stretches_counts_where_they_overlap():
    (line,) = lay_out("abcd", {(1, 3): RED, (0, 4): DOTS, (-1, -1): PLAIN, (9, 99): RED}, 99, 16, 1)
    assert line == [Run("a", DOTS), Run("bc", RED), Run("d", DOTS)]


def test_no_text_breaks_a_line_or_turns_the_next_one():
    assert clean("a\nb\u202ec\ud800d\x00") == "a b c d "
    assert wrap("one\ntwo", 500, 16, 2) == ["one two"]
    assert lay_out("", {}, 100, 16, 3) == lay_out("words", {}, 100, 16, 0) == []


def test_written_words_and_dots_have_their_colours():
    sheet = Image.new("RGB", (200, 60), "white")
    lines = lay_out("red dots", {(0, 3): RED, (4, 8): DOTS}, 200, 16, 2)
    end = write(ImageDraw.Draw(sheet), (3, 2), lines, 16)
    assert end == 2 + leading(16)
    colours = {colour for _, colour in sheet.getcolors(1 << 20)}
    assert {(255, 0, 0), (0, 255, 0)} <= colours
    below = sheet.crop((0, round(2 + 1.16 * 16), 200, 60))
    assert (255, 0, 0) not in {colour for _, colour in below.getcolors(1 << 20)}
    assert (0, 255, 0) in {colour for _, colour in below.getcolors(1 << 20)}
