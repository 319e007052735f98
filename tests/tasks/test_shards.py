"""Tables on disk: borders from uids alone, the same bytes, faults that are noticed."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import PedAlignError
from tasks.lookup import fetch
from tasks.schemas import CAPTIONED, conform
from tasks.shards import (
    MANIFEST,
    image_uid,
    is_local,
    item_seed,
    iter_tables,
    join_side,
    location,
    partition,
    read_manifest,
    read_shard,
    write_folder,
)
from tasks.store import copy_folder

uid_lists = st.lists(st.integers(0, 2**64 - 1).map(lambda n: f"{n:016x}"), unique=True)


def captions(uids: list[str], text: str = "a man") -> pa.Table:
    rows = [
        {"uid": u, "captions": [text], "method": "prompt", "status": "ok", "error": None}
        for u in uids
    ]
    return pa.Table.from_pylist(rows, schema=CAPTIONED)


def uids_of(count: int, dataset: str = "d") -> list[str]:
    return sorted(image_uid(dataset, f"{i}.jpg") for i in range(count))


@given(uid_lists, st.integers(1, 20))
def test_partition_covers_every_row_once_in_order(uids: list[str], rows: int) -> None:
    shards = partition(uids, rows)
    flat = [uids[i] for _, indices in shards for i in indices]
    assert flat == sorted(uids)
    assert all(len(indices) <= rows for _, indices in shards)
    names = [name for name, _ in shards]
    assert names == sorted(names)


@given(uid_lists, uid_lists, st.integers(1, 20))
def test_adding_rows_leaves_untouched_shards_as_they_are(
    old: list[str], new: list[str], rows: int
) -> None:
    def leaves(uids: list[str]) -> dict[str, list[str]]:
        return {name: [uids[i] for i in indices] for name, indices in partition(uids, rows)}

    before, after = leaves(old), leaves(sorted({*old, *new}))
    added = set(new) - set(old)
    for name, members in before.items():
        path = name[1:].removesuffix(".parquet")
        touched = any(f"{int(uid, 16):064b}".startswith(path) for uid in added)
        assert touched or after[name] == members


def test_partition_by_hand() -> None:
    uids = ["0" * 16, "4" + "0" * 15, "8" + "0" * 15, "c" + "0" * 15]
    assert [(n, list(i)) for n, i in partition(uids, 4)] == [("b.parquet", [0, 1, 2, 3])]
    assert [(n, list(i)) for n, i in partition(uids, 2)] == [
        ("b0.parquet", [0, 1]),
        ("b1.parquet", [2, 3]),
    ]
    assert [n for n, _ in partition(uids[:3], 1)] == ["b00.parquet", "b01.parquet", "b1.parquet"]


def test_variants_of_one_image_share_its_shard() -> None:
    parents = uids_of(200)
    children = [f"{uid}.g{n:02d}" for uid in parents for n in range(3)]
    of_parent = {parents[i]: name for name, rows in partition(parents, 20) for i in rows}
    shards = partition(children, 60)
    for name, rows in shards:
        for i in rows:
            parent_name = of_parent[children[i].split(".")[0]].removesuffix(".parquet")
            name_stem = name.removesuffix(".parquet")
            assert name_stem.startswith(parent_name) or parent_name.startswith(name_stem)


def test_names_and_seeds_are_the_same_everywhere() -> None:
    digest = hashlib.blake2b(b"cuhk/cam_a/1.jpg", digest_size=8).hexdigest()
    assert image_uid("cuhk", "cam_a/1.jpg") == digest
    assert item_seed("ab", 1) == item_seed("ab", 1)
    assert len({item_seed("ab", 1), item_seed("ab", 2), item_seed("ac", 1)}) == 3
    assert item_seed("ab", 1, "noise") != item_seed("ab", 1, "crop")
    assert 0 <= item_seed("ab", 1) < 2**63


def test_a_folder_comes_back_as_it_was_and_has_the_same_bytes(tmp_path: Path) -> None:
    table = captions(uids_of(300))
    first = write_folder(tmp_path / "a", [table], "captioned", {"seed": 1}, shard_rows=64)
    second = write_folder(
        tmp_path / "b", [table.take(list(range(299, -1, -1)))], "captioned", {"seed": 1}, 64
    )
    assert first == second
    assert pa.concat_tables(iter_tables(tmp_path / "a")).equals(table.cast(CAPTIONED))
    for shard in first.shards:
        assert (tmp_path / "a" / shard.name).read_bytes() == (
            tmp_path / "b" / shard.name
        ).read_bytes()
        groups = pq.ParquetFile(tmp_path / "a" / shard.name).metadata
        assert all(groups.row_group(i).num_rows <= 64 for i in range(groups.num_row_groups))
    assert (tmp_path / "a" / MANIFEST).read_bytes() == (tmp_path / "b" / MANIFEST).read_bytes()
    assert read_manifest(tmp_path / "a").counts == {"ok": 300}


def test_a_folder_on_another_file_system_reads_the_same(tmp_path: Path) -> None:
    uids = uids_of(40)
    write_folder(tmp_path, [captions(uids)], "captioned", {"method": "prompt"}, shard_rows=8)
    elsewhere = location("memory://team/captioned")
    copy_folder(tmp_path, elsewhere)
    assert isinstance(location(str(tmp_path)), Path)
    assert is_local(location("data"))
    assert not is_local(elsewhere)
    here, there = read_manifest(tmp_path), read_manifest(elsewhere)
    assert there == here
    assert pa.concat_tables(iter_tables(elsewhere)) == pa.concat_tables(iter_tables(tmp_path))
    assert fetch(elsewhere, uids[3:5], ["captions"]) == fetch(tmp_path, uids[3:5], ["captions"])
    (elsewhere / there.shards[0].name).write_bytes(b"PAR1")
    with pytest.raises(PedAlignError, match=there.shards[0].name):
        read_shard(elsewhere, there.shards[0])


def test_reasons_are_counted(tmp_path: Path) -> None:
    rows = captions(uids_of(3)).to_pylist()
    rows[0] |= {"status": "rejected", "error": "truncated: at byte 12"}
    rows[1] |= {"status": "rejected", "error": "truncated: at byte 99"}
    write_folder(tmp_path, [pa.Table.from_pylist(rows, CAPTIONED)], "captioned", shard_rows=9)
    assert read_manifest(tmp_path).counts == {"ok": 1, "truncated": 2}


def test_a_changed_byte_a_missing_shard_and_a_missing_manifest_are_noticed(tmp_path: Path) -> None:
    manifest = write_folder(tmp_path, [captions(uids_of(9))], "captioned", shard_rows=9)
    path = tmp_path / manifest.shards[0].name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(PedAlignError, match="content has changed"):
        list(iter_tables(tmp_path))
    path.unlink()
    with pytest.raises(PedAlignError, match="missing"):
        read_shard(tmp_path, manifest.shards[0])
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(PedAlignError, match="dvc repro"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("body", ["{", json.dumps({"format": 99, "schema": "images"}), "{}"])
def test_a_foreign_manifest_is_refused(tmp_path: Path, body: str) -> None:
    (tmp_path / MANIFEST).write_text(body)
    with pytest.raises(PedAlignError):
        read_manifest(tmp_path)


def test_rows_that_break_the_contract_are_refused() -> None:
    good = captions(uids_of(2)).to_pylist()

    def refused(rows: list[dict[str, object]], match: str) -> None:
        schema = pa.schema([f.with_nullable(True) for f in CAPTIONED])
        with pytest.raises(PedAlignError, match=match):
            conform(pa.Table.from_pylist(rows, schema), "captioned")

    refused(good[::-1], "out of order")
    refused([good[0], good[0]], "repeat")
    refused([good[0] | {"status": "rejected"}], "rejected")
    refused([good[0] | {"status": "fine"}], "fine")
    refused([good[0] | {"error": "why"}], "why")
    refused([good[0] | {"method": None}], "null")
    with pytest.raises(PedAlignError, match="lacks"):
        conform(captions(uids_of(2)).drop_columns(["method"]), "captioned")


def test_side_tables_overrule_and_must_match() -> None:
    uids = uids_of(4)
    base, later = captions(uids, "old"), captions(uids, "new")
    joined = join_side(base, later.rename_columns({"method": "by"}))
    assert joined["captions"].to_pylist() == [["new"]] * 4
    assert joined["by"].to_pylist() == ["prompt"] * 4
    with pytest.raises(PedAlignError, match="differing"):
        join_side(base, captions(uids[:3]))
