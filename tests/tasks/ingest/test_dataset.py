"""A poisoned dataset: everything odd at once, nothing lost, the same bytes every time."""

import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from tasks.errors import PedAlignError
from tasks.images import decode
from tasks.ingest import IngestDatasetParams, ingest_dataset
from tasks.params import check_section
from tasks.shards import read_manifest


def cuhk(path, person, split="train", captions=("a man in red", "red coat, black hat")):
    told = {"split": split, "captions": list(captions), "file_path": path, "id": person}
    return told | {"processed_tokens": []}


@pytest.fixture
def poisoned(raw, tmp_path):
    """Seven good images and one of every kind of bad one."""
    good = {
        "good.jpg": raw.picture(1),
        "png-named.jpg": raw.picture(2, name="PNG"),
        "deep/er/webp.webp": raw.picture(3, name="WEBP"),
        "progressive.jpg": raw.picture(4, progressive=True),
        "large.jpg": raw.picture(5, size=(300, 600)),
        "ünï cödé.jpg": raw.picture(6),
        "words.jpg": raw.picture(7),
    }
    bad = {
        "zero.jpg": b"",
        "cut.jpg": raw.picture(8)[:200],
        "text.jpg": b"<html>gone</html>",
        "tiny.png": raw.picture(9, size=(4, 4), name="PNG"),
    }
    for path, data in (good | bad).items():
        raw.put(f"imgs/{path}", data)
    (tmp_path / "secret.jpg").write_bytes(raw.picture(10))
    (raw.root / "imgs/link.jpg").symlink_to(tmp_path / "secret.jpg")
    (raw.root / "imgs/folder.jpg").mkdir()
    entries = [
        cuhk(path, number + 1, "test" if number % 2 else "train")
        for number, path in enumerate([*good, *bad, "link.jpg", "folder.jpg", "missing.jpg"])
    ]
    entries[6]["captions"] = ["", "  ", " ".join(["word"] * 500), "a <i>man</i> \x07in red"]
    entries += [
        cuhk("../../secret.jpg", 50),
        cuhk(str(tmp_path / "secret.jpg"), 51),
        cuhk("mute.jpg", 52, captions=[]),
        cuhk("number.jpg", 53, captions=[5]),
        {"file_path": "keyless.jpg"},
        "no mapping",
    ]
    raw.annotate(entries)
    return raw


REASONS = {
    "empty": 1,
    "truncated": 1,
    "not-an-image": 1,
    "too-small": 1,
    "unsafe-path": 3,
    "not-a-file": 1,
    "missing": 1,
    "no-caption": 1,
    "caption-not-text": 1,
    "missing-key": 1,
    "not-a-mapping": 1,
}


def test_every_entry_is_a_row_and_every_bad_one_has_its_reason(poisoned, rows):
    report = poisoned.ingest("cuhk-pedes", images="imgs")
    assert report.ok == 7
    assert report.reasons == dict(sorted(REASONS.items()))
    assert report.rows == 7 + sum(REASONS.values())
    assert report.empty_captions == 2
    found = rows(poisoned.out)
    assert len(found) == report.rows
    for row in found.values():
        if row["status"] == "ok":
            assert row["error"] is None
            assert decode(row["image"]).size == (row["width"], row["height"])
        else:
            assert row["image"] is None
            assert ": " in row["error"]
    assert found["imgs/words.jpg"]["captions"] == [" ".join(["word"] * 500), "a man in red"]
    assert found["imgs/good.jpg"]["image"] == poisoned.picture(1)
    assert found["imgs/png-named.jpg"]["image"] == poisoned.picture(2, name="PNG")
    assert found["imgs/large.jpg"]["height"] == 256
    assert report.copied == {"format": 1, "large": 1, "progressive": 1}


def test_the_manifest_holds_the_report_and_no_folder_of_this_machine(poisoned):
    report = poisoned.ingest("cuhk-pedes", images="imgs")
    manifest = read_manifest(poisoned.out)
    assert manifest.meta["report"] == json.loads(json.dumps(report.to_json()))
    assert manifest.meta["drawn"] is False
    assert manifest.counts == REASONS | {"ok": 7}
    assert str(poisoned.root) not in (poisoned.out / "manifest.json").read_text()


def test_the_same_input_gives_the_same_bytes(poisoned, tmp_path):
    def content(folder):
        return {file.name: file.read_bytes() for file in folder.iterdir()}

    told = poisoned.section(poisoned.root, "cuhk-pedes", images="imgs")
    ingest_dataset(told, tmp_path / "one/test", workers=1)
    first = content(tmp_path / "one/test")
    ingest_dataset(told, tmp_path / "two/test", workers=3)
    ingest_dataset(told, tmp_path / "one/test", workers=2)
    assert first == content(tmp_path / "two/test") == content(tmp_path / "one/test")
    assert len([name for name in first if name.startswith("b")]) > 1


def test_stale_shards_of_another_run_go(poisoned):
    poisoned.ingest("cuhk-pedes", images="imgs", shard_rows=1)
    many = len(list(poisoned.out.glob("b*.parquet")))
    poisoned.ingest("cuhk-pedes", images="imgs", shard_rows=1000)
    assert many > len(list(poisoned.out.glob("b*.parquet"))) == 1


def test_hashes_are_of_the_usable_pictures(poisoned, rows):
    poisoned.ingest("cuhk-pedes", images="imgs")
    table = pq.read_table(poisoned.out / "phash.parquet")
    usable = sorted(row["uid"] for row in rows(poisoned.out).values() if row["status"] == "ok")
    assert table["uid"].to_pylist() == usable
    assert len(np.unique(table["phash"].to_pylist())) == len(usable)


def test_a_picture_in_two_splits_is_counted(raw):
    raw.put("a.jpg", seed=1)
    raw.put("b.jpg", seed=1)
    raw.put("c.jpg", seed=2)
    raw.annotate([cuhk("a.jpg", 1), cuhk("b.jpg", 2, "test"), cuhk("c.jpg", 3, "test")])
    assert raw.ingest("cuhk-pedes").pictures_in_two_splits == 1


def test_a_wrong_images_folder_is_said_before_anything_is_read(raw):
    raw.put("imgs/a.jpg")
    raw.annotate([cuhk("a.jpg", 1)])
    with pytest.raises(PedAlignError, match=r"1 of 1 images .* not there") as caught:
        raw.ingest("cuhk-pedes")
    assert "`images`" in caught.value.remedy
    assert not (raw.out / "manifest.json").exists()


def test_a_changed_folder_stops(raw):
    raw.put("a.jpg")
    raw.annotate([cuhk("a.jpg", 1)])
    told = raw.section(raw.root, "cuhk-pedes")
    raw.put("b.jpg")
    with pytest.raises(PedAlignError, match="differ from fingerprint"):
        ingest_dataset(told, raw.out)


BASE = {
    "format": "cuhk-pedes",
    "root": "r",
    "annotation": "a.json",
    "fingerprint": "f.json",
    "shard_rows": 4,
    "min_side": 8,
    "max_side": 256,
}
WORLD = {"people": 20, "images_per_person": 1, "seed": 0, "captions": {"train": 1}}
SIZES = {"train": 3, "val": 1, "test": 2}
DRAWN = {"annotation": "data/nothing", "fingerprint": "data/nothing"}
SPLIT = {"val": 0.1, "test": 0.1, "seed": 0}
NOTHING = "data/nothing"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"format": "cuhk"}, "format"),
        ({"format": "world-source"}, "`world` is given"),
        ({"world": WORLD}, "`world` is given"),
        ({"format": "world-target", "world": WORLD}, "annotation and fingerprint data/nothing"),
        (DRAWN | {"format": "world-source", "world": WORLD | {"images_per_person": 2}}, "1 each"),
        (DRAWN | {"format": "world-source", "world": WORLD | {"captions": {}}}, r"is {'train': 1}"),
        (DRAWN | {"format": "world-unlabelled", "world": WORLD}, r"world-unlabelled is {}"),
        (DRAWN | {"format": "world-source", "world": WORLD | {"people": SIZES}}, "has no splits"),
        *((DRAWN | {"format": "world-target", "world": WORLD | change}, found)
          for change, found in [
              ({"captions": {"dev": 1}}, "world.captions"),
              ({"captions": {"val": 0}}, "from 1 to 5"),
              ({"captions": ["val"]}, "must be such as"),
              ({"people": 0}, "world.people"),
              ({"people": True}, "world.people"),
              ({"people": {"train": 3, "test": 2}}, "must be such as"),
              ({"people": SIZES | {"test": 0}}, "only val may be 0"),
              ({"images_per_person": SIZES | {"val": 0}}, "from 1 to"),
              ({"images_per_person": "4"}, "world.images_per_person"),
          ]),
        ({"fingerprint": NOTHING}, "pedalign fingerprint"),
        ({"annotation": NOTHING}, "only `folder`"),
        ({"split": SPLIT}, "leave `split` out"),
        ({"format": "folder", "split": SPLIT | {"val": 0.9}}, "nobody to train on"),
        ({"min_side": 300}, "min_side"),
        ({"shard_rows": 0}, "shard_rows"),
        ({"shards": 3}, "unknown key"),
    ],
)  # fmt: skip
def test_parameters_that_would_do_nothing_are_refused(change, found):
    with pytest.raises(PedAlignError, match=found):
        check_section(IngestDatasetParams, BASE | change, "ingest.datasets.x")


def test_the_sections_in_the_documentation_are_whole():
    """Every YAML example of docs/datasets.md is read as params.yaml would be."""
    text = (Path(__file__).parents[3] / "docs/datasets.md").read_text(encoding="utf-8")
    formats = []
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        lines = textwrap.dedent(block)
        loaded = YAML(typ="safe").load(lines)
        while "ingest" in loaded or "datasets" in loaded:
            loaded = loaded.get("ingest", loaded.get("datasets"))
        for name, section in loaded.items():
            formats.append(check_section(IngestDatasetParams, section, name).format)
    assert formats == ["folder", "lmdb", "luperson-t", "world-unlabelled", "world-second"]
