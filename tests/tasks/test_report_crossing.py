"""The matrix of fine-tuned checkpoints by datasets, and what stands beside it."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tasks.images import encode_jpeg
from tasks.report import Run, Sources, crossing, figures
from tasks.report.gather import gather
from tasks.schemas import IMAGES
from tasks.shards import image_uid, write_folder

R1 = {
    ("pretrain", "first"): 20.0, ("pretrain", "second"): 10.0,
    ("finetune/first", "first"): 60.0, ("finetune/first", "second"): 24.0,
    ("finetune/second", "first"): 30.0, ("finetune/second", "second"): 40.0,
}  # fmt: skip


def ingested(root, name, drawn):
    row = {
        "uid": image_uid(name, "1"), "dataset": name, "split": "test", "person_id": f"{name}/1",
        "camera": None, "width": 12, "height": 24, "captions": ["a man"], "labels": None,
        "image": encode_jpeg(np.full((24, 12, 3), 90, dtype=np.uint8)), "source_path": "1",
        "parent_uid": None, "status": "ok", "error": None,
    }  # fmt: skip
    table = pa.Table.from_pylist([row], IMAGES)
    write_folder(root / "ingested" / name, [table], "images", {"drawn": drawn}, shard_rows=8)


@pytest.fixture
def sources(tmp_path):
    """Two datasets, three checkpoints, all six evaluations."""
    for name in ("first", "second"):
        ingested(tmp_path, name, drawn=True)
        body = {"stage": "finetune", "chosen_on": "val", "kept_epoch": 2,
                "params": {"images": f"data/ingested/{name}"}}  # fmt: skip
        folder = tmp_path / "checkpoints/finetune" / name
        folder.mkdir(parents=True)
        (folder / "training.json").write_text(json.dumps(body))
    (tmp_path / "checkpoints/pretrain").mkdir()
    (tmp_path / "checkpoints/pretrain/training.json").write_text('{"stage": "pretrain"}')
    runs = {}
    # In an order that the page does not follow.
    for (checkpoint, images), first in reversed(R1.items()):
        name = f"{checkpoint.rsplit('/', 1)[-1]}-on-{images}"
        folder = tmp_path / "reports/evaluate" / name
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"R1": first, "mAP": first / 2}))
        runs[name] = Run(tmp_path / "checkpoints" / checkpoint, f"data/ingested/{images}")
    return Sources.under(tmp_path, target="first", runs=runs)


def some(sources, *names):
    """The sources with only some of the evaluations."""
    runs = {name: run for name, run in sources.runs.items() if name in names}
    folders = tuple(f for f in sources.evaluations if f.name in names)
    return replace(sources, runs=runs, evaluations=folders)


def test_every_checkpoint_stands_before_every_dataset(sources):
    told = crossing.matrix(gather(sources))
    assert told.rows[0] == crossing.DIRECT
    assert set(told.rows[1:]) == set(told.columns) == {"first", "second"}
    for (checkpoint, column), first in R1.items():
        row = crossing.DIRECT if checkpoint == "pretrain" else checkpoint.rsplit("/", 1)[1]
        assert told.cells[row, column] == {"R@1": first, "mAP": first / 2}
    assert told.is_own("first", "first")
    assert not told.is_own("first", "second")
    assert not told.is_own(crossing.DIRECT, "first")
    assert told.share("first", "second") == pytest.approx(24 / 40)
    assert told.share("second", "first") == pytest.approx(30 / 60)
    assert told.share(crossing.DIRECT, "second") == pytest.approx(10 / 40)
    assert told.share("first", "first") == 1


def test_numbers_and_published_stand_apart(sources):
    found = crossing.section(gather(sources))
    picture, ours, published = found.parts
    assert picture.data.startswith(b"\x89PNG")
    table = {row[0]: dict(zip(ours.header, row, strict=True)) for row in ours.rows}
    assert table["first"]["R@1, second"] == "24.00"
    assert table["second"]["mAP, first"] == "15.00"
    assert table[crossing.DIRECT]["R@1, first"] == "20.00"
    bold = {(ours.rows[y][0], ours.header[x]) for y, x in ours.best}
    assert bold == {(name, f"{m}, {name}") for name in ("first", "second") for m in crossing.SHOWN}
    by_method = {row[0]: dict(zip(published.header, row, strict=True)) for row in published.rows}
    mra, irra, ssan = (by_method[name] for name in ("MRA", "IRRA", "SSAN"))
    ranks = [mra[f"{way} R@{k}"] for way in ("C to I", "I to C") for k in (1, 5, 10)]
    assert ranks == ["50.01", "67.13", "74.24", "47.66", "68.70", "76.82"]
    assert (mra["ranked by"], irra["ranked by"]) == ("fusion, first 512, flips", "cosine")
    assert [irra[f"{way} R@1"] for way in ("C to I", "I to C", "C to R")] == [
        "43.04", "33.90", "52.55",
    ]  # fmt: skip
    assert (irra["C to I R@5"], irra["I to R R@1"]) == ("–", "–")
    assert by_method["UniPT, DeiT-Small"]["I to C R@10"] == "57.65"
    assert ssan["I to C R@1"] == "–"
    assert published.rows[0][-1] == "57.13"
    assert "are drawings" in published.caption
    assert not {row[0] for row in ours.rows} & set(by_method)


def test_nothing_is_said_where_no_checkpoint_leaves_its_domain(sources):
    facts = gather(some(sources, "first-on-first", "pretrain-on-first", "pretrain-on-second"))
    assert crossing.matrix(facts) is None
    assert crossing.section(facts).parts == []


def test_a_matrix_with_holes_says_what_it_has(sources):
    told = crossing.matrix(gather(some(sources, "first-on-second", "second-on-first")))
    assert set(told.cells) == {("first", "second"), ("second", "first")}
    assert told.share("first", "second") is None, "there is no own checkpoint to compare with"
    assert figures.png(crossing.heat_chart(told)) == figures.png(crossing.heat_chart(told))


def test_a_choice_on_test_and_an_unknown_checkpoint_are_left_out(sources, tmp_path):
    record = tmp_path / "checkpoints/finetune/second/training.json"
    record.write_text(record.read_text().replace('"val"', '"test"'))
    told = crossing.matrix(gather(sources))
    assert "second" not in told.rows
    runs = dict(sources.runs)
    runs["pretrain-on-first"] = replace(runs["pretrain-on-first"], checkpoint=tmp_path / "gone")
    told = crossing.matrix(gather(replace(sources, runs=runs)))
    assert (crossing.DIRECT, "first") not in told.cells


def test_an_imported_checkpoint_is_no_direct_transfer(sources, tmp_path):
    # A released fine-tuning: a model with its config, and nobody says what it was trained on.
    imported = tmp_path / "checkpoints/imported"
    imported.mkdir()
    (imported / "config.json").write_text('{"model_type": "mra"}')
    (imported / "training.json").write_text('{"stage": "import"}')
    runs = dict(sources.runs)
    runs["pretrain-on-first"] = replace(runs["pretrain-on-first"], checkpoint=imported)
    told = crossing.matrix(gather(replace(sources, runs=runs)))
    assert set(told.rows) == {crossing.DIRECT, "first", "second"}
    assert (crossing.DIRECT, "first") not in told.cells


def test_two_checkpoints_of_one_dataset_have_names_of_their_own(sources, tmp_path):
    other = tmp_path / "checkpoints/finetune/again"
    other.mkdir()
    for file in (tmp_path / "checkpoints/finetune/first").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    runs = dict(sources.runs)
    runs["pretrain-on-first"] = replace(runs["pretrain-on-first"], checkpoint=other)
    told = crossing.matrix(gather(replace(sources, runs=runs)))
    assert {"first, first", "first, again", "second"} <= set(told.rows)
    assert told.share("second", "first") == pytest.approx(30 / 60), "against the better of the two"
