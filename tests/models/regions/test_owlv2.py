"""OWLv2 and OWL-ViT behind the proposer's interface, on tiny random models saved to folders."""

import numpy as np
import pytest
import torch
from transformers import Owlv2Processor, OwlViTProcessor

from models.regions.owlv2 import Owl
from models.regions.proposals import CaptionGrounder, Query, cut_boxes

MAN, SHOES, BAG = Query("a man"), Query("shoes"), Query("the bag")
PROCESSORS = {"owlv2": Owlv2Processor, "owlvit": OwlViTProcessor}


@pytest.fixture(scope="module", params=["owlv2", "owlvit"])
def owl(request, detectors):
    """Every box of it passes."""
    kind = request.param
    return Owl.from_pretrained(detectors / kind, kind=kind, box_threshold=0)


@pytest.fixture
def owlv2(detectors):
    return Owl.from_pretrained(detectors / "owlv2", box_threshold=0)


def otherwise(owl, **changed):
    """The same network asked otherwise."""
    return Owl(owl.model, owl.processor, **{"box_threshold": 0, **changed})


def theirs(owl, detectors, image, texts):
    """What the library's forward pass and post-processing find in a picture, the surest first.

    One picture at a time: where one of several has fewer texts, the library's processor adds the
    text " ", which its mask for missing texts does not know, and gives boxes to it.
    """
    kind = owl.model.config.model_type
    processor = PROCESSORS[kind].from_pretrained(detectors / kind)
    inputs = processor(
        text=[texts], images=[image], input_data_format="channels_last", return_tensors="pt"
    )
    with torch.inference_mode():
        output = owl.model(**inputs)
    height, width = image.shape[:2]
    (found,) = processor.post_process_grounded_object_detection(
        output, threshold=0.0, target_sizes=[(height, width)], text_labels=[texts]
    )
    order = np.argsort(-found["scores"].numpy(), kind="stable")
    corners = found["boxes"].numpy()[order] / np.array([width, height, width, height])
    low, high = corners[:, :2], corners[:, 2:]
    boxes = cut_boxes(np.concatenate([(low + high) / 2, high - low], axis=1))
    there = (boxes[:, 2:] > 0).all(axis=1)
    return [of[order][there] for of in (found["scores"].numpy(), found["labels"].numpy())], boxes[
        there
    ]


def test_boxes_scores_and_phrases_are_the_librarys(owl, detectors, picture):
    """Of pictures of several shapes with different numbers of phrases, asked in one batch."""
    images = [picture(0), picture(1, (20, 50)), picture(2, (40, 40)), picture(3)]
    queries = [[MAN, SHOES, BAG], [MAN, BAG], [SHOES], [BAG, MAN]]
    for found, image, phrases in zip(owl.propose(images, queries), images, queries, strict=True):
        (scores, labels), boxes = theirs(owl, detectors, image, [of.text for of in phrases])
        assert 5 < len(found) == len(scores) <= 36
        np.testing.assert_allclose(found.scores_N, scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes_N4, boxes, atol=1e-4)
        assert found.phrase_N.tolist() == labels.tolist()
        assert np.ptp(found.scores_N) > 0.1


def test_the_square_is_undone_by_hand(owlv2, picture, monkeypatch):
    """A picture 40 high and 20 wide lies in the left half of a square of 40."""
    boxes = np.array([
        [0.25, 0.5, 0.5, 1.0],  # all of the picture
        [0.125, 0.25, 0.25, 0.5],  # its upper left quarter
        [0.75, 0.5, 0.4, 1.0],  # the padding alone
        [0.5, 0.5, 0.5, 0.5],  # half of it in the padding
    ], np.float32)  # fmt: skip

    def answer(prepared, wanted, texts):
        return np.array([[0.9, 0.8, 0.7, 0.6]], np.float32), np.zeros((1, 4), np.int64), boxes[None]

    monkeypatch.setattr(owlv2, "_forward", answer)
    (found,) = owlv2.propose([picture(0, (40, 20))], [[MAN]])
    assert found.scores_N.tolist() == pytest.approx([0.9, 0.8, 0.6])
    np.testing.assert_allclose(
        found.boxes_N4, [[0.5, 0.5, 1, 1], [0.25, 0.25, 0.5, 0.5], [0.75, 0.5, 0.5, 0.5]]
    )
    # And one 20 high and 40 wide in its upper half.
    monkeypatch.setattr(
        owlv2, "_forward", lambda *_: (np.ones((1, 1)), np.zeros((1, 1), int), boxes[None, 1:2])
    )
    (found,) = owlv2.propose([picture(0, (20, 40))], [[MAN]])
    np.testing.assert_allclose(found.boxes_N4, [[0.125, 0.5, 0.25, 1.0]])


def test_what_the_network_sees_of_a_picture_does_not_depend_on_its_neighbours(owl, picture):
    images = [picture(0), picture(1, (20, 50)), picture(2), picture(3), picture(4, (20, 50))]
    queries = [[MAN, SHOES, BAG], [BAG], [], [SHOES], [MAN, MAN]]
    alone = [owl.propose([i], [q])[0] for i, q in zip(images, queries, strict=True)]
    for size in (1, 2, 8):
        together = otherwise(owl, batch_size=size).propose(images, queries)
        for found, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(found.scores_N, single.scores_N, atol=1e-5)
            np.testing.assert_allclose(found.boxes_N4, single.boxes_N4, atol=1e-5)
            assert found.phrase_N.tolist() == single.phrase_N.tolist()
    assert len(alone[2]) == 0


def test_a_phrase_is_encoded_once_a_call(owl, picture, monkeypatch):
    seen = []
    encode = owl.model.base_model.get_text_features

    def counted(input_ids, attention_mask):
        seen.append(len(input_ids))
        return encode(input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(owl.model.base_model, "get_text_features", counted)
    otherwise(owl, batch_size=2).propose(
        [picture(n) for n in range(5)], [[MAN, BAG], [BAG]] * 2 + [[]]
    )
    assert seen == [2]


def test_the_same_words_are_asked_once(owl, picture):
    queries = [BAG, MAN, Query("The  bag"), SHOES, BAG]
    (found,) = owl.propose([picture(0)], [queries])
    (single,) = owl.propose([picture(0)], [[BAG, MAN, SHOES]])
    np.testing.assert_allclose(found.scores_N, single.scores_N, atol=1e-5)
    assert found.phrase_N.tolist() == [[0, 1, 3][n] for n in single.phrase_N]
    assert set(found.phrase_N.tolist()) == {0, 1, 3}


def test_a_text_longer_than_the_model_reads_loses_its_end(owl, picture):
    """Eight tokens: the first and last are special; every letter is one here."""
    (long, short) = owl.propose([picture(0)] * 2, [[Query("abcdef ghij")], [Query("abcdef")]])
    np.testing.assert_allclose(long.scores_N, short.scores_N, atol=1e-5)


def test_the_threshold_leaves_out(owl, picture):
    (found,) = owl.propose([picture(0)], [[MAN, BAG]])
    limit = float(np.median(found.scores_N))
    (left,) = otherwise(owl, box_threshold=limit).propose([picture(0)], [[MAN, BAG]])
    assert left.scores_N.tolist() == [score for score in found.scores_N if score > limit]


def test_half_precision_is_near(owl, picture):
    seen = set()
    towers = owl.model.base_model.vision_model, owl.model.base_model.text_model
    hooks = [
        tower.encoder.layers[0].mlp.fc1.register_forward_hook(
            lambda _, __, output: seen.add(output.dtype)
        )
        for tower in towers
    ]
    images, queries = [picture(n) for n in range(3)], [[MAN, SHOES]] * 3
    fine = owl.propose(images, queries)
    assert seen == {torch.float32}
    seen.clear()
    coarse = otherwise(owl, precision="bf16").propose(images, queries)
    assert seen == {torch.bfloat16}
    for hook in hooks:
        hook.remove()
    for one, other in zip(fine, coarse, strict=True):
        assert other.scores_N.dtype == other.boxes_N4.dtype == np.float32
        np.testing.assert_allclose(one.scores_N[:5], other.scores_N[:5], atol=0.05)


def test_nothing_to_ask_is_no_work(owl, picture):
    assert owl.propose([], []) == []
    (found,) = owl.propose([picture(0)], [[]])
    assert len(found) == 0
    assert not isinstance(owl, CaptionGrounder)


def test_a_processor_that_leaves_out_a_step_is_refused(owlv2, monkeypatch):
    monkeypatch.setattr(owlv2.processor.image_processor, "do_pad", False)
    with pytest.raises(ValueError, match="do_pad off"):
        Owl(owlv2.model, owlv2.processor)
