"""The annotate stage: rows in, rows out; one picture at a time; SDA's layout."""

import json
import threading
import types

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from models.regions.proposals import Proposals
from tasks.annotate import preparing
from tasks.annotate.shard import annotate_table, load_proposer
from tasks.annotate.single import DEFAULT, annotate_one, phrases_of
from tasks.errors import PedAlignError
from tasks.images import encode_jpeg
from tasks.phrases import load_parser
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


def test_the_next_pictures_are_decoded_while_these_are_looked_at(monkeypatch):
    good = encode_jpeg(figure())
    captions = ["a man", "a red shirt", "a man", "white shoes", "black pants"]
    shard = table(*[(b"" if n == 2 else good, [text], None) for n, text in enumerate(captions)])
    proposer = load_proposer(DEFAULT, None)
    whole = annotate_table(shard, NLP, proposer, DEFAULT).to_pylist()
    decoded, enough, pixels = [], threading.Event(), preparing._pixels

    def watched(blob):
        decoded.append(blob)
        if len(decoded) == 4:
            enough.set()
        return pixels(blob)

    class Waits(Fixed):
        def propose(self, images, queries):
            assert enough.wait(10), "the second chunk waits for the first"
            return super().propose(images, queries)

    monkeypatch.setattr(preparing, "CHUNK", 2)
    monkeypatch.setattr(preparing, "_pixels", watched)
    annotate_table(shard, NLP, Waits(), DEFAULT, workers=1)
    assert len(decoded) == 5
    # Where a chunk ends is nobody's business, but for the noise of other batches.
    parts = annotate_table(shard, NLP, proposer, DEFAULT)
    for one, other in zip(parts.to_pylist(), whole, strict=True):
        assert {**one, "regions": 0} == {**other, "regions": 0}
        for a, b in zip(one["regions"], other["regions"], strict=True):
            assert (a["phrase"], *a["box"], a["score"]) == pytest.approx(
                (b["phrase"], *b["box"], b["score"]), abs=1e-5
            )


def test_a_caption_is_parsed_once_a_shard(monkeypatch):
    good, parsed = encode_jpeg(figure()), []

    def pipe(texts, **options):
        parsed.extend(texts)
        return NLP.pipe(texts, **options)

    shard = table(*[(good, [f"a hat {n % 2}"], None) for n in range(6)])
    monkeypatch.setattr(preparing, "CHUNK", 2)
    annotate_table(shard, types.SimpleNamespace(pipe=pipe), Fixed(), DEFAULT)
    assert sorted(parsed) == ["a hat 0", "a hat 1"]


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
        ("blackshirt", -1, -1, "upper"),
    ]  # fmt: skip


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


def test_an_unknown_detector_is_explained(tmp_path):
    section = type(DEFAULT)(**{**DEFAULT.__dict__, "proposer": str(tmp_path / "none")})
    with pytest.raises(PedAlignError, match=r"annotate\.proposer") as caught:
        load_proposer(section, "cpu")
    assert "rule" in caught.value.found  # the loader's own words, not cut off
