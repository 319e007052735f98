"""A run's bookkeeping: rows of queries, curves, and the time that was used."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.ablate import runs
from tasks.ablate.runs import curve, kept_epoch, query_rows
from tasks.params import read_yaml
from tasks.provenance import ROOT


def checkpoint(folder: Path, **told: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps(told))
    return folder


def test_a_query_without_a_match_has_no_rank() -> None:
    found = query_rows(
        pa.table(
            {
                "uid": ["a", "b"],
                "caption": ["x", "y"],
                "person_id": ["p", "q"],
                "matches": [1, 0],
                "first_rank": pa.array([3, 0], pa.int32()),
                "ap": [0.5, 0.0],
                "inp": [0.25, 0.0],
                "itc_first_rank": pa.array([0, 7], pa.int32()),
                "itc_ap": [0.0, 0.4],
                "top10": [["b", "a"], ["a", "b"]],
            }
        )
    )
    assert found.column_names == [
        "uid", "caption", "person_id", "rank_of_first", "ap", "inp",
        "features_rank_of_first", "features_ap", "top",
    ]  # fmt: skip
    assert found["rank_of_first"].to_pylist() == [3, None]
    assert found["features_rank_of_first"].to_pylist() == [None, 7]
    assert found["top"].to_pylist()[0] == ["b", "a"]


def test_a_curve_has_a_row_an_epoch(tmp_path: Path) -> None:
    rows = [
        {"epoch": 1, "val": {"R1": 10.0}, "test": {"R1": 5.0}},
        {"epoch": 2, "val": {"R1": 30.0}, "test": {"R1": 4.0}},
    ]
    folder = checkpoint(tmp_path / "c", selection={"curve": rows}, kept_epoch=2)
    assert curve(folder) == rows
    assert kept_epoch(folder) == 2


def test_people_held_out_stand_for_validation(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "val": None, "test": None, "held-out": {"R1": 10.0}}]
    folder = checkpoint(tmp_path / "c", selection={"curve": rows})
    assert curve(folder) == [{"epoch": 1, "val": {"R1": 10.0}, "test": None}]


def order(folder: Path, beta: float) -> Path:
    """An order on the profile tiny."""
    params = read_yaml(ROOT / "profiles" / "tiny.yaml")
    params["pretrain"]["objective"]["region_weight"] = beta
    told = {
        "params": params, "finetune": "target", "direct": "direct", "tuned": "finetuned",
        "root": str(folder), "commit": "abc",
    }  # fmt: skip
    path = folder / "small-arm-0.json"
    path.write_text(json.dumps(told))
    return path


def test_parameters_are_looked_at_before_anything_is_computed(tmp_path: Path) -> None:
    runs.main([order(tmp_path, 0.5)], check=True)
    with pytest.raises(SystemExit, match=r"(?s)small-arm-0: .*region_weight. is -1"):
        runs.main([order(tmp_path, -1.0)], check=True)
    assert len(list(tmp_path.iterdir())) == 1


def test_time_adds_up_over_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "process_time", lambda: now)
    path = tmp_path / "spent.json"
    clock = runs._Clock(path)
    now += 5
    clock.note(1, 2, {})
    assert not path.exists()  # too soon
    now += 15
    clock.note(1, 2, {})  # and here the process is killed
    with runs._Clock(path):
        now += 30
    assert json.loads(path.read_bytes()) == {"seconds": 50.0}


def test_a_training_killed_before_its_second_choice_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = runs.Worker(runs.Order(**json.loads(order(tmp_path, 0.5).read_bytes())))
    worker.root = tmp_path / "root"
    asked = []

    def make(folder: Path, progress: object) -> None:
        asked.append(folder)
        (folder / "finished" / "by-test").mkdir(parents=True, exist_ok=True)
        (folder / "finished" / "training.json").write_text("{}")
        if len(asked) == 1:
            raise KeyboardInterrupt  # between the honest choice and the test's
        (folder / "finished" / "by-test" / "training.json").write_text("{}")

    with pytest.raises(KeyboardInterrupt):
        worker._trained("key", make, "by-test/training.json")
    for _ in range(2):
        finished = worker._trained("key", make, "by-test/training.json")
    assert len(asked) == 2
    made = json.loads((finished.parent / "made.json").read_bytes())
    assert made["commit"] == worker.order.commit
