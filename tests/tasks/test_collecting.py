"""Freeing the store: what a kept state needs stays, what nothing needs goes, never by halves."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from flows.cli import app
from tasks.collecting import Needs, collect, folders, freed, leftovers, revisions
from tasks.disk import cache_use, files_of
from tasks.errors import PedAlignError
from tasks.locks import nobody_writes, output_lock
from tasks.schemas import CAPTIONED
from tasks.shards import image_uid, location
from tasks.store import ShardStore, TrainingStore

DAY = 86_400
OLD = 30.0
"""Days."""


def table(name: str) -> pa.Table:
    row = {"uid": image_uid("d", name), "captions": [name], "method": "m", "status": "ok"}
    return pa.Table.from_pylist([row], CAPTIONED)


class Hand:
    """A project made by hand: a store, and outputs published from it."""

    def __init__(self, root: Path) -> None:
        self.root, self.cache = root, root / ".cache"
        self.shards, self.trainings = ShardStore(self.cache / "shards"), TrainingStore(self.cache)

    def shard(self, key: str) -> tuple:
        return key, f"b{key}.parquet", self.shards.save(key, f"b{key}.parquet", table(key),
                                                        "captioned")  # fmt: skip

    def publish(self, name: str, *entries: tuple, meta: dict | None = None) -> None:
        self.shards.publish(self.root / "data" / name, "captioned", entries, meta or {})

    def training(self, key: str, weights: bytes) -> None:
        made = self.root / "made"
        (made / "tokenizer").mkdir(parents=True)
        (made / "model.safetensors").write_bytes(weights)
        (made / "tokenizer" / "vocab.txt").write_text("a")
        self.trainings.save(key, made)

    def age(self, days: float = OLD, *paths: Path) -> None:
        """Make everything in the store as old as that."""
        then = time.time() - days * DAY
        for path in paths or [self.cache, *self.cache.rglob("*")]:
            os.utime(path, (then, then))

    def going(self, needs: Needs | None = None, days: float = 1) -> set[str]:
        needs = Needs.of_workspace(self.root) if needs is None else needs
        found = leftovers(self.cache, needs, keep_days=days, keep_running_days=14)
        return {f"{item.kind} {item.name}" for item in found}


@pytest.fixture
def hand(tmp_path: Path) -> Hand:
    return Hand(tmp_path)


def test_what_the_manifests_name_stays(hand: Hand) -> None:
    a, b, c, d, _ = (hand.shard(key) for key in "abcde")
    hand.publish("captioned", a, b)
    hand.publish("ingested/deep", c)
    # Screening publishes other bytes than it stores; its manifest names what it was made from.
    hand.publish("screened", meta={"entries": [d[2].digest]})
    hand.age()
    assert hand.going() == {"captioned e"}
    assert hand.going(Needs()) == {f"captioned {key}" for key in "abcde"}


def test_what_is_named_after_an_entry_goes_with_it(hand: Hand) -> None:
    a, _ = hand.shard("a"), hand.shard("b")
    hand.shards.save("a-evidence", "b", table("x"), "captioned")
    hand.shards.save("b-evidence", "b", table("y"), "captioned")
    hand.publish("captioned", a)
    hand.age()
    assert hand.going() == {"captioned b", "captioned b-evidence"}


def test_the_young_stay(hand: Hand) -> None:
    hand.shard("a")
    hand.training("t", b"w")
    assert hand.going() == set()
    assert hand.going(days=0) == {"captioned a", "training t"}


def test_trainings_stay_by_their_files(hand: Hand) -> None:
    for key, weights in (("t", b"one"), ("u", b"two"), ("v", b"six")):
        hand.training(key, weights)
    hand.trainings.publish("t", hand.root / "data/checkpoints/finetune/target")
    hand.trainings.publish("u", hand.root / "data/checkpoints/dad")
    # One file more: no longer the training's own set.
    (hand.root / "data/checkpoints/dad/note.txt").write_text("mine")
    hand.age()
    assert hand.going() == {"training u", "training v"}


def test_running_checkpoints_of_the_finished_and_of_the_old_go(hand: Hand) -> None:
    hand.training("t", b"w")
    for key in ("t", "u", "v", "w"):
        (hand.trainings.running(key) / "state.pt").write_bytes(b"half")
    hand.age(OLD, hand.cache / "runs/u", hand.cache / "runs/u/state.pt")
    hand.age(OLD, hand.cache / "runs/w")  # its folder is old, its last checkpoint is not
    assert hand.going() == {"running checkpoints t", "running checkpoints u"}


def test_halves_and_what_the_dead_were_writing_go(hand: Hand) -> None:
    for key in "abc":
        hand.shard(key)
    (hand.cache / "shards/a.json").unlink()
    (hand.cache / "shards/b.parquet").unlink()
    (hand.cache / "shards/c.json").write_text("{")
    hand.training("t", b"w")
    (hand.cache / "trainings/t.json").unlink()
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    for name, pid in (("x", dead.pid), ("y", os.getpid())):
        (hand.cache / "shards" / f".{name}.parquet.{pid}.tmp").write_bytes(b"ha")
    half = hand.cache / "trainings" / f".t.{dead.pid}.tmp"
    half.mkdir()
    (half / f".model.{dead.pid}.tmp").write_bytes(b"weights")
    assert hand.going() == {
        "half an entry a", "half an entry b", "half an entry c", "half a training t",
        f"half written .x.parquet.{dead.pid}.tmp", f"half written .t.{dead.pid}.tmp",
    }  # fmt: skip


def test_a_number_that_a_new_process_has_taken_does_not_save_a_half(hand: Hand) -> None:
    (hand.cache / "shards").mkdir(parents=True)
    half = hand.cache / "shards" / f".x.parquet.{os.getpid()}.tmp"
    half.write_bytes(b"ha")
    hand.age(OLD, half)  # before this process began
    assert hand.going() == {f"half written {half.name}"}


def test_only_last_names_come_free(hand: Hand) -> None:
    a, b = hand.shard("a"), hand.shard("b")
    hand.publish("captioned", a, b)
    hand.age()
    items = leftovers(hand.cache, Needs(), keep_days=0, keep_running_days=0)
    records = sum((hand.cache / "shards" / f"{key}.json").stat().st_size for key in "ab")
    assert freed(items) == records  # the shards have another name in data
    use = cache_use(hand.cache)
    sizes = sum(hand.shards.path(key).stat().st_size for key in "ab")
    assert use == {
        "shards": sizes + records, "trainings": 0, "runs": 0, "together": sizes + records,
        "own": records,
    }  # fmt: skip
    (hand.root / "data/captioned" / a[1]).unlink()
    assert freed(items) == records + hand.shards.path("a").stat().st_size
    collect(items)
    assert (hand.root / "data/captioned" / b[1]).exists()
    assert not list((hand.cache / "shards").glob("*.*"))


@settings(max_examples=25, deadline=None)
@given(
    named=st.sets(st.sampled_from("abcdef")),
    young=st.sets(st.sampled_from("abcdef")),
    stop=st.integers(0, 14),
)
def test_killed_anywhere_no_entry_counts_without_its_file(
    named: set[str], young: set[str], stop: int
) -> None:
    with TemporaryDirectory() as folder:
        hand = Hand(Path(folder))
        entries = {key: hand.shard(key) for key in "abcdef"}
        hand.publish("captioned", *(entries[key] for key in sorted(named)))
        hand.age()
        for key in young:
            hand.age(0, hand.shards.path(key))
        items = leftovers(
            hand.cache, Needs.of_workspace(hand.root), keep_days=1, keep_running_days=1
        )
        assert {item.name for item in items} == set("abcdef") - named - young
        steps = [path for item in items for path in item.paths]
        for path in steps[:stop]:
            path.unlink()
        for key, entry in entries.items():
            note = hand.cache / "shards" / f"{key}.json"
            assert hand.shards.path(key).exists() or not note.exists()
            assert hand.shards.find(key) == (entry[2] if note.exists() else None)
        again = leftovers(
            hand.cache, Needs.of_workspace(hand.root), keep_days=1, keep_running_days=1
        )
        collect(again)
        kept = {path.stem for path in files_of([hand.cache / "shards"]) if path.suffix == ".json"}
        assert kept == named | young


def test_folders_of_files_by_hand() -> None:
    assert folders({"c/d/m": "1", "c/d/t/v": "2", "c/e/m": "1"}) == {
        frozenset({("m", "1"), ("t/v", "2")}),
        frozenset({("v", "2")}),
        frozenset({("m", "1")}),
        frozenset({("d/m", "1"), ("d/t/v", "2"), ("e/m", "1")}),
    }


# ------------------------------------------------------------------ locks


def test_nothing_is_freed_while_a_stage_writes(tmp_path: Path) -> None:
    def refused(why: str) -> None:
        with pytest.raises(PedAlignError, match=why), nobody_writes(tmp_path):
            pass

    with output_lock(Path("data/x"), tmp_path):
        refused("a stage is writing it")
    with nobody_writes(tmp_path):
        refused("another `pedalign gc`")


def test_a_stage_that_starts_meanwhile_waits(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tasks.locks import output_lock; import time;"
        f"held = output_lock(Path('data/new'), Path({str(tmp_path)!r})); print(time.time())"
    )
    with nobody_writes(tmp_path):
        stage = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        taken = tmp_path / "locks" / "data-new.lock"
        while not taken.exists():
            time.sleep(0.05)
        time.sleep(1)
        assert stage.poll() is None
        ended = time.time()
    out, _ = stage.communicate()
    assert float(out) >= ended


# ------------------------------------------------------------------ commits


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git and DVC repository: tag v1 names shard a and training t; b and u; now c and v."""
    root = tmp_path_factory.mktemp("made") / "project"
    root.mkdir()
    hand = Hand(root)
    stages = {
        "caption": {"cmd": "true", "outs": ["data/captioned"]},
        "adapt": {"cmd": "true", "outs": ["data/checkpoints/dad"]},
    }
    (root / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    (root / ".gitignore").write_text("/data\n/.cache\n")
    (root / ".dvcignore").write_text(".cache\n")
    settings_of = os.environ | {
        "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(root.parent / "site"),
    }  # fmt: skip
    settings_of.pop("DVC_ROOT", None)

    def run(*command: str) -> None:
        subprocess.run(command, cwd=root, env=settings_of, check=True, capture_output=True)

    dvc = (sys.executable, "-m", "dvc")
    run("git", "init", "-q", "-b", "main")
    run("git", "config", "user.email", "a@example.org")
    run("git", "config", "user.name", "a")
    run(*dvc, "init", "-q")
    for shard, training in ("at", "bu", "cv"):
        hand.publish("captioned", hand.shard(shard))
        hand.training(training, training.encode())
        hand.trainings.publish(training, root / "data/checkpoints/dad")
        run(*dvc, "commit", "-q", "-f")
        run("git", "add", "-A")
        run("git", "commit", "-qm", shard)
        if shard == "a":
            run("git", "tag", "v1")
    hand.shard("d")
    hand.age()
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hand:
    """A copy of that repository, and the working directory in it."""
    root = tmp_path / "project"
    shutil.copytree(made, root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(root)
    return Hand(root)


def needs_of(hand: Hand, **which: bool) -> Needs:
    names = revisions(hand.root, **which)
    return Needs.of_workspace(hand.root) | Needs.of_revisions(hand.root, [None, *names])


def test_tags_branches_and_commits(project: Hand) -> None:
    # Committed states: a, t (tagged v1); b, u (no name); c, v (main, and the workspace).
    assert project.going(needs_of(project)) == {"captioned b", "captioned d", "training u"}
    assert project.going(needs_of(project, all_commits=True)) == {"captioned d"}
    shutil.rmtree(project.root / "data")  # dvc.lock still says what the workspace is
    assert project.going(needs_of(project)) == {"captioned b", "captioned d", "training u"}
    (project.root / "dvc.lock").unlink()
    everything_but_v1 = {f"captioned {key}" for key in "bcd"} | {"training u", "training v"}
    assert project.going(needs_of(project)) == everything_but_v1
    # The head of main names c and v.
    assert project.going(needs_of(project, branches=True)) == {
        "captioned b", "captioned d", "training u",
    }  # fmt: skip


def test_a_tag_keeps_what_a_later_run_has_replaced_in_the_workspace(project: Hand) -> None:
    subprocess.run(["git", "tag", "v3"], cwd=project.root, check=True)
    record = project.shards.find("d")
    assert record is not None
    # The stage ran again, and dvc.lock is still the tagged one.
    project.publish("captioned", ("d", "bd.parquet", record))
    project.age()
    assert project.going(needs_of(project)) == {"captioned b", "training u"}


def test_what_dvc_has_lost_is_told_and_keeps_nothing(
    project: Hand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.rmtree(project.root / ".dvc/cache")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "another"))
    needs = needs_of(project)
    # Of the workspace nothing is unknown: it lies there.
    assert needs.unread == ("v1: data/captioned, data/checkpoints/dad",)
    assert "captioned a" in project.going(needs)
    assert not {"captioned c", "training v"} & project.going(needs)  # the workspace is there


def test_without_git_the_workspace_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    hand = Hand(tmp_path / "plain")
    a, _ = hand.shard("a"), hand.shard("b")
    hand.publish("captioned", a)
    hand.age()
    assert revisions(hand.root) == []
    assert hand.going(needs_of(hand)) == {"captioned b"}
    dvc = (sys.executable, "-m", "dvc", "init", "--no-scm", "-q")
    subprocess.run(dvc, cwd=hand.root, check=True)
    assert revisions(hand.root) == []
    assert hand.going(needs_of(hand)) == {"captioned b"}


# ------------------------------------------------------------------ the command


def test_gc_shows_asks_and_frees(project: Hand) -> None:
    shown = CliRunner().invoke(app, ["gc", "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "captioned" in shown.output
    assert "training" in shown.output
    refused = CliRunner().invoke(app, ["gc"], input="n\n")
    assert refused.exit_code == 0
    assert project.shards.find("d") is not None
    done = CliRunner().invoke(app, ["gc", "--yes"])
    assert done.exit_code == 0, done.output
    assert "3 removed" in done.output
    assert [key for key in "abcd" if project.shards.find(key)] == ["a", "c"]
    assert [key for key in "tuv" if project.trainings.find(key)] == ["t", "v"]
    assert "Nothing to free" in CliRunner().invoke(app, ["gc", "--yes"]).output


def test_gc_beside_a_stage_is_an_error(project: Hand) -> None:
    with output_lock(Path("data/captioned"), project.cache):
        done = CliRunner().invoke(app, ["gc", "--yes"])
    assert isinstance(done.exception, PedAlignError)
    assert project.shards.find("d") is not None


def test_a_shared_store_is_freed_only_when_asked(project: Hand) -> None:
    team = project.root.parent / "team"
    behind = Hand(project.root)
    behind.shards = ShardStore(project.cache / "shards", f"{team}/shards")
    for key in "cd":
        assert behind.shards.find(key) is not None  # hands it on
    project.age(OLD, *team.rglob("*"))
    (project.root / "runtime.yaml").write_text(f"store: {team}\n")
    from tasks.runtime import runtime

    runtime.cache_clear()
    try:
        assert CliRunner().invoke(app, ["gc", "--yes"]).exit_code == 0
        assert {path.stem for path in (team / "shards").glob("*.json")} == {"c", "d"}
        assert CliRunner().invoke(app, ["gc", "--yes", "--shared"]).exit_code == 0
        assert {path.stem for path in (team / "shards").glob("*.json")} == {"c"}
    finally:
        runtime.cache_clear()


def test_a_store_that_is_no_disk_is_freed_too(hand: Hand) -> None:
    hand.shards = ShardStore(hand.cache / "shards", "memory://collecting/shards")
    hand.trainings = TrainingStore(hand.cache, "memory://collecting")
    for key in "ab":
        hand.shard(key)
    hand.training("t", b"w")
    needs = Needs(shards=frozenset({hand.shards.find("a").digest}))  # type: ignore[union-attr]
    behind = location("memory://collecting")
    assert not leftovers(behind, needs, keep_days=1, keep_running_days=1)  # all are young
    later = time.time() + OLD * DAY
    items = leftovers(behind, needs, keep_days=1, keep_running_days=1, now=later)
    assert {item.name for item in items} == {"b", "t"}
    assert freed(items) == sum(item.size for item in items) > 0
    collect(items)
    left = {path.name for path in behind.rglob("*") if path.is_file()}
    assert left == {"a.parquet", "a.json"}
