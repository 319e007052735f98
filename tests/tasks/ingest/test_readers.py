"""Every official layout, from tiny generated releases to rows of the images table."""

import json
import os
from collections import Counter

import pytest

from tasks.errors import PedAlignError
from tasks.ingest.readers import READERS, Place


def brief(row):
    return {name: row[name] for name in ("split", "person_id", "camera", "captions", "status")}


def test_cuhk_pedes(raw, rows):
    raw.put("imgs/cam_a/1.png", raw.picture(1, name="PNG"))
    raw.put("imgs/CUHK01/0363004.png", raw.picture(2, name="PNG"))
    raw.put("imgs/test_query/p1.jpg", seed=3)
    raw.annotate(
        [
            {"split": s, "captions": c, "file_path": p, "processed_tokens": [["a"]], "id": i}
            for s, c, p, i in [
                ("train", ["A man in red.", "Red coat, black hat."], "cam_a/1.png", 1),
                ("val", ["A woman with a bag."], "CUHK01/0363004.png", 11004),
                (
                    "test",
                    ["One two three.", "Four.", "Five six."],
                    "test_query/p1.jpg",
                    12004,
                ),
            ]
        ]
    )
    report = raw.ingest("cuhk-pedes", images="imgs")
    found = rows(raw.out)
    assert brief(found["imgs/cam_a/1.png"]) == {
        "split": "train",
        "person_id": "test/00001",
        "camera": "cam_a",
        "captions": ["A man in red.", "Red coat, black hat."],
        "status": "ok",
    }
    assert found["imgs/CUHK01/0363004.png"]["person_id"] == "test/11004"
    assert found["imgs/test_query/p1.jpg"]["camera"] == "test_query"
    assert report.captions_per_image == {"1": 1, "2": 1, "3": 1}
    assert report.comparison is not None
    assert not report.comparison.exact


def test_icfg_pedes_lowers_the_split_and_knows_that_folders_are_not_splits(raw, rows):
    raw.put("imgs/test/0000/0000_000_01_0303morning_0008_0.jpg", seed=1)
    raw.put("imgs/train/0001/0001_002_13_0113noon_1.jpg", seed=2)
    raw.annotate(
        [
            {
                "split": "TRAIN",
                "captions": ["A man in a long coat."],
                "file_path": "test/0000/0000_000_01_0303morning_0008_0.jpg",
                "processed_tokens": [],
                "id": 0,
            },
            {
                "split": "TEST",
                "captions": ["A woman in a long coat."],
                "file_path": "train/0001/0001_002_13_0113noon_1.jpg",
                "processed_tokens": [],
                "id": 3102,
            },
        ]
    )
    raw.ingest("icfg-pedes", images="imgs")
    by_split = {row["split"]: row for row in rows(raw.out).values()}
    assert by_split["train"]["person_id"] == "test/00000"
    assert by_split["train"]["camera"] == "c1"
    assert by_split["test"]["camera"] == "c13"


def test_rstpreid(raw, rows):
    raw.put("imgs/0000_c5_0022.jpg")
    raw.annotate(
        [
            {
                "id": 0,
                "img_path": "0000_c5_0022.jpg",
                "captions": ["The man wears black.", "He carries a bag."],
                "split": "train",
            }
        ]
    )
    raw.ingest("rstpreid", images="imgs")
    (row,) = rows(raw.out).values()
    assert (row["camera"], row["person_id"], len(row["captions"])) == ("c5", "test/00000", 2)


def test_finetune_files_are_one_entry_a_caption_or_an_image(raw, rows):
    for number, path in enumerate(["a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"]):
        raw.put(path, seed=number)
    raw.annotate(
        [
            {"image": "a/1.jpg", "caption": "first words here", "image_id": 5},
            {"image": "a/2.jpg", "caption": "third words here", "image_id": 5},
            {"image": "a/1.jpg", "caption": "second words here", "image_id": 5},
        ],
        "cuhk_train.json",
    )
    raw.annotate(
        [{"image": "b/3.jpg", "caption": ["x y z", "u v w"], "image_id": 6}], "cuhk_val.json"
    )
    raw.annotate([{"image": "b/4.jpg", "caption": ["r s t"], "image_id": 7}], "cuhk_test.json")
    raw.annotate([{"image": "c.jpg", "caption": ["other"], "image_id": 0}], "icfg_test.json")
    report = raw.ingest("finetune", annotation=raw.root, files="cuhk_*.json")
    found = rows(raw.out)
    assert found["a/1.jpg"]["captions"] == ["first words here", "second words here"]
    assert [found[p]["split"] for p in ("a/2.jpg", "b/3.jpg", "b/4.jpg")] == [
        "train",
        "val",
        "test",
    ]
    assert found["a/1.jpg"]["person_id"] == found["a/2.jpg"]["person_id"] == "test/00005"
    # The file's name says which benchmark it is.
    assert report.comparison is not None
    assert "34,054" in " ".join(report.comparison.differences)


def test_finetune_refuses_what_it_would_have_to_guess(raw):
    entry = {"image": "a.jpg", "caption": "x", "image_id": 1}
    raw.annotate([entry], "cuhk.json")
    with pytest.raises(PedAlignError, match="does not end in _train"):
        raw.ingest("finetune", annotation=raw.root / "cuhk.json")
    raw.annotate([entry, entry | {"image_id": 2}], "cuhk_train.json")
    with pytest.raises(PedAlignError, match="shows 1 and"):
        raw.ingest("finetune", annotation=raw.root / "cuhk_train.json")


def test_mals_is_many_files_with_labels(raw, rows):
    labels = [0, 1, -1] * 9
    for name in ("g_0_attrs.json", "g_1_attrs.json"):
        raw.put(f"gene_crop/{name[2]}/0.jpg", seed=int(name[2]))
        raw.annotate(
            [
                {
                    "image": f"gene_crop/{name[2]}/0.jpg",
                    "caption": "a woman in a dress",
                    "image_id": f"c_{name[2]}_0",
                    "label": labels,
                }
            ],
            name,
        )
    raw.ingest("mals", annotation=raw.root, files="g_*_attrs.json")
    found = rows(raw.out)
    assert set(found) == {"gene_crop/0/0.jpg", "gene_crop/1/0.jpg"}
    row = found["gene_crop/0/0.jpg"]
    assert row["labels"] == labels
    assert (row["split"], row["person_id"]) == ("train", None)


def test_sda_enters_at_the_output_of_annotation(raw, rows):
    for number in range(3):
        raw.put(f"c_0_5000/{number}_0.jpg", seed=number)
    entry = {
        "image": "c_0_5000/0_0.jpg",
        "boxes": [[0.5, 0.5, 0.8, 0.9], [0.5, 0.4, 0.8, 0.4], [0.5, 0.4, 0.0, 0.4]],
        "logits": [0.75, 0.5, 0.9],
        "phrases": ["a man", "a black shirt", "a man"],
        "caption": "a man wearing  a black shirt",
        "image_id": 0,
    }
    none = entry | {"image": "c_0_5000/1_0.jpg", "boxes": [], "logits": [], "phrases": []}
    torn = entry | {"image": "c_0_5000/2_0.jpg", "logits": [0.5]}
    raw.annotate([entry, none, torn], "sda_0_5000.json")
    report = raw.ingest("sda", annotation=raw.root, files="sda_*.json")
    assert report.reasons == {"bad-regions": 1}
    images = rows(raw.out)

    import pyarrow as pa

    from tasks.shards import iter_tables, read_manifest

    side = pa.concat_tables(list(iter_tables(raw.out / "annotated")))
    assert read_manifest(raw.out / "annotated").schema_name == "annotated"
    by_uid = {row["uid"]: row for row in side.to_pylist()}
    assert [row["uid"] for row in images.values()] == list(by_uid)
    told = by_uid[images["c_0_5000/0_0.jpg"]["uid"]]
    assert told["caption"] == "a man wearing a black shirt"
    assert [told["caption"][p["start"] : p["end"]] for p in told["phrases"]] == [
        "a man",
        "a black shirt",
    ]
    assert [(r["phrase"], round(r["score"], 4)) for r in told["regions"]] == [(0, 0.75), (1, 0.5)]
    assert told["regions"][1]["box"] == pytest.approx([0.5, 0.4, 0.8, 0.4])
    assert [(r["phrase"], r["reason"]) for r in told["rejected"]] == [(0, "degenerate")]
    assert by_uid[images["c_0_5000/1_0.jpg"]["uid"]]["regions"] == []
    assert by_uid[images["c_0_5000/2_0.jpg"]["uid"]]["status"] == "rejected"


def test_luperson_t(raw, rows):
    raw.put("imgs/x_0.jpg")
    raw.annotate([{"file_path": "x_0.jpg", "captions": ["A young man is walking."]}])
    raw.ingest("luperson-t", images="imgs")
    (row,) = rows(raw.out).values()
    assert (row["split"], row["person_id"]) == ("train", None)
    assert row["captions"] == ["A young man is walking."]


def test_luperson_t_as_its_count_is_described(raw, rows):
    """More texts than images, in one entry or in several; some pictures are not in the copy."""
    for number in range(4):
        raw.put(f"imgs/v/{number}.jpg", seed=number)
    raw.annotate(
        [
            {"file_path": "v/0.jpg", "captions": ["A man walks.", "The man has short hair."]},
            {"file_path": "v/1.jpg", "captions": ["A woman stands."]},
            {"file_path": "v/2.jpg", "captions": ["A kid walks."], "split": "test"},
            {"file_path": "v/1.jpg", "captions": ["She carries a bag."]},
            {"file_path": "v/3.jpg", "captions": "One text that is no list."},
            {"file_path": "v/gone.jpg", "captions": ["Nobody is there."]},
            {"file_path": ["v/3.jpg"], "captions": ["No path."]},
        ]
    )
    report = raw.ingest("luperson-t", images="imgs")
    found = rows(raw.out)
    assert report.ok == 4
    assert report.reasons == {"bad-path": 1, "missing": 1}
    assert {row["split"] for row in found.values()} == {"train"}
    assert found["imgs/v/1.jpg"]["captions"] == ["A woman stands.", "She carries a bag."]
    assert found["imgs/v/3.jpg"]["captions"] == ["One text that is no list."]
    assert report.comparison.variant == "an independent count"
    assert "train images: 6 (-957,600)" in report.comparison.differences[0]


def test_paths_of_another_machine_are_said_before_a_picture_is_read(raw):
    raw.put("a.jpg")
    raw.annotate([{"file_path": f"/root/someone/{n}.jpg", "captions": ["x"]} for n in range(3)])
    with pytest.raises(
        PedAlignError, match=r"3 of 3 paths lead elsewhere .*/root/someone/0"
    ) as caught:
        raw.ingest("luperson-t")
    assert "cut off the folder" in caught.value.remedy


ODD_NAMES = {
    "deep/er/and/deeper/a.JPG": "ok",
    "ünï cödé/人.png": "ok",
    " spaces in it .jpeg": "ok",
    "train.test/x.y.z.jpg": "ok",
    "-rf.jpg": "ok",
    "%41.webp": "ok",
    "two\nlines.jpg": "bad-path",
    "back\\slash.jpg": "unsafe-path",
    "no-picture.jpg": "not-an-image",
    "folder.jpg/inside.jpg": "ok",
    "copy of a.jpg": "ok",
    os.fsdecode(b"not-utf-8-\xff.jpg"): "bad-path",
}
LEFT_OUT = ("notes.txt", ".hidden.jpg", ".thumbs/a.jpg", "Thumbs.db", "no_suffix", "keys.pkl")


def test_a_folder_with_every_kind_of_name(raw, rows, caplog):
    caplog.set_level("INFO", logger="tasks.ingest.readers")
    for number, name in enumerate(ODD_NAMES):
        data = b"<html>" if name == "no-picture.jpg" else raw.picture(number, name=_encoder(name))
        raw.put(name, data)
    raw.put("copy of a.jpg", raw.picture(0))  # twice the same picture: screening tells
    for name in LEFT_OUT:
        raw.put(name)
    (raw.root / "linked").symlink_to(raw.root / "deep")  # a loop would not end either
    report = raw.ingest(
        "folder", annotation="data/nothing", split={"val": 0.0, "test": 0.0, "seed": 0}
    )
    found = list(rows(raw.out).values())
    assert report.rows == len(ODD_NAMES)
    assert Counter((row["error"] or "ok").split(":")[0] for row in found) == Counter(
        ODD_NAMES.values()
    )
    assert {row["split"] for row in found} == {"train"}
    good = {row["source_path"] for row in found if row["status"] == "ok"}
    assert good == {name for name, fate in ODD_NAMES.items() if fate == "ok"}
    assert len({row["uid"] for row in found}) == len(found)
    assert "'.txt': 1" in caplog.text
    assert "'.pkl': 1" in caplog.text


def _encoder(name):
    return {"png": "PNG", "webp": "WEBP"}.get(name.rpartition(".")[2], "JPEG")


def test_a_bare_folder_takes_splits_from_its_folders(raw, rows):
    raw.put("train/a.jpg", seed=1)
    raw.put("test/b.jpeg", seed=2)
    raw.put("test/notes.txt", b"no image")
    raw.ingest("folder", annotation="data/nothing")
    found = rows(raw.out)
    assert {path: row["split"] for path, row in found.items()} == {
        "train/a.jpg": "train",
        "test/b.jpeg": "test",
    }
    assert all(row["captions"] == [] and row["status"] == "ok" for row in found.values())


def test_a_bare_folder_without_splits_needs_a_rule(raw, rows):
    for number in range(60):
        raw.put(f"{number}.jpg", seed=number)
    with pytest.raises(PedAlignError, match="60 images belong to no split"):
        raw.ingest("folder", annotation="data/nothing")
    rule = {"val": 0.2, "test": 0.3, "seed": 1}
    raw.ingest("folder", annotation="data/nothing", split=rule)
    before = {path: row["split"] for path, row in rows(raw.out).items()}
    assert set(before.values()) == {"train", "val", "test"}
    # Nobody moves when somebody comes.
    raw.put("new.jpg", seed=99)
    raw.ingest("folder", annotation="data/nothing", split=rule)
    after = {path: row["split"] for path, row in rows(raw.out).items()}
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_folder_with_captions(raw, rows, kind):
    for number, path in enumerate(["a.jpg", "sub/b.jpg", "c.jpg"]):
        raw.put(path, seed=number)
    if kind == "csv":
        text = (
            "image,caption,split,person,camera\n"
            'a.jpg,"a man, tall",train,7,gate\n'
            "sub/b.jpg,a woman in red,test,anna,\n"
            "a.jpg,second words here,train,7,gate\n"
            "c.jpg,,train,,\n"
        )
    else:
        lines = [
            {"image": "a.jpg", "captions": ["a man, tall", "second words here"], "split": "train"}
            | {"person": 7, "camera": "gate"},
            {"image": "sub/b.jpg", "caption": "a woman in red", "split": "test", "person": "anna"},
            {"image": "c.jpg", "split": "train"},
        ]
        text = "\n".join(map(json.dumps, lines))
    (raw.root / f"captions.{kind}").write_text(text)
    raw.ingest("folder", annotation=raw.root / f"captions.{kind}")
    found = rows(raw.out)
    assert brief(found["a.jpg"]) == {
        "split": "train",
        "person_id": "test/00007",
        "camera": "gate",
        "captions": ["a man, tall", "second words here"],
        "status": "ok",
    }
    assert found["sub/b.jpg"]["person_id"] == "test/anna"
    assert brief(found["c.jpg"]) == {
        "split": "train",
        "person_id": None,
        "camera": None,
        "captions": [],
        "status": "ok",
    }


def test_lines_about_one_image_must_agree(raw):
    (raw.root / "captions.csv").write_text("image,caption,split\na.jpg,x,train\na.jpg,y,test\n")
    with pytest.raises(PedAlignError, match=r"split of a\.jpg is 'test', at .*#0 'train'"):
        raw.ingest("folder", annotation=raw.root / "captions.csv")


@pytest.mark.parametrize("form", sorted(set(READERS) - {"folder", "lmdb", "market1501"}))
def test_every_reader_survives_entries_of_any_kind(tmp_path, form):
    path = tmp_path / "x_train.json"
    path.write_text(json.dumps([1, None, "x", [], {}, {"image": 3, "id": None, "captions": 5}]))
    entries = list(READERS[form](Place(tmp_path, str(path), "*.json")))
    assert len(entries) == 6
    assert all(entry.fault for entry in entries)


def test_no_annotation_file_is_said(tmp_path):
    with pytest.raises(PedAlignError, match="called sda"):
        list(READERS["sda"](Place(tmp_path, str(tmp_path), "sda_*.json")))
    with pytest.raises(PedAlignError, match="no annotation file"):
        list(READERS["mals"](Place(tmp_path, str(tmp_path / "a.json"), "*.json")))
