"""Fine-tuning on a miniature: what changes from pretraining's model, selection, and resuming."""

import dataclasses
import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file

from tasks.batches import read_pairs
from tasks.checkpoints import load_model
from tasks.errors import PedAlignError
from tasks.finetune import FinetuneParams, finetune, starting_model
from tasks.finetune.run import numbered
from tasks.params import check_section

CPU = torch.device("cpu")
PROTOCOL = {"top_k": 4, "flip": True, "similarity_weight": 0.5, "processes": 1, "precision": "fp32"}


def section(images, training=None, model=None, objective=None, **changes) -> FinetuneParams:
    body = {
        "images": str(images),
        "model": {
            "kind": "mra", "image_size": [32, 16], "window_size": 2, "head": "stripes",
            "embed_dim": 8, "vision_dropout": 0.0, "drop_path": 0.1, **(model or {}),
        },
        "objective": {
            "kind": "mra", "label_smoothing": 0.2, "eda_weight": 0.8, "eda_alpha": 0.2,
            "synonyms": "table", **(objective or {}),
        },
        "flip": 0.5, "erasing": 0.3, "cleaning": "raw",
        "select": "last", "holdout": 0.0, "keep_test_choice": False, "protocol": None,
        "training": {
            "epochs": 2, "batch": 16, "learning_rate": 1e-3, "schedule": "step", "warmup": 0.1,
            "chunks": 1, "micro_batch": 0, "floor": 0.0,
            "weight_decay": 0.01, "rates": {r"encoder\.layers\.1": 2.0, "itm_head": 2.0},
            "precision": "fp32", "seed": 3, **(training or {}),
        },
        **changes,
    }  # fmt: skip
    return check_section(FinetuneParams, body, "finetune")


GRANULARITY = {
    "parts": 2, "part_dim": 6, "depth": 1, "heads": 2, "head_dim": 4, "inner_dim": 8,
    "dictionary": 3, "ranks": "both",
}  # fmt: skip


def dual_section(images, training=None, granularity=None, **changes) -> FinetuneParams:
    """As `section`, of a dual encoder."""
    body = asdict(section(images, training))
    body["training"]["rates"] = {r"^model\.text_encoder\.": 0.1, "identity": 3.0}
    body["model"] = {
        "kind": "dual", "image_size": [32, 16], "vision_dropout": 0.0, "drop_path": 0.1,
        "granularity": granularity,
    }  # fmt: skip
    body["objective"] = {
        "kind": "identity", "margin": 0.2, "negatives": "semi-hard", "anchors": "mean",
        "contrast_temperature": 0.07, "granularity_weight": 1.0 if granularity else 0.0,
    }  # fmt: skip
    return check_section(FinetuneParams, {**body, **changes}, "finetune")


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
    folder = finetune(start_folder, section(shards, objective={"eda_weight": 0.0}), tmp_path, CPU)
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


@pytest.mark.parametrize("road", ["mra", "dual"])
def test_killed_and_resumed_equals_undisturbed(road, request, tmp_path, shards):
    class KilledError(Exception):
        pass

    def kill(step, steps, row):
        raise KilledError

    for name in "ab":
        (tmp_path / name).mkdir()
    start = request.getfixturevalue("start_folder" if road == "mra" else "dual_start")
    four = {"training": {"epochs": 4}, "select": "val"}
    both = section(shards, **four), dual_section(shards, granularity=GRANULARITY, **four)
    chosen = both[road == "dual"]
    with pytest.raises(KilledError):  # at step 10 of 12, within the last epoch
        finetune(start, chosen, tmp_path / "a", CPU, checkpoint_seconds=0, progress=kill)
    torn = finetune(start, chosen, tmp_path / "a", CPU)
    whole = finetune(start, chosen, tmp_path / "b", CPU)
    for path in sorted(whole.iterdir()):
        assert path.read_bytes() == (torn / path.name).read_bytes(), path.name


def test_a_larger_picture_resizes_what_depends_on_it(shards, start_folder):
    larger = section(shards, model={"image_size": [64, 32], "drop_path": 0.3})
    model = starting_model(start_folder, larger)
    assert model.config.image_size == (64, 32)
    assert model.config.windows == (2, 2)
    assert model.config.drop_path == 0.3
    tokens, feature = model.eval().encode_image(torch.zeros(1, 3, 64, 32))
    assert tokens.shape == (1, 33, 16)
    assert feature.shape == (1, 8)


def test_another_head_starts_afresh_and_the_rest_stays(shards, start_folder):
    old = load_model(start_folder).state_dict()
    model = starting_model(start_folder, section(shards, model={"head": "token", "embed_dim": 4}))
    new = model.state_dict()
    assert new["vision_proj.weight"].shape == (4, 16)
    kept = [name for name in old if not name.startswith(("vision_proj", "text_proj"))]
    assert all(torch.equal(old[name], new[name]) for name in kept)


def test_a_folder_without_a_model_is_an_error(tmp_path, shards, text_folder):
    with pytest.raises(PedAlignError, match="no retrieval model"):
        finetune(text_folder, section(shards), tmp_path, CPU)


# ------------------------------------------------------------------ the other road


@pytest.mark.parametrize("granularity", [None, GRANULARITY])
def test_a_dual_encoder_learns_identities(tmp_path, shards, dual_start, granularity):
    wanted = dual_section(shards, granularity=granularity, select="val")
    folder = finetune(dual_start, wanted, tmp_path, CPU)
    record = json.loads((folder / "training.json").read_text())
    assert (record["pairs"], record["people"], record["steps"]) == (54, 14, 6)
    assert record["chosen_on"] == "val"
    assert record["selection"]["measure"] == "R@1 by features alone"
    parts = {"pgu_id", "pgu_rank"} if granularity else set()
    assert set(record["losses"]) == {"id", "rank", "contrast", "loss", *parts}
    model = load_model(folder)
    assert model.feature_dim == (8 + 2 * 6 if granularity else 8)
    before, after = weights(dual_start), weights(folder)
    assert not any("identity" in name for name in after)  # nobody else's people
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    for part in ("vision_encoder", "text_encoder.bert", "vision_proj", "text_proj"):
        assert any(name.startswith(part) for name in moved), part


def test_people_are_numbered_without_a_gap(shards):
    pairs, _ = read_pairs(shards, split="train", identity="person")
    gaps = dataclasses.replace(pairs, person=7 * pairs.person + 3)
    assert numbered(gaps).person.tolist() == pairs.person.tolist()
    assert sorted(set(pairs.person.tolist())) == list(range(14))


def test_parts_are_drawn_from_the_seed_and_go_on_where_they_are_the_same(
    tmp_path, shards, dual_start
):
    wanted = dual_section(shards, granularity=GRANULARITY)
    one, two = (starting_model(dual_start, wanted).state_dict() for _ in range(2))
    other = starting_model(
        dual_start, dual_section(shards, granularity=GRANULARITY, training={"seed": 4})
    ).state_dict()
    assert torch.equal(one["granularity.queries_KE"], two["granularity.queries_KE"])
    assert not torch.equal(one["granularity.queries_KE"], other["granularity.queries_KE"])
    trained = finetune(dual_start, wanted, tmp_path, CPU)
    again = starting_model(trained, wanted).state_dict()
    assert torch.equal(again["granularity.queries_KE"], weights(trained)["granularity.queries_KE"])
    assert starting_model(trained, dual_section(shards)).granularity is None


def test_the_section_and_the_checkpoint_are_of_one_kind(tmp_path, shards, start_folder, dual_start):
    with pytest.raises(PedAlignError, match=r"kind mra, and finetune's model.kind is dual"):
        finetune(start_folder, dual_section(shards), tmp_path, CPU)
    with pytest.raises(PedAlignError, match=r"kind dual, and finetune's model.kind is mra"):
        finetune(dual_start, section(shards), tmp_path, CPU)


@pytest.mark.parametrize(
    ("training", "changes", "message"),
    [
        ({"chunks": 2}, {}, "chunks is 2, and this objective takes a batch whole"),
        ({}, {"protocol": {**PROTOCOL, "top_k": 4}}, "a dual encoder, and top_k is 4"),
    ],
)
def test_what_a_dual_encoder_cannot_do_is_an_error(
    tmp_path, shards, dual_start, training, changes, message
):
    with pytest.raises(PedAlignError, match=message):
        finetune(dual_start, dual_section(shards, training, **changes), tmp_path, CPU)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("objective", {"kind": "mra"}, "missing key `finetune.objective.label_smoothing`"),
        ("objective", {"kind": "unipt"}, "kinds of `finetune.objective` are 'mra', 'identity'"),
        ("objective", {"granularity_weight": 1.0}, "granularity is null"),
        ("model", {"granularity": GRANULARITY}, "parts that nothing trains"),
        ("model", {"granularity": {**GRANULARITY, "ranks": "all"}}, "granularity.ranks` is 'all'"),
        ("model", {"granularity": {**GRANULARITY, "part": 6}}, "granularity.part` .value 6"),
        ("model", {"window_size": 2}, "unknown key `finetune.model.window_size`"),
    ],
)
def test_a_section_that_does_not_fit_itself_says_where(shards, part, changes, message):
    body = asdict(dual_section(shards))
    body[part] = {**body[part], **changes}
    with pytest.raises(PedAlignError, match=message):
        check_section(FinetuneParams, body, "finetune")


def test_an_objective_of_the_other_road_is_an_error(shards):
    body = {**asdict(dual_section(shards)), "objective": asdict(section(shards).objective)}
    with pytest.raises(PedAlignError, match=r"objective.kind is mra and model.kind is dual"):
        check_section(FinetuneParams, body, "finetune")
