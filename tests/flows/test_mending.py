"""A dvc.lock cut off at any byte is put back; DVC's empty run-cache folders go."""

import hashlib
import re
from pathlib import Path

import pytest
import zc.lockfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows import mending
from tasks.errors import PedAlignError

ROOT = Path(__file__).resolve().parents[2]
# The lock's first stage: small, and cut in as many ways as the whole.
LINES = (ROOT / "dvc.lock").read_text(encoding="utf-8").splitlines(keepends=True)
SECOND = [at for at, line in enumerate(LINES) if re.match(r"  \S", line)][1]
WHOLE = "".join(LINES[:SECOND]).encode()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    (tmp_path / "dvc.lock").write_bytes(WHOLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(0, len(WHOLE) - 1))
def test_a_cut_off_lock_is_read_or_put_back(workspace: Path, cut: int) -> None:
    lock = workspace / "dvc.lock"
    lock.write_bytes(WHOLE)
    mending.keep_lock()
    lock.write_bytes(WHOLE[:cut])
    told = mending.mend()
    # Either DVC can read the rest as a shorter lock, or the copy is back.
    assert lock.read_bytes() == (WHOLE if told else WHOLE[:cut])
    assert mending.mend() == []


def test_an_empty_lock_is_put_back(workspace: Path) -> None:
    mending.keep_lock()
    (workspace / "dvc.lock").write_bytes(b"")
    assert len(mending.mend()) == 1
    assert (workspace / "dvc.lock").read_bytes() == WHOLE


def test_what_another_dvc_is_writing_is_not_copied(workspace: Path) -> None:
    mending.keep_lock()
    lock = zc.lockfile.LockFile(str(workspace / mending.PROJECT_LOCK))  # as DVC takes it
    (workspace / "dvc.lock").write_bytes(b"half")
    mending.keep_lock()
    assert (workspace / mending.WHOLE).read_bytes() == WHOLE
    lock.close()
    mending.keep_lock()
    assert (workspace / mending.WHOLE).read_bytes() == b"half"
    # And the copying does not keep DVC out.
    zc.lockfile.LockFile(str(workspace / mending.PROJECT_LOCK)).close()


def test_without_a_copy_the_remedy_is_named(workspace: Path) -> None:
    (workspace / "dvc.lock").write_bytes(b"schema: '2.0'\nstages:\n  a: {cmd")
    with pytest.raises(PedAlignError, match=r"git checkout dvc\.lock"):
        mending.mend()


def test_empty_folders_of_the_run_cache_go(workspace: Path) -> None:
    empty, full = (workspace / ".dvc" / "cache" / "runs" / "ab" / name for name in ("abc", "abd"))
    empty.mkdir(parents=True)
    full.mkdir()
    (full / "entry").write_text("kept")
    assert len(mending.mend()) == 1
    assert not empty.exists()
    assert (full / "entry").exists()


def test_nothing_to_mend_and_nothing_to_keep(workspace: Path) -> None:
    (workspace / "dvc.lock").unlink()
    mending.keep_lock()
    assert mending.mend() == []


def test_a_flipped_bit_in_an_output_goes_with_dvcs_object(workspace: Path) -> None:
    for number in range(3):
        data = bytes([number]) * 100
        name = hashlib.md5(data).hexdigest()
        kept = workspace / ".dvc" / "cache" / "files" / "md5" / name[:2] / name[2:]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(data)
        (workspace / "data").mkdir(exist_ok=True)
        (workspace / "data" / f"b{number}.parquet").hardlink_to(kept)
    assert mending.drop_changed() == []
    with (workspace / "data" / "b1.parquet").open("r+b") as file:
        file.write(b"\xff")
    assert len(mending.drop_changed()) == 2
    assert sorted(path.name for path in (workspace / "data").iterdir()) == [
        "b0.parquet",
        "b2.parquet",
    ]
    assert len([p for p in (workspace / ".dvc" / "cache").rglob("*") if p.is_file()]) == 2
    assert mending.drop_changed() == []
