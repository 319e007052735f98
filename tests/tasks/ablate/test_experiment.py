"""Experiment files: what is read, and what is refused before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.ablate.experiment import Experiment, read_experiment
from tasks.ablate.plan import costs, make_plan, table
from tasks.errors import PedAlignError
from tasks.provenance import ROOT

DVC = ROOT / "dvc.yaml"
PLAIN = {"restyle.mode": "none", "inputs.dad": "data/nothing"}
IMAGE = {"pretrain.objective.region_weight": 0.0}


def write(folder: Path, changes: dict[str, Any], **more: Any) -> Path:
    """An experiment on the profile tiny."""
    written = {name: {"change": change} for name, change in changes.items()}
    told = {
        "profile": str(ROOT / "profiles" / "tiny.yaml"),
        "note": "For a test.",
        "finetune": "target",
        "direct": "direct",
        "tuned": "finetuned",
        "seeds": 2,
        "arms": written,
        "contrasts": {},
    } | more
    path = folder / "small.yaml"
    with path.open("w", encoding="utf-8") as sink:
        YAML().dump(told, sink)
    return path


def read(folder: Path, changes: dict[str, Any], **more: Any) -> Experiment:
    return read_experiment(write(folder, changes, **more))


def refusal(folder: Path, changes: dict[str, Any], **more: Any) -> str:
    """What is said of a bad experiment."""
    with pytest.raises(PedAlignError) as caught:
        make_plan(read(folder, changes, **more), DVC)
    return str(caught.value)


def test_an_arm_is_the_profile_with_changes(tmp_path: Path) -> None:
    arm = read(tmp_path, {"image": IMAGE}).arms["image"]
    assert arm.seeds == (0, 1)
    assert arm.params["pretrain"]["objective"]["region_weight"] == 0.0
    seeded = arm.seeded(7, "target")
    assert seeded["pretrain"]["training"]["seed"] == 7
    assert seeded["finetune"]["datasets"]["target"]["training"]["seed"] == 7
    assert arm.params["pretrain"]["training"]["seed"] == 0


def test_auto_is_told_before_runs_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of a machine that takes bf16 are not those of one that takes fp32."""
    found = {}
    for precision in ("fp32", "bf16"):
        monkeypatch.setattr("tasks.ablate.experiment.fastest", lambda told=precision: told)
        plan = make_plan(read(tmp_path, {"a": {}}), DVC)
        section = plan.arms["a"].arm.params["pretrain"]["training"]
        assert section["precision"] == precision
        found[precision] = plan.runs[0].result
    assert found["fp32"] != found["bf16"]


def test_the_shipped_experiments_can_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = sorted((ROOT / "experiments").glob("*.yaml"))
    assert found
    for path in found:
        plan = make_plan(read_experiment(path))
        assert len("\n".join(table(plan))) > 100


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ({"a": {"pretrain.objective.beta": 1}}, "`pretrain.objective.beta`, which is unknown"),
        ({"a": {"pretrian.init": "none"}}, "`pretrian.init`, which is unknown"),
        ({"a": {"pretrain.init": "start"}}, "which it is already"),
        ({"a": {"gap.seed": 1}}, "`gap.seed`, which does nothing"),
        ({"a": {"pretrain.init": "none", **IMAGE}}, "region_weight`, which does nothing"),
        ({"a": {}, "b": {}}, "arms `a` and `b` are the same"),
        ({"a/b": {}}, "an arm is called 'a/b'"),
        ({}, "no arms"),
    ],
)
def test_bad_arms_are_refused(tmp_path: Path, arms: dict[str, Any], said: str) -> None:
    assert said in refusal(tmp_path, arms)


@pytest.mark.parametrize(
    ("contrast", "said"),
    [
        ({"better": "a", "plain": "c"}, "an arm `c`, which is unknown"),
        ({"better": "a", "plain": "a"}, "compares `a` with itself"),
        ({"better": "a"}, "missing key `contrasts.x.plain`"),
    ],
)
def test_bad_contrasts_are_refused(tmp_path: Path, contrast: dict[str, str], said: str) -> None:
    arms: dict[str, Any] = {"a": {}, "b": IMAGE}
    assert said in refusal(tmp_path, arms, contrasts={"x": contrast})


def test_a_gap_is_that_of_pictures_that_are_made(tmp_path: Path) -> None:
    arms: dict[str, Any] = {"a": {}, "b": {"pretrain.init": "none"}}
    assert read(tmp_path, arms, gap="a").gap == "a"
    assert "`gap` names an arm `c`, which is unknown" in refusal(tmp_path, arms, gap="c")
    assert "`b`, which pretrains on nothing" in refusal(tmp_path, arms, gap="b")


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(PedAlignError, match=r"(?s)no such file.*experiments/evidence\.yaml"):
        read_experiment(tmp_path / "evidnce.yaml")


def test_a_contrast_is_paired_by_seed(tmp_path: Path) -> None:
    more = {
        "arms": {"a": {"change": {}}, "b": {"change": IMAGE, "seeds": 3}},
        "contrasts": {"x": {"better": "a", "plain": "b"}},
    }
    assert "between 2 and 3 seeds" in refusal(tmp_path, {}, **more)


def test_an_unknown_entry_of_the_profile_is_refused(tmp_path: Path) -> None:
    assert "no finetune.datasets.cuhk" in refusal(tmp_path, {"a": {}}, finetune="cuhk")
    assert "tuned is None" in refusal(tmp_path, {"a": {}}, tuned=None)
    assert "unknown key `armes`" in refusal(tmp_path, {"a": {}}, armes={})


# ------------------------------------------------------------------ what is shared


def test_arms_with_the_same_data_share_every_stage_of_it(tmp_path: Path) -> None:
    plan = make_plan(read(tmp_path, {"regions": {}, "image": IMAGE}), DVC)
    regions, image = plan.arms["regions"], plan.arms["image"]
    assert regions.stages == image.stages
    assert len(plan.variants()) == 1
    assert regions.targets == ("annotate", "ingest@target", "restyle")
    assert regions.runs[0].pretrain != image.runs[0].pretrain
    assert [run.seed for run in plan.runs] == [0, 0, 1, 1]


def test_another_look_shares_what_comes_before_it(tmp_path: Path) -> None:
    plan = make_plan(read(tmp_path, {"dad": {}, "plain": PLAIN}), DVC)
    dad, plain = (plan.arms[name].stages for name in ("dad", "plain"))
    assert set(dad) - set(plain) == {"adapt"}
    same = {stage for stage in plain if plain[stage] == dad[stage]}
    assert same == {"ingest@source", "ingest@target"}


def test_without_pretraining_only_the_target_is_read(tmp_path: Path) -> None:
    plan = make_plan(read(tmp_path, {"none": {"pretrain.init": "none"}, "all": {}}), DVC)
    assert set(plan.arms["none"].stages) == {"ingest@target"}
    assert plan.arms["none"].stages["ingest@target"] == plan.arms["all"].stages["ingest@target"]


def test_other_weights_and_annotations_are_other_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no stage makes counts by its content, under the same path."""
    path = write(tmp_path, {"all": {}, "none": {"pretrain.init": "none"}})
    monkeypatch.chdir(tmp_path)
    for weights in ("swin", "bert", "captioner"):
        (tmp_path / "models" / "tiny" / weights).mkdir(parents=True)
        (tmp_path / "models" / "tiny" / weights / "model.safetensors").write_bytes(b"one")
    before = make_plan(read_experiment(path), DVC)
    assert [run.result for run in make_plan(read_experiment(path), DVC).runs] == [
        run.result for run in before.runs
    ]
    (tmp_path / "models" / "tiny" / "swin" / "model.safetensors").write_bytes(b"two")
    after = make_plan(read_experiment(path), DVC)
    for arm in ("all", "none"):
        assert after.arms[arm].stages == before.arms[arm].stages
        assert after.arms[arm].runs[0].pretrain != before.arms[arm].runs[0].pretrain
    (tmp_path / "models" / "tiny" / "captioner" / "model.safetensors").write_bytes(b"two")
    later = make_plan(read_experiment(path), DVC).arms["all"].stages
    changed = {
        name for name, identity in later.items() if identity != after.arms["all"].stages[name]
    }
    assert changed == {"caption", "annotate"}


def test_a_change_of_fine_tuning_shares_pretrainings(tmp_path: Path) -> None:
    longer = {"finetune.datasets.target.training.epochs": 9}
    plan = make_plan(read(tmp_path, {"short": {}, "long": longer}), DVC)
    short, long = plan.arms["short"].runs, plan.arms["long"].runs
    assert [run.pretrain for run in short] == [run.pretrain for run in long]
    assert short[0].finetune != long[0].finetune
    assert short[0].pretrain != short[1].pretrain


def test_captions_concern_nothing_before_them(tmp_path: Path) -> None:
    keep = {"caption.method": "keep", "inputs.captioner": "data/nothing"}
    plan = make_plan(read(tmp_path, {"new": {}, "kept": keep}), DVC)
    new, kept = (plan.arms[name].stages for name in ("new", "kept"))
    assert {stage for stage in new if new[stage] != kept[stage]} == {"caption", "annotate"}


# ------------------------------------------------------------------ what it costs

CALIBRATION = {
    "pretrain": 120.0, "finetune": 60.0, "evaluate": 30.0,
    "stages": {"ingest": 6.0, "adapt": 60.0, "restyle": 30.0},
}  # fmt: skip


def test_costs_count_what_is_shared_once(tmp_path: Path) -> None:
    arms = {
        "none": {"pretrain.init": "none"},
        "all": {},
        "long": {"finetune.datasets.target.training.epochs": 9},
    }
    found = costs(make_plan(read(tmp_path, arms, calibration=CALIBRATION), DVC))
    assert found["none"].run == pytest.approx(1.5)  # fine-tuning and evaluation
    assert found["none"].left == pytest.approx(3.0 + 0.1)  # two seeds, one ingest
    assert found["all"].run == pytest.approx(3.5)
    assert found["all"].left == pytest.approx(7.0 + 0.1 + 1.0 + 0.5)  # ingest, adapt, restyle
    assert found["long"].left == pytest.approx(3.0)  # its pretrainings are those of `all`


def test_finished_runs_count_as_measured(tmp_path: Path) -> None:
    plan = make_plan(read(tmp_path, {"all": {}}, calibration=CALIBRATION), DVC)
    seconds = {"pretrain": 60.0, "finetune": 60.0, "evaluate": 60.0}
    plan.done = {plan.runs[0].result: {"core_seconds": seconds}}
    plan.taken = dict.fromkeys(plan.arms["all"].stages.values(), 6.0)
    found = costs(plan)["all"]
    assert found.measured
    assert found.left == pytest.approx(3.0)
    assert found.spent == pytest.approx(3.0 + 0.1 * len(plan.arms["all"].stages))
    assert "1 of 2" in "\n".join(table(plan))
