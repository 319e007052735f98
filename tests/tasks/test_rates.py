"""Schedules and groups as released, and rates of one's own."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.mra import MRA, PAPER, RELEASED, MRAConfig
from models.mra.objectives import PretrainObjective
from models.mra.released import own_names, to_released
from tasks.errors import PedAlignError
from tasks.params import read_yaml
from tasks.provenance import ROOT
from tasks.rates import parameter_groups, schedule_factor, warmup_steps

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "recipe" / "recipe.json"

# What learns twice as fast, under the released names.
RELEASED_DOUBLED = {
    "pretrain": ("crossattention",),
    "finetune": (
        r"vision_encoder\.layers\.[23]\.",
        r"bert\.encoder\.layer\.(4|5|10|11)\.",
        r"text_encoder\.cls",
        "itm_head",
    ),
}


class Toy(nn.Module):
    """Parts with names: body.0, 1 and 3."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1)
        )


def step_of(reading) -> PretrainObjective:
    """An objective of the paper's sizes, without memory."""
    with torch.device("meta"):
        return PretrainObjective(MRA(MRAConfig(reading=reading)))


def test_linear_by_hand():
    factors = [schedule_factor("linear", step, 10, 2) for step in range(11)]
    assert factors[:3] == [0, 0.5, 1]
    assert factors[6] == 0.5
    assert factors[10] == 0


def test_multistep_falls_to_a_tenth_three_times():
    factors = [schedule_factor("multistep", step, 120, 12) for step in range(120)]
    assert factors[:13] == pytest.approx([step / 12 for step in range(13)])
    falls = [at for at in range(13, 120) if factors[at] != factors[at - 1]]
    assert falls == [40, 80, 100]  # LGUR's epochs 20, 40 and 50 of 60
    assert [factors[at] for at in falls] == pytest.approx([0.1, 0.01, 0.001])
    assert schedule_factor("multistep", 119, 120, 12, 0.05) == 0.05


def test_a_floor_is_where_the_schedule_ends():
    # From 1 at step 2 down to 0.1 at step 10.
    factors = [schedule_factor("linear", step, 10, 2, 0.1) for step in range(12)]
    assert factors[:3] == [0, 0.5, 1]
    assert factors[6] == pytest.approx(0.55)
    assert factors[10:] == pytest.approx([0.1, 0.1])
    assert schedule_factor("step", 99, 100, 10, 0.1) == pytest.approx(0.1)


def test_step_by_hand():
    # Warm-up 10 of 100: half from step 40, a fifth from step 70.
    at = {step: schedule_factor("step", step, 100, 10) for step in (5, 10, 39, 40, 69, 70, 99)}
    assert at == pytest.approx(
        {5: 0.5, 10: 1, 39: 61 / 90, 40: 0.5 * 60 / 90, 69: 0.5 * 31 / 90, 70: 0.2 * 30 / 90,
         99: 0.2 / 90}
    )  # fmt: skip


@given(
    st.sampled_from(["linear", "step", "multistep"]),
    st.integers(1, 60),
    st.integers(0, 60),
    st.integers(0, 99),
)
def test_a_factor_is_a_share(schedule, total, warmup, step):
    assert 0 <= schedule_factor(schedule, step, total, warmup) <= 1


def test_warmup_is_steps_or_a_share():
    assert warmup_steps(2600, 9000) == 2600
    assert warmup_steps(0.1, 12_789) == 1278
    assert warmup_steps(0, 100) == 0


@pytest.mark.skipif(not GOLDEN.exists(), reason="the released numbers are not on this machine")
def test_schedules_equal_the_released():
    golden = json.loads(GOLDEN.read_text())["schedules"]
    for name, rates in golden.items():
        kind, size, warm, rate = name.split("_")
        peak, total = float(rate[2:]), math.prod(map(int, size.split("x")))
        warmup = warmup_steps(float(warm.removeprefix("warmup")), total)
        ours = [peak * schedule_factor(kind, step, total, warmup) for step in range(total)]
        assert ours == pytest.approx(rates, rel=1e-9, abs=1e-15)


@pytest.mark.skipif(not GOLDEN.exists(), reason="the released numbers are not on this machine")
@pytest.mark.parametrize(("stage", "rate"), [("pretrain", 5e-5), ("finetune", 1e-4)])
def test_groups_equal_the_released(stage, rate):
    golden = json.loads(GOLDEN.read_text())["param_groups"][stage]
    named = [(name, nn.Parameter(torch.zeros(1))) for name in golden]
    groups = parameter_groups(named, rate, 0.01, dict.fromkeys(RELEASED_DOUBLED[stage], 2.0))
    ours = {name: [g["peak"], g["weight_decay"]] for g in groups for name in g["names"]}
    assert ours == golden


def test_groups_under_our_names_equal_those_under_the_released(start_folder):
    model = MRA.from_pretrained(start_folder)
    faster = {r"encoder\.layer\.[13]\.": 2.0, "itm_head": 3.0}
    ours_too = {r"vision_encoder\.encoder\.layers\.1\.": 2.0, **faster}
    theirs = {r"vision_encoder\.layers\.1\.": 2.0, **faster}

    def by_name(named, patterns) -> dict:
        groups = parameter_groups(named, 1.0, 0.01, patterns)
        return {name: (g["peak"], g["weight_decay"]) for g in groups for name in g["names"]}

    named = dict(model.named_parameters())
    ours = by_name(named.items(), ours_too)
    # A tensor of each parameter's own two numbers travels through the renaming.
    marked = {n: torch.tensor(ours[n]).expand(2, 2) if n in ours else t for n, t in named.items()}
    renamed = to_released(marked)
    wanted = by_name([(name, nn.Parameter(torch.zeros(1))) for name in renamed], theirs)
    assert {n: tuple(t[0].tolist()) for n, t in renamed.items()} == {
        n: pytest.approx(v) for n, v in wanted.items()
    }


def test_what_decays_and_what_learns_twice_as_fast():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layernorm_before, self.head = nn.LayerNorm(2), nn.Linear(2, 2)
            self.frozen = nn.Linear(2, 2).requires_grad_(requires_grad=False)

    groups = parameter_groups(Named().named_parameters(), 0.1, 0.5, {"^head": 2.0})
    found = {name: (g["peak"], g["weight_decay"]) for g in groups for name in g["names"]}
    assert found == {
        "layernorm_before.weight": (0.1, 0.0),
        "layernorm_before.bias": (0.1, 0.0),
        "head.weight": (0.2, 0.5),
        "head.bias": (0.2, 0.0),
    }


def test_an_expression_that_matches_nothing_is_an_error():
    with pytest.raises(PedAlignError, match="nosuch"):
        parameter_groups(Toy().named_parameters(), 0.1, 0.0, {"body": 2.0, "nosuch": 2.0})


def test_each_part_may_have_a_rate_of_its_own():
    groups = parameter_groups(
        Toy().named_parameters(), 0.1, 0.0, {r"body\.0": 0.1, r"body\.0\.w": 0.1, r"body\.3": 3.0}
    )
    peaks = {name: g["peak"] for g in groups for name in g["names"]}
    assert peaks["body.0.weight"] == peaks["body.0.bias"] == pytest.approx(0.01)
    assert peaks["body.1.weight"] == 0.1
    assert peaks["body.3.bias"] == pytest.approx(0.3)
    assert sum(len(g["params"]) for g in groups) == len(list(Toy().parameters()))


def test_two_factors_for_one_parameter_are_an_error():
    with pytest.raises(PedAlignError, match=r"'body' \(2\), 'body.*' \(3\) all match body\.0"):
        parameter_groups(Toy().named_parameters(), 0.1, 0.0, {"body": 2.0, r"body\.0": 3.0})


@pytest.mark.skipif(not GOLDEN.exists(), reason="the released numbers are not on this machine")
@pytest.mark.parametrize(
    ("section", "stage"),
    [
        ("pretrain", "pretrain"),
        ("finetune.datasets.cuhk-pedes", "finetune"),
        ("finetune.datasets.icfg-pedes", "finetune"),
    ],
)
def test_the_full_profiles_groups_are_the_released_under_our_names(section, stage):
    training = read_yaml(ROOT / "profiles" / "sd15.yaml")
    for part in section.split("."):
        training = training[part]
    training = training["training"]
    golden = json.loads(GOLDEN.read_text())["param_groups"][stage]
    wanted = {own: tuple(pair) for name, pair in golden.items() for own in own_names(name)}
    named = [(f"model.{name}", nn.Parameter(torch.zeros(1))) for name in wanted]
    groups = parameter_groups(
        named, training["learning_rate"], training["weight_decay"], training["rates"]
    )
    ours = {
        name.removeprefix("model."): (g["peak"], g["weight_decay"])
        for g in groups
        for name in g["names"]
    }
    assert ours == wanted


@pytest.mark.skipif(not GOLDEN.exists(), reason="the released numbers are not on this machine")
def test_the_released_reading_leaves_the_heads_alone_and_the_papers_doubles_them():
    golden = json.loads(GOLDEN.read_text())["param_groups"]["pretrain"]
    heads = {name for name in golden if name.startswith(("vision_proj", "text_proj"))}
    assert heads
    named = [(name, nn.Parameter(torch.zeros(1))) for name in golden]
    for reading, factor in ((RELEASED, 1), (PAPER, 2)):
        doubled = (*RELEASED_DOUBLED["pretrain"], *step_of(reading).doubled)
        groups = parameter_groups(named, 5e-5, 0.01, dict.fromkeys(doubled, 2.0))
        ours = {name: [g["peak"], g["weight_decay"]] for g in groups for name in g["names"]}
        for name, (rate, decay) in golden.items():
            wanted = [rate * factor if name in heads else rate, decay]
            assert ours[name] == pytest.approx(wanted), name
