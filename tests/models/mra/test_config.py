from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from models.mra import MRA, PAPER, RELEASED, MRAConfig, Reading, reading_of
from models.mra.config import fit_window


def test_the_paper_size_has_226_58_million_parameters() -> None:
    with torch.device("meta"):
        model = MRA(MRAConfig())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 226_586_869
    # By part: Swin-B 86.7, BERT without pooler 108.9, cross-attention 16.5 (query and
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
    with pytest.raises(ValueError, match="an older version wrote it"):
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


def test_a_reading_by_name_or_as_a_named_one_with_changes() -> None:
    assert reading_of("paper") == PAPER
    assert reading_of({"like": "released"}) == RELEASED
    changed = reading_of({"like": "paper", "region_token": False, "score_processes": 4})
    assert changed == dataclasses.replace(PAPER, region_token=False, score_processes=4)
    assert reading_of(dataclasses.asdict(RELEASED)) == RELEASED


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("author", "author.*choose one of"),
        ({"like": "author"}, "author"),
        ({"like": "paper", "regions": True}, "regions.*its fields are"),
        ({"region_token": True}, "without.*beta_twice.*like: paper"),
        ({"like": "paper", "region_token": 1}, "region_token 1: it is true or false"),
        ({"like": "paper", "score_processes": True}, "a whole number from 1 on"),
        ({"like": "paper", "score_processes": 0}, "a whole number from 1 on"),
    ],
)
def test_an_impossible_reading_names_the_remedy(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reading_of(wrong)


def test_readings_differ_in_every_field_but_the_one_that_both_leave_off() -> None:
    fields = {field.name for field in dataclasses.fields(Reading)}
    same = {name for name in fields if getattr(PAPER, name) == getattr(RELEASED, name)}
    assert same == {"region_heads"}
    assert not PAPER.region_heads


def test_heads_of_their_own_do_not_fit_the_papers_count() -> None:
    with torch.device("meta"):
        model = MRA(MRAConfig(reading=reading_of({"like": "paper", "region_heads": True})))
    count = sum(parameter.numel() for parameter in model.parameters())
    heads = 2 * (2 * 3072 + 3072 * 2048 + 2048)
    assert count == 226_586_869 + heads  # 239.2 M, where the paper says 226.5 M


def test_a_checkpoint_of_a_newer_version_is_refused() -> None:
    data = MRAConfig().to_dict()
    data["reading"] = {**data["reading"], "colour": True}
    with pytest.raises(ValueError, match=r"with \['colour'\]: this version does not know"):
        MRAConfig.from_dict(data)
