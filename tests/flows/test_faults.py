"""Faults that a user can mend are recognised behind what libraries make of them."""

import errno
import logging
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import httpx
import pytest
import torch

from flows import faults
from tasks.errors import PedAlignError


def call(url: str) -> httpx.Request:
    return httpx.Request("GET", url)


def chained(first: BaseException, later: BaseException) -> BaseException:
    try:
        try:
            raise first
        except BaseException:
            raise later  # noqa: B904 - as a library does
    except BaseException as error:
        return error


def test_a_fault_is_itself() -> None:
    fault = PedAlignError("value 3", "at most 2", "lower it")
    assert faults.mendable(fault, "screen") is fault
    assert faults.mendable(chained(fault, ValueError("later")), "screen") is fault


def test_a_defect_keeps_its_traceback() -> None:
    assert faults.mendable(ValueError("3"), "screen") is None
    assert faults.mendable(RuntimeError("shapes do not match"), "screen") is None
    assert faults.mendable(PermissionError(errno.EACCES, "no", "x"), "screen") is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed writing"),
        chained(OSError(errno.ENOSPC, "No space left on device"), ValueError("while closing")),
    ],
)
def test_a_full_disk(error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "cache_root", lambda: tmp_path / "not" / "made")
    fault = faults.mendable(error, "restyle")
    assert fault is not None
    assert fault.found.startswith(f"{tmp_path}: no space left (")
    assert "MiB free" in fault.found
    assert "pedalign gc" in fault.remedy
    assert "dvc gc" in fault.remedy


def test_a_full_disk_names_the_folder_that_was_written(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a" / "b.parquet"))
    fault = faults.mendable(error, "restyle")
    assert fault is not None
    assert fault.found.startswith(f"{tmp_path}: ")


@pytest.mark.parametrize(
    ("error", "stage", "remedy"),
    [
        (MemoryError(), "pretrain", "pretrain.training.batch"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "adapt", "adapt.batch"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "finetune@target",
            "finetune.datasets.target.training.batch",
        ),
        (MemoryError(), "restyle", "runtime.yaml"),
        (MemoryError(), "a new stage", "runtime.yaml"),
    ],
)
def test_memory_that_is_used_up(error: BaseException, stage: str, remedy: str) -> None:
    fault = faults.mendable(error, stage)
    assert fault is not None
    assert "memory is used up" in fault.found
    assert remedy in fault.remedy


def test_every_remedy_names_a_parameter_that_exists() -> None:
    from ruamel.yaml import YAML

    root = Path(faults.__file__).parent.parent
    values = YAML(typ="safe").load((root / "profiles" / "reid.yaml").read_text())
    for stage, text in faults.LOWER.items():
        key = next(iter(values["reid"]["datasets"])) if stage == "reid" else "target"
        for word in text.format(key=key).replace(",", "").split():
            if word.startswith(f"{stage}."):
                section = values
                for part in word.split("."):
                    section = section[part]
                assert isinstance(section, int), word


def test_a_worker_that_was_killed() -> None:
    fault = faults.mendable(BrokenProcessPool("terminated abruptly"), "screen")
    assert fault is not None
    assert "a worker of screen was killed" in fault.found
    assert "run the same command again" in fault.remedy


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (RuntimeError("Failed to reach API at http://127.0.0.1:4200/api/"), True),
        (httpx.ConnectError("refused", request=call("http://127.0.0.1:4200/api/flow_runs/")), True),
        (httpx.ConnectError("refused", request=call("http://127.0.0.1:4200/api/csrf-token")), True),
        (httpx.ReadTimeout("slow", request=call("https://team/api/task_runs/filter")), True),
        (httpx.ConnectError("refused", request=call("https://huggingface.co/api/models/x")), False),
        (httpx.ConnectError("refused"), False),
    ],
)
def test_a_prefect_server_that_is_gone(error: Exception, ours: bool) -> None:
    fault = faults.mendable(error, "screen")
    assert (fault is not None) == ours
    assert fault is None or "the Prefect server does not answer" in fault.found


def test_prefect_prints_no_traceback_for_a_fault() -> None:
    faults.quieten()
    faults.quieten()
    log = logging.getLogger("prefect.task_runs")
    assert len([f for f in log.filters if "NoTraceback" in type(f).__name__]) == 1
    records = []
    for error in (PedAlignError("value 3", "at most 2", "lower it"), KeyError("defect")):
        info = (type(error), error, None)
        records.append(log.makeRecord(log.name, logging.ERROR, "", 0, "failed", (), info))
        assert log.filter(records[-1])
    cut, whole = records
    assert cut.getMessage() == "stopped: value 3"
    assert cut.exc_info is None
    assert whole.exc_info is not None
