"""Counted by hand, and against the slow and obvious way."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.diversity import Counting, Diversity, at_equal_size, covered, measure, words_of

sentences = st.lists(st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join), max_size=12)


def slowly(texts: list[str]) -> Diversity:
    spoken = [text.split() for text in texts if text.split()]
    shares = []
    for n in (1, 2, 3):
        grams = [tuple(words[i : i + n]) for words in spoken for i in range(len(words) - n + 1)]
        shares.append(len(set(grams)) / len(grams) if grams else 0.0)
    words = [word for sentence in spoken for word in sentence]
    return Diversity(
        captions=len(spoken),
        distinct_1=shares[0],
        distinct_2=shares[1],
        distinct_3=shares[2],
        vocabulary=len(set(words)),
        mean_length=len(words) / len(spoken) if spoken else 0.0,
        repeated=1 - len({tuple(s) for s in spoken}) / len(spoken) if spoken else 0.0,
    )


def test_by_hand() -> None:
    found = measure(["A man in black.", "a man in Red", "a man, in black"])
    assert found == Diversity(
        captions=3,
        distinct_1=5 / 12,  # a, man, in, black, red
        distinct_2=4 / 9,  # a man, man in, in black, in red
        distinct_3=3 / 6,  # a man in, man in black, man in red
        vocabulary=5,
        mean_length=4.0,
        repeated=1 - 2 / 3,
    )


@given(sentences)
def test_like_the_slow_way(texts: list[str]) -> None:
    found, wanted = measure(texts), slowly(texts)
    assert vars(found) == pytest.approx(vars(wanted))


@given(sentences, st.integers(1, 5), st.randoms(use_true_random=False))
def test_neither_shards_nor_their_order_matter(texts: list[str], size: int, chance: Random) -> None:
    named = [(f"uid {n}", text) for n, text in enumerate(texts)]
    whole, parts = Counting(sample=4), Counting(sample=4)
    whole.add([n for n, _ in named], texts)
    chance.shuffle(named)
    for start in range(0, len(named), size):
        part = named[start : start + size]
        parts.add([n for n, _ in part], [t for _, t in part])
    assert parts.diversity() == whole.diversity()
    assert parts.sample() == whole.sample()
    assert whole.sample(2) == whole.sample()[:2]
    assert len(whole.sample()) == min(4, whole.diversity().captions)


def test_words_keep_their_hyphens_and_lose_their_stops() -> None:
    said = "A T-shirt, the man's (red) — naïve café no. 7!"
    assert words_of(said) == ["a", "t-shirt", "the", "man's", "red", "naïve", "café", "no", "7"]
    assert words_of("... !") == []


def test_sets_of_unlike_size_are_compared_on_as_many_captions() -> None:
    """The same ten sentences a hundred times are less distinct by their number alone."""
    texts = [f"a man in colour {n}" for n in range(10)]
    sets = {}
    for name, repeats in (("short", 10), ("long", 100)):
        sets[name] = Counting()
        said = texts * repeats
        sets[name].add([f"{name} {n}" for n in range(len(said))], said)
    alone = {name: counting.diversity() for name, counting in sets.items()}
    assert alone["short"].distinct_1 == 10 * alone["long"].distinct_1
    sets["silent"] = Counting()
    fair = at_equal_size(sets)
    assert set(fair) == {"short", "long"}
    assert fair["short"].captions == fair["long"].captions == 100
    assert fair["short"].distinct_1 == pytest.approx(fair["long"].distinct_1, rel=0.1)
    assert at_equal_size({}) == {}


def test_the_sample_is_spread_over_the_set() -> None:
    counting = Counting(seed=1, sample=200)
    counting.add([f"uid {n}" for n in range(2000)], [f"word{n // 1000}" for n in range(2000)])
    first_half = counting.sample().count("word0")
    assert 70 < first_half < 130  # 100, and four standard deviations of 7


def test_words_beyond_the_range_share_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.diversity._BITS", 2)
    found = measure(["a b c d e"])
    assert found.vocabulary == 5  # counted by name
    assert found.distinct_1 == 4 / 5  # d and e have the last number


def test_coverage_counts_words_as_often_as_they_stand() -> None:
    assert covered(["a man, a hat", "a crown"], ["A hat", "man"]) == 5 / 6
    assert covered([], ["x"]) == covered(["x"], []) == 0
