"""Records and projects of an experiment: what is kept, found again and dropped."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.ablate.experiment import Experiment
from tasks.ablate.plan import ArmPlan, Plan, Run
from tasks.ablate.workspaces import Workspace
from tasks.provenance import ROOT, folder_digest

SECONDS = {"pretrain": 1.0, "finetune": 2.0, "evaluate": 3.0}


def run(arm: str, seed: int, result: str) -> Run:
    return Run(arm, seed, "p", "f", result)


def plan(*runs: Run) -> Plan:
    """A plan of some runs, all on the same data."""
    arms = {
        name: ArmPlan(
            cast("Any", SimpleNamespace(name=name)),
            ("ingest@target",),
            {"ingest@target": "i1"},
            tuple(one for one in runs if one.arm == name),
        )
        for name in dict.fromkeys(one.arm for one in runs)
    }
    return Plan(cast("Experiment", SimpleNamespace(name="small")), arms)


def measured(folder: Path) -> Path:
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"uid": ["a"]}), folder / "direct.parquet")
    told = {"commit": "abc", "core_seconds": SECONDS, "direct": {"R1": 5.0}}
    (folder / "result.json").write_text(json.dumps(told))
    return folder


def test_a_record_names_its_run_and_is_found_again(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    folder = space.keep("small", run("a", 3, "r1"), measured(tmp_path / "runs" / "k"))
    assert folder == tmp_path / "records" / "small" / "a" / "seed-3"
    told = json.loads((folder / "result.json").read_bytes())
    assert (told["arm"], told["seed"], told["commit"]) == ("a", 3, "abc")
    assert pq.read_table(folder / "direct.parquet").to_pylist() == [{"uid": "a"}]
    found = space.look(plan(run("a", 3, "r1")))
    assert found.done["r1"]["core_seconds"] == SECONDS


def test_a_record_of_other_parameters_does_not_count_and_goes(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    made = measured(tmp_path / "runs" / "k")
    stale = space.keep("small", run("a", 0, "before"), made)
    kept = space.keep("small", run("a", 1, "r2"), made)
    gone = space.keep("small", run("no longer", 0, "r3"), made)
    found = space.look(plan(run("a", 0, "r1"), run("a", 1, "r2")))
    assert set(found.done) == {"r2"}
    assert set(space.forget(found)) == {stale, gone}
    assert kept.exists()
    assert (made / "result.json").exists()  # what was computed stays


def test_finished_data_is_known_by_what_it_is_of(tmp_path: Path) -> None:
    space, made = Workspace(tmp_path), plan(run("a", 0, "r1"))
    each = made.arms["a"]
    space.project(each.variant).mkdir(parents=True)
    assert space.finished(each.variant) is None
    assert not space.look(made).taken
    space.finish(each, {"ingest@target": 7.25}, "abc")
    assert space.finished(each.variant) == {"i1": 7.2}
    assert space.look(made).taken == {"i1": 7.2}


def test_the_gap_is_known_by_what_it_depends_on(tmp_path: Path) -> None:
    space, made = Workspace(tmp_path), plan(run("a", 0, "r1"))
    each = made.arms["a"]
    assert space.gap(each, "g1") is None
    space.project(each.variant).mkdir(parents=True)
    space.finish_gap(each, "g1", 12.34, "abc")
    assert space.gap(each, "g1") == 12.3
    assert space.gap(each, "g2") is None  # another judge, or more pictures


def test_a_finished_project_reads_this_machines_settings_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    space, made = Workspace(tmp_path / "ablate"), plan(run("a", 0, "r1"))
    each = made.arms["a"]
    params = {"inputs": {"init": "data/nothing"}, "ingest": {"datasets": {}}, "x": 1}
    object.__setattr__(each, "arm", SimpleNamespace(name="a", params=params))
    folder = space.project(each.variant)
    (folder / "models" / "tiny").mkdir(parents=True)
    (folder / "models" / "tiny" / "old.safetensors").touch()
    (folder / "models" / "loading.py").write_text("# as it was when the data was made")
    (folder / "runtime.yaml").write_text("device: cpu\n")
    (folder / "data").mkdir()
    (folder / "data" / "weights").symlink_to("/of/another/machine")
    (tmp_path / "data" / "weights").mkdir(parents=True)
    space.refresh(each)
    assert not (folder / "models" / "tiny" / "old.safetensors").exists()
    assert "as it was" in (folder / "models" / "loading.py").read_text()
    assert folder_digest(folder / "models" / "tiny") == folder_digest(ROOT / "models" / "tiny")
    assert not (folder / "runtime.yaml").exists()  # the checkout has none
    assert (folder / "data" / "weights").resolve() == tmp_path / "data" / "weights"
    assert "x: 1" in (folder / "params.yaml").read_text()
