"""From one road's checkpoint on the other: what carries over, what starts afresh."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from models.dual import DualEncoder
from models.dual.granularity import GranularityConfig
from models.mra import MRA, MRAConfig
from tests.towers import Towers

PARTS = GranularityConfig(parts=2, part_dim=3, depth=1, heads=2, head_dim=4, inner_dim=6)
SIZES = MRAConfig(
    image_size=(48, 24), vision_dim=8, depths=(2, 2), vision_heads=(1, 2), window_size=3,
    vocab_size=40, text_dim=16, text_layers=1, fusion_layers=2, text_heads=2, text_inner_dim=32,
    max_positions=24, max_tokens=20, embed_dim=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Towers:
    """Tiny towers of every kind."""
    return Towers(tmp_path_factory.mktemp("towers"))


def new_mra(**changes: Any) -> MRA:
    torch.manual_seed(7)
    return MRA(dataclasses.replace(SIZES, **changes)).eval()


@torch.no_grad()
def test_an_mra_takes_both_encoders_of_a_dual_one(
    towers: Towers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "models.dual.continuing")
    dual = towers.model("swin")
    dual.save_pretrained(tmp_path)
    model = new_mra()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = model.start_from(tmp_path)
    assert "20 of text_encoder" in caplog.messages[-1]  # ten of cross-attention in either layer
    image = torch.randn(2, 3, 48, 24)
    assert torch.equal(model.encode_image(image)[0], dual.image_states(image))
    # The text layers are BERT's lower ones, so the model of the plain BERT has the same tokens.
    plain = new_mra()
    plain.load_starting_weights(towers["swin"], towers["bert"])
    ids = torch.randint(5, 40, (2, 6))
    mask = torch.ones_like(ids)
    text, expected = (each.encode_text(ids, mask)[0] for each in (model, plain))
    torch.testing.assert_close(text, expected)
    # New are what fuses and every head; BERT's upper layers and its MLM head came along.
    heads = ("vision_proj.", "text_proj.", "itm_head.", "temp")
    assert report["resized"] == []
    assert all(n.startswith(heads) or ".crossattention." in n for n in report["new"])
    assert any(".crossattention." in name for name in report["new"])
    loaded = set(report["loaded"])
    assert "text_encoder.bert.encoder.layer.2.output.dense.weight" in loaded
    assert "text_encoder.cls.predictions.transform.dense.weight" in loaded
    assert loaded | set(report["new"]) == {name for name, _ in model.named_parameters()}
    after = model.state_dict()
    for name in report["new"]:
        assert torch.equal(before[name], after[name])
    own = dual.state_dict()
    for name in report["loaded"]:
        assert torch.equal(after[name], own[name])


def test_tables_follow_the_window(towers: Towers, tmp_path: Path) -> None:
    towers.model("swin").save_pretrained(tmp_path)
    report = new_mra(image_size=(64, 32), window_size=4).start_from(tmp_path)
    assert len(report["resized"]) == 4


@pytest.mark.parametrize(
    ("vision", "text", "message"),
    [
        ("vit", "bert", "a dual encoder of a vit and a bert; MRA is made of a Swin and a BERT"),
        ("swin", "clip", "a dual encoder of a swin and a clip"),
    ],
)
def test_an_mra_of_other_towers_is_refused(
    vision: str, text: str, message: str, towers: Towers, tmp_path: Path
) -> None:
    towers.model(vision, text).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        new_mra().start_from(tmp_path)


def test_other_sizes_are_named(towers: Towers, tmp_path: Path) -> None:
    towers.model("swin").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"\{'layers': \(3, 4\)\}: starting weights fit"):
        new_mra(fusion_layers=3).start_from(tmp_path)
    with pytest.raises(ValueError, match=r"'heads': \(\(1, 2\), \(2, 2\)\)"):
        new_mra(vision_heads=(2, 2)).start_from(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        new_mra().start_from(tmp_path / "nothing")


@torch.no_grad()
def test_a_dual_encoder_takes_what_it_shares(towers: Towers, tmp_path: Path) -> None:
    torch.manual_seed(3)
    first = DualEncoder(towers.config("deit", granularity=PARTS))
    first.save_pretrained(tmp_path)
    same = DualEncoder(towers.config("deit", granularity=PARTS))
    assert same.start_from(tmp_path)["new"] == []
    assert all(torch.equal(t, same.state_dict()[n]) for n, t in first.state_dict().items())
    wider = DualEncoder(towers.config("deit", embed_dim=14, granularity=PARTS))
    new = wider.start_from(tmp_path)["new"]
    assert {name.split(".")[0] for name in new} == {"vision_proj", "text_proj", "granularity"}
    larger = DualEncoder(towers.config("deit", image_size=(48, 16)))
    assert larger.start_from(tmp_path)["resized"] == ["vision_encoder.positions_1PD"]
    with pytest.raises(ValueError, match="'kind': \\('deit', 'vit'\\)"):
        DualEncoder(towers.config("vit")).start_from(tmp_path)


@torch.no_grad()
def test_a_dual_encoder_takes_an_mras_encoders_without_what_fuses(
    towers: Towers, tmp_path: Path
) -> None:
    mra = new_mra()
    mra.save_pretrained(tmp_path)
    model = DualEncoder(towers.config("swin")).eval()
    report = model.start_from(tmp_path)
    assert {name.split(".")[0] for name in report["new"]} == {"vision_proj", "text_proj"}
    image = torch.randn(2, 3, 48, 24)
    assert torch.equal(model.image_states(image), mra.encode_image(image)[0])
