"""Shards by threads, processes and Dask: the same bytes; a killed worker costs its own shard."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from flows.workers import Workplace
from tasks.errors import PedAlignError

ROOT = Path(__file__).resolve().parents[2]
SHARDS = 6

# In `kill` mode the first to meet b3 dies once the other shards are in the store: a shard that
# another worker has in hand would rightly be computed again.
STAGE = """
from functools import partial
from pathlib import Path
import os, signal, sys, time
import pyarrow as pa
from prefect import flow
from flows.shards import ShardJob, ShardWork, compute_shards, shard_store
from flows.stage import run
from tasks.schemas import CAPTIONED

OUT = Path("out")

def compute(name, mode):
    if mode == "kill" and name == "b3.parquet" and not Path("killed").exists():
        while len(list(Path(".cache/shards").glob("key*.json"))) < 5:
            time.sleep(0.05)
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    row = {"uid": name[1] * 16, "captions": [name], "method": "m", "status": "ok"}
    with open("computed.log", "a") as log:
        log.write(f"{name} {os.getpid()}\\n")
    return pa.Table.from_pylist([row], CAPTIONED)

@flow
def toy(mode: str) -> None:
    jobs = [ShardJob(f"b{i}.parquet", f"key{i}") for i in range(6)]
    entries = compute_shards(jobs, ShardWork("toy", "captioned", partial(compute, mode=mode)))
    shard_store().publish(OUT, "captioned", entries, {})

if __name__ == "__main__":
    run(toy, OUT, mode=sys.argv[1])
"""


def make_project(folder: Path, runner: str) -> Path:
    folder.mkdir()
    (folder / "toy.py").write_text(STAGE)
    (folder / "params.yaml").write_text("machine: {threads: 1}\n")
    (folder / "runtime.yaml").write_text(
        f"port: 4398\ndevice: cpu\nworkers: 2\nrunner: {runner}\nstore: {folder.as_uri()}/team\n"
    )
    return folder


def run_stage(project: Path, mode: str = "go") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("PREFECT_API_URL", None)
    return subprocess.run(
        [sys.executable, "-m", "toy", mode],
        cwd=project, env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def output(project: Path) -> dict[str, str]:
    files = sorted((project / "out").iterdir())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def computed(project: Path) -> Counter[str]:
    lines = (project / "computed.log").read_text().splitlines()
    return Counter(line.split()[0] for line in lines)


ONCE = Counter({f"b{i}.parquet": 1 for i in range(SHARDS)})


@pytest.fixture(scope="module")
def by_threads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    project = make_project(tmp_path_factory.mktemp("workers") / "threads", "threads")
    done = run_stage(project)
    assert done.returncode == 0, done.stderr[-3000:]
    assert computed(project) == ONCE
    return output(project)


@pytest.mark.prefect
@pytest.mark.slow
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_cluster_loses_a_worker_and_nothing_else(
    tmp_path: Path, by_threads: dict[str, str], runner: str
) -> None:
    pytest.importorskip(f"prefect_{runner}")
    project = make_project(tmp_path / runner, runner)
    done = run_stage(project, "kill")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (project / "killed").exists()
    assert output(project) == by_threads
    assert computed(project) == ONCE
    workers = {line.split()[1] for line in (project / "computed.log").read_text().splitlines()}
    assert len(workers) >= 2


@pytest.mark.prefect
@pytest.mark.slow
def test_processes_stop_with_a_killed_worker_and_go_on_in_a_rerun(
    tmp_path: Path, by_threads: dict[str, str]
) -> None:
    project = make_project(tmp_path / "processes", "processes")
    first = run_stage(project, "kill")
    assert first.returncode != 0
    assert not (project / "out").exists()
    second = run_stage(project, "kill")
    assert second.returncode == 0, second.stderr[-3000:]
    assert output(project) == by_threads
    assert computed(project) == ONCE
    shared = sorted(path.name for path in (project / "team" / "shards").iterdir())
    assert shared == sorted(f"key{i}.{kind}" for i in range(SHARDS) for kind in ("json", "parquet"))
    # A colleague with an empty store of their own takes everything from the shared one.
    colleague = make_project(tmp_path / "colleague", "threads")
    (colleague / "team").symlink_to(project / "team")
    third = run_stage(colleague)
    assert third.returncode == 0, third.stderr[-3000:]
    assert output(colleague) == by_threads
    assert not (colleague / "computed.log").exists()
    reuse = json.loads((colleague / ".cache" / "reuse" / "toy.json").read_bytes())
    assert (reuse["shards"], reuse["reused"]) == (SHARDS, SHARDS)


def test_a_worker_with_other_code_or_libraries_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # and back: a worker goes where the stage stands
    here = Workplace(folder=str(tmp_path))
    elsewhere = replace(here, origin="another process")
    found = elsewhere.surroundings | {"torch": "1.0", "the project's code": "0" * 12}
    with pytest.raises(PedAlignError, match=r"the project's code is .*torch is .*the stage's 1\.0"):
        replace(elsewhere, surroundings=found).enter()


def test_a_worker_without_the_projects_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PedAlignError, match="has no folder"):
        Workplace(folder=str(tmp_path / "missing"), origin="another process").enter()


def test_the_stages_own_process_stays_where_it_is(tmp_path: Path) -> None:
    before = Path.cwd()
    Workplace(folder=str(tmp_path)).enter()
    assert Path.cwd() == before
