"""The store: computed once, verified on reuse, published exactly."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.errors import PedAlignError
from tasks.schemas import CAPTIONED
from tasks.shards import MANIFEST, image_uid, iter_tables
from tasks.store import ShardStore, TrainingStore, output_lock


def table(name: str) -> pa.Table:
    row = {"uid": image_uid("d", name), "captions": [name], "method": "m", "status": "ok"}
    return pa.Table.from_pylist([row], CAPTIONED)


def test_find_returns_only_what_is_whole(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    assert store.find("k") is None
    record = store.save("k", "b.parquet", table("x"), "captioned")
    assert store.find("k") == record
    assert store.read("k").to_pylist()[0]["captions"] == ["x"]
    data = bytearray(store.path("k").read_bytes())
    data[100] ^= 1
    store.path("k").write_bytes(data)
    assert store.find("k") is None
    assert not store.path("k").exists()


def test_an_entry_without_its_record_does_not_count(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.save("k", "b.parquet", table("x"), "captioned")
    (tmp_path / "k.json").unlink()  # as if the process had died between the two writes
    assert store.find("k") is None


def test_publish_leaves_exactly_the_wanted_set(tmp_path: Path) -> None:
    store = ShardStore(tmp_path / "store")
    out = tmp_path / "out"
    first, second = sorted((table("x"), table("y")), key=lambda t: t["uid"][0].as_py())
    entries = [
        ("k0", "b0.parquet", store.save("k0", "b0.parquet", first, "captioned")),
        ("k1", "b1.parquet", store.save("k1", "b1.parquet", second, "captioned")),
    ]
    store.publish(out, "captioned", entries, {})
    (out / "orphan.parquet").write_bytes(b"from another run")
    store.publish(out, "captioned", entries[:1], {"note": 1})
    assert sorted(p.name for p in out.iterdir()) == ["b0.parquet", MANIFEST]
    assert pa.concat_tables(iter_tables(out)).num_rows == 1


def test_a_training_is_found_whole_or_not_at_all(tmp_path: Path) -> None:
    store = TrainingStore(tmp_path / "cache")
    (store.running("k") / "step-3.pt").write_bytes(b"half")
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"weights")
    store.save("k", made)
    assert not (tmp_path / "cache" / "runs" / "k").exists()
    store.publish("k", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"weights"
    found = store.find("k")
    assert found is not None
    (found / "model.safetensors").unlink()
    (found / "model.safetensors").write_bytes(b"weightz")
    assert store.find("k") is None


def test_one_writer_an_output(tmp_path: Path) -> None:
    held = output_lock(Path("data/x"), tmp_path)
    held.release()
    assert output_lock(Path("data/x"), tmp_path).is_locked


def test_a_second_writer_is_told_to_wait(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import sys; from tasks.store import output_lock;"
        f"held = output_lock(Path('data/x'), Path({str(tmp_path)!r})); print('held', flush=True);"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(PedAlignError, match="another process"):
            output_lock(Path("data/x"), tmp_path)
        holder.communicate("")
