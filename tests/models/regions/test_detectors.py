"""Which detector a name means, and what is refused before anything runs."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.random_detectors import WORDS, bert_tokenizer
from models.regions.detectors import TYPES, can_ground, load_detector
from models.regions.grounding_dino import GroundingDino
from models.regions.owlv2 import Owl
from models.regions.proposals import CaptionGrounder, Query

KINDS = dict.fromkeys(TYPES, Owl) | {"grounding-dino": GroundingDino}


@pytest.fixture
def copy(detectors, tmp_path):
    """A copy of a detector's folder, to be broken."""

    def make(kind):
        return shutil.copytree(detectors / kind, tmp_path / kind)

    return make


@pytest.mark.parametrize("kind", TYPES)
def test_the_class_is_that_of_the_config(detectors, picture, kind):
    proposer = load_detector(
        detectors / kind,
        precision="bf16",
        box_threshold=0.25,
        text_threshold=0.2,
        batch_size=3,
    )
    assert type(proposer) is KINDS[kind]
    assert (proposer.box_threshold, proposer.batch_size, proposer.precision) == (0.25, 3, "bf16")
    assert getattr(proposer, "text_threshold", 0.2) == 0.2
    assert next(proposer.model.parameters()).dtype == torch.float32
    assert can_ground(detectors / kind) == isinstance(proposer, CaptionGrounder)
    assert can_ground(detectors / kind) == (kind == "grounding-dino")
    (found,) = proposer.propose([picture(0)], [[Query("a man")]])
    assert np.all(found.scores_N > 0.25)


def test_weights_of_half_precision_are_widened(copy):
    """transformers would compute in the precision of the file."""
    folder = copy("owlv2")
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {k: v.half() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    assert next(load_detector(folder).model.parameters()).dtype == torch.float32


def test_another_type_of_model_is_refused_by_name(copy):
    folder = copy("owlv2")
    config = json.loads((folder / "config.json").read_text())
    for kind in ("detr", "of-tomorrow"):
        (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
        for call in (load_detector, can_ground):
            with pytest.raises(ValueError, match=f"a '{kind}'.*grounding-dino, owlv2, owlvit"):
                call(folder)


def test_a_folder_without_a_type_is_refused(copy, tmp_path):
    folder = copy("owlvit")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="names no model_type"):
        load_detector(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot load the detector"):
        load_detector(folder)
    with pytest.raises(ValueError, match="cannot load the detector"):
        can_ground(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", TYPES)
def test_a_missing_processor_is_refused(copy, kind):
    folder = copy(kind)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="cannot load the detector"):
        load_detector(folder)


@pytest.mark.parametrize("kind", TYPES)
def test_a_missing_tokenizer_is_refused(copy, kind):
    """transformers makes up one that knows its special tokens alone, and goes on."""
    folder = copy(kind)
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / file).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"knows \d+ tokens, .* reads \d+"):
        load_detector(folder)


def test_another_models_tokenizer_is_refused(copy):
    folder = copy("grounding-dino")
    bert_tokenizer([*WORDS, *(f"more{n}" for n in range(9))]).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"knows 1134 tokens, .* reads 1125"):
        load_detector(folder)


@pytest.mark.parametrize("kind", TYPES)
def test_a_missing_tensor_is_refused(copy, kind):
    folder = copy(kind)
    tensors = load_file(folder / "model.safetensors")
    lost = next(key for key in tensors if key.endswith(("level_embed", "class_head.dense0.bias")))
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"1 missing \({lost}\)"):
        load_detector(folder)


def test_the_hubs_tied_and_shared_tensors_are_no_loss(copy):
    """Published Grounding DINO files hold the box head once, and buffers that no class reads."""
    folder = copy("grounding-dino")
    tensors = load_file(folder / "model.safetensors")
    assert not [key for key in tensors if "decoder.bbox_embed" in key]
    save_file(
        tensors | {"model.text_backbone.embeddings.position_ids": torch.arange(9)[None]},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    assert isinstance(load_detector(folder), GroundingDino)
