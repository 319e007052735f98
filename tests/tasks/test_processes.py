"""Training in two processes: the losses and weights of one, at the price of rounding."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flows.together import team_revision, train_together
from models.team import number
from tasks.errors import PedAlignError
from tasks.finetune import FinetuneParams, finetune
from tasks.params import check_section
from tasks.pretrain import pretrain
from tasks.runtime import runtime

CPU = torch.device("cpu")
# Dropout is the one thing that one process and two draw differently.
STILL_DUAL = {"vision_dropout": 0.0, "drop_path": 0.0, "text_dropout": 0.0}
STILL = {"head_dropout": 0.0, **STILL_DUAL}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Iterator[Path]:
    """A folder whose runtime.yaml asks for two processes, as the working folder."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "runtime.yaml").write_text("processes: 2\ndevice: cpu\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        runtime.cache_clear()
        yield folder
    runtime.cache_clear()


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("workplace")]


@dataclass(frozen=True)
class Made:
    """Trainings of two processes, which start once for all of them: that takes the longest."""

    folders: dict[str, Path]
    steps: list[int]
    """What was told of the last of them."""

    def __getitem__(self, name: str) -> Path:
        return self.folders[name]


def one_by_one(jobs, place: Path, device: torch.device, progress) -> Path:
    """Take part in one training after the other; the first process notes what came of them."""
    made = {name: str(job(device=device, progress=progress)) for name, job in jobs.items()}
    if number() == 0:
        (place / "made.json").write_text(json.dumps(made))
    return place


@pytest.fixture(scope="module")
def together(workplace, shards, source, annotations, pretrain_params, start, dual_jobs) -> Made:
    sections = {
        "whole": LONG,
        "released": RELEASED,
        "regions": {"model": STILL, "training": {"epochs": 1}},
    }
    jobs = {**dual_jobs, "fine": partial(finetune, start, fine(shards))} | {
        name: partial(pretrain, source, annotations, pretrain_params(**changes))
        for name, changes in sections.items()
    }
    for name, job in jobs.items():
        (workplace / name).mkdir()
        jobs[name] = partial(job, workplace / name)
    jobs["whole"] = partial(jobs["whole"], checkpoint_seconds=0)
    steps: list[int] = []
    train_together(partial(one_by_one, jobs, workplace), lambda step, *_: steps.append(step))
    made = json.loads((workplace / "made.json").read_bytes())
    return Made({name: Path(folder) for name, folder in made.items()}, steps)


@pytest.fixture(scope="module")
def dual_jobs(workplace, shards, source, captions, unipt_params):
    """The other road: both of its objectives, in parts."""
    how = {"epochs": 1, "chunks": 2, "micro_batch": 3}
    section = unipt_params(model=STILL_DUAL, training=how)
    untrained = unipt_params(init="none", model=STILL_DUAL)
    (workplace / "dual").mkdir()
    start = pretrain(shards, None, untrained, workplace / "dual", CPU)
    identity = check_section(FinetuneParams, {**IDENTITY, "images": str(shards)}, "finetune")
    return {
        "unipt": partial(pretrain, source, captions, section),
        "identity": partial(finetune, start, identity),
    }


@pytest.fixture(scope="module")
def start(workplace, shards, pretrain_params) -> Path:
    (workplace / "start").mkdir()
    section = pretrain_params(init="none", model=STILL)
    return pretrain(shards, None, section, workplace / "start", CPU)


def silent(step, steps, row):
    pass


def curve(folder: Path) -> list[dict[str, float]]:
    with (folder / "curve.csv").open() as source:
        return [{name: float(x) for name, x in row.items()} for row in csv.DictReader(source)]


def assert_close(one: Path, two: Path) -> None:
    first, second = curve(one), curve(two)
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, rel=2e-3, abs=1e-4)
    # Before Adam has magnified any rounding.
    assert first[0] == pytest.approx(second[0], rel=1e-5, abs=1e-6)
    weights = load_file(two / "model.safetensors")
    for name, value in load_file(one / "model.safetensors").items():
        assert torch.allclose(value, weights[name], rtol=1e-2, atol=2e-3), name


def test_pretraining_with_regions_equals_one_process(
    tmp_path, together, source, annotations, pretrain_params
):
    section = pretrain_params(model=STILL, training={"epochs": 1})
    alone = pretrain(source, annotations, section, tmp_path, CPU)
    assert_close(alone, together["regions"])
    assert {"itc", "itm", "mlm", "rpc", "rpm"} <= curve(together["regions"])[0].keys()
    assert together.steps[-1] == len(curve(together["regions"]))
    assert (together["regions"] / "training.json").exists()


def test_the_released_chunks_do_not_depend_on_the_number_of_processes(
    tmp_path, together, source, annotations, pretrain_params
):
    alone = pretrain(source, annotations, pretrain_params(**RELEASED), tmp_path, CPU)
    assert_close(alone, together["released"])


def test_fine_tuning_with_edited_texts_equals_one_process(tmp_path, together, shards, start):
    alone = finetune(start, fine(shards), tmp_path, CPU)
    assert_close(alone, together["fine"])
    assert_close(alone / "by-test", together["fine"] / "by-test")
    assert {"itc_eda", "itm_eda"} <= curve(together["fine"])[0].keys()


@pytest.mark.parametrize("name", ["unipt", "identity"])
def test_a_dual_encoder_equals_one_process(tmp_path, together, dual_jobs, name):
    alone = dual_jobs[name](tmp_path, CPU)
    assert_close(alone, together[name])


def fine(shards: Path) -> FinetuneParams:
    return check_section(FinetuneParams, {**FINETUNE, "images": str(shards)}, "finetune")


LONG = {"training": {"epochs": 4}}
RELEASED = {
    "model": {**STILL, "reading": "released"},
    # Statistics of two rows alone would magnify rounding from step to step.
    "training": {"epochs": 1, "chunks": 2, "micro_batch": 3},
}
FINETUNE = {
    "model": {
        "kind": "mra", "image_size": [32, 16], "window_size": 2, "head": "stripes", "embed_dim": 8,
        "vision_dropout": 0.0, "drop_path": 0.0,
    },
    "objective": {
        "kind": "mra", "label_smoothing": 0.2, "eda_weight": 0.8, "eda_alpha": 0.2,
        "synonyms": "table",
    },
    "flip": 0.5, "erasing": 0.0, "cleaning": "raw",
    "select": "val", "holdout": 0.0, "keep_test_choice": True, "protocol": None,
    "training": {
        "epochs": 2, "batch": 8, "learning_rate": 1e-3, "schedule": "linear", "warmup": 0.1,
        "chunks": 1, "micro_batch": 0, "floor": 0.0,
        "weight_decay": 0.01, "rates": {"crossattention": 2.0}, "precision": "fp32", "seed": 3,
    },
}  # fmt: skip


IDENTITY = {
    **FINETUNE,
    "keep_test_choice": False,
    "model": {
        "kind": "dual", "image_size": [32, 16], "vision_dropout": 0.0, "drop_path": 0.0,
        "granularity": {
            "parts": 2, "part_dim": 6, "depth": 1, "heads": 2, "head_dim": 4, "inner_dim": 8,
            "dictionary": 0, "ranks": "parts",
        },
    },
    "objective": {
        "kind": "identity", "margin": 0.2, "negatives": "hardest", "anchors": "sum",
        "contrast_temperature": None, "granularity_weight": 1.0,
    },
    "training": {**FINETUNE["training"], "epochs": 1, "micro_batch": 3, "rates": {}},
}  # fmt: skip


def test_killed_and_resumed_equals_undisturbed(
    tmp_path, together, source, annotations, pretrain_params
):
    class KilledError(Exception):
        pass

    def kill(step, steps, row):
        raise KilledError

    section = pretrain_params(**LONG)
    call = partial(pretrain, source, annotations, section, tmp_path, checkpoint_seconds=0)
    with pytest.raises(KilledError):
        train_together(call, kill)
    before = torch.load(tmp_path / "running.pt", weights_only=True)["step"]
    assert 0 < before < 20
    torn = train_together(call, silent)
    for path in sorted(together["whole"].iterdir()):
        assert path.read_bytes() == (torn / path.name).read_bytes(), path.name


def test_what_a_process_raises_arrives_whole(tmp_path, source, annotations, pretrain_params):
    section = pretrain_params(training={"batch": 7})
    with pytest.raises(PedAlignError, match="a batch of 7 for 2 processes"):
        train_together(partial(pretrain, source, annotations, section, tmp_path), silent)


def test_the_number_of_processes_is_part_of_the_key(tmp_path, monkeypatch):
    assert team_revision() == {"processes": "2"}
    (tmp_path / "runtime.yaml").write_text("processes: 1\n")
    monkeypatch.chdir(tmp_path)
    runtime.cache_clear()
    assert team_revision() == {}
    runtime.cache_clear()  # the next to ask stands where it stood
