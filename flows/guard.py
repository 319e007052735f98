"""What a killed process must not leave behind: servers, workers, ``dvc`` and its stages.

SIGKILL, and the kernel when memory runs out, let nobody clean up. Two watches do it instead, both
by looking twice a second, on any system that psutil knows:

* `end_with_parent`, a thread: a stage ends when ``dvc`` does, or the shell in between.
* ``python -m flows.guard PID``, a process in a session of its own, so that a signal to the whole
  group spares it: it remembers the descendants of PID and ends them after it. `start` starts it.

Nothing is lost: what is finished is in the store.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

INTERVAL = 0.5
SHELLS = frozenset({"sh", "ash", "bash", "dash", "fish", "ksh", "zsh"})


def lives(process: psutil.Process) -> bool:
    """Say whether a process still runs: the same one, not its number given anew."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def keepers() -> list[psutil.Process]:
    """Find the processes that this one works for.

    Returns:
        Its parent and, where that is a shell that runs one command (DVC starts stages so, and not
        every shell gives way to its last command), that shell's parent too.
    """
    found = []
    with contextlib.suppress(psutil.Error):
        for parent in psutil.Process().parents():
            found.append(parent)
            program, *options = parent.cmdline() or [""]
            runs_one = any(o.startswith("-") and o.endswith("c") for o in options[:-1])
            if not (Path(program).name.lstrip("-") in SHELLS and runs_one):
                break
    return found


def left_by_dvc() -> bool:
    """Say whether DVC started this stage and was gone before the stage could look for it.

    A shell in between may live on, so the chain of parents alone does not tell.
    """
    if "DVC_STAGE" not in os.environ:
        return False
    try:
        return not any("dvc" in " ".join(parent.cmdline()) for parent in psutil.Process().parents())
    except psutil.Error:  # of another user, or just gone: the watch will tell
        return False


def end_with_parent() -> None:
    """End this process and its children when one that it works for ends."""
    if left_by_dvc():
        sys.exit("dvc ended before this stage began; nothing was computed.")
    parent, watched = os.getppid(), keepers()

    def watch() -> None:
        while os.getppid() == parent and all(lives(process) for process in watched):
            time.sleep(INTERVAL)
        end_children()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def end_children() -> None:
    """Kill every descendant of this process: Prefect's own server, workers."""
    with contextlib.suppress(psutil.Error):
        kill(psutil.Process().children(recursive=True))


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill some processes with all that they have started, those gone already excepted."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for member in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    member.kill()


@contextlib.contextmanager
def start(shared: Path | None = None) -> Iterator[None]:
    """Have the descendants of this process ended after it, however it ends.

    Args:
        shared: Folder of a process that others may use too (`flows.leases`): it is spared while
            they do.
    """
    # Its own streams: a guard that held this process's pipe would keep a reader waiting.
    guard = subprocess.Popen(
        [sys.executable, "-m", "flows.guard", str(os.getpid()), *([str(shared)] if shared else [])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.kill()
        guard.wait()


def main(pid: int, folder: Path | None = None) -> None:
    """Follow a process until it ends, then end what it has left."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    seen: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        followed = psutil.Process(pid)
        while lives(followed):
            for child in followed.children(recursive=True):
                if child.pid != os.getpid():
                    seen.setdefault(child.pid, child)
            time.sleep(INTERVAL)
    if folder is None:
        kill(seen.values())
        return
    from flows.leases import Shared  # which imports this module

    shared = Shared(folder)
    # The moment in which it was started may have been seen.
    spared = shared.process()
    with contextlib.suppress(psutil.Error):
        for process in [spared, *spared.children(recursive=True)] if spared else []:
            seen.pop(process.pid, None)
    kill(seen.values())
    shared.release()


if __name__ == "__main__":
    main(int(sys.argv[1]), *(Path(folder) for folder in sys.argv[2:3]))
