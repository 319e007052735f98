"""A shard is found again by what it is made from, and what is published is exactly the dataset."""

import hashlib
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.duplicates import hash_thumbnails, hash_to_bytes
from tasks.errors import PedAlignError
from tasks.ingest import make_shard, open_dataset, publish_dataset
from tasks.ingest.picture import prepare
from tasks.ingest.shard import ShardSource, evidence_key, shard_key, write_plan
from tasks.shards import image_uid, partition, read_manifest, shard_bytes
from tasks.store import ShardStore


def entry(number, **change):
    return {
        "file_path": f"{number}.jpg",
        "captions": [f"person {number} in red"],
        "split": "test" if number % 3 == 2 else "train",
        "id": number,
    } | change


@pytest.fixture
def small(raw):
    """Twenty images in shards of at most four, one of them unreadable."""
    for number in range(21):
        raw.put(f"{number}.jpg", seed=number)
    raw.put("7.jpg", b"")
    raw.annotate([entry(number) for number in range(20)])
    return raw


@pytest.fixture
def rebuild(small, tmp_path):
    """Ingest as the stage does, through a store; give the names of the shards that were made."""
    store = ShardStore(tmp_path / "cache/shards")

    def run(stop_after=None, **values):
        dataset = open_dataset(
            small.section(small.root, "cuhk-pedes", **values), "test", tmp_path / "plans"
        )
        # As it goes to another process.
        make = pickle.loads(pickle.dumps(partial(make_shard, source=dataset.source, store=store)))
        made, entries = [], []
        for name, key in dataset.shards:
            if len(made) == stop_after:
                return made
            record = store.find(key)
            if record is None:
                made.append(name)
                record = store.save(key, name, make(name), "images")
            entries.append((key, name, record))
        publish_dataset(dataset, small.out, store, entries)
        return made

    run.store = store
    return run


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def test_the_shards_are_what_a_plain_loop_writes(small):
    """The way from the annotation to the bytes, written down once more without any machinery."""
    report = small.ingest("cuhk-pedes")
    entries = {image_uid("test", f"{n}.jpg"): entry(n) for n in range(20)}
    hashes = {}
    for name, numbers in partition(list(entries), 4):
        rows = []
        for uid in (list(entries)[number] for number in numbers):
            told = entries[uid]
            row = {
                "uid": uid,
                "dataset": "test",
                "split": told["split"],
                "person_id": f"test/{told['id']:05d}",
                "image": None,
                "width": 0,
                "height": 0,
                "captions": told["captions"],
                "source_path": told["file_path"],
            }
            if told["id"] == 7:
                row |= {"status": "rejected", "error": "empty: the file has no bytes"}
            else:
                picture = prepare((small.root / told["file_path"]).read_bytes(), 8, 256)
                row |= {"image": picture.data, "width": 24, "height": 48, "status": "ok"}
                hashes[uid] = hash_to_bytes(hash_thumbnails(picture.thumbnail[None])[0])
            rows.append(row)
        from tasks.schemas import IMAGES

        expected = shard_bytes(pa.Table.from_pylist(rows, IMAGES), "images")
        assert (small.out / name).read_bytes() == expected
    table = pq.read_table(small.out / "phash.parquet")
    assert dict(zip(*(table[c].to_pylist() for c in ("uid", "phash")), strict=True)) == hashes
    assert (report.ok, report.reasons) == (19, {"empty": 1})


def test_a_run_goes_on_where_it_was_and_gives_the_same_bytes(rebuild, small):
    whole = small.ingest("cuhk-pedes") and content(small.out)
    shutil.rmtree(small.out)
    first = rebuild(stop_after=3)
    assert not small.out.exists()
    second = rebuild()
    assert len(first) == 3
    assert not set(first) & set(second)
    assert sorted(first + second) == [s.name for s in read_manifest(small.out).shards]
    assert content(small.out) == whole
    shutil.rmtree(small.out)
    assert rebuild() == []
    assert content(small.out) == whole


def test_one_more_image_makes_one_shard_or_two(rebuild, small):
    every = rebuild()
    assert len(every) >= 6
    small.annotate([entry(number) for number in range(21)])
    assert 1 <= len(rebuild()) <= 2
    assert read_manifest(small.out).rows == 21


@pytest.mark.parametrize(
    ("change", "shards"),
    [
        ({"captions": ["other words here"]}, 1),
        ({"id": 777}, 1),
        ({"split": "val"}, 1),
        ({"processed_tokens": [["a"]]}, 0),
    ],
)
def test_an_entry_matters_to_its_own_shard_where_it_matters(rebuild, small, change, shards):
    rebuild()
    small.annotate([entry(number, **(change if number == 3 else {})) for number in range(20)])
    assert len(rebuild()) == shards


def test_parameters_matter_where_they_change_bytes(rebuild):
    every = len(rebuild())
    assert len(rebuild(max_side=40)) == every
    assert rebuild(max_side=40) == []
    # Other borders: shards that stay whole are found.
    assert len(rebuild(shard_rows=100)) == 1


def test_a_changed_picture_makes_its_shard(rebuild, small):
    rebuild()
    small.put("3.jpg", seed=500)
    assert len(rebuild()) == 1
    (small.root / "3.jpg").unlink()
    assert len(rebuild()) == 1
    assert read_manifest(small.out).counts == {"empty": 1, "missing": 1, "ok": 18}


def test_lost_evidence_is_seen_again(rebuild, small):
    rebuild()
    whole = content(small.out)
    lost = sorted(rebuild.store.root.glob("*-evidence.*"))
    assert len(lost) == 2 * len(read_manifest(small.out).shards)
    lost[0].unlink()
    lost[3].write_bytes(b"spoilt")
    assert rebuild() == []
    assert content(small.out) == whole


def test_a_file_that_changes_after_the_plan_stops(small, tmp_path):
    told = small.section(small.root, "cuhk-pedes")
    dataset = open_dataset(told, "test", tmp_path / "plans")
    store = ShardStore(tmp_path / "shards")
    small.put("3.jpg", seed=500)
    small.root.joinpath("4.jpg").unlink()
    touched = [image_uid("test", f"{number}.jpg") for number in (3, 4)]
    for name, key in dataset.shards:
        if set(touched) & set(pq.read_table(tmp_path / "plans" / name)["uid"].to_pylist()):
            with pytest.raises(PedAlignError, match="changed while the dataset was read"):
                make_shard(name, dataset.source, store)
            assert store.find(evidence_key(key)) is None
        else:
            make_shard(name, dataset.source, store)
            assert store.find(evidence_key(key)) is not None


def test_what_is_published_is_exactly_the_dataset(rebuild, small, tmp_path):
    small.out.mkdir()
    (small.out / "b0101.parquet").write_bytes(b"stale")
    (small.out / "annotated").mkdir()
    (small.out / "truth.parquet").write_bytes(b"stale")
    (small.out / "manifest.json").write_text("{}")
    half = tmp_path / ".test.123.tmp"  # of a run that was killed while it published
    half.mkdir()
    rebuild()
    names = {shard.name for shard in read_manifest(small.out).shards}
    assert set(content(small.out)) == names | {"manifest.json", "phash.parquet"}
    assert not half.exists()
    assert not (tmp_path / "plans").exists()


def test_a_failed_publication_leaves_the_old_folder(rebuild, small, monkeypatch):
    rebuild()
    whole = content(small.out)
    small.annotate([entry(number) for number in range(21)])

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("tasks.ingest.dataset.write_hashes", fail)
    with pytest.raises(OSError, match="no space"):
        rebuild()
    assert content(small.out) == whole


def test_keys_depend_on_rows_and_content_and_on_nothing_of_the_machine(small, tmp_path):
    told = small.section(small.root, "cuhk-pedes")
    keys = open_dataset(told, "test", tmp_path / "plans").shards
    shutil.move(small.root, tmp_path / "moved")
    moved = small.section(tmp_path / "moved", "cuhk-pedes")
    assert open_dataset(moved, "test", tmp_path / "elsewhere", workers=1).shards == keys
    assert {key for _, key in open_dataset(moved, "other", tmp_path / "x").shards}.isdisjoint(
        key for _, key in keys
    )


def test_a_plan_names_the_content_of_every_file(small, tmp_path):
    source = ShardSource("test", str(small.root), str(tmp_path / "plans"), 8, 256)
    dataset = open_dataset(small.section(small.root, "cuhk-pedes"), "test", tmp_path / "other")
    with ThreadPoolExecutor(2) as pool:
        key = write_plan(source, "b.parquet", dataset.plan.rows, pool)
    plan = pq.read_table(tmp_path / "plans/b.parquet")
    assert key == shard_key(source, plan)
    for row in plan.to_pylist():
        data = (small.root / row["source_path"]).read_bytes()
        assert row["content"] == hashlib.sha256(data).hexdigest()
        assert row["error"] is None


def test_the_regions_of_a_release_are_published_beside_resumed_shards(raw, tmp_path):
    told = {"boxes": [[0.5, 0.5, 0.4, 0.9]], "logits": [0.9], "phrases": ["a man"]}
    entries = []
    for number in range(6):
        raw.put(f"{number}.jpg", seed=number)
        entries.append({"image": f"{number}.jpg", "caption": "a man in red"} | told)
    raw.annotate(entries)
    raw.ingest("sda", shard_rows=2)
    shards = [shard.name for shard in read_manifest(raw.out).shards]
    assert [s.name for s in read_manifest(raw.out / "annotated").shards] == shards
    regions = pq.read_table(raw.out / "annotated" / shards[0])["regions"].to_pylist()
    assert np.allclose(regions[0][0]["box"], told["boxes"][0])
    assert json.loads((raw.out / "manifest.json").read_bytes())["meta"]["format"] == "sda"
