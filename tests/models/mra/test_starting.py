"""Starting weights in the layouts they come in: the original Swin's file, old and new BERTs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, SwinConfig, SwinModel

from models.mra import MRA
from models.mra.starting import plain_swin, vision_config

Make = Callable[..., MRA]


def new_swin(**changes: Any) -> SwinModel:
    """A random Swin with two stages of two blocks, of transformers' own class."""
    settings = {
        "image_size": [48, 24], "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2],
        "window_size": 3,
    }  # fmt: skip
    torch.manual_seed(1)
    swin = SwinModel(SwinConfig(**{**settings, **changes}), add_pooling_layer=False).eval()
    for parameter in swin.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return swin


def original(swin: SwinModel) -> dict[str, Tensor]:
    """The same weights under the names of microsoft/Swin-Transformer, with what its files add."""
    config, state = swin.config, swin.state_dict()
    there: dict[str, Tensor] = {}

    def both(new: str, old: str) -> None:
        for kind in ("weight", "bias"):
            if f"{old}.{kind}" in state:
                there[f"{new}.{kind}"] = state[f"{old}.{kind}"].clone()

    both("patch_embed.proj", "embeddings.patch_embeddings.projection")
    both("patch_embed.norm", "embeddings.norm")
    for stage, depth in enumerate(config.depths):
        for block in range(depth):
            new = f"layers.{stage}.blocks.{block}"
            old = f"encoder.{new}"
            both(f"{new}.norm1", f"{old}.layernorm_before")
            both(f"{new}.norm2", f"{old}.layernorm_after")
            both(f"{new}.attn.proj", f"{old}.attention.o_proj")
            both(f"{new}.mlp.fc1", f"{old}.mlp.fc1")
            both(f"{new}.mlp.fc2", f"{old}.mlp.fc2")
            for kind in ("weight", "bias"):
                there[f"{new}.attn.qkv.{kind}"] = torch.cat(
                    [state[f"{old}.attention.{part}_proj.{kind}"] for part in "qkv"]
                )
            table = f"{old}.attention.relative_position_bias.relative_position_bias_table"
            there[f"{new}.attn.relative_position_bias_table"] = state[table].clone()
            there[f"{new}.attn.relative_position_index"] = torch.zeros(9, 9, dtype=torch.int64)
        if stage + 1 < len(config.depths):
            both(f"layers.{stage}.downsample.norm", f"encoder.layers.{stage}.downsample.norm")
            both(
                f"layers.{stage}.downsample.reduction",
                f"encoder.layers.{stage}.downsample.reduction",
            )
    both("norm", "layernorm")
    width = config.embed_dim * 2 ** (len(config.depths) - 1)
    return there | {"head.weight": torch.ones(5, width), "head.bias": torch.ones(5)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Such a file, as it is published."""
    path = tmp_path / "swin_base_patch4_window7_224_22k.pth"
    torch.save({"model": original(new_swin())}, path)
    return path


@torch.no_grad()
def test_the_original_file_computes_what_the_folder_does(
    make_model: Make, file: Path, tmp_path: Path
) -> None:
    swin = new_swin()
    swin.save_pretrained(tmp_path / "swin")
    image = torch.randn(2, 3, 48, 24)
    found = []
    for source in (tmp_path / "swin", file, file.parent / "alone"):
        if source.name == "alone":  # a folder with nothing but the file
            source.mkdir()
            (source / file.name).write_bytes(file.read_bytes())
        model = make_model()
        report = model.load_starting_weights(source, None)
        assert not report["resized"]
        found.append(model.vision_encoder(image))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    # Only the stock class's own rounding differs.
    stock = swin(pixel_values=image).last_hidden_state
    torch.testing.assert_close(found[1][:, 1:], stock, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_stock_swin_of_either_source_is_the_same(file: Path, tmp_path: Path) -> None:
    new_swin().save_pretrained(tmp_path / "swin")
    image = torch.randn(2, 3, 48, 24)
    folder, swin = plain_swin(tmp_path / "swin"), plain_swin(file)
    pooled = folder(pixel_values=image).pooler_output
    assert pooled.shape == (2, 16)
    assert swin.state_dict().keys() == folder.state_dict().keys()
    assert all(torch.equal(a, swin.state_dict()[n]) for n, a in folder.state_dict().items())


@torch.no_grad()
def test_the_four_sub_patches_merge_in_the_original_order(make_model: Make, file: Path) -> None:
    """Rows 0 and 1 of column 0, then of column 1, as in the original's PatchMerging."""
    model = make_model()
    model.load_starting_weights(file, None)
    merge = model.vision_encoder.encoder.layers[0].downsample
    tokens = torch.randn(1, 12 * 6, 8)
    grid = tokens.view(12, 6, 8)
    four = [grid[0, 0], grid[1, 0], grid[0, 1], grid[1, 1]]
    first = merge.reduction(merge.norm(torch.cat(four)))
    torch.testing.assert_close(merge(tokens, (12, 6))[0, 0], first)


def test_sizes_are_read_off_the_file(file: Path, tmp_path: Path) -> None:
    config = vision_config(file)
    assert (config.embed_dim, config.depths, config.num_heads) == (8, [2, 2], [1, 2])
    assert (config.patch_size, config.window_size) == (4, 3)
    new_swin(depths=[2, 1]).save_pretrained(tmp_path / "swin")
    assert vision_config(tmp_path / "swin").depths == [2, 1]


def test_tables_of_another_window_are_resized(make_model: Make, tmp_path: Path) -> None:
    """Window 7 to 3 as from 224 x 224 to a small image; the plain state dict is read too."""
    weights = original(new_swin(image_size=[112, 112], window_size=7))
    torch.save(weights, tmp_path / "swin.pth")
    model = make_model()
    report = model.load_starting_weights(tmp_path / "swin.pth", None)
    assert len(report["resized"]) == 4
    assert all(name.startswith("vision_encoder.") for name in report["resized"])
    (table, *_) = [
        tensor for name, tensor in model.state_dict().items() if name.endswith("bias_table")
    ]
    assert table.shape == (25, 1)


def test_files_that_do_not_fit_are_refused(make_model: Make, tmp_path: Path) -> None:
    cases = {
        "width": original(new_swin(embed_dim=4)),
        "missing": {n: t for n, t in original(new_swin()).items() if "fc1" not in n},
        "layers.0.blocks.0": {"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)},
        "patch_embed": {"conv1.weight": torch.zeros(1)},
        "no state dict": torch.zeros(1),
        "could run code": {"model": math.gcd},
    }
    rules = {"width": "embed_dim", "missing": "fc1"}
    for name, content in cases.items():
        path = tmp_path / "swin.pth"
        torch.save(content, path)
        with pytest.raises(ValueError, match=rules.get(name, name)):
            make_model().load_starting_weights(path, None)
    with pytest.raises(ValueError, match="no such file"):
        vision_config(tmp_path / "absent.pth")
    torch.save({}, tmp_path / "second.pth")
    with pytest.raises(ValueError, match="name the one"):
        vision_config(tmp_path)


# --- BERT -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert() -> BertForMaskedLM:
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=24,
    )  # fmt: skip
    model = BertForMaskedLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("binary", [True, False], ids=["bin", "safetensors"])
@pytest.mark.parametrize("old", [True, False], ids=["gamma", "weight"])
@pytest.mark.parametrize("prefix", [True, False], ids=["bert", "bare"])
@pytest.mark.parametrize("head", [True, False], ids=["cls", "headless"])
def test_any_layout_of_bert(
    make_model: Make, bert: BertForMaskedLM, tmp_path: Path, binary: bool, old: bool,
    prefix: bool, head: bool,
) -> None:  # fmt: skip
    state = {}
    for name, tensor in bert.state_dict().items():
        if name.startswith("cls.") and not head:
            continue
        if name.startswith("cls.predictions.decoder"):
            continue  # tied: files may leave it out
        there = name if prefix else name.removeprefix("bert.")
        if old:
            there = there.replace("LayerNorm.weight", "LayerNorm.gamma")
            there = there.replace("LayerNorm.bias", "LayerNorm.beta")
        state[there] = tensor.clone()
    state["bert.pooler.dense.weight" if prefix else "pooler.dense.weight"] = torch.zeros(16, 16)
    if head:
        state["cls.seq_relationship.weight"] = torch.zeros(2, 16)
    bert.config.save_pretrained(tmp_path)
    if binary:
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})

    model = make_model()
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = model.load_starting_weights(None, tmp_path)
    for name, tensor in bert.state_dict().items():
        found = model.state_dict()[f"text_encoder.{name}"]
        taken = head or not name.startswith("cls.") or name.endswith("decoder.weight")
        assert torch.equal(found, tensor if taken else fresh[f"text_encoder.{name}"]), name
    crossing = {name for name in report["new"] if "crossattention" in name}
    assert crossing
    rest = {name for name in report["new"] if name.startswith("text_encoder.")} - crossing
    assert bool(rest) != head
    assert all(name.startswith("text_encoder.cls.") for name in rest)
