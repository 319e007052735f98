"""Ten thousand odd captions: no crash, spans that reproduce the text, and linear time."""

import random
import time
from functools import partial

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tasks.phrases import GROUPS, LONGEST_TOKEN, MAX_CHARACTERS, parse
from tasks.phrases.attributes import KINDS
from tasks.phrases.grammar import PREDICATE, chunks
from tasks.phrases.lexicon import TAG_OF, TAGS

ODD = 10_000


def check(caption, phrases):
    """Phrases lie in the text, reproduce it, in order and apart, and are of the closed sets."""
    end = 0
    for phrase in phrases:
        assert end <= phrase.start < phrase.end <= len(caption)
        assert caption[phrase.start : phrase.end] == phrase.text
        assert phrase.group in GROUPS
        assert phrase.head
        assert {kind for kind, _ in phrase.attributes} <= set(KINDS)
        end = phrase.end


WORDS = (
    "a the man black and white t - shirt , with no pair of bottle wearing left hand her : ' 's up "
    "back <b> </b> <br/> &amp; &#39; 12 2 ü 衣 . 🙂 -- / shirts shrit very t-shirt which is made "
    "leather w/ “ ” … ( ) blackpants polka dot knee length button sleeve cross walk â€™s Â redÂ"
)
WORDS = tuple(WORDS.split(" "))
SPACES = [" ", " ", " ", "", "\n", "\t", "\u00a0", "\u200b", "\u200f", "\u2028", "  "]
PLANES = [
    (0x20, 0x7F), (0x80, 0x250), (0x300, 0x370), (0x5D0, 0x700), (0x900, 0xE00), (0x2000, 0x2070),
    (0x2190, 0x2C00), (0x3000, 0x9FFF), (0xD800, 0xE000), (0xE000, 0xF900), (0xFE00, 0xFFFF),
    (0x10000, 0x12000), (0x1F300, 0x1FB00), (0xE0000, 0xE0200), (0x10FF00, 0x110000), (0x0, 0x20),
]  # fmt: skip


def characters(rng, count):
    """Characters of all planes, halves of surrogate pairs and controls included."""
    planes = [rng.choice(PLANES) for _ in range(3)]
    return "".join(chr(rng.randrange(*rng.choice(planes))) for _ in range(count))


def odd_caption(rng):
    """One odd caption, of a kind by chance."""
    kind = rng.randrange(9)
    if kind == 0:
        return characters(rng, rng.randrange(60))
    if kind == 1:
        return "".join(
            f"{rng.randrange(10 ** rng.randrange(1, 20))} " for _ in range(rng.randrange(9))
        )
    if kind == 2:  # markup around and inside
        words = rng.choices(WORDS, k=rng.randrange(1, 9))
        return "".join(f"<{rng.choice('bpi')} x='{w}'>{w}</{w}>&{w};" for w in words)
    if kind == 3:  # one very long token
        return rng.choice(["a", "é", "🙂", "x-", "red", "..", "'s", "1", "(("]) * rng.randrange(
            rng.choice([9, 9, 9, 60, 300])
        )
    if kind == 4:
        return rng.choice(list(TAG_OF)) * rng.randrange(3)
    pool = WORDS if kind < 7 else [*WORDS, *rng.sample(sorted(TAG_OF), 20)]
    words = rng.choices(pool, k=rng.randrange(40))
    text = "".join(word + rng.choice(SPACES) for word in words)
    if kind == 8:
        text = text.upper() + characters(rng, 5) + text[::-1]
    return text


def test_ten_thousand_odd_captions(nlp):
    rng = random.Random(0)
    captions = [odd_caption(rng) for _ in range(ODD)]
    assert "" in captions
    assert any("\ud800" <= c <= "\udfff" for text in captions for c in text)
    found = parse(nlp, captions)
    for caption, phrases in zip(captions, found, strict=True):
        check(caption, phrases)
    assert sum(map(bool, found)) > ODD / 3


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        st.text(st.characters(exclude_categories=()), max_size=200),
        st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join),
        st.lists(st.sampled_from(WORDS), max_size=60).map("".join),
    )
)
@example("a " * 2000)
@example("red " * 2000)
@example("zzz " * 2000 + "hat")
@example("red-" * 500)
@example("red-hat-" * 500)
@example("no pair of " * 500)
@example("very " * 1000)
@example("hair: a bottle of water: a pair of shoes: no")
@example(" \n\t ")
@example("\ud83d a red hat \udc00")
def test_spans_reproduce_the_text_of_any_caption(nlp, caption):
    check(caption, parse(nlp, [caption])[0])


def test_what_is_beyond_the_limit_is_not_read(nlp):
    caption = "a red hat " * 3000
    (phrases,) = parse(nlp, [caption])
    check(caption, phrases)
    assert phrases[-1].end <= MAX_CHARACTERS < len(caption)


def seconds(work):
    """Processor time of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


UNITS = [
    "a ", "red ", "red-", "red hat-", "no ", "no a ", "no red hat or ", "very ", "very cotton ",
    "pair of ", "a pair of ", "bottle of ", "a bottle ", "red and ", "red, ", "t-", "t ", "t - ",
    "zz ", "zz-", "hat ", "hat: ", "top - ", "shirt is ", "shirt is red ", "is made of ", "1 - ",
    "the the the ", "cotton ", "<b>", "<", "&amp;", "&", "â€™", "Â", "(", ".", "...", "'s", "-",
    "/", "a.", "ab.ab", ",", ":", "“", "\u200b", "\n", "🙂", "é", "W/O ", "in red ", "long sleeve ",
]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_the_time_is_linear_in_the_longest_caption(nlp, unit):
    caption = (unit * (MAX_CHARACTERS // len(unit)) + " a hat: no bottle of water")[
        -MAX_CHARACTERS:
    ]
    assert seconds(partial(parse, nlp, [caption])) < 1.0


@pytest.mark.parametrize("word", ["(", "🙂", "<", "'s", "&"])
def test_words_of_the_greatest_length_cost_little(nlp, word):
    """Spaces just often enough: the most that the tokenizer can be made to do."""
    run = word * (LONGEST_TOKEN // len(word)) + " "
    caption = run * (MAX_CHARACTERS // len(run))
    assert seconds(partial(parse, nlp, [caption])) < 2.0


def test_unknown_words_cost_little(nlp):
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(2800)]
    assert seconds(partial(parse, nlp, [" ".join(words)])) < 1.0


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_string_of_tags_is_slow(size):
    """Every unit of one and two tags, and some of three, repeated: bounded time a tag."""
    letters = [tag for tag in TAGS if tag != "_"]
    rng = random.Random(size)
    count = len(letters) ** size if size < 3 else 400
    units = {"".join(rng.choices(letters, k=size)) for _ in range(min(count * 4, 1500))}
    length = 240
    for unit in sorted(units)[:400]:
        tags = unit * (length // size) + "Z:JIQN-"

        def work(tags=tags):
            for _ in chunks(tags):
                pass
            for at in range(len(tags)):
                PREDICATE.match(tags, at)

        # About 10 to 30 microseconds a tag; a second try, for the machine may be busy.
        assert min(seconds(work), seconds(work)) < length * 250e-6, unit


def test_the_rest_of_an_endless_word_is_not_read(nlp):
    caption = "a red " + "hat," * 500 + " and a blue bag"
    (phrases,) = parse(nlp, [caption])
    check(caption, phrases)
    assert phrases[-1].text == "a blue bag"
    assert len(phrases) <= 52
