"""Parity: folders at any size are read, every quantity is compared, and a wrong one is seen."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tasks.errors import PedAlignError
from tasks.parity import compare_model, compare_recipe, failed, parity, report
from tasks.parity.recipe import FACTORS
from tests.golden import ROOT, write_golden
from tests.second_model import Size

SIZES = {
    "windows no larger than the grid": Size(),
    "token head, window 7, smoothing": Size(
        token_head=True, window=7, image=(112, 56), depths=(2, 2), heads=(1, 2), fusion_layer=2,
        smoothing=0.2, temp=0.05,
    ),
    "8 and 4 in the last stage": Size(
        image=(384, 256), window=8, depths=(1, 2, 1, 2), heads=(1, 1, 2, 4), dim=2, gallery=4,
        queries=4,
    ),
    "224 squared": Size(
        image=(224, 224), window=7, depths=(1, 1, 2, 2), heads=(1, 1, 2, 4), dim=2, layers=4,
        gallery=4, queries=4,
    ),
    "two stages, another region weight": Size(
        image=(48, 24), window=3, depths=(2, 2), heads=(1, 2), length=56, positions=60,
        region_weight=0.5, k_test=7,
    ),
    "no regions, wide image": Size(
        image=(32, 64), depths=(2, 2), heads=(1, 2), region_weight=0.0, token_head=True,
    ),
}  # fmt: skip
INPUTS = re.compile(
    r"(enc|obj|eval)\.(image|ids|mask|idx|masked_ids|masked_pos|mlm_labels|region_ids|region_mask"
    r"|box_atts|label|gallery_pids|query_pids)"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A folder of the smallest size; take a copy to change it."""
    return write_golden(
        tmp_path_factory.mktemp("golden") / "small", SIZES["no regions, wide image"]
    )


@pytest.fixture
def copied(small, tmp_path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "small"))


def change(path: Path, name: str, how) -> None:
    tensors = load_file(path)
    tensors[name] = how(tensors[name])
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_any_size_agrees_and_every_quantity_is_compared(size, tmp_path):
    folder = write_golden(tmp_path / "folder", size)
    rows = compare_model(folder)
    assert not failed(rows), "\n".join(row.line(70) for row in failed(rows))
    names = {row.name for row in rows}
    vectors = load_file(folder / "vectors.safetensors")
    assert {name for name in vectors if not INPUTS.fullmatch(name)} <= names
    assert any(name.startswith("grad_norm.vision_encoder.layers.1") for name in names)
    assert {"weights", "weights.derived", "eval.ids of texts"} <= names


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("enc.image_embeds", lambda x: x * 1.001),
        ("enc.text_feat", lambda x: x + 4e-4 * x.abs().max() * torch.eye(*x.shape)),
        ("enc.loss_itc", lambda x: x + 0.002),
        ("enc.itm_logits", lambda x: x[:, :1]),
        ("enc.cross_embeds", lambda x: x * float("nan")),
        ("obj.total", lambda x: x * 1.0005),
        ("grad_norm.vision_encoder.layers.0.blocks.0.attn.qkv.weight", lambda x: x * 1.02),
        ("grad_norm.temp", lambda x: x * 0),
        ("eval.score", lambda x: x.flip(1)),
        ("eval_flip.sims", lambda x: x * 1.001),
        ("eval.itc.mAP", lambda x: x + 0.01),
        ("eval_flip.rerank.R5", lambda x: x - 100 / 9),
    ],
)  # fmt: skip
def test_a_wrong_quantity_fails_alone(copied, name, how):
    change(copied / "vectors.safetensors", name, how)
    assert [row.name for row in failed(compare_model(copied))] == [name]


def test_small_differences_pass(copied):
    path = copied / "vectors.safetensors"
    change(path, "enc.image_embeds", lambda x: x * 1.0001)
    change(path, "eval.itc.mAP", lambda x: x + 0.004)
    change(path, "grad_norm.temp", lambda x: x * 1.008)
    assert not failed(compare_model(copied))


def test_a_wrong_weight_shows(copied):
    name = "text_encoder.bert.encoder.layer.1.crossattention.self.key.weight"
    change(copied / "weights.safetensors", name, lambda x: x * 1.1)
    names = [row.name for row in failed(compare_model(copied))]
    assert {"enc.cross_embeds", "enc.itm_logits", "obj.total", "eval.score"} <= set(names)
    assert not {"enc.image_embeds", "enc.text_embeds", "eval.sims"} & set(names)


@pytest.mark.parametrize(
    "name",
    [
        "vision_encoder.layers.0.blocks.1.attn_mask",
        "vision_encoder.layers.0.blocks.0.attn.relative_position_index",
    ],
)
def test_stored_buffers_are_compared(copied, name):
    change(copied / "weights.safetensors", name, lambda x: x.flip(0))
    (row,) = failed(compare_model(copied))
    assert row.name == "weights.derived"
    assert name in row.note


@pytest.mark.parametrize(
    "name", ["enc.aura", "eval.rerank.mood", "grad_norm.vision_encoder.soul", "later.loss"]
)
def test_an_unknown_quantity_is_a_failure(copied, name):
    path = copied / "vectors.safetensors"
    save_file({**load_file(path), name: torch.ones(1)}, path)
    (row,) = failed(compare_model(copied))
    assert row.name == name
    assert "not compared" in row.note


def test_a_gradient_without_reference_is_a_failure(copied):
    path = copied / "vectors.safetensors"
    tensors = load_file(path)
    del tensors["grad_norm.temp"]
    save_file(tensors, path)
    (row,) = failed(compare_model(copied))
    assert "temp" in row.note


def test_other_pieces_of_the_texts_fail(copied):
    path = copied / "config.json"
    settings = json.loads(path.read_text())
    settings["texts"][0] = "a"
    path.write_text(json.dumps(settings))
    assert [row.name for row in failed(compare_model(copied))] == ["eval.ids of texts"]


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "vectors.safetensors"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"\x00" * 9)])
def test_a_missing_or_damaged_file_is_named(copied, name, damage):
    damage(copied / name)
    with pytest.raises(PedAlignError, match=name):
        parity(copied)


def test_a_missing_input_is_named(copied):
    path = copied / "vectors.safetensors"
    tensors = load_file(path)
    del tensors["enc.mask"]
    save_file(tensors, path)
    with pytest.raises(PedAlignError, match=r"enc\.mask"):
        parity(copied)


def test_weights_of_another_config_are_an_error(copied):
    path = copied / "config.json"
    settings = json.loads(path.read_text())
    settings["text"]["hidden_size"] = 24
    path.write_text(json.dumps(settings))
    with pytest.raises(PedAlignError, match="hidden_size"):
        parity(copied)


# ------------------------------------------------------------------ recipe

NAMES = {
    "temp": [1.0, 0.01],
    "vision_encoder.layers.1.blocks.0.attn.qkv.bias": [1.0, 0.0],
    "vision_encoder.layers.2.blocks.0.attn.qkv.weight": [2.0, 0.01],
    "vision_encoder.layers.3.blocks.0.attn.relative_position_bias_table": [2.0, 0.0],
    "text_encoder.bert.encoder.layer.1.attention.self.key.weight": [1.0, 0.01],
    "text_encoder.bert.encoder.layer.11.crossattention.self.key.weight": [2.0, 0.01],
    "text_encoder.cls.predictions.transform.LayerNorm.weight": [2.0, 0.0],
    "vision_proj.2.weight": [1.0, 0.01],
    "itm_head.1.weight": [2.0, 0.01],
}
"""What fine-tuning does with them, by hand, for a base rate of 1."""


def write_recipe(folder: Path) -> Path:
    """A recipe worked out by hand."""
    folder.mkdir()
    pretrain = {
        name: [0.0004 if "crossattention" in name else 0.0002, decay]
        for name, (_, decay) in NAMES.items()
    }
    tables = torch.randn(49, 3, generator=torch.Generator().manual_seed(0))
    save_file(
        {"4to4.in": tables, "4to4.out": tables.clone()}, folder / "position_tables.safetensors"
    )
    recipe = {
        "param_groups": {
            "pretrain": pretrain,
            "finetune": {name: [3e-4 * rate, decay] for name, (rate, decay) in NAMES.items()},
        },
        "schedules": {
            "linear_2x3_warmup2_lr0.1": [0.0, 0.05, 0.1, 0.075, 0.05, 0.025],
            # Warm-up of one: half from step 4 on.
            "step_1x6_warmup0.2_lr1": [0.0, 1.0, 0.8, 0.6, 0.5 * 0.4, 0.5 * 0.2],
        },
        "patch_masks": [
            {"image": [64, 96], "box_xywh": [33.0, 0.0, 10.0, 33.0], "mask": [0, 0, 1, 0, 0, 1, 0]},
            {"image": [64, 96], "box_xywh": [31.5, 40.0, 1.0, 0.5], "mask": [0, 0, 0, 0, 1, 1, 0]},
        ],
        "captions": [
            {"caption": "A T-shirt!", "icfg_rstp": True, "max_words": 56, "out": "a t shirt "},
            {"caption": "A T-shirt, red", "icfg_rstp": False, "max_words": 2, "out": "A T-shirt,"},
        ],
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


def test_a_recipe_worked_out_by_hand_agrees(tmp_path):
    rows = compare_recipe(write_recipe(tmp_path / "recipe"))
    assert not failed(rows), "\n".join(row.line(40) for row in failed(rows))
    assert [row.name.split(".")[0] for row in rows] == [
        "param_groups", "param_groups", "schedules", "schedules", "patch_masks", "captions",
        "position_tables",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "value", "name"),
    [
        (("param_groups", "finetune", "itm_head.1.weight"), [6e-4, 0.0], "param_groups.finetune"),
        (("param_groups", "finetune", "vision_proj.2.weight"), [6e-4, 0.01],
         "param_groups.finetune"),
        (("param_groups", "pretrain", "temp"), [0.0003, 0.01], "param_groups.pretrain"),
        (("param_groups", "dream"), {}, "param_groups.dream"),
        (("schedules", "linear_2x3_warmup2_lr0.1", 3), 0.0751,
         "schedules.linear_2x3_warmup2_lr0.1"),
        (("schedules", "cosine_2x3_warmup2_lr0.1"), [0.0], "schedules.cosine_2x3_warmup2_lr0.1"),
        (("patch_masks", 1, "mask", 4), 0, "patch_masks"),
        (("captions", 0, "out"), "a t shirt", "captions"),
        (("augmentation",), [1, 2], "augmentation"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_fails(tmp_path, where, value, name):
    folder = write_recipe(tmp_path / "recipe")
    recipe = json.loads((folder / "recipe.json").read_text())
    place = recipe
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert name in [row.name for row in failed(compare_recipe(folder))]


@pytest.mark.parametrize(
    ("tables", "name"),
    [
        ({"4to4.in": torch.zeros(49, 1), "4to4.out": torch.full((49, 1), 0.002)}, "4to4"),
        ({"4to5.in": torch.zeros(49, 1), "4to5.out": torch.zeros(49, 1)}, "4to5"),
        ({"2to4.in": torch.zeros(9, 1), "2to4.out": torch.zeros(49, 1)}, "2to4"),
        ({"8to8.out": torch.zeros(225, 1)}, "8to8.out"),
        ({"bias": torch.zeros(1)}, "bias"),
    ],
)
def test_a_wrong_position_table_fails(tmp_path, tables, name):
    folder = write_recipe(tmp_path / "recipe")
    save_file(tables, folder / "position_tables.safetensors")
    assert [row.name for row in failed(compare_recipe(folder))] == [f"position_tables.{name}"]


@pytest.mark.parametrize("name", ["recipe.json", "position_tables.safetensors"])
def test_a_missing_file_of_a_recipe_is_named(tmp_path, name):
    folder = write_recipe(tmp_path / "recipe")
    (folder / name).unlink()
    with pytest.raises(PedAlignError, match=name):
        parity(folder)


def test_files_without_any_quantity_are_an_error(tmp_path):
    folder = write_recipe(tmp_path / "recipe")
    (folder / "recipe.json").write_text("{}")
    save_file({}, folder / "position_tables.safetensors")
    with pytest.raises(PedAlignError, match="no quantity"):
        parity(folder)


def test_a_recipe_of_another_layout_is_an_error(tmp_path):
    folder = write_recipe(tmp_path / "recipe")
    (folder / "recipe.json").write_text(json.dumps({"captions": [{"text": "a"}]}))
    with pytest.raises(PedAlignError, match="captions"):
        parity(folder)


def test_faster_parameters_are_those_of_the_published_profile():
    profile = yaml.safe_load((ROOT / "profiles" / "sd15.yaml").read_text())
    assert profile["pretrain"]["training"]["rates"] == FACTORS["pretrain"]
    for section in profile["finetune"]["datasets"].values():
        assert section["training"]["rates"] == FACTORS["finetune"]


# ------------------------------------------------------------------ folders of folders


def test_a_folder_of_folders_gives_each(copied, tmp_path):
    write_recipe(tmp_path / "recipe")
    (tmp_path / "notes").mkdir()
    found = parity(tmp_path)
    assert list(found) == ["recipe", "small"]
    text = report(found)
    for row in [row for rows in found.values() for row in rows]:
        assert sum(line.strip().startswith(f"{row.name} ") for line in text.splitlines()) >= 1
    assert text.count("0 failed") == 2


@pytest.mark.parametrize("name", [".", "absent"])
def test_no_reference_numbers_is_an_error(tmp_path, name):
    with pytest.raises(PedAlignError, match="reference numbers"):
        parity(tmp_path / name)
