"""Fine-tuning on a miniature: what changes from pretraining's model, selection, and resuming."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tasks.checkpoints import load_model
from tasks.errors import PedAlignError
from tasks.finetune import FinetuneParams, finetune, starting_model
from tasks.params import check_section

CPU = torch.device("cpu")


def section(images, training=None, **changes) -> FinetuneParams:
    body = {
        "images": str(images),
        "image_size": [32, 16], "window_size": 2, "head": "stripes", "embed_dim": 8,
        "vision_dropout": 0.0, "drop_path": 0.1, "flip": 0.5, "erasing": 0.3, "cleaning": "raw",
        "label_smoothing": 0.2, "eda_weight": 0.8, "eda_alpha": 0.2, "synonyms": "table",
        "select": "last", "holdout": 0.0, "keep_test_choice": False, "protocol": None,
        "training": {
            "epochs": 2, "batch": 16, "learning_rate": 1e-3, "schedule": "step", "warmup": 0.1,
            "chunks": 1, "micro_batch": 0, "floor": 0.0,
            "weight_decay": 0.01, "doubled": [r"encoder\.layers\.1", "itm_head"],
            "precision": "fp32", "seed": 3, **(training or {}),
        },
        **changes,
    }  # fmt: skip
    return check_section(FinetuneParams, body, "finetune")


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_checkpoint_of_the_train_split(tmp_path, shards, start_folder):
    folder = finetune(start_folder, section(shards), tmp_path, CPU)
    record = json.loads((folder / "training.json").read_text())
    assert record["pairs"] == 54
    assert record["people"] == 14
    assert record["steps"] == 6
    assert record["selection"]["scores"] == {}
    assert (record["chosen_on"], record["kept_epoch"]) == ("last", 2)
    assert set(record["losses"]) == {"itc", "itm", "mlm", "itc_eda", "itm_eda", "loss"}
    before, after = weights(start_folder), weights(folder)
    assert any(not torch.equal(before[name], after[name]) for name in after)


def test_without_eda_there_is_no_twin(tmp_path, shards, start_folder):
    folder = finetune(start_folder, section(shards, eda_weight=0.0), tmp_path, CPU)
    record = json.loads((folder / "training.json").read_text())
    assert set(record["losses"]) == {"itc", "itm", "mlm", "loss"}


def test_validation_keeps_the_first_best_epoch(tmp_path, shards, start_folder):
    chosen = section(shards, select="val", training={"epochs": 3})
    folder = finetune(start_folder, chosen, tmp_path, CPU)
    record = json.loads((folder / "training.json").read_text())
    scores = record["selection"]["scores"]["val"]
    assert len(scores) == 3
    assert record["chosen_on"] == "val"
    assert record["kept_epoch"] == scores.index(max(scores)) + 1


def test_killed_and_resumed_equals_undisturbed(tmp_path, shards, start_folder):
    class KilledError(Exception):
        pass

    def kill(step, steps, row):
        raise KilledError

    for name in "ab":
        (tmp_path / name).mkdir()
    chosen = section(shards, select="val", training={"epochs": 4})
    with pytest.raises(KilledError):  # at step 10 of 12, within the last epoch
        finetune(start_folder, chosen, tmp_path / "a", CPU, checkpoint_seconds=0, progress=kill)
    torn = finetune(start_folder, chosen, tmp_path / "a", CPU)
    whole = finetune(start_folder, chosen, tmp_path / "b", CPU)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(torn)[name]), name
    assert (torn / "training.json").read_bytes() == (whole / "training.json").read_bytes()


def test_a_larger_picture_resizes_what_depends_on_it(shards, start_folder):
    model = starting_model(start_folder, section(shards, image_size=[64, 32], drop_path=0.3))
    assert model.config.image_size == (64, 32)
    assert model.config.windows == (2, 2)
    assert model.config.drop_path == 0.3
    tokens, feature = model.eval().encode_image(torch.zeros(1, 3, 64, 32))
    assert tokens.shape == (1, 33, 16)
    assert feature.shape == (1, 8)


def test_another_head_starts_afresh_and_the_rest_stays(shards, start_folder):
    old = load_model(start_folder).state_dict()
    model = starting_model(start_folder, section(shards, head="token", embed_dim=4))
    new = model.state_dict()
    assert new["vision_proj.weight"].shape == (4, 16)
    kept = [name for name in old if not name.startswith(("vision_proj", "text_proj"))]
    assert all(torch.equal(old[name], new[name]) for name in kept)


def test_a_folder_without_a_model_is_an_error(tmp_path, shards, text_folder):
    with pytest.raises(PedAlignError, match="no retrieval model"):
        finetune(text_folder, section(shards), tmp_path, CPU)
