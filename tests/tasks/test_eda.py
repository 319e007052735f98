"""EDA: the operations by hand, and that a prompt follows from its uid alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import eda
from tasks.eda import (
    delete_words,
    expand_prompts,
    insert_synonyms,
    lexicon,
    lexicon_revision,
    replace_synonyms,
    swap_words,
    table_synonyms,
    vary,
    words_of,
)
from tasks.errors import PedAlignError

CAPTION = "A man wearing a black jacket, blue jeans and white shoes."


def only(word: str, *others: str):
    return lambda asked: others if asked == word else ()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_cleaning_keeps_letters_only():
    text = "The girl's  back-pack\tis RED\n(no. 7) — ok!"
    assert words_of(text) == ["the", "girls", "back", "pack", "is", "red", "no", "ok"]
    assert words_of("１２３ 4!") == []


def test_a_synonym_replaces_the_word_everywhere_and_stop_words_stay():
    words = ["the", "coat", "on", "the", "coat"]
    assert replace_synonyms(words, 3, rng(), only("coat", "jacket")) == (
        ["the", "jacket", "on", "the", "jacket"]
    )
    assert replace_synonyms(words, 3, rng(), only("the", "a")) == words


def test_at_most_so_many_words_are_replaced():
    words = ["coat", "hat", "bag"]
    made = replace_synonyms(words, 2, rng(), lambda word: (f"{word}x",))
    assert sum(word.endswith("x") for word in made) == 2


def test_insertion_adds_the_first_synonym():
    made = insert_synonyms(["coat", "coat"], 2, rng(), only("coat", "jacket", "blazer"))
    assert Counter(made)["jacket"] >= 1
    assert len(made) == 4
    assert "blazer" not in made
    assert insert_synonyms(["zip"], 2, rng(), only("coat", "jacket")) == ["zip"]


def test_synonyms_of_two_words_become_two_words():
    assert replace_synonyms(["bag"], 1, rng(), only("bag", "carrier bag")) == ["carrier", "bag"]


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=9), st.integers(0, 99))
def test_swaps_keep_the_words_and_deletion_keeps_their_order(words, seed):
    assert sorted(swap_words(words, 3, rng(seed))) == sorted(words)
    kept = delete_words(words, 0.9, rng(seed))
    assert kept
    rest = iter(words)
    assert all(word in rest for word in kept)


def test_one_swap_exchanges_two_places():
    words = ["a", "b", "c", "d"]
    assert sum(x != y for x, y in zip(words, swap_words(words, 1, rng()), strict=True)) == 2


def test_the_papers_twenty_prompts():
    made = expand_prompts(CAPTION, "00ff", 7, synonyms=table_synonyms)
    assert len(made) == 20
    assert made[-1] == (CAPTION, "original")
    operations = Counter(variant.operation for variant in made[:-1])
    assert set(operations) == {"synonym", "insert", "swap", "delete"}
    # Five of each were made and one of the twenty was dropped.
    assert sorted(operations.values()) == [4, 5, 5, 5]


def test_twenty_prompts_a_caption_over_a_set_the_caption_among_them():
    captions = ["A red coat.", "A red coat.", "coat", "", "12 !", CAPTION]
    made = [
        expand_prompts(caption, f"u/{at}", 0, synonyms=table_synonyms)
        for at, caption in enumerate(captions)
    ]
    assert sum(len(prompts) for prompts in made) == 20 * len(captions)
    # The published set: 68,126 captions, 1,362,520 prompts.
    assert 20 * 68_126 == 1_362_520
    for caption, prompts in zip(captions, made, strict=True):
        assert prompts[-1] == (caption, "original")
    # Nothing is taken out: the same caption twice is forty prompts, a short one repeats itself.
    assert made[0] != made[1]
    assert len({variant.text for variant in made[2]}) < 20
    assert {variant.text for variant in made[4]} == {"12 !"}


def test_prompts_follow_from_uid_and_seed_alone():
    first = expand_prompts(CAPTION, "00ff", 7, synonyms=table_synonyms)
    assert expand_prompts(CAPTION, "00ff", 7, synonyms=table_synonyms) == first
    assert expand_prompts(CAPTION, "00fe", 7, synonyms=table_synonyms) != first
    assert expand_prompts(CAPTION, "00ff", 8, synonyms=table_synonyms) != first


def test_one_variant_takes_each_operation_a_quarter_of_the_time():
    generator = rng()
    seen = Counter(
        vary(CAPTION, generator, alpha=0.1, count=1, synonyms=table_synonyms)[0].operation
        for _ in range(400)
    )
    assert set(seen) == {"synonym", "insert", "swap", "delete"}
    assert min(seen.values()) > 60


@pytest.mark.parametrize("text", ["", "  ", "黒いコート", "42 !?", "😀"])
def test_a_text_without_latin_letters_stays(text):
    assert vary(text, rng(), alpha=0.5, count=3, synonyms=table_synonyms) == (
        [(text, "original")] * 3
    )


@given(st.text(max_size=60), st.integers(0, 9))
def test_any_text_gives_as_many_variants_as_asked(text, seed):
    made = vary(text, rng(seed), alpha=0.5, count=5, synonyms=table_synonyms)
    assert len(made) == 5
    assert all(variant.text.strip() or not text.strip() for variant in made)


def test_the_table_is_symmetric_and_names_no_word_its_own_synonym():
    for word in eda.table_words():
        for other in table_synonyms(word):
            assert other != word
            assert word in table_synonyms(other)


def test_asking_for_an_absent_wordnet_is_an_error(monkeypatch):
    monkeypatch.setattr(eda, "wordnet_installed", lambda: False)
    with pytest.raises(PedAlignError, match="synonyms to table"):
        lexicon("wordnet")
    assert lexicon("auto") is table_synonyms
    monkeypatch.setattr(eda, "wordnet_installed", lambda: True)
    assert lexicon("auto") is eda.wordnet_synonyms


def test_the_table_has_a_revision_of_its_own(monkeypatch):
    monkeypatch.setattr(eda, "wordnet_installed", lambda: False)
    assert lexicon_revision("table") == lexicon_revision("auto") == "table"
