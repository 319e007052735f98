"""Captions to ids and masking: the released clean-up, whole words, counts and replacements."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import PedAlignError
from tasks.tokens import IGNORED, Masking, Words, clean_caption, load_tokenizer
from tests.encoders import save_spelling_clip

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "recipe" / "recipe.json"


@pytest.fixture(scope="module")
def words(text_folder) -> Words:
    return Words(load_tokenizer(text_folder), 16)


def test_cleaning_by_hand():
    text = "A Girl's back-pack, RED/blue & 2 bags."
    assert clean_caption(text, "raw", 56) == text
    assert clean_caption(text, "alphanumeric", 56) == "a girl s back pack red blue 2 bags "
    assert clean_caption("one two  three", "raw", 2) == "one two"


@pytest.mark.skipif(not GOLDEN.exists(), reason="the released numbers are not on this machine")
def test_cleaning_equals_the_released():
    for entry in json.loads(GOLDEN.read_text())["captions"]:
        cleaning = "alphanumeric" if entry["icfg_rstp"] else "raw"
        assert clean_caption(entry["caption"], cleaning, entry["max_words"]) == entry["out"]


def test_captions_are_padded_and_cut(words):
    ids, mask = words.encode(["a man", "a red coat " * 20, ""])
    assert ids.shape == mask.shape == (3, 16)
    assert mask.sum(1).tolist() == [4, 16, 2]
    assert (ids[mask == 0] == words.pad_id).all()
    assert (ids[:, 0] == words.tokenizer.cls_token_id).all()
    assert ids[1, -1] == words.sep_id


@pytest.mark.parametrize("text", ["😀 <b>red</b>", "x" * 500, "黒いコート", "naïve café\u0000\n"])
def test_any_text_can_be_encoded(words, text):
    ids, _ = words.encode([text])
    assert ((ids >= 0) & (ids < len(words.continues))).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.0, 0.2, 1.0]))
def test_masking_keeps_its_promises(text_folder, seed, pads, skipgram):
    words = Words(load_tokenizer(text_folder), 16)
    ids = words.encode(["the walking man in a redcoat"])[0][0]
    rng = np.random.default_rng(seed)
    masked, labels = words.mask(ids, rng, Masking(pads=pads, skipgram=skipgram))
    chosen = labels != IGNORED
    assert not chosen[0]
    assert (labels[chosen] == ids[chosen]).all()
    assert (masked[~chosen] == ids[~chosen]).all()
    pieces = int((ids != words.pad_id).sum())
    # 16 places with pads and [SEP]: 4; else a quarter of the pieces without [SEP].
    assert chosen.sum() == (4 if pads else max(1, round((pieces - 1) * 0.25)))
    if not pads:
        assert not chosen[pieces - 1 :].any()


def test_ten_places_are_the_most(words):
    ids = np.full(60, words.tokenizer.convert_tokens_to_ids("red"))
    _, labels = words.mask(ids, np.random.default_rng(0), Masking(pads=True))
    assert (labels != IGNORED).sum() == 10


def test_a_whole_word_is_masked_together(words):
    ids = words.encode(["man walking"])[0][0]
    walk = words.tokenizer.convert_tokens_to_ids(["walk", "##ing"])
    at = [ids.tolist().index(piece) for piece in walk]
    masking = Masking(share=0.5, skipgram=0.0)  # two of [CLS] man walk ##ing
    together = 0
    for seed in range(60):
        _, labels = words.mask(ids, np.random.default_rng(seed), masking)
        hit = [labels[place] != IGNORED for place in at]
        together += all(hit)
        # One of the two alone is left only where "man" was drawn first and one place remained.
        assert all(hit) or labels[at[0] - 1] != IGNORED
    assert together > 20


def test_eighty_ten_ten(words):
    ids = np.full(401, words.tokenizer.convert_tokens_to_ids("red"))
    masked, labels = words.mask(ids, np.random.default_rng(0), Masking(1.0, 400, pads=True))
    chosen = labels != IGNORED
    assert chosen.sum() == 400
    share = (masked[chosen] == words.mask_id).mean()
    kept = (masked[chosen] == ids[chosen]).mean()
    assert 0.74 < share < 0.86
    assert 0.06 < kept < 0.15


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path):
    with pytest.raises(PedAlignError, match=r"vocab\.txt"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_may_hold_a_piece_twice(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "a", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    words = Words(load_tokenizer(tmp_path), 6)
    ids, _ = words.encode(["a mans"])
    assert words.continues[ids[0]].tolist() == [False, False, False, True, False, False]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    save_spelling_clip(folder)
    return folder


def test_clips_tokenizer_starts_ends_and_pads(clip):
    words = Words(load_tokenizer(clip), 8)
    ids, mask = words.encode(["a Man", "", "abcdefghij", "aman"])
    known = words.tokenizer.get_vocab()
    start, end = known["<|startoftext|>"], known["<|endoftext|>"]
    spelled = [known[piece] for piece in ("a</w>", "m", "a", "n</w>")]
    assert ids[0].tolist() == [start, *spelled, end, end, end]
    assert mask.sum(1).tolist() == [6, 2, 8, 6]
    assert ids[1].tolist() == [start, *[end] * 7]
    # A text that is cut keeps its end, whose token is the feature.
    assert ids[2, -1] == end == words.sep_id == words.pad_id
    assert (ids[2, 1:-1] < start).all()
    long, _ = Words(load_tokenizer(clip), 77).encode(["x" * 500])
    assert long.shape == (1, 77)
    assert long[0, -1] == end


def test_clips_words_are_not_masked(clip, text_folder):
    words = Words(load_tokenizer(clip), 8)
    assert not words.masks
    assert Words(load_tokenizer(text_folder), 8).masks
    with pytest.raises(PedAlignError, match="mlm_weight to 0, or start from a BERT"):
        words.mask(words.encode(["a man"])[0][0], np.random.default_rng(0), Masking())


def test_clips_tokenizer_is_known_in_every_layout(clip, tmp_path):
    """As it was saved here, as older versions saved it, and as a checkpoint has it."""
    tokenizer = load_tokenizer(clip)
    assert type(tokenizer).__name__ == "CLIPTokenizer"
    tokenizer.save_pretrained(str(tmp_path / "checkpoint"))
    old = tmp_path / "old"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    (old / "merges.txt").write_text("#version: 0.2\n")
    expected = tokenizer(["a man - walks."])["input_ids"]
    for folder in (tmp_path / "checkpoint", old):
        loaded = load_tokenizer(folder)
        assert type(loaded) is type(tokenizer)
        assert loaded(["a man - walks."])["input_ids"] == expected


def test_berts_tokenizer_is_no_clip(text_folder, tmp_path):
    assert type(load_tokenizer(text_folder)).__name__ == "BertTokenizer"
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(PedAlignError, match=r"neither tokenizer\.json nor vocab"):
        load_tokenizer(tmp_path)
