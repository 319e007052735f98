"""A dataset with one of every kind of bad picture, file and entry: nothing good is lost or changed.

The kinds are those of `poison` and `broken_datasets`; docs/bad-input.md is their table, kept equal
by a test here.
"""

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tasks.errors import PedAlignError
from tasks.images import ImageError, decode
from tasks.ingest import ingest_dataset
from tasks.ingest.picture import prepare
from tasks.shards import iter_tables, read_manifest
from tests.tasks.ingest.broken_datasets import FAULTS
from tests.tasks.ingest.conftest import section
from tests.tasks.ingest.poison import (
    ENTRIES,
    FILES,
    JPEG,
    KEPT,
    PICTURES,
    encoded,
    good,
    image,
    payload,
    write_good,
)

ROOT = Path(__file__).resolve().parents[3]
DOC = ROOT / "docs" / "bad-input.md"
GOOD = 12
# Bad entries count on from here, so that those that are kept clash with nobody.
NUMBER = 100


def rows(folder):
    return {r["source_path"]: r for table in iter_tables(folder) for r in table.to_pylist()}


def poison(root, outside):
    """Fill a folder with everything at once.

    Returns:
        ``kind -> (source_path, reason, case)``.
    """
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(encoded(image(99)))
    texts = [json.dumps(entry) for entry in write_good(root, GOOD)]
    told = {}

    def add(kind, reason, case, text, path):
        # A row without a usable path is called after its place in the file.
        named = f"imgs/{path}" if path else f"a.json#{len(texts)}"
        assert kind not in told, kind
        told[kind] = (named, reason, case)
        texts.append(text)

    number = NUMBER
    for case in [*PICTURES, *FILES]:
        number += 1
        path = root / "imgs" / f"{number}" / case.name
        path.parent.mkdir()
        if case in FILES:
            case.make(path, outside)
        else:
            path.write_bytes(case.data)
        shown = path.relative_to(root / "imgs").as_posix()
        add(case.kind, case.reason, case, json.dumps(good(number, file_path=shown)), shown)
    marker = outside / "unpickled"
    for name in ("pickle.jpg", "pickle.png"):
        number += 1
        (root / "imgs" / name).write_bytes(payload(marker))
        text = json.dumps(good(number, file_path=name))
        add(f"pickle named {name[-4:]}", "not-an-image", None, text, name)
    for case in ENTRIES:
        number += 1
        path = f"{number}.jpg"
        (root / "imgs" / path).write_bytes(encoded(image(1000 + number)))
        entry = good(number, file_path=path, captions=["a man in red"]) | case.change
        entry.pop(case.drop, None)
        named = case.reason not in {
            "unsafe-path", "bad-path", "missing-key", "not-a-mapping", "duplicate-key",
            "nested-too-deep",
        }  # fmt: skip
        add(case.kind, case.reason, case, case.text or json.dumps(entry),
            os.path.normpath(str(entry.get("file_path"))) if named else "")  # fmt: skip
    # Lone surrogates stand as escapes; everything else is written as a Windows editor would.
    (root / "a.json").write_text("[" + ",\r\n".join(texts) + "]", encoding="utf-8-sig")
    return told


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poisoned")
    (folder / "raw").mkdir()
    told = poison(folder / "raw", folder / "outside")
    parameters = section(folder / "raw", "cuhk-pedes", images="imgs", shard_rows=16)
    report = ingest_dataset(parameters, folder / "test")
    return folder, told, report, rows(folder / "test")


def test_there_are_enough_kinds():
    kinds = [case.kind for case in (*PICTURES, *FILES, *ENTRIES, *FAULTS)]
    assert len(set(kinds)) == len(kinds)
    assert sum(case.reason != KEPT for case in (*PICTURES, *FILES, *ENTRIES)) + len(FAULTS) >= 60


def test_every_bad_row_is_there_with_its_reason(poisoned):
    _, told, report, found = poisoned
    assert report.rows == len(found) == GOOD + len(told)
    wrong = {}
    for kind, (path, reason, _) in told.items():
        row = found[path]
        slug = KEPT if row["status"] == "ok" else row["error"].split(": ", 1)[0]
        if slug != reason:
            wrong[kind] = (reason, row["status"], row["error"])
        if slug != KEPT:
            assert row["image"] is None, kind
            assert row["error"].split(": ", 1)[1], kind
            assert len(row["error"]) < 1500, kind
    assert wrong == {}


def test_good_rows_are_what_they_are_without_the_bad_ones(poisoned, tmp_path):
    _, _, _, found = poisoned
    (tmp_path / "raw").mkdir()
    entries = write_good(tmp_path / "raw", GOOD)
    (tmp_path / "raw/a.json").write_text(json.dumps(entries))
    clean = section(tmp_path / "raw", "cuhk-pedes", images="imgs", shard_rows=16)
    ingest_dataset(clean, tmp_path / "test")
    alone = rows(tmp_path / "test")
    assert len(alone) == GOOD
    for path, row in alone.items():
        assert found[path] == row
        assert row["image"] == (tmp_path / "raw" / path).read_bytes()


def test_odd_pictures_are_kept_upright_in_colour_and_small(poisoned):
    folder, told, _, found = poisoned
    for case in PICTURES:
        row = found[told[case.kind][0]]
        if case.reason != KEPT:
            continue
        picture = decode(row["image"])
        assert picture.size == (row["width"], row["height"]), case.kind
        assert max(picture.size) <= 256, case.kind
        if case.copied is None:
            assert row["image"] == case.data, case.kind
        else:
            assert row["image"][:2] == b"\xff\xd8" != case.data, case.kind
    turned = found[told["EXIF orientation 6"][0]]
    assert (turned["width"], turned["height"]) == (24, 48)
    link = found[told["link to another file of the folder"][0]]
    assert link["image"] == JPEG
    copies = [case.copied for case in PICTURES if case.copied]
    copied = read_manifest(folder / "test").meta["report"]["copied"]
    assert copied == {why: copies.count(why) for why in sorted(set(copies))}


def test_odd_captions_keep_their_words(poisoned):
    _, told, _, found = poisoned
    for case in ENTRIES:
        if case.reason == KEPT:
            assert found[told[case.kind][0]]["captions"] == list(case.captions), case.kind
    assert found[told["id: null, nobody known"][0]]["person_id"] is None
    assert found[told["id: digits as text"][0]]["person_id"] == "test/00777"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_bytes_that_nobody_thought_of_are_a_row_too():
    """Changed, cut and stretched examples: a picture, or a reason, and nothing else."""
    draw = random.Random(0)
    seeds = [case.data for case in PICTURES if 0 < len(case.data) < 20_000 and case.reason == KEPT]
    seeds = [data for data in seeds if not data.startswith(b"\x89PNG") or len(data) < 5_000]
    outcomes = Counter()
    for _ in range(400):
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.choice((1, 2, 8))):
            at = draw.randrange(min(len(data), draw.choice((64, 20_000))))
            data[at : at + draw.choice((0, 1, 1, 1, 9))] = draw.choice((b"\0", b"\xff", b"\x7f\1"))
        data = data[: draw.choice((len(data), len(data), draw.randrange(len(data))))]
        try:
            picture = prepare(bytes(data), 8, 256)
        except ImageError as error:
            outcomes[error.reason] += 1
        else:
            assert 8 <= min(picture.width, picture.height) <= 256
            outcomes[KEPT] += 1
    assert {KEPT, "truncated", "broken", "not-an-image"} <= set(outcomes)


# Runs in a process of its own, so that its hook sees nobody else's files.
WATCHED = """
import json, os, resource, sys
from pathlib import Path
from tasks.ingest import ingest_dataset
from tests.tasks.ingest.broken_datasets import FAULTS
from tests.tasks.ingest.conftest import section
folder = Path(sys.argv[1])

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def take(name):
    told = section(folder / name, "cuhk-pedes", images="imgs", shard_rows=16)
    ingest_dataset(told, folder / "out" / name)

take("clean")
before = peak()
opened, pickles = [], []

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        opened.append(os.fsdecode(arguments[0]))
    elif event.startswith(("pickle.", "subprocess.", "os.system", "socket.")):
        pickles.append([event, str(arguments)[:200]])

sys.addaudithook(watch)
take("raw")
real = sorted({os.path.realpath(path) for path in opened})
print(json.dumps({"opened": real, "ran": pickles, "before": before, "after": peak()}))
"""


def test_nothing_outside_is_opened_no_pickle_runs_and_memory_stays_bounded(poisoned, tmp_path):
    (tmp_path / "clean").mkdir()
    entries = write_good(tmp_path / "clean", GOOD)
    (tmp_path / "clean/a.json").write_text(json.dumps(entries))
    (tmp_path / "raw").mkdir()
    poison(tmp_path / "raw", tmp_path / "outside")
    (tmp_path / "raw/imgs/101/unlisted.jpg").symlink_to("/etc/passwd")  # the fingerprint's to skip
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["ran"] == []
    assert not (tmp_path / "outside/unpickled").exists()
    inside = [path for path in seen["opened"] if path.startswith(str(tmp_path / "raw") + os.sep)]
    assert len(inside) > GOOD + len(PICTURES)
    allowed = (tmp_path / "raw", tmp_path / "out", ROOT, sys.prefix, sys.base_prefix)
    assert [path for path in seen["opened"] if not path.startswith(tuple(map(str, allowed)))] == []
    # 30,000 x 30,000 pixels would take 2.7 GB, the text chunk 64 MB, two full pages of 7,000 x
    # 7,000 in colour 400 MB.
    assert seen["after"] - seen["before"] < 400


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.kind)
def test_a_fault_of_the_dataset_stops_and_says_what_to_do(fault, tmp_path):
    parameters = faulty(fault, tmp_path / "raw")
    with pytest.raises(PedAlignError, match=re.escape(fault.found)) as caught:
        ingest_dataset(parameters, tmp_path / "test")
    assert caught.value.rule
    assert caught.value.remedy
    assert not (tmp_path / "test").exists()
    assert not Path("unpickled").exists()


@pytest.mark.prefect
@pytest.mark.slow
def test_the_command_ends_with_the_paragraph_and_not_with_zero(prefect_server, tmp_path):
    kinds = ("JSON cut short", "one person in two splits")
    running = []
    for number, fault in enumerate(fault for fault in FAULTS if fault.kind in kinds):
        folder = tmp_path / str(number)
        folder.mkdir()
        told = asdict(faulty(fault, folder / "raw"))
        parameters = {"machine": {"threads": 1}, "ingest": {"datasets": {"bad": told}}}
        (folder / "params.yaml").write_text(json.dumps(parameters))
        (folder / "runtime.yaml").write_text(f"port: {prefect_server}\n")
        command = subprocess.Popen(
            [sys.executable, "-m", "flows.ingest", "bad"],
            cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        running.append((fault, folder, command))
    for fault, folder, command in running:
        said, _ = command.communicate(timeout=120)
        assert command.returncode == 1, said
        paragraph = said[said.rindex("ingest stopped.") :]
        assert fault.found in paragraph
        assert "\n  rule:   " in paragraph
        assert "\n  remedy: " in paragraph
        assert not (folder / "data/ingested/bad").exists()


def table():
    """The table of docs/bad-input.md."""
    kinds = {}
    for case in (*PICTURES, *FILES, *ENTRIES):
        kept = getattr(case, "copied", None)
        outcome = ("kept", f"copy: {kept}" if kept else "") if case.reason == KEPT else (
            "row rejected", f"`{case.reason}`"
        )  # fmt: skip
        kinds.setdefault(outcome, []).append(case.kind)
    kinds["row rejected", "`not-an-image`"] += ["pickle named .jpg", "pickle named .png"]
    for fault in FAULTS:
        kinds.setdefault(("ingestion stops", fault.found), []).append(fault.kind)
    order = ("row rejected", "kept", "ingestion stops")
    lines = ["| kinds | outcome | reason |", "|---|---|---|"]
    for (outcome, reason), names in sorted(kinds.items(), key=lambda kind: order.index(kind[0][0])):
        lines.append(f"| {'; '.join(names)} | {outcome} | {reason} |")
    return "\n".join(lines) + "\n"


def test_the_documents_table_is_this_list():
    before = DOC.read_text(encoding="utf-8").partition("| kinds |")[0]
    if os.environ.get("PEDALIGN_WRITE_DOCS"):
        DOC.write_text(before + table(), encoding="utf-8")
    assert before + table() == DOC.read_text(encoding="utf-8")


def faulty(fault, root):
    """Make a dataset with a fault and return its parameters."""
    root.mkdir()
    entries = write_good(root, 6)
    if fault.entries:
        entries = fault.entries(entries)
    data = fault.text(entries) if fault.text else json.dumps(entries).encode()
    (root / fault.file).write_bytes(data)
    change = {key: value.replace("ROOT", str(root)) for key, value in fault.section.items()}
    parameters = section(root, "cuhk-pedes", images="imgs", annotation=root / fault.file)
    if fault.spoil:
        fault.spoil(root)
    return replace(parameters, **change)
