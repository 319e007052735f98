"""What runs beside what in a rebuild, and that DVC takes it: on a toy pipeline, without Prefect."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import repro
from flows.lanes import Part, look, parts
from flows.repro import Beside, Said

NEEDS = {
    "ingest@source": [],
    "ingest@target": [],
    "adapt": ["ingest@target"],
    "restyle": ["adapt", "ingest@source"],
    "pretrain": ["restyle"],
    "gap": ["adapt", "ingest@source", "ingest@target", "restyle"],
    "evaluate@direct": ["ingest@target", "pretrain"],
    "finetune": ["pretrain"],
    "report": ["gap", "evaluate@direct", "finetune"],
}


def test_a_whole_rebuild_has_three_parts() -> None:
    first, second, last = parts(NEEDS, NEEDS)
    assert first == Part(["adapt", "ingest@target"], {"ingest@source": []})
    assert second.line == ["finetune", "pretrain", "restyle"]
    assert second.beside == {
        "gap": ["adapt", "ingest@source", "ingest@target", "restyle"],
        "evaluate@direct": [*second.beside["gap"][:3], "pretrain", "restyle"],
    }
    assert last == Part()


def test_the_gap_waits_until_the_line_leaves_a_core_free() -> None:
    needs = {**NEEDS, "annotate": ["restyle"], "pretrain": ["annotate"]}
    _, second, _ = parts(needs, needs)
    assert second.beside["gap"] == ["adapt", "annotate", *NEEDS["gap"][1:]]
    (only, _) = parts(needs, ["gap", "pretrain"])  # nothing to wait for
    assert "gap" in only.beside
    assert "annotate" not in only.line


@pytest.mark.parametrize("stale", [[], ["report"], ["gap"], ["evaluate@direct"]])
def test_what_has_nothing_beside_it_is_one_part(stale: list[str]) -> None:
    assert list(parts(NEEDS, stale)) == [Part()]


def test_a_part_has_what_a_change_reaches_only() -> None:
    found = list(parts(NEEDS, ["pretrain"]))
    assert [part.line for part in found] == [["finetune", "pretrain"], []]
    assert list(found[0].beside) == ["evaluate@direct"]


@given(st.data())
def test_nothing_is_touched_by_two_at_once(data: st.DataObject) -> None:
    """A line never looks at a stage beside it, and a stage starts after what it needs."""
    names = [f"s{number}" for number in range(8)]
    needs = {
        n: data.draw(st.lists(st.sampled_from(names[:i]), unique=True)) if i else []
        for i, n in enumerate(names)
    }
    some = st.lists(st.sampled_from(names), unique=True)
    stale, beside = data.draw(some), data.draw(some)

    def above(stages: list[str]) -> set[str]:
        found = set(stages)
        while more := {n for stage in found for n in needs[stage]} - found:
            found |= more
        return found

    *found, last = parts(needs, stale, beside)
    assert last == Part()
    over: set[str] = set()
    for part in found:
        looked_at = above(part.line)
        assert not looked_at & set(part.beside)
        assert part.line
        for stage, first in part.beside.items():
            assert set(first) == (above([stage]) - {stage}) & looked_at
            changed = {n for n in names if above([n]) & set(stale)}
            assert (above([stage]) - {stage}) & changed <= over | set(part.line)
        assert not over & (set(part.line) | set(part.beside))
        over |= set(part.line) | set(part.beside)


def test_a_stage_that_ran_in_one_part_has_run() -> None:
    said = Said({"a": "", "b": "cached"})
    said.add(Said({"a": "nothing has changed", "b": "", "c": "", "d": "cached"}))
    assert said.stages == {"a": "", "b": "", "c": "", "d": "cached"}


# ------------------------------------------------------------------ with real DVC

TOY = """
stages:
  seed:
    cmd: echo 1 > first
    outs: [first]
  line:
    cmd: sleep 1 && cp first second
    deps: [first]
    outs: [second]
  gap:
    cmd: cat first >> told && {gap} && cp first third
    deps: [first]
    outs: [third]
  report:
    cmd: cat second third > fourth
    deps: [second, third]
    outs: [fourth]
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], check=True)
    return tmp_path


def rebuild(environment: dict[str, str]) -> tuple[Said, Beside]:
    """The first part of a rebuild, without its Prefect run."""
    found = look()
    [part, last] = parts(found["needs"], found["stale"])
    assert last == Part()
    with Beside(part.beside, environment) as beside:
        said = Said(hear=beside.hear)
        assert repro._run_line(said, ["repro", *part.line], environment) == 0
    return said, beside


@pytest.mark.dvc
def test_two_at_once_leave_what_one_after_the_other_leaves(toy: Path) -> None:
    (toy / "dvc.yaml").write_text(TOY.format(gap="sleep 1"))
    said, beside = rebuild(dict(os.environ))
    assert (said.ran, beside.said.ran, beside.failed) == (["seed", "line"], ["gap"], {})
    rest = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"], capture_output=True, text=True, check=True
    )
    assert rest.stdout.count("Running stage") == 1
    assert (toy / "fourth").read_text() == "1\n1\n"
    assert look()["stale"] == []


@pytest.mark.dvc
def test_a_stage_that_fails_beside_is_told_and_the_line_goes_on(toy: Path) -> None:
    (toy / "dvc.yaml").write_text(TOY.format(gap="exit 3"))
    said, beside = rebuild(dict(os.environ))
    assert said.ran == ["seed", "line"]
    assert list(beside.failed) == ["gap"]
    assert look()["stale"] == ["gap", "report"]


@pytest.mark.dvc
def test_an_end_of_the_rebuild_is_the_end_of_what_runs_beside(toy: Path) -> None:
    (toy / "dvc.yaml").write_text(TOY.format(gap="sleep 60"))
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q", "line"], check=True)
    began = time.monotonic()
    beside = Beside({"gap": ["line"]}, dict(os.environ))

    def interrupted() -> None:
        with beside:
            beside.hear({"seed"})
            beside.hear({"line"})
            while not (toy / "told").exists():
                time.sleep(0.05)
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        interrupted()
    assert beside._process is not None
    assert beside._process.poll() is not None
    assert time.monotonic() - began < 40
