"""A model is loaded whole or not at all: real classes, small and random, with damaged files."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
)

from models.loading import load_model, load_processor

SIZES: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "max_position_embeddings": 8,
}
WORDS: dict[str, Any] = {"what": "text model", "remedy": "name another"}
HEAD = "cls.predictions.transform.dense.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(tmp_path)
    return tmp_path


def change(
    folder: Path, drop: tuple[str, ...] = (), put: Mapping[str, torch.Tensor] = MappingProxyType({})
) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if key not in drop}
    save_file(kept | dict(put), folder / "model.safetensors", metadata={"format": "pt"})


def test_tied_weights_stand_once_in_the_file_and_are_there(folder: Path) -> None:
    written = load_file(folder / "model.safetensors")
    assert "cls.predictions.decoder.weight" not in written  # tied to the embeddings
    model = load_model(BertForMaskedLM, folder, **WORDS)
    assert not model.training
    tied = model.get_output_embeddings().weight
    assert torch.equal(tied, written["bert.embeddings.word_embeddings.weight"])
    half = load_model(BertForMaskedLM, folder, dtype=torch.bfloat16, **WORDS)
    assert half.dtype == torch.bfloat16


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change(folder, drop=(HEAD,))
    with pytest.raises(ValueError, match=r"1 missing \(cls.*dense.weight\).*remedy: .*another"):
        load_model(BertForMaskedLM, folder, **WORDS)


def test_of_many_missing_tensors_three_are_named_and_all_counted(folder: Path) -> None:
    BertModel(BertConfig(**SIZES), add_pooling_layer=False).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"does not fill a BertForMaskedLM") as caught:
        load_model(BertForMaskedLM, folder, **WORDS)
    message = str(caught.value)
    assert "6 missing (" in message  # dense, norm, their biases, the output bias and its twin
    assert message.count("cls.predictions") == 3
    assert "and 3 more" in message


def test_a_tensor_of_another_shape_is_named_with_both(folder: Path) -> None:
    change(folder, put={HEAD: torch.zeros(8, 4)})
    with pytest.raises(ValueError, match=r"1 of another shape .*is \(8, 4\), needs \(8, 8\)"):
        load_model(BertForMaskedLM, folder, **WORDS)


def test_what_the_class_does_not_use_is_logged_only(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(folder, put={"left.over": torch.zeros(2)})
    with caplog.at_level(logging.INFO, "models.loading"):
        load_model(BertForMaskedLM, folder, **WORDS)
    assert "1 tensors are not used (left.over)" in caplog.text


def test_a_pickle_is_not_opened(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"cannot load the text model .*remedy: name another"):
        load_model(BertForMaskedLM, folder, **WORDS)


def test_half_a_file_and_no_file_are_named(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot load the text model"):
        load_model(BertForMaskedLM, folder, **WORDS)
    (folder / "config.json").write_text(json.dumps({"model_type": "no such thing"}))
    with pytest.raises(ValueError, match="cannot load the text model"):
        load_model(BertForMaskedLM, folder, **WORDS)
    with pytest.raises(ValueError, match="the processor's and the tokenizer's files"):
        load_processor(AutoImageProcessor, tmp_path / "empty", **WORDS)


def test_a_pose_model_without_its_head(tmp_path: Path) -> None:
    backbone = VitPoseBackboneConfig(
        image_size=[16, 8], patch_size=[8, 8], hidden_size=8, num_hidden_layers=1,
        num_attention_heads=1, out_indices=[1],
    )  # fmt: skip
    config = VitPoseConfig(backbone_config=backbone, use_simple_decoder=False)
    VitPoseForPoseEstimation(config).save_pretrained(tmp_path)
    keys = load_file(tmp_path / "model.safetensors")
    counters = tuple(key for key in keys if key.endswith("num_batches_tracked"))
    assert counters
    change(tmp_path, drop=counters)  # old files lack them, and nothing reads them
    load_model(VitPoseForPoseEstimation, tmp_path, **WORDS)
    change(tmp_path, drop=tuple(key for key in keys if key.startswith("head")))
    with pytest.raises(ValueError, match=r"missing \(head"):
        load_model(VitPoseForPoseEstimation, tmp_path, **WORDS)
