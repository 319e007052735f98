"""Every profile is complete, legal, and names as DVC inputs exactly the local models it loads."""

from pathlib import Path
from typing import Any

import pytest

from tasks.adapt.train import AdaptParams
from tasks.annotate.shard import AnnotateParams, check_choices
from tasks.annotate.single import DEFAULT
from tasks.caption.parameters import CaptionParams
from tasks.describe import DescribeParams
from tasks.diffusion import DiffusionParams
from tasks.evaluate.run import EvaluationRun
from tasks.finetune import FinetuneParams
from tasks.gap.arms import GapParams, arm_sections
from tasks.ingest import IngestDatasetParams
from tasks.inputs import NOTHING, Inputs, optional
from tasks.params import read_section, read_yaml
from tasks.pretrain import PretrainParams
from tasks.provenance import ROOT
from tasks.reid import ReidParams
from tasks.report import ReportParams
from tasks.restyle.shard import RestyleParams
from tasks.runtime import MachineParams
from tasks.screen.rules import ScreenParams

PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))
SECTIONS: dict[str, type[Any]] = {
    "machine": MachineParams,
    "inputs": Inputs,
    "diffusion": DiffusionParams,
    "adapt": AdaptParams,
    "restyle": RestyleParams,
    "gap": GapParams,
    "screen": ScreenParams,
    "caption": CaptionParams,
    "annotate": AnnotateParams,
    "pretrain": PretrainParams,
    "report": ReportParams,
}
MANY: dict[str, tuple[str, type[Any]]] = {
    "ingest": ("ingest.datasets", IngestDatasetParams),
    "describe": ("describe.datasets", DescribeParams),
    "finetune": ("finetune.datasets", FinetuneParams),
    "evaluate": ("evaluate.runs", EvaluationRun),
    "reid": ("reid.datasets", ReidParams),
}
MAY_BE_EMPTY = {"describe", "finetune", "evaluate", "reid"}
"""An empty ``foreach`` has no stage."""


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_every_section_is_legal_and_none_is_left_over(path: Path) -> None:
    loaded = read_yaml(path)
    assert set(loaded) == {*SECTIONS, *MANY}
    for name, kind in SECTIONS.items():
        assert isinstance(read_section(kind, name, path), kind)
    for stage, (key, kind) in MANY.items():
        entries = loaded[stage][key.split(".")[1]]
        assert set(loaded[stage]) == {key.split(".")[1]}
        assert entries or stage in MAY_BE_EMPTY
        for entry in entries:
            assert isinstance(read_section(kind, f"{key}.{entry}", path), kind)


def watched(name: str) -> str:
    """What DVC watches of a model: its folder; what a user downloads is not in this repository."""
    local = name.startswith("data/") or (ROOT / name).exists()
    return name if local else NOTHING


def read_by(caption: CaptionParams) -> tuple[str, str]:
    """The model and the file of words that a method reads."""
    return {
        "captioner": (caption.captioner.model, "none"),
        "clip_attributes": (caption.clip_attributes.model, caption.clip_attributes.attributes),
        "keep": ("none", "none"),
    }[caption.method]


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_dvc_watches_the_local_models_and_only_them(path: Path) -> None:
    inputs = read_section(Inputs, "inputs", path)
    pretrain = read_section(PretrainParams, "pretrain", path)
    caption = read_section(CaptionParams, "caption", path)
    screen = read_section(ScreenParams, "screen", path)
    judge = read_section(GapParams, "gap", path).judge
    annotate = read_section(AnnotateParams, "annotate", path)
    said_by, words = read_by(caption)
    loaded = {
        "base": read_section(DiffusionParams, "diffusion", path).base,
        "poser": screen.poser,
        "people": screen.people,
        "embedder": screen.embedder,
        "judge": judge.features,
        "captioner": said_by,
        "attributes": words,
        "detector": annotate.proposer,
        "parser": annotate.parser,
        "vision": pretrain.vision,
        "text": pretrain.text,
    }
    for part, name in loaded.items():
        assert getattr(inputs, part) == watched(name), part
    assert inputs.init == (
        NOTHING if pretrain.init in {"start", "none"} else watched(pretrain.init)
    )
    # The judge's parser is watched by the same key.
    assert watched(judge.parser) in {NOTHING, inputs.parser}
    check_choices(annotate, optional(inputs.words))
    assert inputs.words == (inputs.adapt if annotate.phrases == "words" else NOTHING)
    some = bool(read_yaml(path)["evaluate"]["runs"])
    assert inputs.evaluations == ("data/reports/evaluate" if some else NOTHING)
    some = bool(read_yaml(path)["reid"]["datasets"])
    assert inputs.reid == ("data/reports/reid" if some else NOTHING)
    adapted = read_section(AdaptParams, "adapt", path).method != "none"
    if read_section(RestyleParams, "restyle", path).mode == "none" or not adapted:
        assert inputs.dad == NOTHING


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_what_describes_a_target_is_watched_and_read(path: Path) -> None:
    inputs = read_section(Inputs, "inputs", path)
    for name in read_yaml(path)["describe"]["datasets"]:
        section = read_section(DescribeParams, f"describe.datasets.{name}", path)
        model, words = read_by(section.caption)
        assert (section.captioner, section.attributes) == (watched(model), watched(words))
        if section.images == inputs.adapt:
            assert inputs.adapt_captions == f"data/described/{name}"
            assert "train" in section.splits


def test_the_command_line_annotates_as_the_default_does() -> None:
    assert read_section(AnnotateParams, "annotate", ROOT / "params.yaml") == DEFAULT


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_every_arm_of_the_gap_can_be_made(path: Path) -> None:
    section = read_section(GapParams, "gap", path)
    arms = arm_sections(section, read_section(RestyleParams, "restyle", path))
    assert set(arms) == set(section.arms)
    for arm in arms.values():
        assert arm.sampling.strength == 0 or arm.sampling.executed > 0  # steps are run at all


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_a_profile_trains_one_kind_and_evaluates_what_it_trains(path: Path) -> None:
    loaded = read_yaml(path)
    kind = read_section(PretrainParams, "pretrain", path).model.kind
    written = {"data/checkpoints/pretrain"}
    for name in loaded["finetune"]["datasets"]:
        section = read_section(FinetuneParams, f"finetune.datasets.{name}", path)
        assert section.model.kind == kind
        assert not (section.holdout and section.keep_test_choice)  # not of one training
        folder = f"data/checkpoints/finetune/{name}"
        written |= {folder, f"{folder}/by-test"} if section.keep_test_choice else {folder}
    for name in loaded["evaluate"]["runs"]:
        run = read_section(EvaluationRun, f"evaluate.runs.{name}", path)
        assert run.checkpoint in written, name
        assert kind == "mra" or run.protocol.top_k == 0, name
