"""A training as an entry of the store: trained once, published exactly, counted."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.shards import have_training, once_a_device, once_a_worker
from models.loading import ALONE


def test_a_training_is_run_once_with_and_without_dvc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    output = Path("data/checkpoints/finetune/target")
    trained: list[Path] = []

    def make(run_folder: Path) -> Path:
        trained.append(run_folder)
        finished = run_folder / "finished"
        finished.mkdir(parents=True)
        (finished / "model.safetensors").write_bytes(b"weights")
        return finished

    have_training("key", output, make)
    (output / "foreign.txt").write_text("of somebody else")
    monkeypatch.setenv("DVC_STAGE", "finetune@target")
    have_training("key", output, make)
    assert len(trained) == 1
    assert [path.name for path in output.iterdir()] == ["model.safetensors"]
    counted = {
        path.name: json.loads(path.read_bytes())["reused"]
        for path in Path(".cache/reuse").iterdir()
    }
    assert counted == {"data-checkpoints-finetune-target.json": 0, "finetune@target.json": 1}


def test_nobody_loads_a_model_while_another_is_loaded_or_built() -> None:
    busy = threading.Lock()

    def load(name: str) -> str:
        assert busy.acquire(blocking=False), "two at once"
        time.sleep(0.02)
        busy.release()
        return name

    def build() -> str:
        with ALONE:
            return load("built")

    mine, shared = once_a_worker(load), once_a_device(load)
    with ThreadPoolExecutor(6) as pool:
        made = [pool.submit(call, "a") for call in (mine, shared) for _ in range(3)]
        made += [pool.submit(build) for _ in range(3)]
        assert {each.result() for each in made} == {"a", "built"}
