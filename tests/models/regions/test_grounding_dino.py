"""Grounding DINO behind the proposer's interface, on a tiny random model saved to a folder."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GroundingDinoProcessor
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoObjectDetectionOutput,
)

from models.regions.grounding_dino import Answer, GroundingDino, join
from models.regions.prompts import Prompt, phrase_prompts
from models.regions.proposals import (
    CaptionGrounder,
    Proposals,
    Query,
    check_batch,
    cut_boxes,
)

MAN, SHOES, BAG = Query("A man"), Query("a pair of blue shoes"), Query("the red bag")
CAPTION = "A MAN in a Red and white shirt, carrying the bag. He wears blue shoes"


@pytest.fixture(scope="module")
def folder(detectors):
    return detectors / "grounding-dino"


@pytest.fixture(scope="module")
def open_model(folder):
    """Every box of it passes."""
    return GroundingDino.from_pretrained(folder, box_threshold=0, text_threshold=0)


def same(one, other, atol=2e-4):
    np.testing.assert_allclose(one.scores_N, other.scores_N, atol=atol)
    np.testing.assert_allclose(one.boxes_N4, other.boxes_N4, atol=atol)
    assert one.phrase_N.tolist() == other.phrase_N.tolist()


def theirs(model, folder, image, text, threshold):
    """Scores, boxes (cx, cy, w, h) and labels as the library finds them, the surest first."""
    processor = GroundingDinoProcessor.from_pretrained(folder)
    inputs = processor(
        images=[image], text=text, input_data_format="channels_last", return_tensors="pt"
    )
    with torch.inference_mode():
        output = model.model(**inputs)
    (found,) = processor.post_process_grounded_object_detection(
        output, inputs["input_ids"], threshold=threshold, text_threshold=threshold
    )
    order = np.argsort(-found["scores"].numpy(), kind="stable")
    low, high = found["boxes"].numpy()[order].reshape(-1, 2, 2).transpose(1, 0, 2)
    boxes = np.concatenate([(low + high) / 2, high - low], axis=1)
    return found["scores"].numpy()[order], boxes, [found["text_labels"][n] for n in order]


# ------------------------------------------------------------------ beside the library


def test_boxes_and_scores_are_the_librarys(open_model, folder, picture):
    image = picture(0)
    (found,) = open_model.propose([image], [[MAN, SHOES, BAG]])
    scores, boxes, _ = theirs(
        open_model, folder, image, [["A man", "a pair of blue shoes", "the red bag"]], 0.0
    )
    assert len(found) == len(scores) == 12
    np.testing.assert_allclose(found.scores_N, scores, atol=1e-5)
    np.testing.assert_allclose(found.boxes_N4, cut_boxes(boxes), atol=1e-5)
    assert np.ptp(boxes, axis=0).min() > 0.1  # boxes of many places and sizes, not of one
    assert set(found.phrase_N.tolist()) == {0, 1, 2}


def test_thresholds_are_the_librarys(open_model, folder, picture):
    image = picture(3)
    scores, _, _ = theirs(open_model, folder, image, [["A man", "the red bag"]], 0.0)
    limit = float(scores[5] + scores[6]) / 2  # between two, where last bits decide nothing
    strict = GroundingDino.from_pretrained(folder, box_threshold=limit, text_threshold=0)
    strict.model.load_state_dict(open_model.model.state_dict())
    (found,) = strict.propose([image], [[MAN, BAG]])
    kept = theirs(strict, folder, image, [["A man", "the red bag"]], limit)[0]
    assert 4 <= len(found) <= 6
    np.testing.assert_allclose(found.scores_N, kept[: len(found)], atol=1e-5)


def crafted(firing, tokenizer, prompt):
    """An answer in which each query's tokens have given chances; the library's output of it."""
    tokens = tokenizer(prompt.text, return_offsets_mapping=True)
    chances = np.full((len(firing), len(tokens["input_ids"])), 0.01, np.float32)
    for query, chosen in enumerate(firing):
        for token, chance in chosen.items():
            chances[query, token] = chance
    boxes = np.random.default_rng(0).uniform(0.2, 0.4, (len(firing), 4)).astype(np.float32)
    answer = Answer(chances, boxes, np.array(tokens["offset_mapping"]))
    logits = torch.full((1, len(firing), 256), -torch.inf)
    logits[0, :, : chances.shape[1]] = torch.from_numpy(np.log(chances / (1 - chances)))
    output = GroundingDinoObjectDetectionOutput(
        logits=logits,
        pred_boxes=torch.from_numpy(boxes)[None],
        input_ids=torch.tensor([tokens["input_ids"]]),
    )
    return answer, output


def test_phrases_are_the_librarys_where_whole_words_fire_side_by_side(folder):
    model = GroundingDino.from_pretrained(folder)
    prompt = Prompt("a man in a red and white shirt. he wears blue shoes.", end=51)
    # 0 [CLS], 1 a, 2 man, 3 in, 4 a, 5 red, 6 and, 7 white, 8 shirt, 9 ., 10 he, 11 wears, ...
    firing = [
        {1: 0.5, 2: 0.8},
        {12: 0.4, 13: 0.9},
        {4: 0.4, 5: 0.4, 6: 0.4, 7: 0.6, 8: 0.7},
        {2: 0.34},
    ]
    answer, output = crafted(firing, model.processor.tokenizer, prompt)
    (found,) = model.processor.post_process_grounded_object_detection(
        output, threshold=0.35, text_threshold=0.35
    )
    ours = model._name(answer, prompt)
    assert [prompt.text[slice(*box.span)] for box in ours] == found["text_labels"]
    assert found["text_labels"] == ["a man", "blue shoes", "a red and white shirt"]
    np.testing.assert_allclose([box.score for box in ours], found["scores"], atol=1e-6)


def test_a_box_belongs_to_the_phrase_whose_tokens_it_fits(folder):
    model = GroundingDino.from_pretrained(folder)
    ((prompt,),) = phrase_prompts(model.processor.tokenizer, [["a man", "blue shoes"]], 32)
    # [CLS] a man . blue shoes . [SEP]
    firing = [
        {4: 0.6},  # blue
        {2: 0.9},  # man
        {3: 0.8},  # the full stop: nobody's
        {1: 0.35},  # not above the threshold
        {2: 0.4, 5: 0.5},  # both; shoes more
        {0: 0.9, 1: 0.36},  # the library's score is that of [CLS]
    ]
    answer, output = crafted(firing, model.processor.tokenizer, prompt)
    found = model._assign(answer, prompt)
    assert found.phrase_N.tolist() == [0, 0, 1, 1]
    assert found.scores_N.tolist() == pytest.approx([0.9, 0.9, 0.6, 0.5])
    np.testing.assert_array_equal(found.boxes_N4, cut_boxes(answer.boxes_Q4)[[1, 5, 0, 4]])
    (theirs_,) = model.processor.post_process_grounded_object_detection(
        output, threshold=0.35, text_threshold=0.35
    )
    # The library keeps the full stop's box too, under the name ".".
    assert sorted(theirs_["scores"].tolist()) == pytest.approx([0.5, 0.6, 0.8, 0.9, 0.9])
    assert theirs_["text_labels"][2] == "."


# ------------------------------------------------------------------ batches


def test_a_batch_gives_what_single_images_give(open_model, folder, picture):
    images = [picture(0), picture(1, (64, 40)), picture(2), picture(3), picture(4)]
    queries = [[MAN, SHOES], [MAN], [], [BAG, Query("a shirt")], [BAG]]
    alone = [open_model.propose([i], [q])[0] for i, q in zip(images, queries, strict=True)]
    for size in (1, 2, 8):
        model = otherwise(open_model, batch_size=size)
        for found, single, phrases in zip(
            model.propose(images, queries), alone, queries, strict=True
        ):
            same(found, single)
            assert len(found) == (12 if phrases else 0)
            assert np.all(np.diff(found.scores_N) <= 0)
    captions = [CAPTION, "a red bag", "", "He wears a hat", "a woman"]
    singles = [open_model.ground([i], [c])[0] for i, c in zip(images, captions, strict=True)]
    for found, single in zip(open_model.ground(images, captions), singles, strict=True):
        same(found.proposals, single.proposals)
        assert found.spans == single.spans


def otherwise(model, **changed):
    """The same network asked otherwise."""
    options = {"box_threshold": 0, "text_threshold": 0, **changed}
    return GroundingDino(model.model, model.processor, **options)


def test_longer_neighbours_change_nothing(open_model, picture):
    """A prompt filled up to another's length is not another prompt."""
    image = picture(5)
    (alone,) = open_model.propose([image], [[MAN]])
    beside = open_model.propose([picture(6), image], [[MAN, SHOES, BAG], [MAN]])[1]
    same(alone, beside)


def test_half_precision_is_near(open_model, picture):
    coarse = otherwise(open_model, precision="bf16")
    images = [picture(n) for n in range(4)]
    scores = []
    for model in (open_model, coarse):
        found = model.propose(images, [[MAN, SHOES]] * 4)
        scores.append(np.stack([of.scores_N for of in found]))
        assert all(of.scores_N.dtype == of.boxes_N4.dtype == np.float32 for of in found)
    # Which cells become queries is a ranking: a near tie may turn, and with it a single score.
    assert 0 < np.median(np.abs(scores[0] - scores[1])) < 0.01


# ------------------------------------------------------------------ long prompts


def test_more_phrases_than_a_prompt_holds_are_all_asked(open_model, picture):
    image = picture(0)
    things = ["man", "woman", "shirt", "shoes", "bag", "hat", "pair", "white", "black", "blue"]
    many = [Query(f"the {thing} of red") for thing in things]  # 50 tokens; 30 fit
    (found,) = open_model.propose([image], [many])
    assert len(found) == 24  # boxes of two prompts
    assert set(found.phrase_N.tolist()) & set(range(6))
    assert set(found.phrase_N.tolist()) & set(range(6, 10))
    assert np.all(np.diff(found.scores_N) <= 0)
    # Each prompt's answer is that of its phrases asked alone.
    prompts = phrase_prompts(open_model.processor.tokenizer, [[q.text for q in many]], 32)[0]
    assert [prompt.owners for prompt in prompts] == [tuple(range(6)), tuple(range(6, 10))]
    parts = []
    for prompt in prompts:
        (part,) = open_model.propose([image], [[many[n] for n in prompt.owners]])
        parts.append(dataclasses.replace(part, phrase_N=np.array(prompt.owners)[part.phrase_N]))
    same(found, join(parts))


def test_a_long_caption_is_grounded_to_its_end(open_model, picture):
    caption = "Filler text. " * 3 + "A man in a red hat with blue shoes and the striped bag"
    (found,) = open_model.ground([picture(0)], [caption])
    texts = {caption[slice(*span)] for span in found.spans}
    assert len(found.proposals) > 12
    assert any(span[1] == len(caption) for span in found.spans), texts
    assert any("Filler" in text for text in texts)


# ------------------------------------------------------------------ captions


def test_grounding_gives_spans_of_the_caption(folder, picture):
    model = GroundingDino.from_pretrained(folder, box_threshold=0.5, text_threshold=0.5)
    assert isinstance(model, CaptionGrounder)
    caption = "İ  A MAN\tin a Red and white shirt… carrying the bag. He wears blue T-shirts \n"
    (found, nothing) = model.ground([picture(0), picture(1)], [caption, " . "])
    assert len(nothing.proposals) == 0
    assert nothing.spans == ()
    assert found.spans == tuple(sorted(set(found.spans)))
    assert set(found.proposals.phrase_N.tolist()) == set(range(len(found.spans)))
    for start, end in found.spans:
        text = caption[start:end]
        assert 0 <= start < end <= len(caption)
        assert text == text.strip(" .…\n\t")
    assert np.all(np.diff(found.proposals.scores_N) <= 0)
    assert np.all(found.proposals.scores_N > 0.5)


def test_two_boxes_of_one_phrase_share_it(folder, picture, monkeypatch):
    model = GroundingDino.from_pretrained(folder)
    caption = "A man in a red shirt"

    def answer(ids, counts, pixels):
        chances = np.full((1, 3, counts[0]), 0.01, np.float32)
        chances[0, 0, [4, 5, 6]] = 0.5, 0.6, 0.7  # a red shirt
        chances[0, 1, [1, 2]] = 0.5, 0.9  # a man
        chances[0, 2, [4, 5, 6]] = 0.4, 0.4, 0.8  # a red shirt
        return chances, np.array([[[0.5, 0.4, 0.2, 0.2], [0.5, 0.5, 0.4, 0.9], [1, 1, 0.5, 1]]])

    monkeypatch.setattr(model, "_forward", answer)
    (found,) = model.ground([picture(0)], [caption])
    assert [caption[slice(*span)] for span in found.spans] == ["A man", "a red shirt"]
    assert found.proposals.phrase_N.tolist() == [0, 1, 1]
    assert found.proposals.scores_N.tolist() == pytest.approx([0.9, 0.8, 0.7])
    # Cut at the border: three quarters of the third lie outside.
    assert found.proposals.boxes_N4[1].tolist() == pytest.approx([0.875, 0.75, 0.25, 0.5])


# ------------------------------------------------------------------ what is refused


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


def test_bad_batches_are_refused(open_model, picture):
    with pytest.raises(ValueError, match="1 images and 2 lists"):
        check_batch([picture(0)], [[], []])
    with pytest.raises(ValueError, match="2 images and 1 captions"):
        open_model.ground([picture(0), picture(1)], ["a man"])
    with pytest.raises(ValueError, match=r"float64 \(4, 4, 3\)"):
        check_batch([np.zeros((4, 4, 3))], [[]])


def test_nothing_to_ask_is_no_work(open_model, picture):
    assert open_model.propose([], []) == []
    assert open_model.ground([], []) == []
    (found,) = open_model.propose([picture(0)], [[]])
    assert isinstance(found, Proposals)
    assert len(found) == 0
