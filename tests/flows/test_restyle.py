"""Shards of restyling: shared out among devices, each made once, and the same after a death."""

import dataclasses
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import flows.restyle
import flows.shards
import tasks.runtime
from flows.restyle import redraw
from flows.shards import ShardJob, ShardWork, have_shard, once_a_device
from flows.workers import Workplace
from tasks.diffusion import DiffusionParams
from tasks.images import encode_jpeg
from tasks.provenance import ROOT
from tasks.restyle.shard import RestyleParams
from tasks.runtime import Runtime, claim_device
from tasks.schemas import IMAGES
from tasks.shards import image_uid, read_manifest, write_folder
from tasks.store import ShardStore

DIFFUSION = DiffusionParams(
    base=str(ROOT / "models" / "tiny" / "diffusion"), size=(32, 16), precision="fp32"
)
SECTION = RestyleParams(
    mode="restyle", strength=0.5, match=0.0, steps=2, guidance=1.0, scheduler="dpm",
    negative_prompt="", control_scale=1.0, reuse=1, noise="random", detail=0.0, variants=1,
    alpha=0.5, synonyms="table",
    quality=90, seed=0,
)  # fmt: skip


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve pictures in shards of at most three."""
    monkeypatch.setattr(flows.restyle, "runtime", lambda: Runtime(batch_size=2, device="cpu"))
    rng = np.random.default_rng(0)
    rows = [
        dict.fromkeys(IMAGES.names) | {
            "uid": image_uid("s", str(at)), "dataset": "s", "split": "train", "width": 16,
            "height": 32, "image": encode_jpeg(rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)),
            "source_path": str(at), "captions": ["a red coat"], "status": "ok",
        }
        for at in range(12)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=IMAGES)
    write_folder(tmp_path / "images", [table], "images", shard_rows=3)
    return tmp_path / "images"


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Pretend that there are GPUs, as far as choosing one goes."""
    monkeypatch.setattr(tasks.runtime, "runtime", lambda: Runtime(device="auto"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: None)


def test_every_worker_has_a_gpu_and_every_gpu_its_workers(monkeypatch):
    gpus(monkeypatch, 4)
    for number in range(9):  # processes and Dask number their workers themselves
        claim_device(number)
        assert tasks.runtime.device() == torch.device("cuda", number % 4)
    found: list[str] = []
    together = threading.Barrier(8)

    def thread() -> None:
        together.wait()
        assert tasks.runtime.device() == tasks.runtime.device()  # for good
        found.append(str(tasks.runtime.device()))

    threads = [threading.Thread(target=thread) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert Counter(found) == {f"cuda:{at}": 2 for at in range(4)}


def test_models_are_loaded_once_a_device(monkeypatch):
    gpus(monkeypatch, 3)
    loaded: list[tuple[str, str]] = []

    @once_a_device
    def load(name: str) -> object:
        loaded.append((name, str(tasks.runtime.device())))
        return object()

    def thread(number: int) -> tuple[int, object, object]:
        claim_device(number)
        return number % 3, load("one"), load("two")

    with ThreadPoolExecutor(6) as pool:
        held = list(pool.map(thread, range(6)))
    assert sorted(loaded) == [(name, f"cuda:{at}") for name in ("one", "two") for at in range(3)]
    for at in range(3):
        ones = {id(one) for gpu, one, _ in held if gpu == at}
        assert len(ones) == 1
    assert len({id(one) for _, one, _ in held}) == 3


def test_shards_are_shared_out_and_a_death_costs_those_in_flight(images, tmp_path):
    made: list[str] = []
    dying = threading.Event()

    def compute(name: str) -> pa.Table:
        made.append(name)
        if dying.is_set() and len(made) > 2:
            raise KeyboardInterrupt
        return redraw(name, images, DIFFUSION, SECTION, None)

    shards = read_manifest(images).shards
    assert len(shards) >= 4
    jobs = [ShardJob(shard.name, f"key-{shard.name}") for shard in shards]
    work = ShardWork("restyle", "restyled", compute)

    def run(store: ShardStore, workers: int) -> list[bool]:
        made.clear()
        with ThreadPoolExecutor(workers) as pool:
            have = partial(have_shard, work=work, store=store, place=Workplace())
            return [future.result()[1] for future in [pool.submit(have, job) for job in jobs]]

    whole, broken = (ShardStore(tmp_path / name) for name in ("whole", "broken"))
    assert run(whole, 3) == [False] * len(jobs)
    assert sorted(made) == sorted(shard.name for shard in shards)  # none twice
    dying.set()
    with pytest.raises(KeyboardInterrupt):
        run(broken, 1)
    dying.clear()
    reused = run(broken, 2)
    assert reused.count(True) == 2
    assert len(made) == len(jobs) - 2
    for job in jobs:  # another number of workers, another order, a death: the same bytes
        assert broken.path(job.key).read_bytes() == whole.path(job.key).read_bytes()


def test_a_mode_without_diffusion_loads_none(images, monkeypatch):
    loads: list[bool] = []

    def counting(*args: object, model: bool, **kwargs: object) -> object:
        loads.append(model)
        return open_renderer(*args, model=model, **kwargs)

    open_renderer = flows.restyle.open_renderer
    monkeypatch.setattr(flows.restyle, "open_renderer", counting)
    name = read_manifest(images).shards[0].name
    elsewhere = dataclasses.replace(DIFFUSION, base="nowhere")
    plain = dataclasses.replace(SECTION, mode="none")
    made = redraw(name, images, elsewhere, plain, None)
    assert loads == [False]
    assert set(made["base_revision"].to_pylist()) == {"none"}
    assert flows.shards.device().type == "cpu"
