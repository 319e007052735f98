"""The shipped Swin and BERT: they load where training needs them, and saw no target."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.mra import MRA, MRAConfig
from tasks.base.pool import draw_pool
from tasks.base.retrieval import (
    CLASSES,
    COLOUR_FAMILIES,
    CoarseClassifier,
    coarse_labels,
    draw_captions,
    masked_batch,
    new_bert,
    new_swin,
    new_tokenizer,
)
from tasks.tokens import Words, load_tokenizer
from tasks.world.attributes import COLOURS

SWIN, BERT = Path("models/tiny/swin"), Path("models/tiny/bert")


def test_shipped_weights_fill_a_tiny_model():
    model = MRA.from_config(
        MRAConfig(
            image_size=(96, 48), vision_dim=48, depths=(2, 2), vision_heads=(2, 4), window_size=6,
            vocab_size=len(load_tokenizer(BERT)), text_dim=128, text_layers=2, fusion_layers=2,
            text_heads=4, text_inner_dim=512, max_positions=64, max_tokens=48, embed_dim=256,
        )
    )  # fmt: skip
    report = model.load_starting_weights(SWIN, BERT)
    assert report["resized"] == []
    assert all(
        "crossattention" in name
        or name.startswith(("vision_proj", "text_proj", "itm_head", "temp"))
        for name in report["new"]
    )
    assert any(name.startswith("vision_encoder") for name in report["loaded"])
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("folder", [SWIN, BERT])
def test_training_is_recorded_and_saw_no_target(folder):
    record = json.loads((folder / "training.json").read_text())
    assert set(record["looks"]) <= {"source", "random"}
    assert "tasks.base.retrieval" in record["command"]
    assert record["images"] + record.get("captions", 0) > 0


def test_the_vocabulary_spells_any_english_text():
    words = Words(load_tokenizer(BERT), 128)
    text = "An extraordinarily zigzagged poncho, (size 42) worn by Mr. O'Neil & co. — qwxz"
    ids, _ = words.encode([text])
    unknown = words.tokenizer.unk_token_id
    # Only the dash, which no English keyboard has, is unknown.
    assert (ids == unknown).sum() == 1
    captions = draw_captions(200, 0.5, 77)
    ids, mask = words.encode(captions)
    assert not (ids == unknown).any()
    assert mask.sum(1).mean() < 35


def test_a_vocabulary_is_the_same_each_time(tmp_path):
    captions = draw_captions(50, 0.5, 3)
    for name in "ab":
        new_tokenizer(captions, tmp_path / name)
    assert (tmp_path / "a/vocab.txt").read_bytes() == (tmp_path / "b/vocab.txt").read_bytes()


def test_masked_batches_fit_the_bert(tmp_path):
    captions = draw_captions(20, 0.5, 3)
    words = Words(new_tokenizer(captions, tmp_path), 48)
    ids, mask, labels = masked_batch(captions[:4], words, np.random.default_rng(0))
    assert ids.shape == mask.shape == labels.shape
    logits = new_bert(len(words.continues))(input_ids=ids, attention_mask=mask).logits
    assert logits.shape == (*ids.shape, len(words.continues))


def test_coarse_labels_fit_the_heads():
    assert set(COLOUR_FAMILIES) == set(COLOURS)
    labels = coarse_labels(draw_pool(12, 0.5, 5))
    logits = CoarseClassifier(new_swin())(torch.zeros(2, 3, 96, 48))
    assert set(labels) == set(logits) == set(CLASSES)
    for name, values in labels.items():
        assert values.shape == (12,)
        assert int(values.max()) < logits[name].shape[1] == CLASSES[name]
