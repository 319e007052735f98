from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
)

from models.mra import MRA, PAPER, RELEASED
from models.mra.position_tables import resize_table

Make = Callable[..., MRA]


def test_a_saved_model_comes_back_as_it_was(make_model: Make, tmp_path: Path) -> None:
    model = make_model(RELEASED)
    model.save_pretrained(tmp_path)
    loaded = MRA.from_pretrained(tmp_path, reading=RELEASED)
    assert loaded.config == model.config
    state, again = model.state_dict(), loaded.state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)
    words = loaded.text_encoder.bert.embeddings.word_embeddings.weight
    assert loaded.text_encoder.cls.predictions.decoder.weight is words
    assert "text_encoder.cls.predictions.decoder.weight" not in load_file(
        tmp_path / "model.safetensors"
    )


def test_saving_is_the_same_bytes_twice(make_model: Make, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_model().save_pretrained(tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_another_reading_is_an_error_unless_asked_for(make_model: Make, tmp_path: Path) -> None:
    make_model(RELEASED).save_pretrained(tmp_path)
    assert MRA.from_pretrained(tmp_path).config.reading == RELEASED
    with pytest.raises(ValueError, match=r"reading released, wanted under paper.*any_reading"):
        MRA.from_pretrained(tmp_path, reading=PAPER)
    assert MRA.from_pretrained(tmp_path, reading=PAPER, any_reading=True).config.reading == PAPER


def test_another_image_size_resizes_the_position_tables(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    larger = MRA.from_pretrained(tmp_path, image_size=(64, 32), window_size=4)
    assert larger.config.windows == (4, 4)
    name = (
        "vision_encoder.encoder.layers.0.blocks.1.attention."
        "relative_position_bias.relative_position_bias_table"
    )
    torch.testing.assert_close(larger.state_dict()[name], resize_table(model.state_dict()[name], 4))
    tokens, feature = larger.eval().encode_image(torch.randn(1, 3, 64, 32))
    assert tokens.shape == (1, 33, 16)
    assert feature.isfinite().all()


def test_a_smaller_table_keeps_its_middle_and_a_wrong_one_is_an_error() -> None:
    """A table that grows linearly with the offset stays linear: splines reproduce it."""
    offset = torch.arange(-6.0, 7)
    table = (offset[:, None] + 2 * offset[None, :]).reshape(-1, 1)
    small = resize_table(table, 4).view(7, 7)
    steps = small[1:, 3] - small[:-1, 3]
    assert float(small[3, 3]) == pytest.approx(0.0, abs=1e-5)
    assert bool((steps > 0).all())
    assert torch.equal(resize_table(table, 7), table)
    with pytest.raises(ValueError, match="square window"):
        resize_table(torch.zeros(12, 1), 4)
    with pytest.raises(ValueError, match="at least 3"):
        resize_table(torch.zeros(9, 1), 4)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_checkpoints_that_are_none_are_errors(make_model: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        MRA.from_pretrained(tmp_path)
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"another shape.*only the image size"):
        MRA.from_pretrained(tmp_path, embed_dim=13)
    with pytest.raises(ValueError, match=r"unknown \['text_encoder"):
        MRA.from_pretrained(tmp_path, fusion_layers=1)
    edit_config(tmp_path, model_type="swin")
    with pytest.raises(ValueError, match="model_type"):
        MRA.from_pretrained(tmp_path)
    edit_config(tmp_path, model_type="mra", flavour=1)
    with pytest.raises(ValueError, match="flavour"):
        MRA.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="should be JSON"):
        MRA.from_pretrained(tmp_path)


def test_weights_that_are_not_safetensors_are_refused(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="safetensors"):
        MRA.from_pretrained(tmp_path)


# --- starting weights -----------------------------------------------------------------------------


def swin_folder(folder: Path, kind: type = SwinModel, **changes: Any) -> Any:
    torch.manual_seed(3)
    settings = {
        "image_size": 56,
        "embed_dim": 8,
        "depths": [2, 2],
        "num_heads": [1, 2],
        "window_size": 7,
    }
    model = kind(SwinConfig(**{**settings, **changes}))
    for name, parameter in model.named_parameters():
        if "bias_table" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return model


def bert_folder(folder: Path, kind: type = BertForMaskedLM, **changes: Any) -> Any:
    torch.manual_seed(4)
    settings = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 24,
    }
    model = kind(BertConfig(**{**settings, **changes}))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", [SwinModel, SwinForImageClassification])
@torch.no_grad()
def test_a_swin_folder_gives_its_own_features(make_model: Make, tmp_path: Path, kind: type) -> None:
    stock = swin_folder(tmp_path, kind).eval()
    model = make_model(image_size=(56, 56), window_size=7)
    report = model.load_starting_weights(tmp_path, None)
    image = torch.randn(2, 3, 56, 56)
    reference = (stock.swin if kind is SwinForImageClassification else stock)(image)
    torch.testing.assert_close(
        model.vision_encoder(image)[:, 1:], reference.last_hidden_state, rtol=1e-4, atol=1e-5
    )
    assert report["resized"] == []
    assert all(name.startswith("vision_encoder.") for name in report["loaded"])
    assert not any(name.startswith("vision_encoder.") for name in report["new"])


def test_both_folders_and_the_report(make_model: Make, tmp_path: Path) -> None:
    swin = swin_folder(tmp_path / "swin")
    bert = bert_folder(tmp_path / "bert")
    model = make_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    report = model.load_starting_weights(tmp_path / "swin", tmp_path / "bert")
    parameters = dict(model.named_parameters())
    assert sorted(report["loaded"] + report["new"]) == sorted(parameters)
    assert len(report["resized"]) == 4  # one table a block, window 7 to 3
    block = "encoder.layers.1.blocks.1.attention"
    table = f"{block}.relative_position_bias.relative_position_bias_table"
    torch.testing.assert_close(
        parameters[f"vision_encoder.{table}"], resize_table(swin.state_dict()[table].detach(), 3)
    )
    query = "bert.encoder.layer.2.attention.self.query.weight"
    assert torch.equal(parameters[f"text_encoder.{query}"], bert.state_dict()[query])
    head = "cls.predictions.transform.dense.weight"
    assert torch.equal(parameters[f"text_encoder.{head}"], bert.state_dict()[head])
    assert any("crossattention" in name for name in report["new"])
    assert all(torch.equal(parameters[name], before[name]) for name in report["new"])


def test_a_folder_without_mlm_head_leaves_the_models_own(make_model: Make, tmp_path: Path) -> None:
    bert_folder(tmp_path, BertModel)
    report = make_model().load_starting_weights(None, tmp_path)
    assert "text_encoder.cls.predictions.bias" in report["new"]
    assert "text_encoder.bert.embeddings.word_embeddings.weight" in report["loaded"]


def test_half_precision_folders_fill_a_float32_model(make_model: Make, tmp_path: Path) -> None:
    swin_folder(tmp_path / "swin").half().save_pretrained(tmp_path / "swin")
    bert = bert_folder(tmp_path / "bert").half()
    bert.save_pretrained(tmp_path / "bert")
    model = make_model()
    model.load_starting_weights(tmp_path / "swin", tmp_path / "bert")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    words = model.text_encoder.bert.embeddings.word_embeddings.weight
    assert torch.equal(words, bert.bert.embeddings.word_embeddings.weight.float())


def test_starting_leaves_the_random_stream_alone(make_model: Make, tmp_path: Path) -> None:
    bert_folder(tmp_path)
    model = make_model()
    state = torch.get_rng_state()
    model.load_starting_weights(None, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_folders_of_other_sizes_or_with_holes_are_errors(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    bert_folder(tmp_path / "bert", num_hidden_layers=2)
    with pytest.raises(ValueError, match=r"num_hidden_layers.*their own sizes"):
        model.load_starting_weights(None, tmp_path / "bert")
    swin_folder(tmp_path / "swin", embed_dim=16)
    with pytest.raises(ValueError, match="embed_dim"):
        model.load_starting_weights(tmp_path / "swin", None)
    swin_folder(tmp_path / "holes")
    file = tmp_path / "holes" / "model.safetensors"
    state = load_file(file)
    del state["layernorm.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"without 1 tensors.*layernorm.weight"):
        model.load_starting_weights(tmp_path / "holes", None)
