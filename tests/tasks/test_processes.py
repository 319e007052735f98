"""Training in two processes: the losses and weights of one, at the price of rounding."""

import csv
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flows.together import team_revision, train_together
from tasks.errors import PedAlignError
from tasks.finetune import FinetuneParams, finetune
from tasks.params import check_section
from tasks.pretrain import pretrain
from tasks.runtime import runtime

CPU = torch.device("cpu")
# Dropout is the one thing that one process and two draw differently.
STILL = {"head_dropout": 0.0, "vision_dropout": 0.0, "drop_path": 0.0, "text_dropout": 0.0}

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def two_processes(tmp_path_factory, monkeypatch):
    """A workplace whose runtime.yaml asks for two processes."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "runtime.yaml").write_text("processes: 2\ndevice: cpu\n")
    monkeypatch.chdir(folder)
    runtime.cache_clear()
    yield
    runtime.cache_clear()


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


def folders(tmp_path: Path, *names: str) -> list[Path]:
    made = [tmp_path / name for name in names]
    for folder in made:
        folder.mkdir()
    return made


def test_pretraining_with_regions_equals_one_process(
    tmp_path, shards, annotations, pretrain_params
):
    section = pretrain_params(model=STILL, training={"epochs": 1})
    one, two = folders(tmp_path, "one", "two")
    alone = pretrain(shards, annotations, section, one, CPU)
    steps: list[int] = []
    together = train_together(
        partial(pretrain, shards, annotations, section, two),
        lambda step, steps_in_all, row: steps.append(step),
    )
    assert_close(alone, together)
    assert {"itc", "itm", "mlm", "rpc", "rpm"} <= curve(together)[0].keys()
    assert steps[-1] == len(curve(together))
    assert (together / "training.json").exists()


def test_the_released_chunks_do_not_depend_on_the_number_of_processes(
    tmp_path, shards, annotations, pretrain_params
):
    section = pretrain_params(
        model={**STILL, "reading": "released"},
        # Statistics of two rows alone would magnify rounding from step to step.
        training={"epochs": 1, "chunks": 2, "micro_batch": 3},
    )
    one, two = folders(tmp_path, "one", "two")
    alone = pretrain(shards, annotations, section, one, CPU)
    together = train_together(partial(pretrain, shards, annotations, section, two), silent)
    assert_close(alone, together)


def test_fine_tuning_with_edited_texts_equals_one_process(tmp_path, shards, pretrain_params):
    start_run, one, two = folders(tmp_path, "start", "one", "two")
    start = pretrain(shards, None, pretrain_params(init="none", model=STILL), start_run, CPU)
    section = check_section(FinetuneParams, {**FINETUNE, "images": str(shards)}, "finetune")
    alone = finetune(start, section, one, CPU)
    together = train_together(partial(finetune, start, section, two), silent)
    assert_close(alone, together)
    assert_close(alone / "by-test", together / "by-test")
    assert {"itc_eda", "itm_eda"} <= curve(together)[0].keys()


FINETUNE = {
    "image_size": [32, 16], "window_size": 2, "head": "stripes", "embed_dim": 8,
    "vision_dropout": 0.0, "drop_path": 0.0, "flip": 0.5, "erasing": 0.0, "cleaning": "raw",
    "label_smoothing": 0.2, "eda_weight": 0.8, "eda_alpha": 0.2, "synonyms": "table",
    "select": "val", "holdout": 0.0, "keep_test_choice": True, "protocol": None,
    "training": {
        "epochs": 2, "batch": 8, "learning_rate": 1e-3, "schedule": "linear", "warmup": 0.1,
        "chunks": 1, "micro_batch": 0, "floor": 0.0,
        "weight_decay": 0.01, "doubled": ["crossattention"], "precision": "fp32", "seed": 3,
    },
}  # fmt: skip


def test_killed_and_resumed_equals_undisturbed(tmp_path, shards, annotations, pretrain_params):
    class KilledError(Exception):
        pass

    def kill(step, steps, row):
        raise KilledError

    section = pretrain_params(training={"epochs": 4})
    torn_run, whole_run = folders(tmp_path, "torn", "whole")
    call = partial(pretrain, shards, annotations, section, checkpoint_seconds=0)
    with pytest.raises(KilledError):
        train_together(partial(call, torn_run), kill)
    before = torch.load(torn_run / "running.pt", weights_only=True)["step"]
    assert 0 < before < 20
    torn = train_together(partial(call, torn_run), silent)
    whole = train_together(partial(call, whole_run), silent)
    for path in sorted(whole.iterdir()):
        assert path.read_bytes() == (torn / path.name).read_bytes(), path.name


def test_what_a_process_raises_arrives_whole(tmp_path, shards, annotations, pretrain_params):
    section = pretrain_params(training={"batch": 7})
    (run,) = folders(tmp_path, "run")
    with pytest.raises(PedAlignError, match="a batch of 7 for 2 processes"):
        train_together(partial(pretrain, shards, annotations, section, run), silent)


def test_the_number_of_processes_is_part_of_the_key(tmp_path, monkeypatch):
    assert team_revision() == {"processes": "2"}
    (tmp_path / "runtime.yaml").write_text("processes: 1\n")
    monkeypatch.chdir(tmp_path)
    runtime.cache_clear()
    assert team_revision() == {}
