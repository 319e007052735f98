"""Who is held out, what a training may look at, and which epoch it keeps."""

import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import tasks.finetune.run as finetuning
from tasks.batches import read_pairs
from tasks.checkpoints import load_model
from tasks.errors import PedAlignError
from tasks.evaluate.run import EvaluateParams
from tasks.finetune import FinetuneParams, finetune
from tasks.params import check_section
from tasks.selection import (
    BY_TEST,
    Selection,
    curve,
    has_split,
    held_out,
    named,
    not_held_out,
    plan_selection,
)
from tasks.shards import iter_tables, write_folder
from tasks.tokens import load_tokenizer

CPU = torch.device("cpu")
PROTOCOL = {"top_k": 4, "flip": True, "similarity_weight": 0.5, "processes": 1, "precision": "fp32"}


def section(images, training=None, **changes) -> FinetuneParams:
    body = {
        "images": str(images),
        "model": {
            "kind": "mra", "image_size": [32, 16], "window_size": 2, "head": "stripes",
            "embed_dim": 8, "vision_dropout": 0.0, "drop_path": 0.1,
        },
        "objective": {
            "kind": "mra", "label_smoothing": 0.2, "eda_weight": 0.0, "eda_alpha": 0.2,
            "synonyms": "table",
        },
        "flip": 0.5, "erasing": 0.3, "cleaning": "raw", "select": "val",
        "holdout": 0.0, "keep_test_choice": False, "protocol": None,
        "training": {
            "epochs": 3, "batch": 8, "learning_rate": 1e-3, "schedule": "linear", "warmup": 0.1,
            "weight_decay": 0.01, "rates": {"itm_head": 2.0}, "chunks": 1, "micro_batch": 0,
            "floor": 0.0,
            "precision": "fp32", "seed": 3, **(training or {}),
        },
        **changes,
    }  # fmt: skip
    return check_section(FinetuneParams, body, "finetune")


def record_of(folder):
    return json.loads((folder / "training.json").read_text())


def same_weights(one, two) -> bool:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, two))
    return all(torch.equal(value, second[name]) for name, value in first.items())


def rewritten(shards, folder, change):
    """A copy of the shards with every row changed."""
    rows = [row for table in iter_tables(shards) for row in table.to_pylist()]
    schema = next(iter_tables(shards)).schema
    rows = [row for row in map(change, rows) if row]
    write_folder(folder, [pa.Table.from_pylist(rows, schema)], "images", {}, shard_rows=12)
    return folder


@pytest.fixture
def without_val(shards, tmp_path):
    """The miniature as ICFG-PEDES is: its val people train."""

    def move(row):
        return row | {"split": "train"} if row["split"] == "val" else row

    return rewritten(shards, tmp_path / "without-val", move)


@pytest.fixture
def poisoned(shards, tmp_path):
    """The miniature with a test split that breaks or shifts whatever uses it."""

    def poison(row):
        if row["split"] != "test":
            return row
        return row | {"image": b"no picture", "captions": ["poison"], "person_id": "small/0"}

    return rewritten(shards, tmp_path / "poisoned", poison)


# ------------------------------------------------------------------ who is held out


def test_who_is_held_out_by_hand():
    # `printf holdout/icfg-pedes/3 | b2sum -l 64` begins 26e5, a share of 0.152; of 7: 29;
    # of 8: 57; of 5: 62; of 2, the last: fb, a share of 0.98.
    names = pa.array([f"icfg-pedes/{n}" for n in range(10)])
    for share, expected in ((0.1, []), (0.155, [3]), (0.3, [3, 7]), (0.4, [3, 5, 7, 8])):
        assert np.flatnonzero(held_out(names, share)).tolist() == expected
    assert np.flatnonzero(not_held_out(names, 0.98)).tolist() == [2]


people = st.lists(st.text(max_size=12), max_size=60)
shares = st.floats(0, 1, allow_nan=False)


@given(people, shares, st.randoms(use_true_random=False))
def test_rows_of_a_person_stand_on_one_side_in_any_order(names, share, rng):
    rows = names * 3
    rng.shuffle(rows)
    held = held_out(pa.array(rows, pa.string()), share)
    apart = {name for name, out in zip(rows, held, strict=True) if out}
    kept = {name for name, out in zip(rows, held, strict=True) if not out}
    assert not apart & kept
    assert (held != not_held_out(pa.array(rows, pa.string()), share)).all()


@given(people, people, shares)
def test_people_who_join_move_nobody(names, more, share):
    alone = held_out(pa.array(names, pa.string()), share)
    together = held_out(pa.array(more + names, pa.string()), share)
    assert alone.tolist() == together[len(more) :].tolist()


@given(people, shares, shares)
def test_a_larger_share_takes_the_same_people_and_more(names, one, two):
    column = pa.array(names, pa.string())
    fewer, more = sorted((one, two))
    assert (held_out(column, fewer) <= held_out(column, more)).all()
    assert not held_out(column, 0.0).any()
    assert held_out(column, 1.0).all()


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_share_is_about_right(share):
    names = pa.array([f"icfg-pedes/{n}" for n in range(3102)])
    count = held_out(names, share).sum()
    # Five standard deviations of a binomial.
    assert abs(count - 3102 * share) < 5 * np.sqrt(3102 * share * (1 - share))


def test_a_person_without_a_name_is_never_held_out():
    column = pa.chunked_array([pa.array([None, "a/1"]), pa.array(["a/2", None])])
    assert held_out(column, 1.0).tolist() == [False, True, True, False]


# ------------------------------------------------------------------ what is chosen on


def test_the_plan_by_hand(shards, without_val):
    def plan(images, select, holdout, keep=False):
        return plan_selection(images, select, holdout, keep_test_choice=keep)

    assert plan(shards, "last", 0.3) == Selection("last", ())
    assert plan(shards, "last", 0.0, keep=True) == Selection("last", ("test",))
    assert plan(shards, "val", 0.3) == Selection("val", ("val",))
    assert plan(shards, "val", 0.3, keep=True) == Selection("val", ("val", "test"))
    assert plan(shards, "test", 0.3) == Selection("test", ("test",))
    assert plan(without_val, "val", 0.3) == Selection("held-out", ("held-out",), 0.3)
    assert plan(without_val, "test", 0.3) == Selection("test", ("test",))
    assert has_split(shards, "val")
    assert not has_split(without_val, "val")


def test_nobody_to_choose_on_is_an_error_with_a_remedy(without_val, tmp_path):
    with pytest.raises(PedAlignError, match="no val split, and `holdout` is 0") as caught:
        plan_selection(without_val, "val", 0.0, keep_test_choice=False)
    assert "set holdout to a share" in caught.value.remedy
    with pytest.raises(PedAlignError, match="takes 0 of 18 train people"):
        plan_selection(without_val, "val", 1e-9, keep_test_choice=False)
    with pytest.raises(PedAlignError, match="takes 18 of 18 train people") as caught:
        plan_selection(without_val, "val", 1.0, keep_test_choice=False)
    assert "lower holdout" in caught.value.remedy
    nameless = rewritten(without_val, tmp_path / "nameless", lambda r: r | {"person_id": None})
    with pytest.raises(PedAlignError, match="takes 0 of 0 train people"):
        plan_selection(nameless, "val", 0.5, keep_test_choice=False)


def test_the_tests_choice_beside_held_out_people_is_an_error(without_val):
    with pytest.raises(PedAlignError, match="keep_test_choice") as caught:
        plan_selection(without_val, "val", 0.3, keep_test_choice=True)
    assert "select: test" in caught.value.remedy
    assert "second entry" in caught.value.remedy


@pytest.mark.parametrize("change", [{"select": "best"}, {"holdout": 1.5}, {"holdout": -0.1}])
def test_illegal_parameters(shards, change):
    with pytest.raises(PedAlignError, match=next(iter(change))):
        section(shards, **change)


# ------------------------------------------------------------------ trainings


def test_held_out_people_choose_and_do_not_train(tmp_path, without_val, start_folder):
    folder = finetune(start_folder, section(without_val, holdout=0.3), tmp_path, CPU)
    record = record_of(folder)
    everyone, _ = read_pairs(without_val, split="train", identity="person")
    names = pc.unique(everyone.names).filter(pa.array(held_out(pc.unique(everyone.names), 0.3)))
    apart = record["selection"]["judges"]["held-out"]
    assert apart["people"] == len(names) > 0
    assert record["people"] + apart["people"] == 18
    assert record["pairs"] + apart["pairs"] == len(everyone)
    assert record["chosen_on"] == "held-out"
    assert len(record["selection"]["scores"]["held-out"]) == 3
    training = Selection("held-out", ("held-out",), 0.3)
    trains, _ = read_pairs(without_val, split="train", identity="person", people=training.trains)
    judges, _ = training.read(without_val, "held-out")
    assert not set(trains.names.to_pylist()) & set(judges.names.to_pylist())


def test_the_published_protocol_trains_on_everybody(tmp_path, without_val, start_folder, caplog):
    with caplog.at_level(logging.WARNING):
        chosen = section(without_val, select="test", holdout=0.3)
        record = record_of(finetune(start_folder, chosen, tmp_path, CPU))
    assert record["people"] == 18
    assert record["chosen_on"] == "test"
    assert set(record["selection"]["scores"]) == {"test"}
    assert "chosen on the TEST split" in caplog.text


def measures(first):
    """Of an epoch whose other measures would choose the other way round."""
    return {"R1": first, "R5": 100 - first, "R10": 100 - first, "mAP": 50 - first, "mINP": 0.5}


def test_named_scores_are_put_together_again_epoch_by_epoch():
    scores = {}
    for epoch in ((1.0, 4.0), (3.0, 2.0)):
        for judge, first in zip(("held-out", "test"), epoch, strict=True):
            for name, value in named(judge, measures(first)).items():
                scores.setdefault(name, []).append(value)
    assert scores["held-out"] == [1.0, 3.0]
    assert curve(scores)[1] == {
        "epoch": 2, "val": None, "test": measures(2.0), "held-out": measures(3.0)
    }  # fmt: skip
    assert curve({}) == []
    # A score of an older running checkpoint has nothing besides R1.
    assert curve({"val": [5.0]}) == [{"epoch": 1, "val": {"R1": 5.0}, "test": None}]


def test_both_choices_come_from_one_training(tmp_path, shards, start_folder, monkeypatch):
    for name in ("both", "val", "test", "last"):
        (tmp_path / name).mkdir()
    scripted = {"val": [1.0, 9.0, 2.0], "test": [8.0, 3.0, 4.0]}
    turns = {8: iter(scripted["val"]), 12: iter(scripted["test"])}

    def score(model, words, pairs, pictures, device):
        return measures(next(turns[len(pictures)]))  # 8 val and 12 test pictures

    monkeypatch.setattr(finetuning, "itc_measures", score)
    both = finetune(start_folder, section(shards, keep_test_choice=True), tmp_path / "both", CPU)
    record, beside = record_of(both), record_of(both / BY_TEST)
    assert record["selection"]["scores"] == scripted
    second = record["selection"]["curve"][1]
    assert second == {"epoch": 2, "val": measures(9.0), "test": measures(3.0)}
    assert [row["epoch"] for row in record["selection"]["curve"]] == [1, 2, 3]
    assert (record["chosen_on"], record["kept_epoch"]) == ("val", 2)
    assert (beside["chosen_on"], beside["kept_epoch"]) == ("test", 1)
    differing = {"chosen_on", "kept_epoch"}
    assert {k: v for k, v in record.items() if k not in differing} == {
        k: v for k, v in beside.items() if k not in differing
    }
    assert not same_weights(both, both / BY_TEST)
    # A complete checkpoint, and each choice is what a training with that choice alone keeps.
    load_model(both / BY_TEST)
    load_tokenizer(both / BY_TEST)
    assert (both / BY_TEST / "curve.csv").read_bytes() == (both / "curve.csv").read_bytes()
    for select, theirs in (("val", both), ("test", both / BY_TEST)):
        turns = {8: iter(scripted["val"]), 12: iter(scripted["test"])}
        alone = finetune(start_folder, section(shards, select=select), tmp_path / select, CPU)
        assert same_weights(alone, theirs)
        assert not (alone / BY_TEST).exists()


def test_the_last_epoch_beside_the_tests_choice(tmp_path, shards, start_folder, monkeypatch):
    scores = iter([7.0, 8.0, 6.0])
    monkeypatch.setattr(finetuning, "itc_measures", lambda *_: measures(next(scores)))
    chosen = section(shards, select="last", keep_test_choice=True)
    folder = finetune(start_folder, chosen, tmp_path, CPU)
    assert (record_of(folder)["chosen_on"], record_of(folder)["kept_epoch"]) == ("last", 3)
    assert record_of(folder / BY_TEST)["kept_epoch"] == 2
    assert not same_weights(folder, folder / BY_TEST)


def test_killed_and_resumed_keeps_both_choices(tmp_path, shards, start_folder):
    class KilledError(Exception):
        pass

    def kill(step, steps, row):
        raise KilledError

    for name in "ab":
        (tmp_path / name).mkdir()
    chosen = section(shards, keep_test_choice=True, training={"batch": 12})
    with pytest.raises(KilledError):  # at step 10 of 12, within the last epoch
        finetune(start_folder, chosen, tmp_path / "a", CPU, checkpoint_seconds=0, progress=kill)
    torn = finetune(start_folder, chosen, tmp_path / "a", CPU)
    whole = finetune(start_folder, chosen, tmp_path / "b", CPU)
    for part in (".", BY_TEST):
        assert same_weights(torn / part, whole / part)
        assert record_of(torn / part) == record_of(whole / part)


@pytest.mark.parametrize("select", ["val", "last"])
def test_the_test_split_is_not_looked_at_unless_asked(
    tmp_path, shards, poisoned, start_folder, select
):
    (tmp_path / "clean").mkdir()
    (tmp_path / "dirty").mkdir()
    clean = finetune(start_folder, section(shards, select=select), tmp_path / "clean", CPU)
    dirty = finetune(start_folder, section(poisoned, select=select), tmp_path / "dirty", CPU)
    for name in ("model.safetensors", "curve.csv"):
        assert (clean / name).read_bytes() == (dirty / name).read_bytes(), name
    one, two = record_of(clean), record_of(dirty)
    assert {**one, "params": None} == {**two, "params": None}


@pytest.mark.parametrize("change", [{"select": "test"}, {"keep_test_choice": True}])
def test_the_poison_works_where_the_test_split_is_asked_for(
    tmp_path, poisoned, start_folder, change
):
    with pytest.raises(PedAlignError, match="a picture that decodes"):
        finetune(start_folder, section(poisoned, **change), tmp_path, CPU)


def test_an_epoch_can_be_ranked_as_an_evaluation_does(tmp_path, shards, start_folder, monkeypatch):
    seen = []

    def ranked(model, words, pairs, pictures, protocol, device):
        seen.append((protocol, len(pictures)))
        return original(model, words, pairs, pictures, protocol, device)

    original = finetuning.evaluate_model
    monkeypatch.setattr(finetuning, "evaluate_model", ranked)
    chosen = section(shards, protocol=PROTOCOL, training={"epochs": 2})
    record = record_of(finetune(start_folder, chosen, tmp_path, CPU))
    assert seen == [(EvaluateParams(**PROTOCOL), 8)] * 2
    assert record["selection"]["measure"] == "R@1 after re-ranking"
    assert len(record["selection"]["scores"]["val"]) == 2
