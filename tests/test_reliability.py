"""The pieces of benchmarks.reliability, and its forgetting with real DVC on a toy pipeline.

The kills themselves take minutes to an hour: `python -m benchmarks.reliability`.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from benchmarks.reliability.case import Said
from benchmarks.reliability.damage import flip_bit
from benchmarks.reliability.forgetting import forget
from benchmarks.reliability.moments import PUBLISHING, TRAINING, Moment, Watch
from benchmarks.reliability.plan import MICRO, TINY, make_plan, tally
from benchmarks.reliability.processes import MARK, end, marked, stage_process
from benchmarks.reliability.project import Project, Reference, describe, differing
from benchmarks.reliability.results import (
    FaultOutcome,
    append,
    fault_table,
    kill_table,
    read,
    write_section,
)
from benchmarks.reliability.trial import Outcome

STAGES = {
    "ingest@source", "ingest@target", "adapt", "restyle", "screen", "caption", "annotate",
    "pretrain", "finetune@target", "evaluate@direct", "evaluate@finetuned", "gap", "report",
}  # fmt: skip


def outcome(**changes: object) -> Outcome:
    """A kill of which nothing was lost."""
    values = {
        "name": "micro-0-00", "profile": "micro", "stage": "pretrain", "moment": "step 3 taken",
        "kind": "step", "target": "group", "reached": True, "entries": 2, "rerun_code": 0,
        "orphans_ended": 0.4, "step": "3/4", "checkpoint": 2, "resumed": 2, "reruns": 1,
    }  # fmt: skip
    return Outcome(**(values | changes))  # type: ignore[arg-type]


def store_entry(cache: Path, key: str, *, training: bool = False) -> Path:
    """A finished entry: the record, and its content."""
    record = cache / ("trainings" if training else "shards") / f"{key}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text("{}")
    content = record.with_suffix("" if training else ".parquet")
    content.mkdir() if training else content.write_bytes(b"shard")
    return content


# ------------------------------------------------------------------ the plan


@pytest.mark.parametrize(("profile", "kills"), [("micro", 20), ("tiny", 10)])
def test_a_plan_has_the_kills_that_were_asked_for(profile: str, kills: int) -> None:
    # Those that go beyond are named after what is killed, not numbered.
    trials = [t for t in make_plan(profile, kills, seed=0) if t.name[-2:].isdigit()]
    assert len({trial.name for trial in trials}) == len(trials) == kills
    training, publishing = tally([trial.moment.kind for trial in trials])
    assert training >= 5
    assert publishing >= 3
    assert {trial.target for trial in trials} == {"group", "dvc"}
    # Both targets meet training as well as publishing.
    for kinds in (TRAINING, PUBLISHING):
        assert len({t.target for t in trials if t.moment.kind in kinds}) == 2
    assert {trial.stage for trial in trials} <= STAGES | {"(all)"}


def test_the_micro_plan_visits_every_stage() -> None:
    assert {row[0] for row in MICRO} >= STAGES
    assert {row[0] for row in TINY} <= STAGES


def test_a_plan_follows_from_its_seed() -> None:
    assert make_plan("micro", 20, 3) == make_plan("micro", 20, 3)
    moments = [t.moment for t in make_plan("micro", 20, 3)]
    assert moments != [t.moment for t in make_plan("micro", 20, 4)]


# ------------------------------------------------------------------ moments


@pytest.fixture
def idle(tmp_path: Path):
    """A folder that stands for a project, and a process that stands for its rebuild."""
    (tmp_path / "data").mkdir()
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (tmp_path / "log").write_bytes(b"")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield Project(tmp_path), process
        process.kill()


def test_new_store_entries_are_counted_once_they_are_whole(idle) -> None:
    project, process = idle
    cache = project.folder / ".cache"
    store_entry(cache, "a" * 64)
    watch = Watch(project, "restyle", ["data/restyled"], project.folder / "log", process)
    assert not watch.seen(Moment("entries", 1))
    record = cache / "shards" / f"{'b' * 64}.json"
    record.write_text("{}")
    assert not watch.seen(Moment("entries", 1))  # a record without its content counts for nothing
    record.with_suffix(".parquet").write_bytes(b"shard")
    assert watch.seen(Moment("entries", 1))
    store_entry(cache, "c" * 64, training=True)
    assert watch.seen(Moment("entries", 2))
    assert not watch.seen(Moment("entries", 3))


def test_what_lies_beside_a_shard_is_finished_with_it(tmp_path: Path) -> None:
    store_entry(tmp_path / ".cache", f"{'a' * 64}-evidence")
    assert Project(tmp_path).entries() == {}
    store_entry(tmp_path / ".cache", "a" * 64)
    assert len(Project(tmp_path).entries()) == 2


def test_steps_are_read_off_the_bar(idle) -> None:
    project, process = idle
    log = project.folder / "log"
    watch = Watch(project, "pretrain", ["data/checkpoints/pretrain"], log, process)
    assert watch.step() is None
    bars = ["pretrain:  25%|##    | 3/12 [00:01<00:03,  2.1step/s]", "pretrain: 4/12 [00:09<00:20,"]
    log.write_text("\r".join(["Loading weights: 100%|#####| 77/77 [00:00<00:00, 900it/s]", *bars]))
    assert watch.step() == (3, 12)  # the last bar is not whole yet
    log.write_text("pretrain:  33%|###   | 4/12 [00:09<00:20,  2.4s/step, loss=6.0]")
    assert watch.step() == (4, 12)
    assert watch.seen(Moment("step", 4))
    assert not watch.seen(Moment("step", 5))


def test_publishing_ends_where_dvc_lock_changes(idle) -> None:
    project, process = idle
    watch = Watch(project, "restyle", ["data/restyled"], project.folder / "log", process)
    folder = project.folder / "data" / "restyled"
    folder.mkdir()
    (folder / "b0.parquet").write_bytes(b"shard")
    assert not watch.seen(Moment("published"))
    (folder / "manifest.json").write_text("{}")
    assert watch.seen(Moment("published"))
    assert not watch.seen(Moment("committing"))  # no process of the stage was seen to end
    (project.folder / "dvc.lock").write_text("schema: '2.0'\n")
    assert not watch.seen(Moment("published"))


def test_a_moment_that_cannot_come_any_more_is_not_waited_for(idle) -> None:
    project, process = idle
    watch = Watch(project, "restyle", ["data/restyled"], project.folder / "log", process)
    process.kill()
    process.wait()
    began = time.monotonic()
    assert not watch.wait(Moment("entries", 1), limit=30)
    assert time.monotonic() - began < 5


def test_every_moment_is_a_phrase() -> None:
    assert str(Moment("entries", 3, 0.25)) == "store entry 3 written, 0.25 s later"
    for row in (*MICRO, *TINY):
        assert str(Moment(row[1])).strip()


# ------------------------------------------------------------------ processes


def test_marked_processes_are_found_when_their_parent_is_gone() -> None:
    mark = uuid4().hex
    # The child starts a grandchild and ends.
    script = (
        "import subprocess, sys;"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    )
    subprocess.run([sys.executable, "-c", script], env=os.environ | {MARK: mark}, check=True)
    assert len(marked(mark)) == 1
    assert "time.sleep(60)" in end(mark)[0]
    deadline = time.monotonic() + 10
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert marked(mark) == []


def test_the_process_of_a_stage_is_told_from_its_servants(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    for name in ("guard", "restyle"):
        (tmp_path / "flows" / f"{name}.py").write_text("import time; time.sleep(60)")
    script = (
        "import subprocess, sys, time\n"
        "for name in ('guard', 'restyle'):\n"
        "    subprocess.Popen([sys.executable, '-m', 'flows.' + name])\n"
        "time.sleep(60)"
    )
    mark = uuid4().hex
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | {MARK: mark}
    ) as process:
        found: psutil.Process | None = None
        deadline = time.monotonic() + 20
        while found is None and time.monotonic() < deadline:
            found = stage_process(process.pid)
        assert found is not None
        assert found.cmdline()[-1] == "flows.restyle"
        end(mark)


# ------------------------------------------------------------------ comparing


def test_a_foreign_a_missing_and_a_changed_file_differ(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for name in ("README.md", "same", "changed", "foreign"):
        path = tmp_path / "data" / "x" / name if name != "README.md" else tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    found = project.digests()
    assert "README.md" not in found
    reference = Reference("", 0.0, found | {"x/changed": "0" * 64, "x/gone": "1"}, {}, {}, {})
    del reference.digests["x/foreign"]
    assert differing(found, reference) == [
        "x/changed: differs",
        "x/foreign: foreign",
        "x/gone: missing",
    ]
    assert differing(found, Reference("", 0.0, found, {}, {}, {})) == []


def test_one_bit_is_flipped_and_the_time_kept(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(bytes(100))
    path.chmod(0o444)
    before = path.stat()
    flip_bit(path, silently=True)
    assert sum(byte.bit_count() for byte in path.read_bytes()) == 1
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_mode == before.st_mode


def test_what_a_user_is_shown_is_one_line_without_folders() -> None:
    log = "12:00 | ERROR | x: no space\r/some/where/restyled/b0.parquet: no space left\nmore"
    said = Said(1, log, 1.0)
    assert said.paragraph("no space") == "b0.parquet: no space left"
    assert said.paragraph("x: no space$") == "x: no space"
    inside = "data/restyled/b0.parquet: changed"
    assert Said(1, inside, 1.0).paragraph("changed") == inside
    assert said.paragraph("nothing of the kind") == "no such message"
    assert not said.traceback


# ------------------------------------------------------------------ results


@pytest.mark.parametrize(
    ("changes", "sound"),
    [
        ({}, True),
        ({"reached": False}, False),
        ({"rerun_code": 1}, False),
        ({"recomputed": ["shards/a.json"]}, False),
        ({"differing": ["restyled/b0.parquet: differs"]}, False),
        ({"orphans": ["python -m flows.restyle"]}, False),
        ({"resumed": None}, False),
        ({"resumed": 1}, False),
        ({"resumed": 3}, True),  # an orphan wrote it before it ended
        ({"resumed": None, "reused": "1/1"}, True),  # an orphan finished the training
        ({"checkpoint": None, "resumed": None}, True),
    ],
)
def test_whatever_is_lost_makes_a_trial_unsound(changes: dict[str, object], sound: bool) -> None:
    assert outcome(**changes).sound is sound


def test_results_survive_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append(path, outcome(reached=False))
    append(path, outcome())
    with path.open("a") as sink:
        sink.write('{"name": "micro-0-01", "prof')
    found = read(path, Outcome)
    assert found == {"micro-0-00": outcome()}  # the newest of a name


def test_the_tables_count_what_they_show() -> None:
    reference = Reference("", 80.0, {"a": "1"}, {}, {}, {})
    lost = outcome(name="b", kind="published", differing=["a: differs"], checkpoint=None, step="")
    table = kill_table([outcome(), lost, outcome(reached=False)], reference)
    assert table.startswith(
        "2 kills, 1 inside training, 1 between publishing and dvc.lock; 1 ended"
    )
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == 3
    assert rows[1].endswith("| yes |")
    assert "| 3/4, 2 → 2 |" in rows[1]
    assert rows[2].endswith("| **no** |")
    columns = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert len(columns) == 1

    fault = FaultOutcome("full store", "micro", "a | b", "no space\nleft", 1, sound=False)
    text = fault_table([fault])
    assert "a \\| b" in text
    assert "no space left **not as it should be**" in text


def test_a_document_keeps_what_stands_around_its_tables(tmp_path: Path) -> None:
    document = tmp_path / "reliability.md"
    document.write_text("head\n<!-- begin micro -->\nold\n<!-- end micro -->\nfoot\n")
    write_section(document, "micro", "new")
    write_section(document, "micro", "newer")
    text = document.read_text()
    assert text == "head\n<!-- begin micro -->\nnewer\n<!-- end micro -->\nfoot\n"
    with pytest.raises(ValueError, match="no <!-- begin tiny"):
        write_section(document, "tiny", "x")


# ------------------------------------------------------------------ forgetting, with real DVC

TOY = """
stages:
  first:
    cmd: mkdir data/first && echo 1 > data/first/a
    deps: [seed]
    outs: [data/first]
  second:
    cmd: cp data/first/a data/second
    deps: [data/first]
    outs: [data/second]
"""


@pytest.mark.dvc
def test_a_forgotten_stage_runs_again_and_no_other(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    folder = project.folder
    (folder / "data").mkdir(parents=True)
    (folder / "dvc.yaml").write_text(TOY)
    (folder / "seed").write_text("0")
    assert project.call("dvc", "init", "-q", "--no-scm").returncode == 0
    done = project.call("dvc", "repro")
    assert done.returncode == 0, done.stdout
    timings = folder / ".cache" / "timings"
    timings.mkdir(parents=True)
    now = time.time()
    for at, stage in enumerate(("first", "second")):
        record = {"stage": stage, "seconds": 1.0, "started": now - 100 + 50 * at}
        (timings / f"{stage}.json").write_text(json.dumps(record))
    entries = {}
    for stage, at in (("first", now - 90), ("second", now - 10)):
        entries[stage] = store_entry(folder / ".cache", stage[0] * 64)
        os.utime(entries[stage], (at, at))
    reference = describe(project, "", 1.0)
    assert {n.split("/")[1][0]: o for n, o in reference.owners.items()} == {
        "f": "first",
        "s": "second",
    }
    objects = folder / ".dvc" / "cache" / "files" / "md5"
    before = len([p for p in objects.rglob("*") if p.is_file()])

    forget(project, reference, ["first"])
    assert not (folder / "data" / "first").exists()
    assert not entries["first"].exists()
    assert entries["second"].exists()
    # The file `a` has the content of `second`, which keeps its object; the listing goes.
    assert len([p for p in objects.rglob("*") if p.is_file()]) == before - 1
    done = project.call("dvc", "repro")
    assert done.returncode == 0, done.stdout
    assert "Running stage 'first'" in done.stdout
    assert "Running stage 'second'" not in done.stdout
    assert differing(project.digests(), reference) == []
