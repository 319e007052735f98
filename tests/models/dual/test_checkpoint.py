"""Folders of dual encoders: a round trip, another image size, other parts, damage."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoint_files import model_type
from models.dual import DualConfig, DualEncoder
from models.dual.granularity import GranularityConfig
from models.dual.vision import resize_positions
from tests.towers import Towers

PARTS = GranularityConfig(parts=2, part_dim=3, depth=1, heads=2, head_dim=4, inner_dim=6)
KINDS = [("vit", "bert"), ("deit", "clip"), ("clip", "clip"), ("swin", "bert")]


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Towers:
    """Tiny towers of every kind."""
    return Towers(tmp_path_factory.mktemp("towers"))


@torch.no_grad()
@pytest.mark.parametrize(("vision", "text"), KINDS)
def test_a_round_trip_keeps_config_weights_and_features(
    vision: str, text: str, towers: Towers, tmp_path: Path
) -> None:
    model = towers.model(vision, text, granularity=PARTS, drop_path=0.1)
    model.save_pretrained(tmp_path)
    assert model_type(tmp_path) == "dual"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = DualEncoder.from_pretrained(tmp_path).eval()
    assert loaded.config == model.config
    assert DualConfig.from_dict(json.loads(json.dumps(model.config.to_dict()))) == model.config
    own, others = model.state_dict(), loaded.state_dict()
    assert own.keys() == others.keys()
    assert all(torch.equal(own[name], others[name]) for name in own)
    image = torch.randn(2, 3, *model.config.image_size)
    assert torch.equal(model.encode_image(image)[1], loaded.encode_image(image)[1])


def test_another_image_size_resizes_positions_alone(towers: Towers, tmp_path: Path) -> None:
    model = towers.model("deit")
    model.save_pretrained(tmp_path)
    loaded = DualEncoder.from_pretrained(tmp_path, image_size=(48, 16), vision_dropout=0.1)
    assert loaded.config.image_size == (48, 16)
    assert loaded.config.vision_dropout == 0.1
    own, others = model.state_dict(), loaded.state_dict()
    changed = {name for name in own if not torch.equal(own[name], others[name])}
    table = "vision_encoder.positions_1PD"
    assert changed == {table}
    assert torch.equal(others[table], resize_positions(own[table], 2, (4, 4), (6, 2)))
    assert loaded.eval().encode_image(torch.randn(1, 3, 48, 16))[0].shape == (1, 14, 12)
    # Back and forth is another table than before, but saving there and loading is not.
    loaded.save_pretrained(tmp_path / "again")
    again = DualEncoder.from_pretrained(tmp_path / "again")
    assert torch.equal(again.state_dict()[table], others[table])


def test_swins_tables_follow_window_and_image(towers: Towers, tmp_path: Path) -> None:
    towers.model("swin").save_pretrained(tmp_path)
    loaded = DualEncoder.from_pretrained(tmp_path, image_size=(64, 32), window_size=4)
    tables = [t for name, t in loaded.state_dict().items() if name.endswith("bias_table")]
    assert [len(table) for table in tables] == [49] * 4
    assert loaded.eval().encode_image(torch.randn(1, 3, 64, 32))[0].shape == (1, 1 + 8 * 4, 12)


def test_other_parts_start_afresh_and_the_same_are_kept(towers: Towers, tmp_path: Path) -> None:
    towers.model(granularity=PARTS).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    other = {"parts": 3, "part_dim": 3, "depth": 1, "heads": 2, "head_dim": 4, "inner_dim": 6}
    without = DualEncoder.from_pretrained(tmp_path, granularity=None)
    assert without.granularity is None
    found = []
    for _ in range(2):
        torch.manual_seed(4)
        model = DualEncoder.from_pretrained(tmp_path, granularity=other)
        assert model.config.granularity == GranularityConfig(**other)
        found.append(model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    for name, tensor in without.state_dict().items():
        assert torch.equal(tensor, found[0][name])
    ranked = dataclasses.replace(PARTS, ranks="both")  # which decides no weight
    same = DualEncoder.from_pretrained(tmp_path, granularity=ranked).state_dict()
    assert all(torch.equal(same[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (33, 32)}, "sides are multiples of the patch"),
        ({"embed_dim": 13}, r"another shape: .*text_proj.*13.*only the image size"),
        ({"window_size": 3}, "window_size 3 for a vit: only a Swin"),
        ({"size": 3}, r"changes \['size'\]: fields are"),
        ({"granularity": {"pieces": 3}}, r"granularity with \['pieces'\]"),
    ],
)
def test_changes_that_cannot_be(
    changes: dict[str, Any], message: str, towers: Towers, tmp_path: Path
) -> None:
    towers.model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        DualEncoder.from_pretrained(tmp_path, **changes)


def test_damaged_folders_are_named(towers: Towers, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config.json: no such file; give a folder"):
        DualEncoder.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model_type is 'vit', not 'dual'; give a folder"):
        DualEncoder.from_pretrained(towers["vit"])
    with pytest.raises(ValueError, match=r"'bert'; a checkpoint's is mra or dual"):
        model_type(towers["bert"])
    towers.model().save_pretrained(tmp_path)
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    text = config.read_text()
    data = json.loads(text)
    for change, message in [
        ({"colour": 1}, r"config.json: config with \['colour'\]"),
        ({"vision": {"kind": "resnet"}}, "vision of kind 'resnet'"),
        ({"text": {"kind": "bert"}}, r"text without \['dim', 'heads'"),
        ({"image_size": [0, 16]}, "config.json: image_size"),
    ]:
        config.write_text(json.dumps(data | change))
        with pytest.raises(ValueError, match=message):
            DualEncoder.from_pretrained(tmp_path)
    config.write_text("[")
    with pytest.raises(ValueError, match="it should be JSON"):
        DualEncoder.from_pretrained(tmp_path)
    config.write_text(text)
    weights = load_file(file)
    first, *_ = weights
    save_file(
        {name: t for name, t in weights.items() if name != first} | {"x": weights[first]}, file
    )
    with pytest.raises(ValueError, match=r"tensors missing \[.*\], unknown \['x'\]"):
        DualEncoder.from_pretrained(tmp_path)
    file.write_bytes(b"no")
    with pytest.raises(ValueError, match="as safetensors"):
        DualEncoder.from_pretrained(tmp_path)
