"""LMDBs of person images: LUPerson's layout, odd keys, bad values, and databases that are none."""

import builtins
import os
import pickle
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import PedAlignError
from tasks.images import ImageError
from tasks.ingest import ingest_dataset, make_shard, open_dataset
from tasks.ingest.lmdb_pictures import key_of, name_of, open_lmdb
from tasks.ingest.raw import safe_path
from tasks.store import ShardStore

ALL_TRAIN = {"val": 0.0, "test": 0.0, "seed": 0}


def put_lmdb(path, values, *, subdir=True):
    """Write as ``convert_lmdb.py`` of LUPerson does: name -> the file's bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = lmdb.open(str(path), subdir=subdir, map_size=1 << 26)
    with environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key if isinstance(key, bytes) else key.encode(), value)


def ingest(raw, **values):
    told = {"annotation": "data/nothing", "images": "lmdb", "split": ALL_TRAIN} | values
    return raw.ingest("lmdb", **told)


@pytest.fixture
def pictures(raw):
    return {f"00_03_0012_{n:08d}": raw.picture(n) for n in range(9)}


def test_luperson(raw, rows, pictures):
    put_lmdb(raw.root / "lmdb", pictures)
    (raw.root / "keys.pkl").write_bytes(pickle.dumps(Bomb()))  # as released; nobody opens it
    report = ingest(raw)
    assert (report.ok, report.rows) == (9, 9)
    found = rows(raw.out)
    assert {path: row["image"] for path, row in found.items()} == pictures
    assert {(row["split"], row["person_id"], row["status"]) for row in found.values()} == {
        ("train", None, "ok")
    }
    assert all(row["captions"] == [] for row in found.values())
    assert len(list(raw.out.glob("b*.parquet"))) > 1


class Bomb:
    """What a pickle may do."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was opened')",))


def test_a_database_is_read_like_the_folder_it_was_made_of(raw, rows, pictures, tmp_path):
    put_lmdb(raw.root / "lmdb", {f"{name}.jpg": data for name, data in pictures.items()})
    ingest(raw)
    folder = tmp_path / "folder"
    for name, data in pictures.items():
        folder.joinpath(f"{name}.jpg").parent.mkdir(exist_ok=True)
        folder.joinpath(f"{name}.jpg").write_bytes(data)
    told = raw.section(folder, "folder", annotation="data/nothing", split=ALL_TRAIN)
    ingest_dataset(told, tmp_path / "plain", name="test")
    assert rows(tmp_path / "plain") == rows(raw.out)


def test_one_file_splits_by_names_and_captions_by_key(raw, rows, pictures):
    names = [f"{split}/{name}" for split in ("train", "test") for name in list(pictures)[:3]]
    put_lmdb(raw.root / "set.lmdb", dict.fromkeys(names, raw.picture(1)), subdir=False)
    report = ingest(raw, images="set.lmdb", split=None)
    assert {split: size.images for split, size in report.splits.items()} == {"train": 3, "test": 3}
    # The list of LUPerson-T about pictures in an LMDB.
    raw.annotate([
        {"file_path": names[0], "captions": ["A man walks.", "He has a bag."]},
        {"file_path": "train/nowhere", "captions": ["Nobody."]},
        {"file_path": names[4], "captions": ["A woman stands."]},
        {"file_path": "long" * 200, "captions": ["No key is so long."]},
    ])  # fmt: skip
    report = ingest(raw, images="set.lmdb", annotation=raw.root / "a.json")
    found = rows(raw.out)
    assert report.reasons == {"missing": 2}
    assert found[names[0]]["captions"] == ["A man walks.", "He has a bag."]
    assert set(found) == {names[0], names[4], "train/nowhere", "long" * 200}


def test_bad_values_are_rows_with_a_reason(raw, rows, pictures):
    bad = {
        "pickle": pickle.dumps((pictures["00_03_0012_00000000"], 5)),
        "__len__": pickle.dumps(9),
        "arrow": b"\xff\xff\xff\xff\x10\x00\x00\x00",
        "numpy": b"\x93NUMPY\x01\x00",
        "empty": b"",
        "text": b"num-samples 9",
        "cut": raw.picture(1)[:200],
    }
    put_lmdb(raw.root / "lmdb", pictures | bad)
    report = ingest(raw)
    assert report.ok == len(pictures)
    found = rows(raw.out)
    reasons = {name: found[name]["error"].split(":")[0] for name in bad}
    assert reasons == {
        "pickle": "record",
        "__len__": "record",
        "arrow": "record",
        "numpy": "record",
        "empty": "empty",
        "text": "not-an-image",
        "cut": "truncated",
    }
    assert "pickled Python objects" in found["pickle"]["error"]
    assert all(found[name]["image"] is None for name in bad)


def test_a_database_of_records_is_refused_with_the_way_out(raw, pictures, monkeypatch):
    records = {name: pickle.dumps(Bomb()) for name in pictures}
    put_lmdb(raw.root / "lmdb", records | {"one": raw.picture(1)})

    def refuse(*_args, **_kwargs):
        raise AssertionError

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    with pytest.raises(PedAlignError, match=r"9 of 10 values .*pickled Python objects") as caught:
        ingest(raw)
    assert "docs/datasets.md" in caught.value.remedy


@given(st.lists(st.binary(min_size=1, max_size=511), min_size=2, max_size=5, unique=True))
def test_every_key_has_a_name_of_its_own_that_leads_back(keys):
    names = [name_of(key) for key in keys]
    assert [key_of(name) for name in names] == keys
    assert len(set(names)) == len(keys)
    assert [safe_path(name) for name in names] == names


@given(st.from_regex(r"(0x)?[0-9a-g/ ]+", fullmatch=True))
def test_a_name_nobody_gave_is_a_key_or_missing(text):
    with suppress(ImageError):
        assert name_of(key_of(text)) == text


def test_plain_names_stay_and_others_are_hexadecimal():
    assert name_of(b"00_03_0012_00000345") == "00_03_0012_00000345"
    assert name_of("straße/人.jpg".encode()) == "straße/人.jpg"
    assert name_of(b"\x00\x00\x00\x05") == "0x00000005"
    assert name_of(b"../up.jpg") == "0x" + b"../up.jpg".hex()
    assert name_of(b"0x00") == "0x30783030"
    for name in ("0xyz", "0x", "0x 00", "0x3031", "up/../there", "a//b", "\udcff"):
        with pytest.raises(ImageError, match="missing"):
            key_of(name)


def test_odd_keys_are_read(raw, rows):
    keys = [b"\x00\x00\x00\x01", b"a//b", b"\xff\xfe", b"../../etc/passwd", b"a b"]
    put_lmdb(raw.root / "lmdb", {key: raw.picture(n) for n, key in enumerate(keys)})
    assert ingest(raw).ok == len(keys)
    found = rows(raw.out)
    assert {path: row["image"] for path, row in found.items()} == {
        name_of(key): raw.picture(n) for n, key in enumerate(keys)
    }


def test_a_new_picture_touches_only_its_own_shard(raw, pictures, tmp_path):
    put_lmdb(raw.root / "lmdb", pictures)
    told = {"annotation": "data/nothing", "images": "lmdb", "split": ALL_TRAIN}

    def keys():
        section = raw.section(raw.root, "lmdb", **told)
        return dict(open_dataset(section, "test", tmp_path / "plans").shards)

    before = keys()
    assert before == keys()
    first = next(iter(pictures))
    put_lmdb(raw.root / "lmdb", {first: raw.picture(77)})
    after = keys()
    assert len(set(before.values()) ^ set(after.values())) == 2


def test_a_value_that_changes_while_it_is_read_stops_the_stage(raw, pictures, tmp_path):
    put_lmdb(raw.root / "lmdb", pictures)
    section = raw.section(
        raw.root, "lmdb", annotation="data/nothing", images="lmdb", split=ALL_TRAIN
    )
    opened = open_dataset(section, "test", tmp_path / "plans")
    put_lmdb(raw.root / "lmdb", {name: raw.picture(50) for name in pictures})
    with pytest.raises(PedAlignError, match="changed while the dataset was read"):
        make_shard(opened.shards[0][0], opened.source, ShardStore(tmp_path / "store"))


@pytest.mark.parametrize("kept", [0, 100, 5000, 30000])
def test_a_database_that_was_cut_short_is_an_error_and_no_crash(raw, pictures, kept):
    put_lmdb(raw.root / "lmdb", pictures | {"large": bytes(60_000)})
    data = raw.root / "lmdb/data.mdb"
    data.write_bytes(data.read_bytes()[:kept])
    with pytest.raises(PedAlignError) as caught:
        ingest(raw)
    assert "whole LMDB" in str(caught.value)


def test_what_is_no_database_is_said(raw, tmp_path, pictures):
    raw.put("a.txt", b"x")
    with pytest.raises(PedAlignError, match="no LMDB"):
        ingest(raw)
    raw.put("lmdb/data.mdb", b"I am a text file" * 1000)
    with pytest.raises(PedAlignError, match="not an LMDB"):
        ingest(raw)
    (raw.root / "lmdb/data.mdb").unlink()
    put_lmdb(tmp_path / "elsewhere", pictures)
    (raw.root / "lmdb/data.mdb").symlink_to(tmp_path / "elsewhere/data.mdb")
    with pytest.raises(PedAlignError, match="a link out of"):
        ingest(raw)


def test_reading_leaves_nothing_behind(raw, pictures):
    put_lmdb(raw.root / "lmdb", pictures)
    (raw.root / "lmdb/lock.mdb").unlink()
    before = {path: path.stat().st_mtime_ns for path in raw.root.rglob("*.mdb")}
    ingest(raw)
    assert {path: path.stat().st_mtime_ns for path in raw.root.rglob("*.mdb")} == before


def test_many_may_open_it_at_once_and_the_last_closes_it(raw, pictures):
    put_lmdb(raw.root / "lmdb", pictures)
    barrier = threading.Barrier(4)

    def read(name):
        with open_lmdb(raw.root / "lmdb") as opened:
            barrier.wait(10)
            return opened.read(name)

    with ThreadPoolExecutor(4) as pool:
        read_all = list(pool.map(read, list(pictures)[:4]))
    assert read_all == list(pictures.values())[:4]
    with ExitStack() as stack:
        one = stack.enter_context(open_lmdb(raw.root / "lmdb"))
        with open_lmdb(raw.root / "lmdb/data.mdb") as other:
            assert list(other.names()) == list(pictures)
        assert list(one.names()) == list(pictures)
    lmdb.open(str(raw.root / "lmdb"), readonly=True).close()  # nobody holds it any more


def test_without_the_package_the_way_out_is_said(raw, pictures, monkeypatch):
    put_lmdb(raw.root / "lmdb", pictures)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "lmdb":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PedAlignError, match="no package `lmdb`") as caught:
        ingest(raw)
    assert "pedalign[lmdb]" in caught.value.remedy


def test_memory_does_not_grow_with_the_database(raw, tmp_path):
    """Pictures of 40 MB in shards of 4 rows: what Python holds at once is a few shards."""
    filler = os.urandom(1 << 20)
    one = raw.picture(0)
    put_lmdb(raw.root / "lmdb", {f"{n:03d}": one + filler for n in range(40)})
    told = {"annotation": "data/nothing", "images": "lmdb", "split": ALL_TRAIN}
    section = raw.section(raw.root, "lmdb", **told)
    opened = open_dataset(section, "test", tmp_path / "plans", workers=1)
    store = ShardStore(tmp_path / "store")
    tracemalloc.start()
    for name, _ in opened.shards:
        make_shard(name, opened.source, store)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 << 20
