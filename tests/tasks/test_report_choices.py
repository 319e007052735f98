"""How the report tells which epochs were kept, and on whom they were chosen."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.images import encode_jpeg
from tasks.report import ReportParams, Run, Sources, cards, choices, page, report
from tasks.report.epoch_figures import epochs_chart
from tasks.report.gather import gather
from tasks.schemas import IMAGES
from tasks.shards import image_uid, write_folder

PARAMS = ReportParams(seed=0, sheet_images=1, region_images=1, rank_list_queries=2)
PEOPLE = {"val": 28, "held-out": 155, "test": 1000}


def training_record(folder, on, epoch, scores, images="data/ingested/world-target"):
    """What a fine-tuning of three epochs writes: here only what the report reads."""
    folder.mkdir(parents=True, exist_ok=True)
    body = {
        "stage": "finetune", "chosen_on": on, "kept_epoch": epoch,
        "params": {"images": images, "training": {"epochs": 3}},
        "selection": {
            "measure": "R@1 by features alone", "scores": scores,
            "judges": {judge: {"people": PEOPLE[judge], "pairs": 1} for judge in scores},
        },
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(body))
    return folder


def write_queries(root):
    """One ingested picture and a query that it answers, for the rank lists."""
    row = {
        "uid": image_uid("world-target", "1"), "dataset": "world-target", "split": "test",
        "person_id": "world-target/1", "camera": None, "width": 12, "height": 24,
        "image": encode_jpeg(np.full((24, 12, 3), 90, dtype=np.uint8)), "captions": ["a man"],
        "labels": None, "source_path": "1", "parent_uid": None, "status": "ok", "error": None,
    }  # fmt: skip
    table = pa.Table.from_pylist([row], IMAGES)
    write_folder(root / "ingested/world-target", [table], "images", {}, shard_rows=8)
    return pa.Table.from_pylist(
        [
            {"uid": row["uid"], "caption": "a man", "person_id": row["person_id"],
             "top10": [row["uid"]], "correct": [True], "first_rank": 1, "ap": 1.0, "inp": 1.0}
        ]
    )  # fmt: skip


@pytest.fixture
def protocols(tmp_path):
    """Evaluations whose epochs were chosen in every way."""
    root = tmp_path / "data"
    queries = write_queries(root)
    both = {"val": [10.0, 30.0, 20.0], "test": [11.0, 12.0, 13.5]}
    trained = root / "checkpoints/finetune"
    training_record(trained / "world-target", "val", 2, both)
    training_record(trained / "world-target/by-test", "test", 3, both)
    icfg = "data/ingested/icfg"
    training_record(trained / "icfg", "held-out", 1, {"held-out": [50.0, 40.0, 45.0]}, icfg)
    training_record(trained / "icfg-published", "test", 2, {"test": [5.0, 6.0, 5.5]}, icfg)
    training_record(trained / "alone", "last", 3, {}, "data/ingested/other")
    (root / "checkpoints/pretrain").mkdir()
    (root / "checkpoints/pretrain/training.json").write_text('{"stage": "pretrain"}')
    checkpoints = {
        "direct": (root / "checkpoints/pretrain", "world-target", 40.0),
        "finetuned": (trained / "world-target", "world-target", 60.0),
        "finetuned-by-test": (trained / "world-target/by-test", "world-target", 61.25),
        "icfg": (trained / "icfg", "icfg", 55.0),
        "icfg-published": (trained / "icfg-published", "icfg", 54.5),
        "alone": (trained / "alone", "world-target", 33.0),
        "elsewhere": (trained / "icfg-published", "world-target", 20.0),
        "gone": (trained / "nowhere", "world-target", 20.0),
    }
    runs = {}
    for name, (checkpoint, images, first) in checkpoints.items():
        folder = root / "reports/evaluate" / name
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"R1": first, "mAP": first / 2}))
        pq.write_table(queries, folder / "queries.parquet")
        runs[name] = Run(checkpoint, f"data/ingested/{images}", {"protocol": {"top_k": 4}})
    return Sources.under(root, runs=runs)


def test_both_protocols_stand_under_each_other(protocols):
    rows = choices.rows(gather(protocols))
    assert [row[:5] for row in rows] == [
        ("alone", "nothing: the last", "3 of 3", "33.00", ""),
        ("elsewhere", "test, as published (1,000 people)", "2 of 3", "20.00", ""),
        ("finetuned", "validation (28 people)", "2 of 3", "60.00", ""),
        ("finetuned-by-test", "test, as published (1,000 people)", "3 of 3", "61.25", ""),
        ("– gained by choosing on test", "", "", "+1.25", ""),
        ("icfg", "held-out train people (155 people)", "1 of 3", "55.00", ""),
        ("icfg-published", "test, as published (1,000 people)", "2 of 3", "54.50", ""),
        ("– gained by choosing on test and training on all", "", "", "−0.50", ""),
    ]
    assert rows[4][6:] == ("+0.62", "")  # 30.625 - 30 in mAP; no mINP


def test_a_choice_on_test_makes_no_headline(protocols):
    facts = gather(protocols)
    names = ["alone", "direct", "finetuned", "gone", "icfg"]
    assert list(facts.fair) == names
    assert [tile.label for tile in page.tiles(facts)][:3] == [f"R@1, {name}" for name in names[:3]]
    table = next(part for part in page.build(facts, {})[0].parts if not part.is_picture)
    bold = {table.rows[row][0] for row, _ in table.best}
    assert bold == {"finetuned"}  # though 61.25 of finetuned-by-test is more
    assert "those chosen on the test split aside" in table.caption
    assert "by-test" not in cards.model_card(facts).split("---")[1]


def test_other_ranking_is_no_partner(protocols):
    runs = dict(protocols.runs)
    runs["finetuned-by-test"] = replace(runs["finetuned-by-test"], how={"protocol": {"top_k": 8}})
    rows = choices.rows(gather(replace(protocols, runs=runs)))
    assert not [row for row in rows if row[0] == "– gained by choosing on test"]
    assert len(rows) == 7


def test_the_choice_of_epochs_is_told_in_page_and_card(protocols, tmp_path):
    report(PARAMS, protocols, tmp_path / "out")
    text = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    card = (tmp_path / "out/model_card.md").read_text(encoding="utf-8")
    for said in ("best on the test split itself", "validation (28 people)", "2 of 3"):
        assert said in text
        assert said in card
    assert "| – gained by choosing on test |  |  | +1.25 |" in card
    assert (tmp_path / "out/epochs.png").exists()
    # A rerun writes the same picture.
    report(PARAMS, protocols, tmp_path / "again")
    first, again = (tmp_path / name / "epochs.png" for name in ("out", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_the_epochs_of_every_training_that_ranked_them(protocols):
    found = {run.title: run for run in gather(protocols).choosing}
    assert set(found) == {"finetune world-target", "finetune icfg", "finetune icfg-published"}
    both = found["finetune world-target"]
    assert [judge.label for judge in both.judges] == [
        "validation (28 people)", "test (1,000 people)",
    ]  # fmt: skip
    assert [(judge.kept, judge.tests) for judge in both.judges] == [(2, False), (3, True)]
    assert [judge.kept for judge in found["finetune icfg"].judges] == [1]
    figure = epochs_chart([both])
    axes = figure.axes[0]
    rings = [line for line in axes.lines if line.get_markersize() == 13]
    assert [ring.get_xydata().tolist() for ring in rings] == [[[2, 30.0]], [[3, 13.5]]]


def test_a_training_is_drawn_by_epoch(tmp_path):
    folder = training_record(tmp_path / "m", "val", 2, {"val": [10.0, 30.0], "test": [9.0, 8.0]})
    body = json.loads((folder / "training.json").read_text())
    body["selection"]["curve"] = [
        {"epoch": n + 1, "val": {"R1": v, "mAP": v / 2}, "test": {"R1": t, "mAP": t / 2}}
        for n, (v, t) in enumerate([(10.0, 9.0), (30.0, 8.0)])
    ]
    (folder / "training.json").write_text(json.dumps(body))
    (folder / "curve.csv").write_text("step,epoch,lr,loss\n1,1,0,6\n2,1,0,4\n3,2,0,3\n")
    run = choices.read_epochs("m", folder)
    assert run.losses == [5.0, 3.0]
    assert [judge.means for judge in run.judges] == [[5.0, 15.0], [4.5, 4.0]]
    assert run.kept == {2: False}
    losses, first, mean = epochs_chart([run]).axes
    assert losses.lines[0].get_ydata().tolist() == [5.0, 3.0]
    assert [line.get_label() for line in losses.lines] == ["training", "kept: 2"]
    assert first.lines[0].get_ydata().tolist() == [10.0, 30.0]
    assert mean.lines[1].get_ydata().tolist() == [4.5, 4.0]


def test_a_checkpoint_of_an_older_version_has_no_choice_on_record(tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    assert choices.read_chosen(folder) is None
    (folder / "training.json").write_text('{"stage": "finetune", "kept_epoch": 4}')
    chosen = choices.read_chosen(folder)
    assert (chosen.words, chosen.place) == ("not on record", "4 of ?")
    assert choices.read_epochs("old", folder) is None
