"""What a killed process leaves behind ends after it."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows import guard

ROOT = Path(__file__).resolve().parents[2]
SLEEP = "import time; time.sleep(99)"
NEST = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"


def family(process: subprocess.Popen[bytes], members: int) -> list[psutil.Process]:
    """Wait until a process has some descendants."""
    deadline = time.monotonic() + 30
    while len(found := psutil.Process(process.pid).children(recursive=True)) < members:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_descendants_end_after_a_killed_process() -> None:
    # A session of its own and a shell between: neither its group nor its children would tell.
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {NEST!r}])"
    process = subprocess.Popen([sys.executable, "-c", nested], start_new_session=True)
    watcher = subprocess.Popen([sys.executable, "-m", "flows.guard", str(process.pid)], cwd=ROOT)
    try:
        left = family(process, 2)
        time.sleep(3 * guard.INTERVAL)
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(left, timeout=10)
        assert alive == []
        assert watcher.wait(10) == 0
    finally:
        watcher.kill()


def test_a_guard_goes_with_the_work_it_guards() -> None:
    before = set(psutil.Process().children())
    with guard.start():
        [started] = set(psutil.Process().children()) - before
        assert guard.lives(started)
    assert not guard.lives(started)


def test_a_shell_that_runs_one_command_is_looked_through() -> None:
    ask = "from flows import guard; print(*[p.pid for p in guard.keepers()]); input()"
    program = f"{sys.executable} -c '{ask}'; true"
    with subprocess.Popen(
        ["sh", "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdout is not None
        keepers = [int(pid) for pid in shell.stdout.readline().split()]
        shell.communicate(b"\n")
    assert keepers[:2] == [shell.pid, psutil.Process().pid]


def test_a_process_that_is_gone_does_not_live() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    known = psutil.Process(process.pid)
    process.wait()
    assert not guard.lives(known)
    guard.kill([known])  # and killing it again is no fault
    assert guard.lives(psutil.Process())


def test_a_stage_whose_dvc_has_gone_before_it_began_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert not guard.left_by_dvc()
    # Nobody above this test is a dvc; below one the stage goes on.
    monkeypatch.setenv("DVC_STAGE", "restyle")
    assert guard.left_by_dvc()
    ask = "from flows import guard; print(guard.left_by_dvc())"
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    done = subprocess.run(
        [sys.executable, "-c", program, ask, "dvc"], cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "False"
