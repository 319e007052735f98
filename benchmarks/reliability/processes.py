"""Who came of a command: found by a mark in the environment, whatever became of the parents."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import psutil

MARK = "PEDALIGN_TRIAL"
NOT_STAGES = {"flows.repro", "flows.guard"}


def marked(mark: str) -> list[psutil.Process]:
    """Living processes whose environment carries a mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def stage_process(pid: int) -> psutil.Process | None:
    """The Python process of the stage that runs below a ``dvc`` process."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = child.cmdline()
                module = words[words.index("-m") + 1] if "-m" in words else ""
                if module.startswith("flows.") and module not in NOT_STAGES:
                    return child
    return None


def alive(process: psutil.Process) -> bool:
    """Whether it runs; a process that nobody has waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def until_gone(mark: str, limit: float) -> Iterator[float]:
    """Yield, again and again, the seconds that marked processes have lived on; end with them."""
    started = time.monotonic()
    while marked(mark) and time.monotonic() - started < limit:
        yield time.monotonic() - started
        time.sleep(0.1)


def end(mark: str) -> list[str]:
    """Kill what is left of a command, and say what it was."""
    left = []
    for process in marked(mark):
        with contextlib.suppress(psutil.Error):
            left.append(" ".join(process.cmdline())[:200])
            process.kill()
    return left
