"""Grounding DINO behind the proposer's interface, on a tiny random model saved to a folder."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertTokenizerFast,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    SwinConfig,
)

from models.regions.grounding_dino import GroundingDino, build_prompt
from models.regions.proposals import Query, check_batch

WORDS = ["a", "man", "red", "shirt", "blue", "shoes", ".", "?", "pair", "of", "the", "woman", "bag"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("dino")
    vocabulary = root / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = BertTokenizerFast(vocab_file=str(vocabulary), vocab=str(vocabulary))
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=32, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
            window_size=2, out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=16,
        ),
        num_queries=12, encoder_layers=1, decoder_layers=2, d_model=32, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
        num_feature_levels=4, max_text_len=24,
    )  # fmt: skip
    torch.manual_seed(0)
    GroundingDinoForObjectDetection(config).save_pretrained(root)
    processor = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    GroundingDinoProcessor(processor, tokenizer).save_pretrained(root)
    return root


def picture(seed, size=(48, 24)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_prompt_ends_each_phrase_and_knows_where_it_stands():
    prompt = build_prompt(["A  Red shirt", "mr. x?", "..."])
    assert prompt.text == "a red shirt . mr x . thing ."
    assert [prompt.text[a:b] for a, b in prompt.spans] == ["a red shirt", "mr x", "thing"]


def test_a_box_belongs_to_the_phrase_whose_tokens_it_fits(folder):
    model = GroundingDino.from_pretrained(folder)
    # [CLS] a man . blue shoes . [SEP], phrases "a man" and "blue shoes"
    offsets = np.array([(0, 0), (0, 1), (2, 5), (6, 7), (8, 12), (13, 18), (19, 20), (0, 0)])
    chances = np.zeros((5, 24), np.float32)
    chances[0, 4] = 0.6  # blue
    chances[1, 2] = 0.9  # man
    chances[2, 3] = 0.8  # the full stop: nobody's
    chances[3, 1] = 0.35  # not above the threshold
    chances[4, [2, 5]] = 0.4, 0.5  # both; shoes more
    boxes = np.tile(np.array([0.5, 0.5, 0.2, 0.2], np.float32), (5, 1))
    boxes[:, 0] = np.arange(5) / 10
    found = model._assign(chances, boxes, offsets, ((0, 5), (8, 18)))
    assert found.phrase_N.tolist() == [0, 1, 1]
    assert found.scores_N.tolist() == pytest.approx([0.9, 0.6, 0.5])
    assert found.boxes_N4[:, 0].tolist() == pytest.approx([0.1, 0.0, 0.4])


def test_a_batch_gives_what_single_images_give(folder):
    model = GroundingDino.from_pretrained(folder, box_threshold=0, text_threshold=0, batch_size=2)
    images = [picture(0), picture(1, (64, 40)), picture(2), picture(3)]
    queries = [
        [Query("a man"), Query("a pair of blue shoes")],
        [Query("the woman")],
        [],
        [Query("a red bag"), Query("a shirt")],
    ]
    together = model.propose(images, queries)
    assert len(together[2]) == 0
    for image, phrases, found in zip(images, queries, together, strict=True):
        (alone,) = model.propose([image], [phrases])
        assert len(found) == len(alone)
        assert set(found.phrase_N.tolist()) <= set(range(len(phrases)))
        assert np.all((found.boxes_N4 >= 0) & (found.boxes_N4 <= 1))
        assert np.all(np.diff(found.scores_N) <= 0)
        np.testing.assert_allclose(found.scores_N, alone.scores_N, atol=1e-4)
    assert len(together[0]) == 12


def test_thresholds_leave_out(folder):
    low = GroundingDino.from_pretrained(folder, box_threshold=0, text_threshold=0)
    (found,) = low.propose([picture(0)], [[Query("a man"), Query("a bag")]])
    limit = float(np.median(found.scores_N))
    high = GroundingDino.from_pretrained(folder, box_threshold=limit, text_threshold=0)
    (left,) = high.propose([picture(0)], [[Query("a man"), Query("a bag")]])
    assert 0 < len(left) < len(found)
    assert np.all(left.scores_N > limit)


def test_a_detector_that_lacks_a_tensor_is_not_loaded(folder, tmp_path):
    """Its box head is shared between the decoder's layers and stands once in the file."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    lost = next(key for key in tensors if key.endswith("level_embed"))
    save_file({k: v for k, v in tensors.items() if k != lost}, tmp_path / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(ValueError, match=rf"1 missing \({lost}\)"):
        GroundingDino.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot load the detector"):
        GroundingDino.from_pretrained(tmp_path)


def test_phrases_beyond_the_prompts_length_get_no_box(folder):
    model = GroundingDino.from_pretrained(folder, box_threshold=0, text_threshold=0)
    (found,) = model.propose([picture(0)], [[Query("a red bag")] * 20])
    assert found.phrase_N.max() < 6  # 24 tokens: [CLS], 4 a phrase, [SEP]


def test_bad_batches_are_refused():
    with pytest.raises(ValueError, match="1 images and 2 lists"):
        check_batch([picture(0)], [[], []])
    with pytest.raises(ValueError, match=r"float64 \(4, 4, 3\)"):
        check_batch([np.zeros((4, 4, 3))], [[]])
