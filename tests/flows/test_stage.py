"""A stage's run: failures reach the shell and Prefect, nothing is left behind, nothing is lost."""

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.prefect, pytest.mark.slow]

STAGE = """
from functools import partial
from pathlib import Path
import sys, time
import pyarrow as pa
from prefect import flow
from flows.shards import ShardJob, ShardWork, compute_shards, shard_store
from flows.stage import run
from tasks.errors import PedAlignError
from tasks.schemas import CAPTIONED
from tasks.shards import image_uid

OUT = Path("out")

def compute(name, mode):
    if mode == "poison" and name == "b1.parquet":
        raise ValueError("poisoned shard")
    if mode == "rule":
        raise PedAlignError("value 3", "at most 2", "lower it")
    if mode == "full" and name == "b1.parquet":
        raise OSError(28, "No space left on device", "out/b1.parquet")
    if mode == "hang":
        Path("hanging").touch()
        time.sleep(60)
    digit = "0" if name.startswith("b0") else "f"
    row = {"uid": digit * 16, "captions": [name], "method": "m", "status": "ok"}
    return pa.Table.from_pylist([row], CAPTIONED)

@flow
def toy(mode: str) -> None:
    jobs = [ShardJob(f"b{i}.parquet", f"key{i}") for i in range(2)]
    entries = compute_shards(jobs, ShardWork("toy", "captioned", partial(compute, mode=mode)))
    shard_store().publish(OUT, "captioned", entries, {})

if __name__ == "__main__":
    run(toy, OUT, mode=sys.argv[1])
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "toy.py").write_text(STAGE)
    (tmp_path / "params.yaml").write_text("machine: {threads: 1}\n")
    (tmp_path / "runtime.yaml").write_text("port: 4399\ndevice: cpu\n")
    return tmp_path


def environment(project: Path) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": f"{project}{os.pathsep}{ROOT}",
        "PREFECT_HOME": str(project / ".prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "DO_NOT_TRACK": "1",
    }


def stage(project: Path, mode: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "toy", mode],
        cwd=project, env=environment(project), capture_output=True, text=True, check=False,
    )  # fmt: skip


def reuse(project: Path) -> dict[str, object]:
    record = json.loads((project / ".cache" / "reuse" / "toy.json").read_bytes())
    assert isinstance(record, dict)
    return record


def test_a_poisoned_shard_fails_the_process_and_keeps_the_others(project: Path) -> None:
    failed = stage(project, "poison")
    assert failed.returncode != 0
    assert "poisoned shard" in failed.stdout + failed.stderr
    assert not (project / "out").exists()

    mended = stage(project, "good")
    assert mended.returncode == 0, mended.stderr
    assert "no Prefect server" in mended.stderr
    assert reuse(project) == {"stage": "toy", "shards": 2, "reused": 1}
    assert sorted(p.name for p in (project / "out").iterdir()) == [
        "b0.parquet",
        "b1.parquet",
        "manifest.json",
    ]
    timing = json.loads((project / ".cache" / "timings" / "toy.json").read_bytes())
    assert timing["seconds"] > 0
    assert timing["peak_mb"] > 10


def test_a_stage_goes_on_where_the_server_of_its_rebuild_is_gone(project: Path) -> None:
    lost = {
        "PREFECT_API_URL": "http://127.0.0.1:4399/api",  # the port of runtime.yaml
        "PEDALIGN_PARENT_RUN": "00000000-0000-4000-8000-000000000000",
    }
    done = subprocess.run(
        [sys.executable, "-m", "toy", "good"],
        cwd=project, env=environment(project) | lost, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no Prefect server" in done.stderr
    assert (project / "out" / "manifest.json").exists()
    assert [kind for kind, _ in states(project)] == ["COMPLETED"]


def test_a_mistake_of_the_user_is_a_paragraph(project: Path) -> None:
    failed = stage(project, "rule")
    assert failed.returncode == 1
    last = failed.stderr[failed.stderr.rindex("toy stopped.") :]
    assert " ".join(last.split()).startswith(
        "toy stopped. value 3 rule: at most 2 remedy: lower it"
    )


def hanging(project: Path, *command: str) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    """Start a command below which a stage hangs in a shard; returns it and the stage."""
    (project / "hanging").unlink(missing_ok=True)
    parent = subprocess.Popen(
        command, cwd=project, env=environment(project),
        stdout=subprocess.DEVNULL, stderr=(project / "stderr").open("wb"),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (project / "hanging").exists():
        assert parent.poll() is None, (project / "stderr").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    family = [psutil.Process(parent.pid), *psutil.Process(parent.pid).children(recursive=True)]
    return parent, next(p for p in family if p.cmdline()[1:] == ["-m", "toy", "hang"])


def alive(family: list[psutil.Process], timeout: float) -> list[psutil.Process]:
    _, left = psutil.wait_procs(family, timeout=timeout)
    return [p for p in left if p.status() != psutil.STATUS_ZOMBIE]


def states(project: Path) -> list[tuple[str, str]]:
    """Last states of the flow runs with their messages, in the order of their making."""
    query = """
        SELECT state.type, state.message FROM flow_run
        JOIN flow_run_state AS state ON state.id = flow_run.state_id ORDER BY flow_run.created
    """
    with sqlite3.connect(project / ".prefect" / "prefect.db") as database:
        return list(database.execute(query))


def test_a_stage_ends_when_its_parent_is_killed(project: Path) -> None:
    # The shell stands for dvc: killing it alone must not leave the stage running.
    parent, child = hanging(project, "sh", "-c", f"{sys.executable} -m toy hang & wait")
    family = [child, *child.children(recursive=True)]  # Prefect's short-lived server too
    assert len(family) > 1
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert alive(family, 30) == []


def test_a_killed_stage_leaves_nothing_and_is_marked_at_the_next_start(project: Path) -> None:
    stopped, child = hanging(project, sys.executable, "-m", "toy", "hang")
    left = child.children(recursive=True)  # Prefect's short-lived server, and the guard
    assert len(left) > 1
    stopped.kill()
    stopped.wait()
    assert alive(left, 30) == []
    [note] = (project / ".cache" / "running").iterdir()
    assert json.loads(note.read_bytes())["pid"] == stopped.pid
    assert [state for state, _ in states(project)] == ["RUNNING"]

    for _ in range(3):  # on a busy machine Prefect's short-lived server may not come up in time
        failed = stage(project, "full")
        if len(states(project)) > 1:
            break
    assert len(states(project)) == 2, failed.stderr
    (first, why), (second, what) = states(project)
    assert first == "CRASHED"
    assert f"Process {stopped.pid} on" in why
    assert not list((project / ".cache" / "running").iterdir())
    # What fills the disk is a fault that the user can mend: no traceback, here or in Prefect.
    assert second == "FAILED"
    assert what.startswith(f"{project}: no space left")
    assert "remedy: free space, with `pedalign gc`" in what
    assert failed.returncode == 1
    assert f"toy stopped.\n{what}\n" in failed.stderr
    # The short-lived server may complain of a busy database; the fault itself has no traceback.
    assert "OSError" not in failed.stdout + failed.stderr
    assert os.strerror(errno.ENOSPC) not in failed.stderr


def test_an_interrupted_stage_leaves_at_once_and_says_so(project: Path) -> None:
    stopped, child = hanging(project, sys.executable, "-m", "toy", "hang")
    family = child.children(recursive=True)
    asked = time.monotonic()
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(30) == 130
    assert time.monotonic() - asked < 20  # the shard in flight would take a minute
    assert alive(family, 10) == []
    assert "Nothing that was finished is lost" in (project / "stderr").read_text()
    assert states(project) == [("CRASHED", "Interrupted from the keyboard.")]
    assert not list((project / ".cache" / "running").iterdir())
