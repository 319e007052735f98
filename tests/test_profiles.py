"""Every profile is complete, legal, and names as DVC inputs exactly the local models it loads."""

from pathlib import Path
from typing import Any

import pytest

from tasks.adapt.train import AdaptParams
from tasks.annotate.shard import AnnotateParams, check_choices
from tasks.annotate.single import DEFAULT
from tasks.caption.parameters import CaptionParams
from tasks.diffusion import DiffusionParams
from tasks.evaluate.run import EvaluationRun
from tasks.finetune import FinetuneParams
from tasks.gap.arms import GapParams, arm_sections
from tasks.ingest import IngestDatasetParams
from tasks.inputs import NOTHING, Inputs, optional
from tasks.params import read_section, read_yaml
from tasks.pretrain import PretrainParams
from tasks.provenance import ROOT
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
    "finetune": ("finetune.datasets", FinetuneParams),
    "evaluate": ("evaluate.runs", EvaluationRun),
}


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_every_section_is_legal_and_none_is_left_over(path: Path) -> None:
    loaded = read_yaml(path)
    assert set(loaded) == {*SECTIONS, *MANY}
    for name, kind in SECTIONS.items():
        assert isinstance(read_section(kind, name, path), kind)
    for stage, (key, kind) in MANY.items():
        entries = loaded[stage][key.split(".")[1]]
        assert set(loaded[stage]) == {key.split(".")[1]}
        assert entries
        for entry in entries:
            assert isinstance(read_section(kind, f"{key}.{entry}", path), kind)


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_dvc_watches_the_local_models_and_only_them(path: Path) -> None:
    inputs = read_section(Inputs, "inputs", path)
    pretrain = read_section(PretrainParams, "pretrain", path)
    caption = read_section(CaptionParams, "caption", path)
    screen = read_section(ScreenParams, "screen", path)
    judge = read_section(GapParams, "gap", path).judge
    annotate = read_section(AnnotateParams, "annotate", path)
    said_by, words = {
        "captioner": (caption.captioner.model, "none"),
        "clip_attributes": (caption.clip_attributes.model, caption.clip_attributes.attributes),
        "keep": ("none", "none"),
    }[caption.method]
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
        # What a user downloads is not in this repository.
        local = name.startswith("data/weights/") or (ROOT / name).exists()
        assert getattr(inputs, part) == (name if local else NOTHING), part
    check_choices(annotate, optional(inputs.words))
    assert inputs.words == (inputs.adapt if annotate.phrases == "words" else NOTHING)
    if read_section(RestyleParams, "restyle", path).mode == "none":
        assert inputs.dad == NOTHING


def test_the_command_line_annotates_as_the_default_does() -> None:
    assert read_section(AnnotateParams, "annotate", ROOT / "params.yaml") == DEFAULT


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_every_arm_of_the_gap_can_be_made(path: Path) -> None:
    section = read_section(GapParams, "gap", path)
    arms = arm_sections(section, read_section(RestyleParams, "restyle", path))
    assert set(arms) == set(section.arms)
    for arm in arms.values():
        assert arm.sampling.strength == 0 or arm.sampling.executed > 0  # steps are run at all
