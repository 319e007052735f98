"""Training and ranking on a miniature, from every kind of start; resuming; what is written."""

import csv
import json

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tasks.errors import PedAlignError
from tasks.params import check_section
from tasks.reid import ReidParams, evaluate_reid, train_reid
from tasks.reid.evaluating import QUERIES

CPU = torch.device("cpu")


def section(images, start, training=None, **changes) -> ReidParams:
    body = {
        "images": str(images), "start": str(start), "image_size": [32, 16], "window_size": 2,
        "vision_dropout": 0.1, "drop_path": 0.1, "margin": 0.3, "triplet_weight": 1.0,
        "label_smoothing": 0.1, "pictures": 2, "flip": 0.5, "erasing": 0.3, "shift": 0.05,
        "mirror": True, "select": "last",
        "training": {
            "epochs": 2, "batch": 8, "learning_rate": 1e-3, "schedule": "linear", "warmup": 0.1,
            "chunks": 1, "micro_batch": 0, "floor": 0.0, "weight_decay": 0.01,
            "rates": {"classifier": 5.0}, "precision": "fp32", "seed": 3, **(training or {}),
        },
        **changes,
    }  # fmt: skip
    return check_section(ReidParams, body, "reid.datasets.x")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shards, start_folder):
    run = tmp_path_factory.mktemp("reid")
    return train_reid(section(shards, start_folder), run, CPU)


def test_a_folder_with_its_record(trained, start_folder):
    record = json.loads((trained / "training.json").read_text())
    assert record["start_kind"] == "mra"
    assert (record["pictures"], record["people"], record["steps"]) == (27, 14, 6)
    assert (record["chosen_on"], record["kept_epoch"]) == ("last", 2)
    assert set(record["losses"]) == {"id", "triplet", "loss"}
    before = load_file(start_folder / "model.safetensors")
    after = load_file(trained / "model.safetensors")
    shared = [name for name in after if name in before]
    assert len(shared) > 20
    assert any(not torch.equal(before[name], after[name]) for name in shared)
    assert not [name for name in after if name.startswith("text")]


@pytest.mark.parametrize("kind", ["dual", "plain"])
def test_other_starts(kind, request, tmp_path, shards):
    name = {"dual": "dual_start", "plain": "vision_folder"}[kind]
    chosen = section(
        shards, request.getfixturevalue(name), window_size=None, training={"epochs": 1}
    )
    folder = train_reid(chosen, tmp_path, CPU)
    assert json.loads((folder / "training.json").read_text())["start_kind"] == kind


def test_killed_and_resumed_equals_undisturbed(tmp_path, shards, start_folder):
    class KilledError(Exception):
        pass

    def kill(step, steps, row):
        if step == 10:
            raise KilledError

    for name in "ab":
        (tmp_path / name).mkdir()
    chosen = section(shards, start_folder, select="val", training={"epochs": 4})
    with pytest.raises(KilledError):
        train_reid(chosen, tmp_path / "a", CPU, checkpoint_seconds=0, progress=kill)
    torn = train_reid(chosen, tmp_path / "a", CPU)
    whole = train_reid(chosen, tmp_path / "b", CPU)
    for path in sorted(whole.iterdir()):
        assert path.read_bytes() == (torn / path.name).read_bytes(), path.name
    record = json.loads((whole / "training.json").read_text())
    scores = record["scores"]["val"]
    assert len(scores) == 4
    assert record["kept_epoch"] == scores.index(max(scores)) + 1


def test_what_an_evaluation_says(trained, shards, tmp_path):
    found = evaluate_reid(str(shards), trained, CPU, mirror=True, batch=5)
    found.save(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    # Six people, a picture by each of two cameras: one right picture among eleven.
    assert (metrics["queries"], metrics["gallery"], metrics["people"]) == (12, 12, 6)
    assert (metrics["without_match"], metrics["left_out_a_query"]) == (0, 1.0)
    assert metrics["chance"]["R1"] == pytest.approx(100 / 11, abs=1e-3)
    rows = pq.read_table(tmp_path / "queries.parquet")
    assert rows.schema == QUERIES
    assert rows["matches"].to_pylist() == [1] * 12
    for row in rows.to_pylist():
        assert row["uid"] not in row["top10"]
        assert len(row["top10"]) == 10
        if 0 < row["first_rank"] <= 10:
            assert row["correct"].index(True) == row["first_rank"] - 1
        assert row["scores"] == sorted(row["scores"], reverse=True)
    hits = [row["first_rank"] == 1 for row in rows.to_pylist()]
    assert metrics["R1"] == pytest.approx(100 * sum(hits) / 12, abs=1e-3)
    curve = list(csv.DictReader((tmp_path / "cmc.csv").open()))
    assert float(curve[0]["recall"]) == pytest.approx(metrics["R1"], abs=1e-3)
    assert float(curve[-1]["recall"]) == 100


def test_neither_passes_nor_chunks_change_an_evaluation(trained, shards):
    one = evaluate_reid(str(shards), trained, CPU, mirror=False, batch=3, memory=1)
    other = evaluate_reid(str(shards), trained, CPU, mirror=False, batch=64)
    assert one.metrics == other.metrics


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pictures": 1}, "pictures"),
        ({"pictures": 3}, "two people at least"),
        ({"pictures": 8}, "two people at least"),
        ({"select": "test"}, "select"),
        ({"shift": 0.6}, "shift"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_sections_that_cannot_be(change, said):
    with pytest.raises(PedAlignError, match=said):
        section("a", "b", **change)


def test_a_start_that_is_none_is_named(tmp_path, shards):
    with pytest.raises(PedAlignError, match="no image encoder from"):
        train_reid(section(shards, tmp_path / "nothing"), tmp_path, CPU)
    with pytest.raises(PedAlignError, match="no person encoder"):
        evaluate_reid(str(shards), tmp_path, CPU, mirror=True)


def test_fewer_pictures_than_a_batch_are_named(tmp_path, shards, start_folder):
    with pytest.raises(PedAlignError, match="27 training pictures"):
        train_reid(section(shards, start_folder, training={"batch": 28}), tmp_path, CPU)
