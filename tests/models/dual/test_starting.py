"""Towers from transformers' folders compute what transformers' own classes do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    BertForMaskedLM,
    BertModel,
    CLIPModel,
    DeiTModel,
    SwinModel,
    ViTModel,
)

from models.dual import DualEncoder, dual_config
from models.retrieval import MEAN, STD
from tasks.augment import MEAN as TASKS_MEAN
from tasks.augment import STD as TASKS_STD
from tests.encoders import save_bert, save_swin
from tests.towers import Towers

CLOSE: dict[str, float] = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Towers:
    """Tiny towers of every kind."""
    return Towers(tmp_path_factory.mktemp("towers"))


def own_pixels(model: DualEncoder, image: Tensor) -> Tensor:
    """Pixels that the model maps to exactly these in front of its image encoder."""
    return (image - model.pixel_shift) / model.pixel_scale


def texts() -> tuple[Tensor, Tensor]:
    """Three texts of BERT's word pieces, one of them unpadded."""
    ids = torch.randint(5, 40, (3, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[0, 5:] = mask[2, 3:] = 0
    return ids * mask, mask


def spelled() -> tuple[Tensor, Tensor]:
    """Three texts as CLIP's tokenizer gives them: start, letters, end, and more ends as pads."""
    ids = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[0, 5:] = mask[2, 3:] = 0
    last = mask.sum(1) - 1
    ids[:, 0] = 54
    ids = torch.where(torch.arange(9) >= last[:, None], 55, ids)
    return ids, mask


@torch.no_grad()
@pytest.mark.parametrize(("kind", "stock"), [("vit", ViTModel), ("deit", DeiTModel)])
def test_a_vit_is_the_stock_vit(kind: str, stock: Any, towers: Towers) -> None:
    model = towers.model(kind)
    image = torch.randn(2, 3, 32, 32)
    vit = stock.from_pretrained(towers[kind], add_pooling_layer=False).eval()
    expected = vit(pixel_values=image).last_hidden_state
    assert expected.shape == (2, model.config.prefix + 16, 16)
    torch.testing.assert_close(model.image_states(own_pixels(model, image)), expected, **CLOSE)
    assert len(model.state_dict()) > 30


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "stock", "size"), [("vit", ViTModel, (48, 16)), ("deit", DeiTModel, (16, 40))]
)
def test_at_another_size_too(kind: str, stock: Any, size: tuple[int, int], towers: Towers) -> None:
    """Transformers resizes positions in every pass, and bicubically as well."""
    model = towers.model(kind, image_size=size)
    image = torch.randn(2, 3, *size)
    vit = stock.from_pretrained(towers[kind], add_pooling_layer=False).eval()
    expected = vit(pixel_values=image, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(model.image_states(own_pixels(model, image)), expected, **CLOSE)


@torch.no_grad()
def test_a_swin_is_the_stock_swin(towers: Towers) -> None:
    model = towers.model("swin")
    image = torch.randn(2, 3, 48, 24)
    swin = SwinModel.from_pretrained(towers["swin"], add_pooling_layer=False).eval()
    stock = swin(pixel_values=image).last_hidden_state
    # No preprocessor_config.json: pixels are as they come.
    states = model.image_states(image)
    torch.testing.assert_close(states[:, 1:], stock, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(states[:, 0], states[:, 1:].mean(1))


@torch.no_grad()
def test_a_bert_is_the_stock_bert(towers: Towers) -> None:
    model = towers.model()
    ids, mask = texts()
    bert = BertModel.from_pretrained(towers["bert"], add_pooling_layer=False).eval()
    expected = bert(input_ids=ids, attention_mask=mask).last_hidden_state
    kept = mask.bool()
    states = model.word_states(ids, mask)
    torch.testing.assert_close(states[kept], expected[kept], **CLOSE)
    head = BertForMaskedLM.from_pretrained(towers["bert"]).eval()
    logits = head(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(model.mlm_logits(states[kept]), logits[kept], **CLOSE)


@torch.no_grad()
def test_a_bert_of_another_activation_keeps_it(tmp_path: Path) -> None:
    towers = Towers(tmp_path, hidden_act="gelu_new", layer_norm_eps=1e-2)
    ids, mask = texts()
    bert = BertModel.from_pretrained(towers["bert"], add_pooling_layer=False).eval()
    expected = bert(input_ids=ids, attention_mask=mask).last_hidden_state
    found = towers.model().word_states(ids, mask)
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], **CLOSE)


@torch.no_grad()
def test_two_towers_of_clip_give_clips_own_features(towers: Towers) -> None:
    model = towers.model("clip", "clip")
    assert model.config.pooling == "own"
    clip = CLIPModel.from_pretrained(towers["clip"]).eval()
    image = torch.randn(2, 3, 32, 32)
    tokens, feature = model.encode_image(image)  # CLIP's statistics are this project's
    expected = clip.get_image_features(pixel_values=image).pooler_output
    torch.testing.assert_close(feature, F.normalize(expected, dim=-1), **CLOSE)
    assert tokens.shape == (2, 17, 12)
    ids, mask = spelled()
    tokens, feature = model.encode_text(ids, mask)
    found = clip.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
    torch.testing.assert_close(feature, F.normalize(found, dim=-1), **CLOSE)
    stock = clip.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
    kept = mask.bool()
    torch.testing.assert_close(tokens[kept], clip.text_projection(stock)[kept], **CLOSE)


@torch.no_grad()
def test_clip_at_the_size_of_persons(towers: Towers) -> None:
    model = towers.model("clip", "clip", image_size=(48, 16))
    clip = CLIPModel.from_pretrained(towers["clip"]).eval()
    image = torch.randn(2, 3, 48, 16)
    found = clip.get_image_features(pixel_values=image, interpolate_pos_encoding=True).pooler_output
    torch.testing.assert_close(model.encode_image(image)[1], F.normalize(found, dim=-1), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vit", "deit", "clip"])
def test_pixels_reach_a_tower_as_its_own_processor_gives_them(kind: str, towers: Towers) -> None:
    assert (MEAN, STD) == (TASKS_MEAN, TASKS_STD)
    model = towers.model(kind)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    processor = AutoImageProcessor.from_pretrained(towers[kind], backend="pil")
    expected = torch.as_tensor(processor(picture, return_tensors="pt")["pixel_values"])
    given = (torch.from_numpy(picture).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    seen: list[Tensor] = []
    model.vision_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.encode_image(given.permute(2, 0, 1)[None])
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)


def test_the_report_says_what_is_loaded_and_what_new(towers: Towers) -> None:
    model = DualEncoder.from_config(towers.config("deit", image_size=(48, 16)))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    report = model.load_starting_weights(towers["deit"], towers["bert"])
    heads = ["text_proj.bias", "text_proj.weight", "vision_proj.bias", "vision_proj.weight"]
    assert report["new"] == heads
    assert report["resized"] == ["vision_encoder.positions_1PD"]
    parameters = {name for name, _ in model.named_parameters()}
    assert set(report["loaded"]) == parameters - set(heads)
    after = model.state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in report["loaded"])
    both = DualEncoder.from_config(towers.config("clip", "clip"))
    assert both.load_starting_weights(towers["clip"], towers["clip"])["new"] == []
    one = DualEncoder.from_config(towers.config("clip", "bert"))
    assert one.config.pooling == "max"
    assert one.load_starting_weights(towers["clip"], None)["new"][0].startswith("text_encoder.")


def test_the_hubs_own_layouts_of_swin_and_bert_are_read(tmp_path: Path) -> None:
    """A classifier with window 7, and a BERT with TensorFlow's names; only projections are new."""
    save_swin(tmp_path / "swin")
    save_bert(tmp_path / "bert")
    config = dual_config(
        tmp_path / "swin", tmp_path / "bert", image_size=(384, 128), embed_dim=8, max_tokens=100
    )
    assert config.vision.kind == "swin"
    assert config.vision.windows(config.image_size) == [4, 4, 4, 4]
    assert (config.grid, config.stride) == ((12, 4), 32)
    model = DualEncoder.from_config(config)
    report = model.load_starting_weights(tmp_path / "swin", tmp_path / "bert")
    assert {name.split(".")[0] for name in report["new"]} == {"vision_proj", "text_proj"}
    assert len(report["resized"]) == 5  # a table a block
    wider = dual_config(
        tmp_path / "swin", tmp_path / "bert", image_size=(384, 128), embed_dim=8, max_tokens=100,
        window_size=8,
    )  # fmt: skip
    assert wider.vision.kind == "swin"
    assert wider.vision.windows(wider.image_size) == [8, 8, 8, 4]


def test_a_start_draws_nothing(towers: Towers) -> None:
    model = DualEncoder.from_config(towers.config())
    torch.manual_seed(5)
    model.load_starting_weights(towers["vit"], towers["bert"])
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize(
    ("vision", "text", "changes", "message"),
    [
        ("bert", "bert", {}, "image encoder .* is a bert: it is one of vit, deit, clip, swin"),
        ("vit", "swin", {}, "text encoder .* is a swin: it is one of bert, clip"),
        ("clip", "clip", {"embed_dim": 16}, r"project to \[12\].*set embed_dim to 12"),
        ("vit", "clip", {"max_tokens": 78}, "max_tokens 78 with a clip of 77 positions"),
        ("vit", "bert", {"image_size": (384, 129)}, "sides are multiples of the patch"),
        ("vit", "bert", {"drop_path": 1.5}, "drop_path 1.5: a rate"),
        ("vit", "bert", {"pooling": "own"}, "only CLIP's towers"),
    ],
)
def test_what_cannot_be_is_named(
    vision: str,
    text: str,
    changes: dict[str, Any],
    message: str,
    towers: Towers,
) -> None:
    with pytest.raises(ValueError, match=message):
        towers.config(vision, text, **({"image_size": (32, 32)} | changes))


def test_folders_that_hold_no_such_model(towers: Towers, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"image_size": (32, 32), "embed_dim": 8, "max_tokens": 8}
    with pytest.raises(ValueError, match=r"cannot load the image encoder .*remedy: name facebook"):
        dual_config(tmp_path, towers["bert"], **sizes)
    half = tmp_path / "half"
    shutil.copytree(towers["vit"], half)
    (half / "model.safetensors").unlink()
    model = towers.model()
    with pytest.raises(ValueError, match="cannot load the image encoder"):
        model.load_starting_weights(half, None)
    other = tmp_path / "other"
    shutil.copytree(towers["vit"], other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"\(found, wanted\) \{'layers': \(3, 2\)\}"):
        model.load_starting_weights(other, None)
    deeper = DualEncoder(dual_config(other, towers["bert"], **sizes))
    with pytest.raises(ValueError, match=r"does not fill a .*missing"):
        deeper.load_starting_weights(other, None)
    with pytest.raises(ValueError, match="'kind'"):
        model.load_starting_weights(towers["deit"], None)
    (other / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": [1]}')
    with pytest.raises(ValueError, match=r"image_mean \[0.5\] .* three numbers each"):
        dual_config(other, towers["bert"], **sizes)
