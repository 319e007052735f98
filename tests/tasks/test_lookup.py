import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.lookup import fetch, fetch_any, sample
from tasks.schemas import CAPTIONED
from tasks.shards import image_uid, read_manifest, write_folder


def captioned(names, status="ok"):
    rows = [
        {
            "uid": image_uid("set", name),
            "captions": [name],
            "method": "typed",
            "status": status,
            "error": None if status == "ok" else "grey: flat",
        }
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=CAPTIONED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("captioned")
    tables = [captioned([f"a{n}" for n in range(400)]), captioned(["x", "y"], "rejected")]
    write_folder(path, tables, "captioned", shard_rows=150)
    return path


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 600), max_size=20))
def test_fetch_gives_exactly_the_rows_asked_for_that_exist(folder, numbers):
    found = fetch(folder, {image_uid("set", f"a{n}") for n in numbers}, ["captions"])
    assert {row["captions"][0] for row in found.values()} == {f"a{n}" for n in numbers if n < 400}
    assert all(row["uid"] == uid for uid, row in found.items())


def test_fetch_reads_only_the_row_groups_that_hold_a_row(folder, monkeypatch):
    read = []
    original = pq.ParquetFile.read_row_group

    def spy(self, group, **options):
        read.append(group)
        return original(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    fetch(folder, [image_uid("set", "a7")], ["captions"])
    assert len(read) == 1
    groups = sum(
        pq.ParquetFile(folder / shard.name).metadata.num_row_groups
        for shard in read_manifest(folder).shards
    )
    assert groups > 4


def test_fetch_any_looks_further_only_for_what_is_missing(folder, tmp_path):
    write_folder(tmp_path, [captioned(["a1", "b1"])], "captioned", shard_rows=10)
    uids = [image_uid("set", name) for name in ("a1", "b1", "nobody")]
    found = fetch_any([folder, tmp_path], uids, ["captions"])
    assert set(found) == set(uids[:2])


def test_sample_is_stable_usable_and_depends_on_purpose(folder):
    first = sample(folder, 20, 3, "sheet")
    assert first == sample(folder, 20, 3, "sheet")
    assert len(set(first)) == 20
    assert first != sample(folder, 20, 3, "gap")
    assert first != sample(folder, 20, 4, "sheet")
    refused = {image_uid("set", name) for name in ("x", "y")}
    assert not refused & set(sample(folder, 1000, 0, "sheet"))
    assert sample(folder, 5, 3, "sheet") == first[:5]


def test_sample_keeps_its_choice_when_rows_are_added(folder, tmp_path):
    names = [f"a{n}" for n in range(400)]
    write_folder(tmp_path, [captioned([*names, *[f"n{n}" for n in range(40)]])], "captioned",
                 shard_rows=90)  # fmt: skip
    old = sample(folder, 30, 0, "sheet")
    new = sample(tmp_path, 30, 0, "sheet")
    kept = [uid for uid in new if uid in set(old)]
    assert kept == old[: len(kept)]
    assert len(kept) >= 20


def test_sample_by_value_of_a_column(folder):
    assert sample(folder, 5, 0, "sheet", {"method": "typed"})
    assert sample(folder, 5, 0, "sheet", {"method": "other"}) == []
    assert np.unique(sample(folder, 9, 0, "sheet")).size == 9
