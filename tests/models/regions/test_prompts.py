"""Prompts for Grounding DINO, and from its tokens back to words of the caption."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GroundingDinoProcessor
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
    GroundingDinoImageProcessorPil,
)

from benchmarks.random_detectors import bert_tokenizer
from models.regions.prompts import (
    Prompt,
    caption_prompts,
    clean_phrase,
    find_words,
    join_phrases,
    lower,
    named_span,
    phrase_prompts,
)

ODD = st.text(
    st.one_of(
        st.sampled_from("aAbB .,?!-'İßẞΣé\u0301\u200d\u00a0\n\t[]😀中…’"),
        st.characters(codec="utf-8"),
    ),
    max_size=60,
)


@pytest.fixture(scope="module")
def tokenizer():
    return bert_tokenizer()


def read(tokenizer, prompt, firing, threshold=0.5):
    """The words named by a box to which the given tokens answer: {token's text: probability}."""
    tokens = tokenizer(prompt.text, return_offsets_mapping=True)
    offsets = np.array(tokens["offset_mapping"])
    chances = np.zeros(len(offsets), np.float32)
    for n, (start, end) in enumerate(offsets):
        chances[n] = firing.get(prompt.text[start:end], 0.0)
    span = named_span(find_words(prompt, offsets), chances, threshold)
    return None if span is None else prompt.text[slice(*span)]


# ------------------------------------------------------------------ phrases in


def test_a_prompt_ends_each_phrase_and_knows_where_it_stands():
    prompt = join_phrases([clean_phrase(of) for of in ("A  Red shirt", "mr. x?", "...")])
    assert prompt.text == "a red shirt . mr x . thing ."
    assert [prompt.text[a:b] for a, b in prompt.spans] == ["a red shirt", "mr x", "thing"]
    assert prompt.owners == (0, 1, 2)


def test_tokens_are_those_of_the_librarys_processor(tokenizer):
    phrases = ["A man", "Red  T-shirt", "a pair of blue shoes"]
    processor = GroundingDinoProcessor(GroundingDinoImageProcessorPil(), tokenizer)
    theirs = processor(text=[phrases], return_tensors="np")["input_ids"][0]
    ((prompt,),) = phrase_prompts(tokenizer, [phrases], 256)
    assert tokenizer(prompt.text)["input_ids"] == theirs.tolist()


def test_phrases_beyond_a_prompt_go_to_the_next(tokenizer):
    phrases = ["a red shirt", "a hat", "the man", "a bag", "a pair of blue shoes"]
    # [CLS] and [SEP], then a token a word and a full stop a phrase: 4 + 3 fit 10, 3 more do not.
    prompts, none = phrase_prompts(tokenizer, [phrases, []], 10)
    assert [prompt.text for prompt in prompts] == [
        "a red shirt . a hat .",
        "the man . a bag .",
        "a pair of blue shoes .",
    ]
    assert [prompt.owners for prompt in prompts] == [(0, 1), (2, 3), (4,)]
    assert none == []


def test_the_same_words_are_asked_once(tokenizer):
    ((prompt,),) = phrase_prompts(tokenizer, [["a hat", "a bag", "A  HAT."]], 64)
    assert prompt.text == "a hat . a bag ."
    assert prompt.owners == (0, 1)


def test_a_phrase_longer_than_a_prompt_loses_its_end_alone(tokenizer):
    (prompts,) = phrase_prompts(tokenizer, [["a hat", "a red and white striped shirt", "bag"]], 8)
    assert [prompt.text for prompt in prompts] == ["a hat .", "a red and white striped .", "bag ."]
    # Not in the middle of a word, unless that word is all of it.
    (prompts,) = phrase_prompts(tokenizer, [["a red xyz shirt"]], 7)
    assert prompts[0].text == "a red ."
    (prompts,) = phrase_prompts(tokenizer, [["abcdefgh"]], 7)
    assert prompts[0].text == "abcd ."


@given(st.lists(st.lists(ODD, max_size=6), max_size=3), st.integers(5, 24))
@settings(max_examples=60, deadline=None)
def test_any_phrases_fit_and_each_is_asked_once(tokenizer, phrases, limit):
    found = phrase_prompts(tokenizer, phrases, limit)
    for of, prompts in zip(phrases, found, strict=True):
        asked = [owner for prompt in prompts for owner in prompt.owners]
        assert asked == sorted(set(asked))
        texts = {prompt.text[slice(*span)] for prompt in prompts for span in prompt.spans}
        assert len(texts) == len(asked)
        for prompt in prompts:
            assert len(tokenizer(prompt.text)["input_ids"]) <= limit
            for (start, end), owner in zip(prompt.spans, prompt.owners, strict=True):
                assert clean_phrase(of[owner]).startswith(prompt.text[start:end])
                assert prompt.text[end : end + 3].strip() == "."


# ------------------------------------------------------------------ captions in


def test_a_caption_is_lowered_and_ended(tokenizer):
    captions = ["A MAN in red", "  He wears a hat . ", "", " ...", "a bag?"]
    found = [[prompt.text for prompt in of] for of in caption_prompts(tokenizer, captions, 64)]
    assert found == [["a man in red."], ["he wears a hat ."], [], [], ["a bag?."]]


def test_a_long_caption_is_cut_after_sentences_else_before_words(tokenizer):
    caption = "A man in a hat. He wears a red shirt. The bag and the black and white striped shoes"
    (prompts,) = caption_prompts(tokenizer, [caption], 11)
    assert [prompt.text for prompt in prompts] == [
        "a man in a hat.",
        "he wears a red shirt.",
        "the bag and the black and white striped.",
        "shoes.",
    ]
    for prompt in prompts:
        piece = caption[prompt.start : prompt.start + prompt.end]
        assert piece.lower() == prompt.text[: prompt.end]
        assert len(tokenizer(prompt.text)["input_ids"]) <= 11


def test_lowering_changes_no_position():
    assert lower("İSTANBUL Straße") == "İstanbul straße"
    assert lower("[SEP] and [CLS]") == "[sep] and [cls]"


@given(ODD, st.integers(5, 24))
@settings(max_examples=200, deadline=None)
def test_any_caption_is_covered_and_its_spans_lie_inside(tokenizer, caption, limit):
    (prompts,) = caption_prompts(tokenizer, [caption], limit)
    before = 0
    for prompt in prompts:
        assert prompt.start >= before
        before = prompt.start + prompt.end
        assert before <= len(caption)
        assert prompt.text[: prompt.end] == lower(caption)[prompt.start : before]
        tokens = tokenizer(prompt.text, return_offsets_mapping=True)
        assert len(tokens["input_ids"]) <= limit
        words = find_words(prompt, np.array(tokens["offset_mapping"]))
        for n in range(len(tokens["input_ids"])):
            chances = np.zeros(len(tokens["input_ids"]), np.float32)
            chances[n] = 1.0
            span = named_span(words, chances, 0.5)
            assert (span is None) == (words.word_T[n] < 0)
            if span is not None:
                text = caption[prompt.start + span[0] : prompt.start + span[1]]
                assert text
                assert text == text.strip()
                assert any(letter.isalnum() for letter in text)
    covered = "".join(caption[p.start : p.start + p.end] for p in prompts)
    # What no prompt holds has no letter in it that the tokenizer reads.
    if prompts:
        assert sum(map(str.isascii, filter(str.isalnum, covered))) == sum(
            map(str.isascii, filter(str.isalnum, caption))
        )


# ------------------------------------------------------------------ words out


def test_words_that_fire_side_by_side_are_a_phrase(tokenizer):
    prompt = Prompt("a man in a red shirt, with a bag.", end=32)
    assert read(tokenizer, prompt, {"red": 0.9, "shirt": 0.6}) == "red shirt"
    assert read(tokenizer, prompt, {"bag": 0.9, "red": 0.6}) == "bag"
    assert read(tokenizer, prompt, {"bag": 0.5}) is None


def test_a_single_silent_word_is_bridged(tokenizer):
    prompt = Prompt("red and white shirt in the black hat.", end=36)
    assert read(tokenizer, prompt, {"red": 0.6, "white": 0.7, "shirt": 0.9}) == (
        "red and white shirt"
    )
    assert read(tokenizer, prompt, {"shirt": 0.9, "black": 0.8}) == "shirt"
    # But not over punctuation: those are two things.
    prompt = Prompt("a bag, red shoes.", end=16)
    assert read(tokenizer, prompt, {"bag": 0.6, "shoes": 0.9}) == "shoes"


def test_a_word_is_taken_whole(tokenizer):
    prompt = Prompt("a blue t-shirt, sneakers.", end=24)
    assert read(tokenizer, prompt, {"t": 0.9}) == "t-shirt"
    # "sneakers" is spelt here: s ##n ##e ...
    assert read(tokenizer, prompt, {"k": 0.9}) == "sneakers"


def test_no_phrase_goes_over_a_full_stop(tokenizer):
    prompt = Prompt("a man in red. a hat.", end=20)
    assert read(tokenizer, prompt, {"red": 0.8, "a": 0.7, "hat": 0.6, ".": 0.9}) == "red"
    # Stops, commas and special tokens name nothing.
    assert read(tokenizer, prompt, {".": 0.9, "": 0.9}) is None


def test_an_accent_belongs_to_its_letter(tokenizer):
    for form in ("NFC", "NFD"):
        caption = unicodedata.normalize(form, "Café hat")
        ((prompt,),) = caption_prompts(tokenizer, [caption], 32)
        first = prompt.text[0]
        assert read(tokenizer, prompt, {first: 0.9}) == lower(caption[: -len(" hat")])
