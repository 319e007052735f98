import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tasks.errors import PedAlignError
from tasks.export import Tables, export
from tasks.images import decode, encode_jpeg
from tasks.ingest import IngestDatasetParams, fingerprint, ingest_dataset
from tasks.schemas import ANNOTATED, CAPTIONED, RESTYLED, SCREENED
from tasks.sda import from_sda
from tasks.shards import image_uid, iter_tables, write_folder

COUNT = 40


def png(shade):
    sink = io.BytesIO()
    Image.new("RGB", (8, 16), (shade, 0, 0)).save(sink, "PNG")
    return sink.getvalue()


def uid_of(n):
    return f"{image_uid('source', str(n))}.r0"


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Row n: 0 failed to restyle, 1 was screened out, 2 lost its captions, 3 is a PNG."""
    root = tmp_path_factory.mktemp("data")
    images, screened, captioned, annotated = [], [], [], []
    for n in range(COUNT):
        failed = n == 0
        status = {"status": "rejected", "error": "truncated: 9 bytes"} if failed else OK
        data = None if failed else png(n) if n == 3 else encode_jpeg(shade(n))
        images.append(
            {
                "uid": uid_of(n),
                "dataset": "source",
                "split": "train",
                "camera": None,
                "person_id": None if n % 2 else f"source/{n % 8}",
                "image": data,
                "width": 8,
                "height": 16,
                "captions": [f"old {n}"],
                "labels": None,
                "source_path": f"{n}.jpg",
                "parent_uid": image_uid("source", str(n)),
                "prompt": f"old {n}",
                "eda_op": None,
                "seed": n,
                "strength": 0.5,
                "steps": 4,
                "guidance": 2.0,
                "base_revision": "b",
                "dad_digest": "d",
                "mode": "restyle",
                "match": 0.0,
                "scheduler": "dpm",
                "negative_prompt": None,
                "control_scale": 1.0,
                "reuse": 1,
                "noise": "random",
                "detail": 0.0,
                **status,
            }
        )
        gone = failed or n == 1
        screened.append(
            {
                "uid": uid_of(n),
                "keep": not gone,
                "grey_variance": 1.0,
                "jpeg_bytes": 1,
                "reason": "upstream" if failed else "grey+no-legs" if n == 1 else None,
                "pose_score": None,
                "duplicate_of": None,
                **({"status": "rejected", "error": "grey: 3"} if gone else OK),
            }
        )
        later = {"status": "rejected", "error": "screened: grey"} if gone else OK
        texts = [] if n == 2 else [f"A «new» caption {n}", f"Again\nnew {n}"]
        captioned.append({"uid": uid_of(n), "captions": texts, "method": "typed", **later})
        annotated.append(
            {
                "uid": uid_of(n), "caption": f"A «new» caption {n}", "rejected": [], **later,
                "phrases": [{"text": "caption", "start": 8, "end": 15, "head": "caption",
                             "group": "upper", "colours": [], "attributes": []}],
                "regions": [{"phrase": 0, "box": [0.5, 0.25, 0.5, 0.5], "score": 0.75}],
            }
        )  # fmt: skip
    found = {}
    for name, rows, schema in (
        ("restyled", images, RESTYLED), ("screened", screened, SCREENED),
        ("captioned", captioned, CAPTIONED), ("annotated", annotated, ANNOTATED),
    ):  # fmt: skip
        # Other shard borders for the side tables: rows are joined by uid and not by place.
        size = 16 if name == "restyled" else 11
        write_folder(root / name, [pa.Table.from_pylist(rows, schema)], name, shard_rows=size)
        found["images" if name == "restyled" else name] = root / name
    return Tables(**found)


OK = {"status": "ok", "error": None}


def shade(n):
    return np.full((16, 8, 3), 5 * n, dtype=np.uint8)


def test_left_out_rows_are_counted_by_the_first_stage_that_refused_them(tables, tmp_path):
    done = export(tables, to="folder", out=tmp_path / "out")
    assert done.pairs == COUNT - 3
    assert done.captions == 2 * done.pairs
    assert done.left_out == {"truncated": 1, "grey": 1, "no-caption": 1}
    note = json.loads((tmp_path / "out" / "export.json").read_text())
    assert note["left_out"] == done.left_out
    assert set(note["inputs"]) == {"images", "screened", "captioned", "annotated"}


def test_cuhk_layout(tables, tmp_path):
    export(tables, to="cuhk", out=tmp_path / "out")
    entries = json.loads((tmp_path / "out" / "reid_raw.json").read_text(encoding="utf-8"))
    assert len(entries) == COUNT - 3
    first = entries[0]
    assert set(first) == {"split", "captions", "file_path", "processed_tokens", "id"}
    assert first["captions"][0].startswith("A «new» caption")
    assert first["processed_tokens"][0][:3] == ["a", "new", "caption"]
    for entry in entries:
        with Image.open(tmp_path / "out" / "imgs" / entry["file_path"]) as image:
            assert image.size == (8, 16)
    ids = list(dict.fromkeys(entry["id"] for entry in entries))
    assert ids == list(range(1, len(ids) + 1))
    # Known people keep one number (4 of them, n % 8 even); every other picture is its own.
    names = json.loads((tmp_path / "out" / "identities.json").read_text())
    known = [name for name in names.values() if name.startswith("source/")]
    assert sorted(known) == ["source/0", "source/2", "source/4", "source/6"]
    assert len(names) == 4 + sum(1 for n in range(COUNT) if n % 2 and n != 1)


def test_folder_layout_keeps_bytes_and_provenance(tables, tmp_path):
    export(tables, to="folder", out=tmp_path / "out")
    lines = (tmp_path / "out" / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    entries = {entry["uid"]: entry for entry in map(json.loads, lines)}
    entry = entries[uid_of(3)]
    assert entry["file_name"].endswith(".png")
    assert (tmp_path / "out" / entry["file_name"]).read_bytes() == png(3)
    assert entry["parent_uid"] == image_uid("source", "3")
    assert (entry["seed"], entry["steps"], entry["dad_digest"]) == (3, 4, "d")
    assert entry["regions"][0]["box"] == [0.5, 0.25, 0.5, 0.5]


def test_webdataset_layout_is_read_by_the_library_and_reproducible(tables, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    for name in ("one", "two"):
        export(tables, to="webdataset", out=tmp_path / name)
    shard = tmp_path / "one" / "pairs-000000.tar"
    assert shard.read_bytes() == (tmp_path / "two" / "pairs-000000.tar").read_bytes()
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False))
    assert len(samples) == COUNT - 3
    by_key = {sample["__key__"]: sample for sample in samples}
    sample = by_key[uid_of(3).replace(".", "-")]
    assert sample["png"] == png(3)
    assert sample["txt"].decode().splitlines() == ["A «new» caption 3", "Again new 3"]
    assert json.loads(sample["json"])["uid"] == uid_of(3)
    with tarfile.open(shard) as tar:
        assert {member.mtime for member in tar} == {0}


def test_sda_layout_reads_back_as_the_regions_that_were_annotated(tables, tmp_path):
    done = export(tables, to="sda", out=tmp_path / "out")
    assert [path.name for path in tmp_path.glob("out/*.json")] == ["sda_0.json"]
    entries = json.loads((tmp_path / "out" / "sda_0.json").read_text(encoding="utf-8"))
    assert [entry["image_id"] for entry in entries] == list(range(COUNT - 3))
    assert all((tmp_path / "out" / entry["image"]).exists() for entry in entries)
    assert (done.captions, done.counts["regions"]) == (COUNT - 3, COUNT - 3)
    back = from_sda(entries[7])
    assert back["regions"] == [{"phrase": 0, "box": [0.5, 0.25, 0.5, 0.5], "score": 0.75}]
    assert [(p["text"], p["start"], p["end"]) for p in back["phrases"]] == [("caption", 8, 15)]


LAYOUTS = {
    "cuhk": {"format": "cuhk-pedes", "annotation": "reid_raw.json", "images": "imgs"},
    "folder": {"format": "folder", "annotation": "captions.jsonl"},
    "sda": {"format": "sda", "annotation": "sda_0.json"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_handed_on_can_be_ingested_again(tables, tmp_path, layout):
    root = tmp_path / "raw"
    done = export(tables, to=layout, out=root)
    fingerprint(root)
    given = LAYOUTS[layout]
    section = IngestDatasetParams(
        root=str(root), fingerprint=str(root / "fingerprint.json"), shard_rows=100, min_side=4,
        max_side=64, **given | {"annotation": str(root / given["annotation"])},
    )  # fmt: skip
    ingest_dataset(section, tmp_path / "again")
    rows = [row for table in iter_tables(tmp_path / "again") for row in table.to_pylist()]
    assert sum(row["status"] == "ok" for row in rows) == len(rows) == done.pairs
    shown = {pixels(row["image"]) for row in rows}
    assert shown == {pixels(png(3)), *(pixels(encode_jpeg(shade(n))) for n in range(4, COUNT))}
    texts = {row["captions"][0] for row in rows}
    assert texts == {f"A «new» caption {n}" for n in range(3, COUNT)}
    if layout == "cuhk":
        known = {row["person_id"] for row in rows}
        assert len(known) == len(json.loads((root / "identities.json").read_text()))


def pixels(data):
    return decode(data).tobytes()


def test_without_side_tables_the_first_captions_are_kept(tables, tmp_path):
    done = export(Tables(images=tables.images), to="folder", out=tmp_path / "out")
    assert (done.pairs, done.left_out) == (COUNT - 1, {"truncated": 1})
    line = (tmp_path / "out" / "captions.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(line)["captions"][0].startswith("old ")


def test_a_missing_side_row_is_an_error_and_leaves_nothing(tables, tmp_path):
    short = tmp_path / "screened"
    row = {
        "uid": uid_of(5), "keep": True, "reason": None, "grey_variance": 1.0, "jpeg_bytes": 1,
        "pose_score": None, "duplicate_of": None, **OK,
    }  # fmt: skip
    write_folder(short, [pa.Table.from_pylist([row], SCREENED)], "screened", shard_rows=5)
    with pytest.raises(PedAlignError, match="different runs"):
        export(Tables(images=tables.images, screened=short), to="cuhk", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["screened"]


def test_refuses_what_cannot_be_done(tables, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(PedAlignError, match="exists already"):
        export(tables, to="cuhk", out=tmp_path / "there")
    with pytest.raises(PedAlignError, match="without annotations"):
        export(Tables(images=tables.images), to="sda", out=tmp_path / "out")
    with pytest.raises(PedAlignError, match="the layouts are"):
        export(tables, to="coco", out=tmp_path / "out")


def test_refuses_to_hand_on_nothing(tmp_path):
    row = {
        "uid": image_uid("s", "1"), "captions": ["x"], "status": "rejected", "error": "empty: 0",
        "dataset": "s", "split": "train", "person_id": None, "camera": None, "image": None,
        "width": 0, "height": 0, "labels": None, "source_path": "1", "parent_uid": None,
    }  # fmt: skip
    from tasks.schemas import IMAGES

    write_folder(tmp_path / "in", [pa.Table.from_pylist([row], IMAGES)], "images", shard_rows=5)
    with pytest.raises(PedAlignError, match="no pair"):
        export(Tables(images=tmp_path / "in"), to="folder", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
