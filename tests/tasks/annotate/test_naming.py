"""Who names what is looked for: the mirrored picture, the list of words, the detector itself."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.regions.proposals import Grounded, Proposals, Query
from tasks.annotate.finding import find_known, find_named, find_words
from tasks.annotate.mirror import in_mirror, mirrored, mirrored_back, origins, other_side
from tasks.annotate.shard import annotate_table, check_choices, essence, load_proposer
from tasks.annotate.single import DEFAULT
from tasks.annotate.words import as_meta, frequent_words
from tasks.errors import PedAlignError
from tasks.images import encode_jpeg
from tasks.phrases import load_parser, parse
from tasks.schemas import IMAGES
from tasks.shards import image_uid, write_folder
from tests.detectors import save_grounding_dino, save_owlv2

NLP = load_parser()


def one(*rows):
    """Proposals of (box, score, phrase)."""
    boxes, scores, of = zip(*rows, strict=True)
    return Proposals(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(of))


def boxes_of(found):
    columns = (found.phrase_N[:, None], found.boxes_N4, found.scores_N[:, None])
    return sorted(tuple(row) for row in np.hstack(columns).astype(float).round(3).tolist())


# ------------------------------------------------------------------ the mirror


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("her left hand", "her right hand"),
        ("The RIGHT shoe, Left sock", "The LEFT shoe, Right sock"),
        ("a left-handed man on the rightmost side", "a right-handed man on the leftmost side"),
        ("bright leftovers upright", "bright leftovers upright"),
        ("left left", "right right"),
        ("", ""),
    ],
)
def test_sides_are_exchanged_by_hand(text, expected):
    assert other_side(text) == expected
    assert other_side(expected) == text
    assert in_mirror(Query(text, "hand", "upper", ("red",))) == Query(
        expected, "hand", "upper", ("red",)
    )


def test_a_span_of_the_mirrored_caption_is_found_in_the_caption():
    caption = "the left hand, the right hand"
    changed = other_side(caption)
    assert changed == "the right hand, the left hand"
    came = origins(caption)
    for start, end, expected in (
        (0, 14, "the left hand"), (16, 29, "the right hand"), (4, 9, "left"),
        (6, 14, "left hand"), (0, 7, "the left"),
    ):  # fmt: skip
        assert caption[came[start][0] : came[end - 1][1]] == expected
    assert len(came) == len(changed)


@given(st.lists(st.sampled_from(["left", "RIGHT", "Left", "red", "é", " ", "-", "\n"])))
def test_every_character_of_the_mirrored_caption_has_an_origin(parts):
    text = "".join(parts)
    changed, came = other_side(text), origins(text)
    assert len(came) == len(changed)
    assert came == sorted(came)
    for letter, (start, end) in zip(changed, came, strict=True):
        assert text[start:end] == letter or text[start:end].lower() in {"left", "right"}
    assert other_side(changed) == text


def test_boxes_come_back_from_the_mirror():
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    (seen,) = mirrored([picture])
    assert seen[:, 0].tolist() == picture[:, 2].tolist()
    back = mirrored_back(one(((0.2, 0.3, 0.4, 0.6), 0.9, 0)))
    assert boxes_of(back) == [(0, 0.8, 0.3, 0.4, 0.6, 0.9)]


class Bright:
    """Gives every phrase the place where the picture is bright, and remembers what was asked."""

    def __init__(self):
        self.asked = []

    def propose(self, images, queries):
        self.asked += [[query.text for query in each] for each in queries]
        found = []
        for image, each in zip(images, queries, strict=True):
            light = image.sum(axis=(0, 2)) + 1e-9
            x = np.average(np.arange(len(light)) + 0.5, weights=light) / len(light)
            found.append(one(*[((x, 0.5, 0.1, 0.2), 0.9, n) for n in range(len(each))])
                         if each else Proposals.none())  # fmt: skip
        return found


def test_with_flips_both_pictures_are_asked_each_in_its_own_words():
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, 1] = 200
    said = parse(NLP, ["a man with a phone in her left hand"])[0]
    assert [p.text for p in said] == ["a man", "a phone", "her left hand"]
    proposer = Bright()
    ((phrases, found), (_, nothing)) = find_known(
        [picture, picture], [said, []], proposer, flips=True
    )
    assert phrases == list(said)
    assert len(nothing) == 0
    assert proposer.asked == [
        ["a man", "a phone", "her left hand"], [], ["a man", "a phone", "her right hand"], [],
    ]  # fmt: skip
    # Both looks see the same column.
    assert boxes_of(found) == sorted([(n, 0.188, 0.5, 0.1, 0.2, 0.9) for n in range(3)] * 2)


def test_the_second_look_at_the_same_place_is_a_duplicate():
    picture = np.zeros((96, 48, 3), np.uint8)
    picture[:, 8:16] = 200
    row, other = rows(picture, "a hat", flips=True), rows(picture, "a hat", flips=False)
    assert row["regions"] == other["regions"]
    assert [r["reason"] for r in row["rejected"]] == ["duplicate"]


def rows(picture, caption, proposer=None, nlp=NLP, words=(), **changes):
    shard = pa.table(
        {
            "uid": [image_uid("test", "0")], "image": [encode_jpeg(picture)],
            "captions": [[caption]], "status": ["ok"], "error": pa.array([None], pa.string()),
        }
    )  # fmt: skip
    section = replace(DEFAULT, **changes)
    (row,) = annotate_table(shard, nlp, proposer or Bright(), section, words=words).to_pylist()
    return row


# ------------------------------------------------------------------ words


def target(folder, *captioned):
    """A dataset of (split, captions, status)."""
    table = pa.Table.from_pylist(
        sorted(
            (
                dict.fromkeys(IMAGES.names)
                | {"uid": image_uid("t", str(n)), "dataset": "t", "split": split, "width": 8,
                   "height": 8, "captions": captions, "source_path": str(n), "status": status,
                   "error": None if status == "ok" else "grey: 1"}
                for n, (split, captions, status) in enumerate(captioned)
            ),
            key=lambda row: row["uid"],
        ),
        schema=IMAGES,
    )  # fmt: skip
    write_folder(folder, [table], "images", shard_rows=2)
    return folder


TRAIN = (
    ("train", ["a man in a red shirt", "a shirt and a hat"], "ok"),
    ("train", ["a man in a red shirt", "the man has a bag"], "ok"),  # the first one again
    ("train", ["a woman in a coat", "", "walking"], "ok"),
    ("train", [], "ok"),
    ("train", ["a skirt, a skirt, a skirt"], "rejected"),
)


def test_words_are_counted_by_hand(tmp_path):
    # Distinct captions: man 2, shirt 2; bag, coat, hat, woman 1.
    found = frequent_words(target(tmp_path / "t", *TRAIN), NLP, 4)
    assert as_meta(found) == [
        {"word": "man", "group": "person", "count": 2},
        {"word": "shirt", "group": "upper", "count": 2},
        {"word": "bag", "group": "carried", "count": 1},
        {"word": "coat", "group": "upper", "count": 1},
    ]
    phrase = found[1].phrase()
    assert (phrase.text, phrase.start, phrase.end) == ("shirt", -1, -1)
    assert (phrase.head, phrase.group, phrase.colours) == ("shirt", "upper", ())
    assert [tuple(a) for a in found[0].phrase().attributes] == [("gender", "male")]
    everything = frequent_words(tmp_path / "t", NLP, 99)
    assert [word.text for word in everything[4:]] == ["hat", "woman"]


def test_no_caption_but_the_train_splits_can_change_the_words(tmp_path):
    # Enough to turn the order around.
    others = [(split, [f"{n} umbrellas and a skirt and an umbrella"], "ok")
              for split in ("val", "test") for n in range(9)]  # fmt: skip
    alone = frequent_words(target(tmp_path / "a", *TRAIN), NLP, 24)
    assert frequent_words(target(tmp_path / "b", *others, *TRAIN), NLP, 24) == alone
    assert frequent_words(target(tmp_path / "c", *reversed(TRAIN)), NLP, 24) == alone


def test_a_caption_is_parsed_once_whatever_shard_it_is_in(tmp_path, monkeypatch):
    parsed = []

    def watched(nlp, captions):
        parsed.extend(captions)
        return parse(nlp, captions)

    monkeypatch.setattr("tasks.annotate.words.parse", watched)
    many = [("train", ["a hat", f"a shirt {n % 3}"], "ok") for n in range(20)]
    found = frequent_words(target(tmp_path / "t", *many), NLP, 24)
    assert sorted(parsed) == ["a hat", "a shirt 0", "a shirt 1", "a shirt 2"]
    assert [(word.text, word.count) for word in found] == [("shirt", 3), ("hat", 1)]


def test_a_target_without_captions_is_explained(tmp_path):
    with pytest.raises(PedAlignError, match="no noun in any train caption"):
        frequent_words(target(tmp_path / "t", ("test", ["a hat"], "ok")), NLP, 24)


class Some:
    """Gives every image one box, for its last phrase but one."""

    def propose(self, images, queries):
        return [one(((0.5, 0.5, 0.2, 0.2), 0.9, len(each) - 2)) for each in queries]


def test_every_picture_is_asked_for_the_same_words_and_keeps_those_with_a_box(tmp_path):
    words = [word.phrase() for word in frequent_words(target(tmp_path / "t", *TRAIN), NLP, 4)]
    picture = np.zeros((96, 48, 3), np.uint8)
    proposer = Bright()
    row = rows(picture, "nothing to do with it", proposer, words=words, phrases="words")
    assert proposer.asked == [["man", "shirt", "bag", "coat"]]
    assert [(p["text"], p["start"], p["end"]) for p in row["phrases"]] == [
        ("man", -1, -1), ("shirt", -1, -1), ("bag", -1, -1), ("coat", -1, -1),
    ]  # fmt: skip
    row = rows(picture, "nothing", Some(), words=words, phrases="words", flips=True)
    assert [p["text"] for p in row["phrases"]] == ["bag"]
    assert [r["phrase"] for r in row["regions"] + row["rejected"]] == [0, 0]
    (_, none) = find_words([picture], words, Nothing(), flips=False)[0]
    assert len(none) == 0
    with pytest.raises(PedAlignError, match=r"inputs\.words"):
        rows(picture, "a man", phrases="words")


class Nothing:
    """Finds nothing."""

    def propose(self, images, queries):
        return [Proposals.none() for _ in images]

    def ground(self, images, captions):
        return [Grounded.none() for _ in images]


# ------------------------------------------------------------------ the detector


class Finds(Nothing):
    """Finds given words in captions, each at its place in the line: 0 left, 1 right."""

    def __init__(self, *texts):
        self.texts, self.asked = texts, []

    def ground(self, images, captions):
        self.asked += captions
        found = []
        for caption in captions:
            spans = sorted(
                (at, at + len(text)) for text in self.texts if (at := caption.find(text)) >= 0
            )
            boxes = [((start / len(caption), 0.5, 0.1, 0.1), 0.9, n)
                     for n, (start, _) in enumerate(spans)]  # fmt: skip
            found.append(Grounded(one(*boxes), tuple(spans)) if spans else Grounded.none())
        return found


def test_a_detectors_spans_become_phrases():
    caption = "A young man wears a dark blue striped shirt, glorps. Striped"
    texts = ("dark blue striped shirt", "A young man wears a dark blue striped shirt", "glorps",
             "Striped", "young man")  # fmt: skip
    (phrases, boxes), (none, _) = find_named(
        [None, None], [caption, ""], Finds(*texts), NLP, flips=False
    )
    assert none == []
    assert [p.text for p in phrases] == [texts[1], texts[4], texts[0], texts[2], texts[3]]
    assert all(caption[p.start : p.end] == p.text for p in phrases)
    assert [(p.head, p.group) for p in phrases[:3]] == [
        ("man", "person"), ("man", "person"), ("shirt", "upper"),
    ]  # fmt: skip
    assert phrases[2].colours == ("dark blue",)
    assert ("pattern", "striped") in phrases[2].attributes
    # What the parser does not know has a head and a group all the same.
    assert [p.head for p in phrases[3:]] == ["glorps", "striped"]
    assert boxes.phrase_N.tolist() == [0, 1, 2, 3, 4]


def test_a_detector_reads_the_mirrored_caption_beside_the_mirrored_picture():
    picture = np.zeros((4, 4, 3), np.uint8)
    caption = "left hand, right hand, hat"
    grounder = Finds("left hand", "hat")
    ((phrases, boxes),) = find_named([picture], [caption], grounder, NLP, flips=True)
    assert grounder.asked == [caption, "right hand, left hand, hat"]
    # In the mirror the right hand is the left one.
    assert [p.text for p in phrases] == ["left hand", "right hand", "hat"]
    assert boxes_of(boxes) == sorted(
        [(0, 0.0, 0.5, 0.1, 0.1, 0.9), (2, 0.885, 0.5, 0.1, 0.1, 0.9),
         (1, 0.538, 0.5, 0.1, 0.1, 0.9), (2, 0.115, 0.5, 0.1, 0.1, 0.9)]
    )  # fmt: skip


def test_a_row_of_a_detectors_phrases():
    row = rows(np.zeros((96, 48, 3), np.uint8), "he has a red hat and a bag",
               Finds("red hat", "a bag"), phrases="detector")  # fmt: skip
    assert [(p["text"], p["head"], p["colours"]) for p in row["phrases"]] == [
        ("red hat", "hat", ["red"]), ("a bag", "bag", []),
    ]  # fmt: skip
    assert [r["phrase"] for r in row["regions"]] == [0, 1]
    row = rows(np.zeros((96, 48, 3), np.uint8), "a hat", Nothing(), phrases="detector")
    assert (row["status"], row["phrases"], row["regions"]) == ("ok", [], [])


# ------------------------------------------------------------------ choices


def test_what_cannot_be_done_together_is_refused_before_anything_is_loaded(tmp_path):
    save_grounding_dino(tmp_path / "dino")
    save_owlv2(tmp_path / "owl")
    for weights in (tmp_path / "dino", tmp_path / "owl"):
        (weights / "model.safetensors").unlink()
    check_choices(DEFAULT, None)
    check_choices(replace(DEFAULT, phrases="words"), tmp_path)
    dino = replace(DEFAULT, phrases="detector", proposer=str(tmp_path / "dino"))
    check_choices(dino, None)
    for section in (replace(dino, proposer="embedded"), replace(dino, proposer=f"{tmp_path}/owl")):
        with pytest.raises(PedAlignError, match=r"annotate\.phrases is 'detector'") as caught:
            check_choices(section, None)
        assert "parser" in caught.value.remedy
        assert section.proposer in caught.value.found
    with pytest.raises(PedAlignError, match=r"inputs\.words names nothing"):
        check_choices(replace(DEFAULT, phrases="words"), None)
    with pytest.raises(PedAlignError, match=r"annotate\.proposer"):
        check_choices(replace(dino, proposer=str(tmp_path / "absent")), None)
    with pytest.raises(PedAlignError, match="is 'detector'"):
        rows(np.zeros((8, 8, 3), np.uint8), "a hat", load_proposer(DEFAULT, "cpu"),
             phrases="detector")  # fmt: skip


def test_a_parameter_that_nobody_reads_is_no_part_of_the_computation():
    def same(a, **changes):
        return essence(a) == essence(replace(a, **changes))

    assert same(DEFAULT, words=3, precision="bf16", text_threshold=0.1)
    assert not same(DEFAULT, flips=True)
    assert not same(DEFAULT, box_threshold=0.1)
    assert not same(replace(DEFAULT, phrases="words"), words=3)
    assert not same(replace(DEFAULT, proposer="x/y"), precision="bf16")
    assert not same(replace(DEFAULT, proposer="x/y"), text_threshold=0.1)
