"""Pretraining on a miniature: what it leaves, its modes, and that a kill costs nothing."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from models.mra import PAPER, RELEASED, reading_of
from models.mra.objectives import PretrainObjective
from tasks.batches import read_pairs
from tasks.checkpoints import checkpoint_kind, load_model
from tasks.errors import PedAlignError
from tasks.params import check_section
from tasks.pretrain import PretrainParams, new_model, pretrain
from tasks.runtime import Runtime
from tasks.tokens import load_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, source, annotations, pretrain_params):
    return pretrain(source, annotations, pretrain_params(), tmp_path_factory.mktemp("p"), CPU)


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_checkpoint_holds_all_that_later_stages_need(finished):
    model = load_model(finished)
    assert model.config.image_size == (32, 16)
    assert model.config.reading == PAPER
    assert load_tokenizer(finished).mask_token_id == load_tokenizer(finished).vocab["[MASK]"]
    record = json.loads((finished / "training.json").read_text())
    assert record["pairs"] == 47
    assert record["steps"] == 10
    assert record["skipped"] == {"not usable": 1}
    assert set(record["losses"]) == {"itc", "itm", "mlm", "rpc", "rpm", "loss"}
    rows = (finished / "curve.csv").read_text().splitlines()
    assert len(rows) == 11
    assert rows[0].startswith("step,epoch,lr,itc")


def test_nothing_in_it_says_when_or_where(finished, tmp_path, source, annotations, pretrain_params):
    again = pretrain(source, annotations, pretrain_params(), tmp_path, CPU)
    for path in finished.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


@pytest.mark.parametrize("road", ["pretrain_params", "unipt_params"])
def test_killed_and_resumed_equals_undisturbed(road, request, tmp_path, source, annotations):
    class KilledError(Exception):
        pass

    def kill(step, steps, row):
        raise KilledError

    section = request.getfixturevalue(road)(training={"epochs": 4})
    for name in "ab":
        (tmp_path / name).mkdir()
    with pytest.raises(KilledError):  # at step 10 of 20; the last checkpoint is of step 9
        pretrain(
            source, annotations, section, tmp_path / "a", CPU, checkpoint_seconds=0, progress=kill
        )
    torn = pretrain(source, annotations, section, tmp_path / "a", CPU)
    whole = pretrain(source, annotations, section, tmp_path / "b", CPU)
    for path in sorted(whole.iterdir()):
        assert path.read_bytes() == (torn / path.name).read_bytes(), path.name


def test_training_changes_every_part(finished, start_folder):
    before, after = weights(start_folder), weights(finished)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    for part in ("vision_encoder", "text_encoder", "vision_proj", "text_proj", "itm_head", "temp"):
        assert any(name.startswith(part) for name in moved), part


def test_init_none_publishes_the_starting_weights(start_folder, pretrain_params):
    started = new_model(pretrain_params()).state_dict()
    assert same(weights(start_folder), {n: started[n] for n in weights(start_folder)})
    assert json.loads((start_folder / "training.json").read_text())["steps"] == 0
    assert not (start_folder / "curve.csv").exists()


def test_init_from_a_checkpoint_goes_on_from_it(
    finished, tmp_path, source, annotations, pretrain_params
):
    model = new_model(pretrain_params(init=str(finished), model={"image_size": [64, 32]}))
    assert model.config.image_size == (64, 32)
    known = weights(finished)
    assert torch.equal(model.state_dict()["itm_head.0.weight"], known["itm_head.0.weight"])


def test_another_reading_than_the_checkpoints_is_an_error_unless_asked_for(
    finished, pretrain_params
):
    other = {"reading": {"like": "paper", "region_token": False}}
    with pytest.raises(PedAlignError, match=r"trained under the reading paper.*any_reading"):
        new_model(pretrain_params(init=str(finished), model=other))
    asked = new_model(pretrain_params(init=str(finished), model={**other, "any_reading": True}))
    assert asked.config.reading == dataclasses.replace(PAPER, region_token=False)


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        ("authors", "choose one of"),
        ({"like": "paper", "regions": True}, "its fields are"),
        ({"like": "paper", "pool_pads": "yes"}, "true or false"),
        (3, "reading.str` is 3"),
    ],
)
def test_a_reading_that_is_none_names_its_place(pretrain_params, reading, message):
    with pytest.raises(PedAlignError, match=message) as caught:
        pretrain_params(model={"reading": reading})
    assert "pretrain.model.reading" in caught.value.found


def test_a_reading_with_changes_is_the_checkpoints(tmp_path, source, pretrain_params):
    reading = {"like": "released", "mask_pads": False, "pool_pads": False, "region_heads": True}
    section = pretrain_params(init="none", model={"reading": reading})
    folder = pretrain(source, None, section, tmp_path, CPU)
    model = load_model(folder)
    assert model.config.reading == reading_of(reading)
    assert model.phrase_proj is not None
    assert (
        json.loads((folder / "training.json").read_text())["params"]["model"]["reading"] == reading
    )


def test_a_batch_that_the_chunks_do_not_divide(tmp_path, source, annotations, pretrain_params):
    section = pretrain_params(model={"reading": "released"}, training={"chunks": 3})
    with pytest.raises(PedAlignError, match="a batch of 8 in 3 chunks"):
        pretrain(source, annotations, section, tmp_path, CPU)


def test_in_parts_with_dropout_killed_and_resumed_equals_undisturbed(
    tmp_path, source, annotations, pretrain_params
):
    class KilledError(Exception):
        pass

    def kill(step, steps, row):
        raise KilledError

    section = pretrain_params(
        model={"reading": "released"}, training={"epochs": 3, "chunks": 2, "micro_batch": 3}
    )
    for name in "ab":
        (tmp_path / name).mkdir()
    with pytest.raises(KilledError):
        pretrain(
            source, annotations, section, tmp_path / "a", CPU, checkpoint_seconds=0, progress=kill
        )
    assert (tmp_path / "a" / "running.pt").exists()
    torn = pretrain(source, annotations, section, tmp_path / "a", CPU)
    whole = pretrain(source, annotations, section, tmp_path / "b", CPU)
    for path in sorted(whole.iterdir()):
        assert path.read_bytes() == (torn / path.name).read_bytes(), path.name


def test_recomputed_layers_leave_the_same_bytes(
    finished, tmp_path, source, annotations, pretrain_params, monkeypatch
):
    monkeypatch.setattr("tasks.training.runtime", lambda: Runtime(recompute=True))
    again = pretrain(source, annotations, pretrain_params(), tmp_path, CPU)
    for path in finished.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_without_regions_no_annotations_are_needed(tmp_path, source, pretrain_params):
    section = pretrain_params(objective={"region_weight": 0.0}, training={"epochs": 1})
    folder = pretrain(source, None, section, tmp_path, CPU)
    record = json.loads((folder / "training.json").read_text())
    assert record["pairs"] == 94  # every caption
    assert set(record["losses"]) == {"itc", "itm", "mlm", "loss"}


def test_without_their_losses_regions_still_crop_the_pictures(
    tmp_path, source, annotations, pretrain_params, monkeypatch
):
    """Whoever sweeps beta changes nothing but the losses."""
    seen: dict[float, list[torch.Tensor]] = {}
    for weight in (0.0, 0.8):
        batches = seen[weight] = []

        def noted(
            objective, batch, generator=None, batches=batches, forward=PretrainObjective.forward
        ):
            batches.append(batch["image"].clone())
            return forward(objective, batch, generator)

        with monkeypatch.context() as patched:
            patched.setattr(PretrainObjective, "forward", noted)
            section = pretrain_params(objective={"region_weight": weight}, training={"epochs": 1})
            folder = pretrain(source, annotations, section, tmp_path / str(weight), CPU)
        told = json.loads((folder / "training.json").read_text())
        assert ("rpc" in told["losses"]) == (weight > 0)
    assert len(seen[0.0]) == len(seen[0.8]) > 1
    assert all(torch.equal(one, other) for one, other in zip(*seen.values(), strict=True))


def test_the_released_reading_and_the_token_head_train_too(
    tmp_path, source, annotations, pretrain_params
):
    section = pretrain_params(
        model={"reading": "released", "head": "token"}, training={"epochs": 1}
    )
    folder = pretrain(source, annotations, section, tmp_path, CPU)
    assert load_model(folder).config.reading == RELEASED


def test_regions_without_annotations_are_an_error(tmp_path, source, pretrain_params):
    with pytest.raises(PedAlignError, match="no annotations"):
        pretrain(source, None, pretrain_params(), tmp_path, CPU)


def test_missing_starting_weights_are_an_error(tmp_path, source, annotations, pretrain_params):
    section = pretrain_params(vision=str(tmp_path / "nowhere"))
    with pytest.raises(PedAlignError, match="nowhere"):
        pretrain(source, annotations, section, tmp_path, CPU)


# ------------------------------------------------------------------ the other road


def test_unipt_trains_a_dual_encoder_without_regions(tmp_path, source, unipt_params, dual_start):
    folder = pretrain(source, None, unipt_params(), tmp_path, CPU)
    assert checkpoint_kind(folder) == "dual"
    record = json.loads((folder / "training.json").read_text())
    assert (record["pairs"], record["regions"], record["steps"]) == (94, 0, 22)
    assert set(record["losses"]) == {"itc", "mlm", "loss"}
    before, after = weights(dual_start), weights(folder)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    for part in ("vision_encoder", "text_encoder.bert", "text_encoder.cls", "vision_proj"):
        assert any(name.startswith(part) for name in moved), part
    assert load_model(folder).config.image_size == (32, 16)


def test_every_caption_of_a_picture_counts(tmp_path, source, annotations, captions, unipt_params):
    section = unipt_params(training={"epochs": 1}, objective={"mlm_weight": 0.0})
    counts = {}
    for name, texts in (("shards", None), ("annotated", annotations), ("captioned", captions)):
        folder = pretrain(source, texts, section, tmp_path / name, CPU)
        record = json.loads((folder / "training.json").read_text())
        counts[name] = record["pairs"], record["skipped"]
        assert set(record["losses"]) == {"itc", "loss"}
    assert counts == {
        "shards": (94, {"not usable": 1}),
        "annotated": (47, {"not usable": 1}),
        "captioned": (92, {"not usable": 2}),  # 46 pictures, two captions of which say something
    }


def test_captions_in_side_tables_go_before_the_shards_own(source, captions):
    pairs, _ = read_pairs(source, captions, split=None, identity="image")
    assert set(pairs.caption.to_pylist()) == {"a man", "the red coat"}
    assert sorted(set(pairs.turn.tolist())) == [0, 2]


def test_captions_without_boxes_do_not_do_for_regions(tmp_path, source, captions, pretrain_params):
    with pytest.raises(PedAlignError, match=r"no annotations .* is captioned"):
        pretrain(source, captions, pretrain_params(), tmp_path, CPU)


def test_chunks_and_micro_batches_are_unipts_too(tmp_path, source, unipt_params):
    whole = unipt_params(training={"epochs": 1, "chunks": 2}, model={"drop_path": 0.0})
    whole = dataclasses.replace(whole, model=dataclasses.replace(whole.model, text_dropout=0.0))
    parts = dataclasses.replace(whole, training=dataclasses.replace(whole.training, micro_batch=3))
    one, other = (
        pretrain(source, None, section, tmp_path / name, CPU)
        for name, section in (("one", whole), ("other", parts))
    )
    first, second = weights(one), weights(other)
    assert all(torch.allclose(first[n], second[n], rtol=1e-2, atol=2e-3) for n in first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"kind": "mra", "region_weight": 0.8, "padding": 2}}, "which unipt trains"),
        ({"objective": {"kind": "clip"}}, r"`pretrain\.objective\.kind` is 'clip'"),
        ({"objective": {"temperature": None}}, r"missing key `pretrain\.objective\.kind`"),
        ({"model": {"kind": "dual", "image_size": [32, 16]}}, r"missing key `pretrain\.model\.max"),
        (
            {"objective": {"kind": "unipt", "temperature": None, "mlm_weight": 1.0, "padding": 2}},
            r"unknown key `pretrain\.objective\.padding`",
        ),
        (
            {"objective": {"kind": "unipt", "temperature": 0.0, "mlm_weight": 1.0}},
            r"`pretrain\.objective\.temperature` is 0",
        ),
    ],
)
def test_a_wrong_kind_or_key_names_its_place(pretrain_params, unipt_params, changes, message):
    body = {**dataclasses.asdict(unipt_params()), **changes}
    with pytest.raises(PedAlignError, match=message) as caught:
        check_section(PretrainParams, body, "pretrain")
    assert "reading" not in caught.value.rule  # MRA's keys are not this model's


def test_the_keys_of_a_kind_are_named(unipt_params):
    body = dataclasses.asdict(unipt_params())
    del body["model"]["max_tokens"]
    with pytest.raises(PedAlignError) as caught:
        check_section(PretrainParams, body, "pretrain")
    assert "`pretrain.model` needs all of: kind, image_size, embed_dim" in caught.value.rule


# ------------------------------------------------------------------ from one road to the other


def test_mra_goes_on_from_a_dual_encoders_encoders(
    tmp_path, source, annotations, unipt_params, pretrain_params
):
    dual = pretrain(source, None, unipt_params(), tmp_path / "dual", CPU)
    section = pretrain_params(init=str(dual))
    model, known, fresh = (
        new_model(section).state_dict(),
        weights(dual),
        new_model(pretrain_params()),
    )
    for name in ("vision_encoder.", "text_encoder.bert.embeddings.word"):
        taken = [each for each in known if each.startswith(name)]
        assert taken
        assert all(torch.equal(model[each], known[each]) for each in taken)
    assert torch.equal(model["itm_head.0.weight"], fresh.state_dict()["itm_head.0.weight"])
    folder = pretrain(source, annotations, section, tmp_path / "mra", CPU)
    assert checkpoint_kind(folder) == "mra"
    assert load_tokenizer(folder).get_vocab() == load_tokenizer(dual).get_vocab()


def test_a_dual_encoder_goes_on_from_either_kind(finished, dual_start, unipt_params):
    larger = {"image_size": [64, 32]}
    again = new_model(unipt_params(init=str(dual_start), model=larger))
    known = weights(dual_start)
    assert again.config.image_size == (64, 32)
    assert torch.equal(again.state_dict()["vision_proj.weight"], known["vision_proj.weight"])
    wider = new_model(unipt_params(init=str(dual_start), model={"embed_dim": 12}))
    assert wider.state_dict()["vision_proj.weight"].shape[0] == 12
    crossed, mra = new_model(unipt_params(init=str(finished))).state_dict(), weights(finished)
    encoders = [n for n in mra if n.startswith(("vision_encoder.", "text_encoder.bert."))]
    taken = [n for n in encoders if "crossattention" not in n]
    assert len(taken) < len(encoders)
    assert all(torch.equal(crossed[n], mra[n]) for n in taken)


def test_a_start_that_is_no_checkpoint_is_an_error(vision_folder, unipt_params, pretrain_params):
    for make in (unipt_params, pretrain_params):
        with pytest.raises(PedAlignError, match="model_type"):
            new_model(make(init=str(vision_folder)))
