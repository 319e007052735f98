"""How an evaluation was done: from checkpoint, dataset and section, and in words."""

import dataclasses
import json
from types import SimpleNamespace

import pyarrow as pa
import pytest

from models.mra.config import PAPER, RELEASED
from tasks.errors import PedAlignError
from tasks.evaluate.describing import describe
from tasks.evaluate.protocol import PROTOCOL, epoch_words, read_protocol, words
from tasks.evaluate.run import EvaluateParams
from tasks.params import check_section
from tasks.schemas import IMAGES
from tasks.shards import write_folder

RERANKED = {"top_k": 512, "flip": True, "similarity_weight": 0.002, "processes": None,
            "precision": "fp32"}  # fmt: skip
COSINE = {"top_k": 0, "flip": False, "similarity_weight": None, "processes": None,
          "precision": "bf16"}  # fmt: skip
METRICS = {"gallery": 300, "processes": 4, "precision": {"asked": "bf16", "used": "fp32"}}


def model(reading=PAPER, fuses=True):
    config = SimpleNamespace(image_size=(384, 256), reading=reading)
    if reading is None:
        del config.reading
    return SimpleNamespace(config=config, fuses=fuses)


def dataset(root, meta):
    folder = root / "ingested" / "mine"
    write_folder(folder, [pa.Table.from_pylist([], IMAGES)], "images", meta, shard_rows=8)
    return folder


def checkpoint(root, record):
    folder = root / "checkpoint"
    folder.mkdir()
    if record is not None:
        (folder / "training.json").write_text(json.dumps(record))
    return folder


def described(tmp_path, record, meta=None, body=RERANKED, **kinds):
    return describe(
        model(**kinds),
        check_section(EvaluateParams, body, "protocol"),
        checkpoint(tmp_path, record),
        dataset(tmp_path, meta or {}),
        split="test",
        cleaning="alphanumeric",
        metrics=METRICS,
    )


TUNED = {
    "stage": "finetune", "chosen_on": "val", "kept_epoch": 7,
    "params": {"images": "data/ingested/cuhk", "training": {"epochs": 30}},
    "selection": {"judges": {"val": {"people": 1000, "pairs": 2}}},
}  # fmt: skip


def test_the_checkpoint_says_which_split_chose_the_epoch(tmp_path):
    meta = {"format": "cuhk-pedes", "report": {"comparison": {
        "variant": "the published split", "exact": True, "differences": []}}}  # fmt: skip
    told = described(tmp_path, TUNED, meta)
    assert (told["chosen_on"], told["kept_epoch"], told["epochs"]) == ("val", 7, 30)
    assert (told["official"], told["drawn"], told["cleaning"]) == (True, False, "alphanumeric")
    # No deeper than the gallery is; the precision is the one that was used.
    assert (told["reranked"], told["processes"], told["precision"]) == (300, 4, "fp32")
    assert json.loads(json.dumps(told)) == told
    said = words(told)
    assert said["epoch"] == "7 of 30, by validation (1,000 people)"
    assert said["official"] == "exactly the published split"
    assert said["ranked by"] == "cosine, then fusion encoder on the first 300"
    assert said["flips"] == "picture and mirror image"
    assert "0.002" in said["mixed"]


def test_a_test_chosen_epoch_and_an_inexact_copy_are_told(tmp_path):
    meta = {"format": "cuhk-pedes", "report": {"comparison": {
        "variant": "the published split", "exact": False,
        "differences": ["test people: 3 (-997)"]}}}  # fmt: skip
    said = words(described(tmp_path, TUNED | {"chosen_on": "test"}, meta, COSINE))
    assert said["epoch"] == "7 of 30, by the test split itself"
    assert said["official"] == "not exactly the published split: test people: 3 (-997)"
    assert said["ranked by"] == "cosine of features"
    assert said["flips"] == "no"
    assert "mixed" not in said


def test_pretraining_keeps_its_last_epoch(tmp_path):
    record = {"stage": "pretrain", "params": {"training": {"epochs": 32}}}
    told = described(tmp_path, record, {"drawn": True, "format": "world-target"})
    assert epoch_words(told) == "32 of 32, the last; nothing was chosen"
    assert words(told)["official"] == "drawn by this program, no benchmark"


@pytest.mark.parametrize("record", [None, {}])
def test_what_a_checkpoint_does_not_say_is_not_made_up(tmp_path, record):
    told = described(tmp_path, record)
    assert told["chosen_on"] is None
    assert told["kept_epoch"] is None
    assert epoch_words(told) == "not on record"
    assert words(told)["official"] == "no published split is known"


@pytest.mark.parametrize(
    ("reading", "name"),
    [
        (PAPER, "paper"),
        (RELEASED, "released"),
        (dataclasses.replace(PAPER, region_token=False), "paper, region_token: false"),
        (dataclasses.replace(RELEASED, score_processes=1), "released, score_processes: 1"),
    ],
)
def test_readings_are_told_by_name_and_change(tmp_path, reading, name):
    assert described(tmp_path, TUNED, reading=reading)["reading"] == name


def test_a_dual_encoder_has_no_reading_and_is_never_reranked(tmp_path):
    told = described(tmp_path, TUNED, body=COSINE, reading=None, fuses=False)
    assert told["reading"] is None
    assert told["reranked"] == 0
    assert words(told)["reading"] == "none: a dual encoder"


def test_a_protocol_is_read_back_and_a_damaged_one_is_refused(tmp_path):
    assert read_protocol(tmp_path) is None
    (tmp_path / PROTOCOL).write_text('{"split": "test"}')
    assert read_protocol(tmp_path) == {"split": "test"}
    (tmp_path / PROTOCOL).write_text("{")
    with pytest.raises(PedAlignError, match="dvc repro evaluate"):
        read_protocol(tmp_path)
