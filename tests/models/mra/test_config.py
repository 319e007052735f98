from __future__ import annotations

import dataclasses

import pytest
import torch

from models.mra import MRA, PAPER, RELEASED, MRAConfig
from models.mra.config import fit_window


def test_the_paper_size_has_226_58_million_parameters() -> None:
    with torch.device("meta"):
        model = MRA(MRAConfig())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 226_586_869
    # By part (PAPERS 1.5): Swin-B 86.7, BERT without pooler 108.9, cross-attention 16.5 (query and
    # output 768x768, key and value 1024x768, LayerNorm), heads 12.6, ITM 1.2, MLM 0.6.
    names = dict(model.named_parameters())
    crossing = sum(p.numel() for name, p in names.items() if "crossattention" in name)
    assert crossing == 6 * (2 * (768 * 768 + 768) + 2 * (1024 * 768 + 768) + 2 * 768)
    heads = sum(p.numel() for name, p in names.items() if "_proj." in name[:13])
    assert heads == 2 * (3072 * 2048 + 2048 + 2 * 3072)


def test_the_token_head_is_two_linear_maps() -> None:
    with torch.device("meta"):
        model = MRA(MRAConfig(head="token", embed_dim=256))
    assert model.vision_proj.weight.shape == (256, 1024)
    assert model.text_proj.weight.shape == (256, 768)


@pytest.mark.parametrize(
    ("grid", "window", "fitted"),
    [
        ((56, 56), 7, 7),
        ((7, 7), 7, 7),
        ((24, 16), 8, 8),
        ((12, 8), 8, 4),  # the released exception of the last stage at 384x256
        ((4, 2), 4, 2),
        ((24, 12), 7, 6),
        ((12, 6), 6, 6),
        ((13, 7), 5, 5),  # no common divisor: padded
        ((3, 1), 7, 1),
    ],
)
def test_windows_fit_the_grid(grid: tuple[int, int], window: int, fitted: int) -> None:
    assert fit_window(grid, window) == fitted


def test_windows_of_both_published_sizes() -> None:
    assert MRAConfig().windows == (7, 7, 7, 7)
    finetuning = MRAConfig(image_size=(384, 256), window_size=8)
    assert finetuning.windows == (8, 8, 8, 4)
    assert finetuning.grid == (12, 8)
    assert finetuning.stride == 32


def test_a_config_survives_json() -> None:
    config = MRAConfig(reading=dataclasses.replace(PAPER, pool_pads=True), stage_windows=(4,) * 4)
    data = config.to_dict()
    data["image_size"] = list(data["image_size"])
    data["stage_windows"] = list(data["stage_windows"])
    assert MRAConfig.from_dict(data) == config


def test_unknown_keys_and_a_missing_reading_are_errors() -> None:
    data = MRAConfig(reading=RELEASED).to_dict()
    with pytest.raises(ValueError, match="colour"):
        MRAConfig.from_dict({**data, "colour": 1})
    with pytest.raises(ValueError, match="carries its reading"):
        MRAConfig.from_dict({k: v for k, v in data.items() if k != "reading"})
    with pytest.raises(ValueError, match="exactly the keys"):
        MRAConfig.from_dict({**data, "reading": {"beta_twice": True}})


@pytest.mark.parametrize(
    "wrong",
    [
        {"vision_heads": (4, 8)},
        {"vision_heads": (3, 8, 16, 32)},
        {"stage_windows": (7,)},
        {"text_heads": 7},
        {"max_tokens": 513},
        {"head": "grid"},
        {"fusion_layers": 0},
        {"image_size": (225, 224)},
    ],
)
def test_impossible_sizes_name_the_value_and_the_remedy(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+: .+") as error:
        MRAConfig(**wrong)  # type: ignore[arg-type]
    assert str(next(iter(wrong.values()))) in str(error.value)
