"""The store: computed once, verified on reuse, published exactly."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import store as store_module
from tasks.errors import PedAlignError
from tasks.locks import output_lock
from tasks.schemas import CAPTIONED
from tasks.shards import MANIFEST, file_digest, image_uid, iter_tables, location, read_manifest
from tasks.store import ShardStore, TrainingStore


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
        "from pathlib import Path; import sys; from tasks.locks import output_lock;"
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


# ------------------------------------------------------------------ faults


@settings(max_examples=40, deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(at: int, bit: int) -> None:
    with TemporaryDirectory() as folder:
        store = ShardStore(Path(folder))
        record = store.save("k", "b.parquet", table("x"), "captioned")
        data = bytearray(store.path("k").read_bytes())
        data[at % len(data)] ^= 1 << bit
        store.path("k").unlink()
        store.path("k").write_bytes(data)
        assert store.find("k") is None
        assert store.save("k", "b.parquet", table("x"), "captioned") == record
        assert store.find("k") == record


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"{}", b"null", b'{"name": "b"}'])
def test_a_damaged_record_is_no_entry(tmp_path: Path, note: bytes) -> None:
    store = ShardStore(tmp_path)
    record = store.save("k", "b.parquet", table("x"), "captioned")
    (tmp_path / "k.json").write_bytes(note)
    assert store.find("k") is None
    store.save("k", "b.parquet", table("x"), "captioned")
    assert store.find("k") == record
    trainings = TrainingStore(tmp_path)
    trainings.save("t", training(tmp_path / "made"))
    (tmp_path / "trainings/t.json").write_bytes(note)
    assert trainings.find("t") is None


def training(folder: Path, weights: bytes = b"weights") -> Path:
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer/vocab.txt").write_text("a")
    return folder


class FullDisk:
    """A disk that only some files still reach; of the next one a part is left."""

    def __init__(self, room: int) -> None:
        self.room = room

    def fsync(self, descriptor: int) -> None:
        if self.room == 0:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= 1


@pytest.mark.parametrize("room", [0, 1])
def test_a_full_disk_leaves_no_entry_and_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    store = ShardStore(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", FullDisk(room).fsync)
        with pytest.raises(OSError, match="No space left"):
            store.save("k", "b.parquet", table("x"), "captioned")
    assert store.find("k") is None
    assert not list(tmp_path.rglob("*.tmp"))
    record = store.save("k", "b.parquet", table("x"), "captioned")
    assert store.find("k") == record


def test_a_full_disk_leaves_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TrainingStore(tmp_path / "cache")
    made = training(store.running("t") / "finished")
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", FullDisk(0).fsync)
        with pytest.raises(OSError, match="No space left"):
            store.save("t", made)
    assert store.find("t") is None
    assert (tmp_path / "cache/runs/t").exists()  # the running checkpoints stay


def test_a_full_disk_while_publishing_leaves_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, out = ShardStore(tmp_path / "shards"), tmp_path / "out"
    entries = [("k", "b.parquet", store.save("k", "b.parquet", table("x"), "captioned"))]

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(store_module.os, "link", no_room)
        full.setattr(store_module.shutil, "copyfile", no_room)
        with pytest.raises(OSError, match="No space left"):
            store.publish(out, "captioned", entries, {})
    with pytest.raises(PedAlignError, match=MANIFEST):
        read_manifest(out)
    store.publish(out, "captioned", entries, {})
    assert sum(t.num_rows for t in iter_tables(out)) == 1


def test_a_shard_deleted_by_hand_comes_back_by_publishing(tmp_path: Path) -> None:
    store, out = ShardStore(tmp_path / "shards"), tmp_path / "out"
    record = store.save("k", "b.parquet", table("x"), "captioned")
    store.publish(out, "captioned", [("k", "b.parquet", record)], {})
    before = {path.name: file_digest(path) for path in out.iterdir()}
    (out / "b.parquet").unlink()
    with pytest.raises(PedAlignError, match="missing"):
        list(iter_tables(out))
    assert store.find("k") == record  # another name of the same file
    store.publish(out, "captioned", [("k", "b.parquet", record)], {})
    assert {path.name: file_digest(path) for path in out.iterdir()} == before


def test_an_entry_that_vanishes_before_publishing_is_told(tmp_path: Path) -> None:
    store = ShardStore(tmp_path / "shards")
    record = store.save("k", "b.parquet", table("x"), "captioned")
    store.path("k").unlink()
    with pytest.raises(PedAlignError, match="gone while its stage ran"):
        store.publish(tmp_path / "out", "captioned", [("k", "b.parquet", record)], {})


def test_a_published_training_holds_its_files_and_nothing_beside_it(tmp_path: Path) -> None:
    store, out = TrainingStore(tmp_path / "cache"), tmp_path / "data/checkpoints/dad"
    store.save("t", training(tmp_path / "made"))
    out.mkdir(parents=True)
    (out / "foreign.bin").write_bytes(b"of an earlier run")
    store.publish("t", out)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {"model.safetensors", "tokenizer/vocab.txt"}
    assert [path.name for path in out.parent.iterdir()] == ["dad"]
    assert not list(tmp_path.rglob("*.tmp"))


# ------------------------------------------------------------------ races


def save_many(root: str, shared: str, writer: int) -> list[str]:
    """Save the same keys as the other writers, with bytes of one's own, and look them up."""
    store = ShardStore(Path(root), shared)
    digests = []
    for n in range(12):
        record = store.save(f"{n:02}", "b.parquet", table(f"writer {writer}"), "captioned")
        found = store.find(f"{n:02}")
        assert found == record
        digests.append(record.digest)
    return digests


def test_of_two_processes_that_save_an_entry_the_first_ones_stays(tmp_path: Path) -> None:
    place = tmp_path / "team" / "shards"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        futures = [
            pool.submit(save_many, str(tmp_path / "shards"), str(place), n) for n in range(2)
        ]
        first, second = (future.result() for future in futures)
    assert first == second
    for store in (ShardStore(tmp_path / "shards"), ShardStore(place)):
        assert [store.find(f"{n:02}").digest for n in range(12)] == first  # type: ignore[union-attr]


def test_threads_that_finish_a_training_together_leave_one_whole(tmp_path: Path) -> None:
    store = TrainingStore(tmp_path / "cache")
    made = [training(tmp_path / f"made{n}", str(n).encode()) for n in range(4)]
    threads = [threading.Thread(target=store.save, args=("t", folder)) for folder in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.find("t")
    assert found is not None
    assert (found / "model.safetensors").read_bytes() in {b"0", b"1", b"2", b"3"}
    assert not any(folder.exists() for folder in made)


# ------------------------------------------------------------------ the shared store


@pytest.fixture(params=["path", "uri", "memory"])
def team(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A shared store: a folder, the same as an address, and no disk at all."""
    folder = tmp_path / "team"
    return {
        "path": str(folder), "uri": folder.as_uri(), "memory": f"memory://{uuid.uuid4().hex}",
    }[request.param]  # fmt: skip


def test_what_one_has_made_another_takes_and_verifies(tmp_path: Path, team: str) -> None:
    mine = ShardStore(tmp_path / "mine", f"{team}/shards")
    yours = ShardStore(tmp_path / "yours", f"{team}/shards")
    record = mine.save("k", "b.parquet", table("x"), "captioned")
    assert not (tmp_path / "yours").exists()
    assert yours.find("k") == record
    assert file_digest(yours.path("k")) == record.digest
    assert json.loads((tmp_path / "yours/k.json").read_bytes())["schema"] == "captioned"


def test_a_changed_entry_of_the_shared_store_is_not_taken(tmp_path: Path, team: str) -> None:
    mine = ShardStore(tmp_path / "mine", f"{team}/shards")
    yours = ShardStore(tmp_path / "yours", f"{team}/shards")
    record = mine.save("k", "b.parquet", table("x"), "captioned")
    path = location(f"{team}/shards") / "k.parquet"
    data = bytearray(path.read_bytes())
    data[50] ^= 4
    path.write_bytes(bytes(data))
    assert yours.find("k") is None
    assert not yours.path("k").exists()
    path.unlink()
    assert yours.find("k") is None
    yours.save("k", "b.parquet", table("x"), "captioned")  # computed again, and put right
    third = ShardStore(tmp_path / "third", f"{team}/shards")
    assert third.find("k") == record


def test_what_was_made_before_is_handed_on_when_it_is_used(tmp_path: Path, team: str) -> None:
    record = ShardStore(tmp_path / "mine").save("k", "b.parquet", table("x"), "captioned")
    assert ShardStore(tmp_path / "mine", f"{team}/shards").find("k") == record
    assert ShardStore(tmp_path / "yours", f"{team}/shards").find("k") == record
    TrainingStore(tmp_path / "mine").save("t", training(tmp_path / "made"))
    assert TrainingStore(tmp_path / "mine", team).find("t") is not None
    assert TrainingStore(tmp_path / "yours", team).find("t") is not None


def test_trainings_are_shared_and_verified(tmp_path: Path, team: str) -> None:
    mine, yours = (TrainingStore(tmp_path / name, team) for name in ("mine", "yours"))
    mine.save("t", training(tmp_path / "made"))
    found = yours.find("t")
    assert found is not None
    assert (found / "tokenizer/vocab.txt").read_text() == "a"
    behind = location(team) / "trainings" / "t" / "model.safetensors"
    behind.write_bytes(b"weightz")
    third = TrainingStore(tmp_path / "third", team)
    assert third.find("t") is None
    assert not list((tmp_path / "third").rglob("*.tmp"))
    (location(team) / "trainings" / "t" / "foreign.bin").write_bytes(b"left by another version")
    (location(team) / "trainings" / "t.json").unlink()
    assert mine.find("t") is not None  # hands it on again, and only its own files
    assert third.find("t") is not None


class Broken:
    """What a driver does that has lost its rights, or its network."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, *_: object, **__: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error", [PermissionError(13, "read-only"), ConnectionError("no route"), RuntimeError("driver")]
)
def test_a_shared_store_that_takes_nothing_is_told_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store = ShardStore(tmp_path / "mine", f"memory://{uuid.uuid4().hex}/shards")
    put = ShardStore._put

    def only_here(root: Path, *rest: object) -> None:
        return put(root, *rest) if isinstance(root, Path) else Broken(error)()

    with monkeypatch.context() as broken:
        broken.setattr(ShardStore, "_put", staticmethod(only_here))
        with pytest.raises(PedAlignError, match="the shared store memory://") as told:
            store.save("k", "b.parquet", table("x"), "captioned")
        assert type(error).__name__ in told.value.found
    assert ShardStore(tmp_path / "mine").find("k") is not None
    # Mended: the entry found here is handed on.
    assert store.find("k") is not None
    assert ShardStore(tmp_path / "yours", store.shared).find("k") is not None


def test_a_shared_store_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ShardStore(tmp_path / "mine", "memory://gone/shards")
    broken = Broken(ConnectionError("no route"))
    monkeypatch.setattr(type(location("memory://gone")), "read_bytes", broken)
    with pytest.raises(PedAlignError, match="no route"):
        store.find("k")
    with pytest.raises(PedAlignError, match="no route"):
        TrainingStore(tmp_path / "mine", "memory://gone").find("t")


def test_a_disk_that_is_not_mounted_does_not_become_a_folder(tmp_path: Path) -> None:
    store = ShardStore(tmp_path / "mine", str(tmp_path / "mnt/team/shards"))
    with pytest.raises(PedAlignError, match="mount or repair it"):
        store.save("k", "b.parquet", table("x"), "captioned")
    with pytest.raises(PedAlignError, match="mount or repair it"):
        TrainingStore(tmp_path / "mine", str(tmp_path / "mnt/team")).save(
            "t", training(tmp_path / "made")
        )
    assert not (tmp_path / "mnt").exists()
    assert ShardStore(tmp_path / "mine").find("k") is not None
    assert TrainingStore(tmp_path / "mine").find("t") is not None


def test_an_unknown_kind_of_location_is_told(tmp_path: Path) -> None:
    with pytest.raises(PedAlignError, match="gopher"):
        ShardStore(tmp_path, "gopher://team/shards").find("k")
