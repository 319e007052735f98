"""What a step draws, and its rate."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from models.dad.controlnet import ControlNetObjective, new_controlnet
from tasks.adapt.loop import Loop
from tasks.adapt.train import AdaptParams, Focus
from tasks.diffusion import DiffusionParams, open_base
from tasks.errors import PedAlignError
from tasks.pairs import prepare_pairs
from tasks.params import check_section
from tests.tasks.adapt.conftest import PARAMS, SIZE, changed


def test_focus_draws_its_share_below_its_border():
    generator = torch.Generator().manual_seed(0)
    drawn = Focus(below=0.3, share=0.8).draw(1000, 20_000, generator)
    assert drawn.dtype == torch.int64
    assert (drawn.min(), drawn.max()) == (0, 999)
    assert (drawn < 300).float().mean().item() == pytest.approx(0.8, abs=0.01)
    low, high = drawn[drawn < 300].float(), drawn[drawn >= 300].float()
    assert low.mean().item() == pytest.approx(149.5, abs=4)  # evenly
    assert high.mean().item() == pytest.approx(649.5, abs=10)
    assert Focus(below=0.3, share=1.0).draw(1000, 500, generator).max() < 300
    assert Focus(below=0.001, share=1.0).draw(10, 50, generator).max() == 0
    assert Focus(below=0.999, share=0.0).draw(10, 50, generator).min() == 9


@pytest.mark.parametrize("value", ["some", {"below": 0.0, "share": 1.0}, {"below": 0.5}, 3])
def test_timesteps_are_checked(value):
    section = dataclasses.asdict(PARAMS) | {"timesteps": value}
    with pytest.raises(PedAlignError, match=r"adapt\.timesteps"):
        check_section(AdaptParams, section, "adapt")
    section["timesteps"] = {"below": 0.5, "share": 0.75}
    assert check_section(AdaptParams, section, "adapt").timesteps == Focus(below=0.5, share=0.75)


def loop_of(diffusion: DiffusionParams, shards: Path, folder: Path, section: AdaptParams) -> Loop:
    base = open_base(diffusion, "cpu")
    data = prepare_pairs(shards, base, SIZE, folder / "pairs", mirror=section.flip)
    objective = ControlNetObjective(base, new_controlnet(base), SIZE)
    return Loop(objective, data, section, torch.device("cpu"))


def test_the_rate_warms_up_and_falls(diffusion, shards, tmp_path):
    section = changed(epochs=10, warmup_steps=4, learning_rate=0.8)
    loop = loop_of(diffusion, shards, tmp_path, section)
    falls = {
        "cosine": lambda s: 0.5 * (1 + np.cos(np.pi * s / 10)),
        "linear": lambda s: 1 - s / 10,
        "constant": lambda s: 1.0,
    }
    for name, fall in falls.items():
        loop.section = dataclasses.replace(section, schedule=name)
        rates = []
        for loop.step in range(10):
            rates.append(loop.rate())
        expected = [0.8 * min(1, (s + 1) / 4) * fall(s) for s in range(10)]
        assert rates == pytest.approx(expected), name


def test_an_epoch_takes_every_pair_once_and_half_of_them_mirrored(diffusion, shards, tmp_path):
    section = changed(epochs=300, batch=7, flip=True, prompt_dropout=0.0)
    loop = loop_of(diffusion, shards, tmp_path, section)
    asked: list[tuple[np.ndarray, np.ndarray]] = []
    original = loop.data.read
    object.__setattr__(loop.data, "read", lambda *a: asked.append(a) or original(*a))
    for step in range(300):
        loop.draw(step)
    every = sorted(map(tuple, loop.data.pairs.tolist()))
    assert all(sorted(map(tuple, rows.tolist())) == every for rows, _ in asked)
    assert np.mean([flips.mean() for _, flips in asked]) == pytest.approx(0.5, abs=0.05)
    loop.close()


def test_offset_noise_adds_a_constant_to_each_channel(diffusion, shards, tmp_path):
    plain = loop_of(diffusion, shards, tmp_path, PARAMS)
    offset = loop_of(diffusion, shards, tmp_path, changed(offset_noise=2.0))
    added = []
    for step in range(40):
        (one,), (two,) = plain.draw(step), offset.draw(step)
        assert torch.equal(one.posterior_noise_BChw, two.posterior_noise_BChw)
        change = two.noise_BChw - one.noise_BChw
        assert torch.allclose(change, change[:, :, :1, :1].expand_as(change), atol=1e-5)
        added.append(change[:, :, 0, 0])
    assert torch.stack(added).std().item() == pytest.approx(2.0, rel=0.1)


def test_seed_dropped_prompts_timesteps_and_mirrors_matter(diffusion, shards, tmp_path):
    cases = {"first": {}, "again": {}, "seed": {"seed": 4}, "dropped": {"prompt_dropout": 1.0},
             "kept": {"prompt_dropout": 0.0}, "clean": {"timesteps": Focus(below=0.1, share=1.0)},
             "flip": {"flip": True}, "offset": {"offset_noise": 1.0}}  # fmt: skip
    losses = {}
    for name, values in cases.items():
        loop = loop_of(diffusion, shards, tmp_path / name, changed(**values))
        losses[name] = [loop.advance() for _ in range(loop.steps)]
    assert losses["first"] == losses["again"]
    for name in ("seed", "clean", "flip", "offset"):
        assert losses[name] != losses["first"], name
    assert losses["dropped"][0] != losses["kept"][0]
