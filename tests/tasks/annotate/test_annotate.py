"""The annotate stage: rows in, rows out; the box filter by hand; SDA's layout; drawings."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.regions.proposals import Proposals
from tasks.annotate.boxes import REASONS, filter_boxes
from tasks.annotate.shard import annotate_table, load_proposer
from tasks.annotate.single import DEFAULT, annotate_one, phrases_of
from tasks.errors import PedAlignError
from tasks.images import encode_jpeg
from tasks.overlays import COLOURS, draw_regions
from tasks.phrases import GROUPS, load_parser, parse
from tasks.sda import from_sda, to_sda
from tasks.shards import image_uid

NLP = load_parser()
CAPTION = "A man in a red shirt, black pants and white shoes. The man has a red shirt."


def figure(height=96, width=48):
    """A plain person: head, red shirt, black trousers, white shoes on green."""
    picture = np.full((height, width, 3), (70, 150, 90), np.uint8)
    for top, bottom, half, colour in (
        (0.05, 0.09, 0.07, (40, 25, 20)), (0.09, 0.17, 0.07, (220, 170, 140)),
        (0.18, 0.50, 0.24, (200, 30, 30)), (0.50, 0.92, 0.18, (20, 20, 25)),
        (0.92, 0.97, 0.22, (245, 245, 245)),
    ):  # fmt: skip
        rows = slice(round(top * height), round(bottom * height))
        columns = slice(round((0.5 - half) * width), round((0.5 + half) * width))
        picture[rows, columns] = colour
    return picture


class Fixed:
    """Proposes one given box for every phrase."""

    def __init__(self, box=(0.5, 0.5, 0.4, 0.4), score=0.9):
        self.box, self.score, self.asked = box, score, []

    def propose(self, images, queries):
        self.asked += [(image.shape, list(of)) for image, of in zip(images, queries, strict=True)]
        return [
            Proposals(
                np.tile(np.array(self.box, np.float32), (len(of), 1)),
                np.full(len(of), self.score, np.float32),
                np.arange(len(of)),
            )
            for of in queries
        ]


def table(*rows):
    """Rows of (image bytes, captions, error of an earlier stage)."""
    return pa.table(
        {
            "uid": sorted(image_uid("test", str(n)) for n in range(len(rows))),
            "image": pa.array([r[0] for r in rows], pa.binary()),
            "captions": pa.array([r[1] for r in rows], pa.list_(pa.string())),
            "status": ["rejected" if r[2] else "ok" for r in rows],
            "error": pa.array([r[2] for r in rows], pa.string()),
        }
    )


def test_every_row_comes_back_with_its_regions_or_its_reason():
    good = encode_jpeg(figure())
    shard = table(
        (good, ["", CAPTION, "never read"], None),
        (b"GIF is no gif", [CAPTION], None),
        (good, [], None),
        (None, [CAPTION], "grey: 3"),
        (good, ["walking slowly"], None),
    )
    done = annotate_table(shard, NLP, Fixed(), DEFAULT).to_pylist()
    assert [row["uid"] for row in done] == shard["uid"].to_pylist()
    assert [(row["status"], (row["error"] or "").split(":")[0]) for row in done] == [
        ("ok", ""), ("rejected", "not-an-image"), ("rejected", "no-caption"),
        ("rejected", "grey"), ("ok", ""),
    ]  # fmt: skip
    first = done[0]
    assert first["caption"] == CAPTION
    assert [p["text"] for p in first["phrases"]][:2] == ["A man", "a red shirt"]
    for phrase in first["phrases"]:
        assert CAPTION[phrase["start"] : phrase["end"]] == phrase["text"]
    # All on one box: the man wins, under both his names, and what is no man contradicts him.
    assert [r["phrase"] for r in first["regions"]] == [0, 4]
    assert {(r["phrase"], r["reason"]) for r in first["rejected"]} == {
        (n, "contradiction") for n in (1, 2, 3, 5)
    }
    assert done[4]["phrases"] == done[4]["regions"] == done[4]["rejected"] == []


def test_a_table_does_not_depend_on_its_neighbours_or_threads():
    rows = [(encode_jpeg(figure(96 + 8 * n, 48)), [CAPTION], None) for n in range(5)]
    whole = table(*rows)
    proposer = load_proposer(DEFAULT, None)
    done = annotate_table(whole, NLP, proposer, DEFAULT)
    assert done.equals(annotate_table(whole, NLP, proposer, DEFAULT, workers=1))
    assert done.slice(2, 2).equals(
        annotate_table(whole.slice(2, 2), NLP, proposer, DEFAULT).combine_chunks()
    )


def phrases(caption):
    return parse(NLP, [caption])[0]


def proposals(*rows):
    boxes, scores, of = zip(*rows, strict=True)
    return Proposals(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(of))


def test_the_filter_by_hand():
    said = phrases("a man in a red shirt and blue jeans with a blue shirt")
    assert [p.group for p in said] == ["person", "upper", "lower", "upper"]
    whole, chest, legs = (0.5, 0.5, 1, 1), (0.5, 0.3, 0.5, 0.3), (0.5, 0.7, 0.4, 0.4)
    kept, refused = filter_boxes(
        proposals(
            (whole, 0.5, 0),  # a person may fill the picture
            (whole, 0.9, 1),  # a shirt may not
            (chest, 0.8, 1),
            (chest, 0.7, 1),  # again
            ((0.5, 0.3, 0.5, 0.29), 0.6, 3),  # another colour, IoU 0.97
            (legs, 0.34, 2),  # not sure
            ((0.5, 0.5, 0.0, 0.5), 0.9, 2),  # no width
            ((1.3, 0.5, 0.2, 0.2), 0.9, 2),  # outside
            ((np.nan, 0.5, 0.2, 0.2), 0.9, 2),
            (legs, 0.5, 2),
            ((0.3, 0.7, 0.2, 0.4), 0.4, 2),  # one too many
        ),
        said,
        DEFAULT,
    )
    assert [(r["phrase"], round(r["score"], 2)) for r in kept] == [(0, 0.5), (1, 0.8), (2, 0.5)]
    assert [(r["phrase"], r["reason"]) for r in refused] == [
        (1, "full-image"), (1, "duplicate"), (3, "contradiction"), (2, "low-confidence"),
        (2, "degenerate"), (2, "degenerate"), (2, "degenerate"), (2, "surplus"),
    ]  # fmt: skip


def test_boxes_are_cut_at_the_border():
    (kept,), refused = filter_boxes(
        proposals(((0.9, 0.1, 0.4, 0.4), 1, 0)), phrases("a hat"), DEFAULT
    )
    assert not refused
    # x from 0.7 to 1, y from 0 to 0.3
    assert kept["box"] == pytest.approx([0.85, 0.15, 0.3, 0.3])


def test_two_names_of_one_thing_share_a_box():
    box = (0.5, 0.5, 0.4, 0.9)
    kept, refused = filter_boxes(
        proposals((box, 0.9, 0), (box, 0.8, 1)), phrases("a man. the person"), DEFAULT
    )
    assert [r["phrase"] for r in kept] == [0, 1]
    assert refused == []


NUMBER = st.floats(-2, 3, width=32) | st.just(float("nan"))
BOXES = st.lists(
    st.tuples(st.tuples(*[NUMBER] * 4), st.floats(0, 1, width=32), st.integers(0, 3)),
    min_size=1, max_size=12,
)  # fmt: skip


@given(BOXES)
def test_no_box_is_lost_and_what_stays_is_a_box(rows):
    said = phrases("a man in a red shirt and blue jeans with a blue shirt")
    kept, refused = filter_boxes(proposals(*rows), said, DEFAULT)
    assert len(kept) + len(refused) == len(rows)
    assert {r["reason"] for r in refused} <= set(REASONS)
    for region in kept:
        cx, cy, w, h = region["box"]
        assert -1e-6 <= cx - w / 2 < cx + w / 2 <= 1 + 1e-6
        assert -1e-6 <= cy - h / 2 < cy + h / 2 <= 1 + 1e-6
    assert len({r["phrase"] for r in kept}) == len(kept)


def test_sda_round_trip_is_lossless():
    shard = table((encode_jpeg(figure()), [CAPTION], None))
    (row,) = annotate_table(shard, NLP, load_proposer(DEFAULT, None), DEFAULT).to_pylist()
    assert len(row["regions"]) >= 3
    entry = json.loads(json.dumps(to_sda(row, "c/0_0.jpg", 7)))
    assert list(entry) == ["image", "boxes", "logits", "phrases", "caption", "image_id"]
    back = from_sda(entry)
    assert to_sda(back, "c/0_0.jpg", 7) == entry
    assert back["caption"] == CAPTION
    for old, new in zip(row["regions"], back["regions"], strict=True):
        assert np.float32(new["score"]) == np.float32(old["score"])
        assert np.array_equal(np.float32(new["box"]), np.float32(old["box"]))
        said, read = row["phrases"][old["phrase"]], back["phrases"][new["phrase"]]
        assert (read["text"], read["group"]) == (said["text"], said["group"])
        assert CAPTION[read["start"] : read["end"]] == read["text"]


def test_the_release_example_is_read():
    back = from_sda(
        {
            "image": "c_0_5000/0_0.jpg",
            "boxes": [
                [0.5621, 0.4998, 0.853, 0.9712],
                [0.5649, 0.3704, 0.8504, 0.4376],
                [0, 0, 1, 1],
            ],
            "logits": [0.7473, 0.4396, 0.4],
            "phrases": ["a man", "a black shirt", "blackshirt"],
            "caption": "A man wearing a black shirt and red shoes",
            "image_id": 0,
        }
    )
    assert [(p["text"], p["start"], p["end"], p["group"]) for p in back["phrases"]] == [
        ("a man", 0, 5, "person"), ("a black shirt", 14, 27, "upper"),
        ("blackshirt", -1, -1, "accessory"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change", [{"boxes": [[0, 0, 1]]}, {"logits": []}, {"phrases": None}], ids=str
)
def test_broken_sda_entries_are_explained(change):
    entry = {"image": "x", "boxes": [[0, 0, 1, 1]], "logits": [1], "phrases": ["a"], "caption": "a"}
    entry |= change
    if change.get("phrases", 0) is None:
        del entry["phrases"]
    with pytest.raises(PedAlignError, match="SDA entry 'x'"):
        from_sda(entry)


def test_one_picture_from_the_command_line(tmp_path):
    path = tmp_path / "person.png"
    Image.fromarray(figure(192, 96)).save(path)
    entry, picture = annotate_one(path, CAPTION)
    assert entry["image"] == "person.png"
    assert "a red shirt" in entry["phrases"]
    cx, cy, w, h = entry["boxes"][entry["phrases"].index("a red shirt")]
    assert (cx, cy, w, h) == pytest.approx((0.5, 0.34, 0.48, 0.32), abs=0.05)
    assert picture.height >= 420
    assert phrases_of(["a hat", "x y"])[0][0]["group"] == "head"
    with pytest.raises(PedAlignError, match="no-caption"):
        annotate_one(path, " ")
    with pytest.raises(PedAlignError, match=r"gone\.png"):
        annotate_one(tmp_path / "gone.png", CAPTION)


def test_regions_are_drawn_in_their_groups_colours():
    entry = {
        "phrases": [
            {"text": "a red shirt " * 20, "group": "upper"},
            {"text": "x", "group": "hair"},
        ],
        "regions": [{"phrase": 0, "box": (0.5, 0.5, 0.5, 0.5), "score": 0.5}],
        "rejected": [{"phrase": 1, "box": (0.5, 0.9, 2, 0.1), "score": 0.1, "reason": "surplus"}],
    }
    blank = Image.new("RGB", (48, 96), "white")
    drawn = np.asarray(draw_regions(blank, entry))
    assert drawn.shape == (420, 210, 3)
    blue = tuple(int(COLOURS["upper"][i : i + 2], 16) for i in (1, 3, 5))
    assert tuple(drawn[200, 53]) == blue  # the left edge of the box: a quarter of the width
    assert tuple(drawn[200, 105]) == (255, 255, 255)
    assert not np.array_equal(drawn, np.asarray(draw_regions(blank, entry, refused=True)))
    assert blank.getextrema() == ((255, 255),) * 3
    assert set(COLOURS) == set(GROUPS)


def test_an_unknown_detector_is_explained(tmp_path):
    section = type(DEFAULT)(**{**DEFAULT.__dict__, "proposer": str(tmp_path / "none")})
    with pytest.raises(PedAlignError, match=r"annotate\.proposer"):
        load_proposer(section, "cpu")
