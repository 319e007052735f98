"""A whole set in SDA's released layout: out of the pipeline's tables and back into pretraining."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.batches import read_pairs
from tasks.errors import PedAlignError
from tasks.export import Tables, export
from tasks.images import encode_jpeg
from tasks.ingest import IngestDatasetParams, fingerprint, ingest_dataset
from tasks.ingest.captions import clean_caption
from tasks.schemas import ANNOTATED, IMAGES
from tasks.sda import KEYS, thick_enough
from tasks.shards import image_uid, iter_tables, write_folder
from tests.sda import bits, one, placed, released_pixels, rows, write

COUNT = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write(tmp_path_factory.mktemp("made"), COUNT)


@pytest.fixture(scope="module")
def handed_on(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "set"
    tables = Tables.annotated_in(made)
    return out, export(tables, to="sda", out=out, entries_per_file=15)


def entries_of(folder):
    files = sorted(folder.glob("*.json"), key=lambda path: int(path.stem.removeprefix("sda_")))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def again(folder, out, **values):
    fingerprint(folder)
    section = {
        "format": "sda", "root": str(folder), "annotation": str(folder), "shard_rows": 16,
        "fingerprint": str(folder / "fingerprint.json"), "min_side": 4, "max_side": 256,
    }  # fmt: skip
    return ingest_dataset(IngestDatasetParams(**section | values), out)


def test_files_of_so_many_entries_with_paths_and_numbers_of_their_own(handed_on):
    out, done = handed_on
    files = entries_of(out)
    assert [len(part) for part in files] == [15, 15, COUNT - 2 - 30]
    entries = [entry for part in files for entry in part]
    assert all(tuple(entry) == KEYS for entry in entries)
    assert [entry["image_id"] for entry in entries] == list(range(COUNT - 2))
    assert len({entry["image"] for entry in entries}) == COUNT - 2
    assert done.left_out == {"truncated": 1, "no-caption": 1}
    assert sum(not entry["boxes"] for entry in entries) == done.counts["rows_without_regions"] > 0
    note = json.loads((out / "export.yaml").read_text())
    assert note["counts"] == done.counts
    assert note["left_out"] == done.left_out


def test_the_released_loader_finds_no_box_without_a_side(handed_on, made):
    out, done = handed_on
    for entry in (entry for part in entries_of(out) for entry in part):
        with Image.open(out / entry["image"]) as picture:
            width, height = picture.size
        for box in entry["boxes"]:
            x, y, w, h = released_pixels(box, width, height)
            assert min(x, y) >= 0
            assert x + w <= width
            assert y + h <= height
    told = sum(len(row["regions"]) for row in read(made / "annotated"))
    thin = done.counts["regions_thinner_than_a_pixel"]
    assert done.counts["regions"] == told - thin < told


def test_what_comes_back_is_what_was_handed_on_to_the_bit(handed_on, made, tmp_path):
    out, done = handed_on
    assert not again(out, tmp_path / "again").reasons
    before = {row["uid"]: row for row in read(made / "annotated") if row["status"] == "ok"}
    pictures = {
        row["uid"]: row
        for table in iter_tables(tmp_path / "again", ["uid", "source_path", "image"])
        for row in table.to_pylist()
    }
    sizes = {
        row["uid"]: (row["width"], row["height"], row["image"])
        for table in iter_tables(made)
        for row in table.to_pylist()
    }
    unclear = 0
    for table in iter_tables(tmp_path / "again" / "annotated"):
        for row in table.to_pylist():
            assert row["status"] == "ok"
            picture = pictures[row["uid"]]
            uid = picture["source_path"].rsplit("/", 1)[1].removesuffix(".jpg")
            width, height, data = sizes[uid]
            assert picture["image"] == data
            old = before.pop(uid)
            assert row["caption"] == old["caption"]
            old["regions"] = [
                r for r in old["regions"] if r["box"][2] * width >= 1 and r["box"][3] * height >= 1
            ]
            same = placed(row) == placed(old)
            unclear += not same
            if same:  # then the parser also says the same of each phrase
                told = {r["phrase"] for r in old["regions"]}
                assert row["phrases"] == [p for n, p in enumerate(old["phrases"]) if n in told]
            assert row["rejected"] == []
    assert before == {}
    assert unclear <= done.counts["regions_whose_place_in_the_caption_is_unclear"]


def test_pretraining_reads_the_same_captions_phrases_and_boxes(handed_on, made, tmp_path):
    out, _ = handed_on
    again(out, tmp_path / "again")

    def pairs_of(folder):
        pairs, pictures = read_pairs(folder, folder / "annotated", split="train", identity="image")
        found = {}
        for n in range(len(pairs)):
            picture = pictures.read(pairs.image[n : n + 1])[0]
            regions = sorted(
                (pairs.phrases[int(pairs.phrase[r])].as_py(), pairs.box[r].tobytes())
                for r in range(pairs.first[n], pairs.first[n + 1])
                if (pairs.box[r][2:] * picture.shape[1::-1]).min() >= 1
            )
            found[picture.tobytes()] = (pairs.caption[n].as_py(), regions)
        return found

    assert pairs_of(tmp_path / "again") == pairs_of(made)
    assert len(pairs_of(made)) == COUNT - 2


@st.composite
def shards(draw):
    """Rows of any clean text, with boxes that have an area, however small."""
    annotated = []
    for number in range(draw(st.integers(1, 5))):
        row = draw(rows())
        if not row["caption"] or clean_caption(row["caption"]) != row["caption"]:
            row = {"caption": f"a hat {number}", "phrases": [], "regions": []}
        for phrase in row["phrases"]:
            phrase |= {"text": clean_caption(phrase["text"])}
            phrase |= {"head": "x", "group": "upper", "colours": [], "attributes": []}
        for region in row["regions"]:
            low = 1 if draw(st.booleans()) else 0  # down to the smallest number there is
            region["box"] = [
                *region["box"][:2],
                *(max(v, SIDE if low else np.float32(1e-45)) for v in region["box"][2:]),
            ]
        annotated.append(row)
    return annotated


SIDE = np.float32(1 / 8)


@settings(max_examples=15, deadline=None)
@given(shards())
def test_whatever_is_in_a_shard_comes_back(annotated):
    with TemporaryDirectory() as folder:
        root = Path(folder)
        images, sides = [], []
        for number, row in enumerate(annotated):
            image, _ = one(0)
            uid = image_uid("any", str(number))
            pixels = np.full((16, 8, 3), 10 * number, np.uint8)
            image |= {"uid": uid, "image": encode_jpeg(pixels), "width": 8, "height": 16}
            images.append(image)
            sides.append({"uid": uid, "rejected": [], "status": "ok", "error": None, **row})
        write_folder(root, [pa.Table.from_pylist(images, IMAGES)], "images", shard_rows=9)
        side = pa.Table.from_pylist(sides, ANNOTATED)
        write_folder(root / "annotated", [side], "annotated", shard_rows=9)
        done = export(Tables.annotated_in(root), to="sda", out=root / "set")
        again(root / "set", root / "again")
        paths = {row["uid"]: row["source_path"] for row in read(root / "again")}
        expected = {row["uid"]: row for row in read(root / "annotated")}
        moved = 0
        for row in read(root / "again" / "annotated"):
            old = expected.pop(Path(paths[row["uid"]]).stem)
            old["regions"] = [r for r in old["regions"] if thick_enough(r["box"], 8, 16)]
            assert row["caption"] == old["caption"]
            assert bits(row) == bits(old)
            moved += len(set(placed(old)) - set(placed(row)))
        assert expected == {}
        assert (moved > 0) <= (done.counts["regions_whose_place_in_the_caption_is_unclear"] > 0)


def read(folder):
    return [row for table in iter_tables(folder) for row in table.to_pylist()]


def test_a_set_that_was_read_can_be_handed_on_again(handed_on, tmp_path):
    out, done = handed_on
    again(out, tmp_path / "again")
    second = export(
        Tables.annotated_in(tmp_path / "again"), to="sda", out=tmp_path / "second",
        entries_per_file=1000,
    )  # fmt: skip
    assert second.pairs == done.pairs
    assert second.counts["regions"] == done.counts["regions"]
    assert second.counts["regions_thinner_than_a_pixel"] == 0
    assert second.counts["regions_whose_place_in_the_caption_is_unclear"] == 0


def test_one_of_several_files_can_be_read_alone(handed_on, tmp_path):
    out, _ = handed_on
    report = again(out, tmp_path / "part", annotation=str(out / "sda_1.json"))
    assert (report.rows, report.reasons) == (15, {})


def test_nothing_annotated_is_explained(tmp_path):
    with pytest.raises(PedAlignError, match="dvc repro annotate"):
        Tables.annotated_in(tmp_path)


_SLOW = """
import sys, time
from pathlib import Path
from tasks.export import Tables, export, layouts
add = layouts.SdaWriter.add
def slowly(self, pair):
    add(self, pair)
    print("one", flush=True)
    time.sleep(0.2)
layouts.SdaWriter.add = slowly
export(Tables.annotated_in(Path(sys.argv[1])), to="sda", out=Path(sys.argv[2]))
"""


def test_a_killed_export_leaves_no_folder_and_the_next_one_clears_up(made, tmp_path):
    out = tmp_path / "set"
    command = [sys.executable, "-c", _SLOW, str(made), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout.readline() == b"one\n"
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".set.partial"]
    began = time.monotonic()
    export(Tables.annotated_in(made), to="sda", out=out)
    assert time.monotonic() - began < 60
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
