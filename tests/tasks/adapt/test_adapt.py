"""DaD training: what it learns, and that a killed run ends the same."""

import copy
import dataclasses
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flows.adapt import train
from flows.together import train_together
from tasks.adapt.train import AdaptResult, Focus, train_dad
from tasks.diffusion import base_revision, open_base
from tasks.errors import PedAlignError
from tasks.runtime import Runtime, runtime
from tasks.shards import write_folder
from tests.tasks.adapt.conftest import PARAMS, SIZE, changed, target


def weights(folder: Path) -> dict[str, torch.Tensor]:
    file = next(f for f in folder.glob("*.safetensors") if f.name != "look.safetensors")
    return load_file(file)


def assert_same(one: AdaptResult, two: AdaptResult, **tolerance: float) -> None:
    assert one.losses == pytest.approx(two.losses, rel=1e-4)
    theirs = weights(two.folder)
    for name, value in weights(one.folder).items():
        assert torch.allclose(value, theirs[name], **tolerance), name


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("method", ["controlnet", "lora"])
def test_training_lowers_the_loss_and_leaves_an_adapter_and_a_sheet(
    diffusion, shards, tmp_path, method
):
    seen: list[tuple[int, int, float]] = []
    section = changed(method=method, epochs=40, learning_rate=5e-3, sample_every=15)
    before = base_revision(diffusion)
    result = train_dad(
        shards, diffusion, section, tmp_path, progress=lambda *step: seen.append(step)
    )
    assert (result.images, result.pairs, result.skipped) == (4, 7, 3)
    assert len(result.losses) == 40 == len(seen)  # 7 pairs, batches of 4: one a pass
    assert seen[-1] == (40, 40, result.losses[-1])
    assert np.mean(result.losses[-10:]) < np.mean(result.losses[:10])
    rows = sorted(file.name for file in (tmp_path / "samples").glob("0*.png"))
    assert rows == [f"{step:07d}.png" for step in (0, 15, 30, 40)]
    pictures = [np.array(Image.open(tmp_path / "samples" / row)) for row in (rows[0], rows[-1])]
    assert pictures[0].shape == (SIZE[0], 4 * SIZE[1], 3)
    assert not np.array_equal(*pictures)
    assert Image.open(result.sheet).size == (72 + 4 * 80, 5 * 160)  # the target, and four times
    assert len(result.digest) == 64
    assert set(load_file(result.folder / "look.safetensors")) == {"statistics", "pixels"}
    assert base_revision(diffusion) == before
    name = "pytorch_lora_weights" if method == "lora" else "diffusion_pytorch_model"
    assert (result.folder / f"{name}.safetensors").exists()
    started = "lora_B" if method == "lora" else "controlnet_mid_block.weight"
    opened = [value for key, value in weights(result.folder).items() if started in key]
    assert opened
    assert all(bool(value.abs().max() > 0) for value in opened)  # what began at zero has moved


CASES = {
    "last weights": {"ema": 0.0},
    "averaged weights": {},
    "lora": {"method": "lora", "accumulate": 2, "timesteps": Focus(below=0.4, share=0.9),
             "flip": True, "offset_noise": 0.5},
    "streamed": {"cache": False, "flip": True, "schedule": "linear", "sample_every": 2},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_killed_training_ends_with_the_same_weights(diffusion, shards, tmp_path, case):
    section = changed(epochs=7, **CASES[case])
    whole = train_dad(shards, diffusion, section, tmp_path / "whole", checkpoint_seconds=0)

    def die(step: int, steps: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_dad(shards, diffusion, section, tmp_path / "cut", checkpoint_seconds=0, progress=die)
    steps: list[int] = []
    resumed = train_dad(
        shards, diffusion, section, tmp_path / "cut", checkpoint_seconds=0,
        progress=lambda step, *_: steps.append(step),
    )  # fmt: skip
    assert steps == [5, 6, 7]  # the checkpoint of step 4 was whole
    assert resumed.losses == whole.losses
    assert resumed.digest == whole.digest
    assert resumed.sheet.read_bytes() == whole.sheet.read_bytes()
    assert not list((tmp_path / "cut").glob(".*"))


@pytest.mark.parametrize("method", ["controlnet", "lora"])
def test_parts_of_a_batch_give_the_step_of_the_whole(diffusion, shards, tmp_path, method):
    made = [
        train_dad(
            shards, diffusion, changed(method=method, accumulate=parts, epochs=3),
            tmp_path / str(parts),
        )
        for parts in (1, 4)
    ]  # fmt: skip
    assert_same(*made, atol=2e-5)


@pytest.mark.parametrize("method", ["controlnet", "lora"])
def test_parts_computed_side_by_side_change_no_bit(
    diffusion, shards, tmp_path, method, monkeypatch
):
    made = []
    for workers in (1, 3):
        side_by_side, recomputed = Runtime(workers=workers), Runtime(recompute=workers > 1)
        monkeypatch.setattr("tasks.adapt.loop.runtime", partial(copy.copy, side_by_side))
        monkeypatch.setattr("tasks.adapt.train.runtime", partial(copy.copy, recomputed))
        section = changed(method=method, accumulate=4)
        made.append(
            train_dad(
                shards,
                dataclasses.replace(diffusion, precision="bf16"),
                section,
                tmp_path / f"{workers}",
            )
        )
    assert made[0].losses == made[1].losses
    assert made[0].digest == made[1].digest


def test_a_stream_gives_the_training_of_the_cache(diffusion, shards, tmp_path):
    made = [
        train_dad(shards, diffusion, changed(cache=cache, flip=True), tmp_path / str(cache))
        for cache in (True, False)
    ]
    assert made[0].losses == pytest.approx(made[1].losses, rel=5e-3)  # float16 in the cache
    assert made[0].losses != made[1].losses


@pytest.mark.parametrize("method", ["controlnet", "lora"])
def test_recomputed_activations_change_nothing(diffusion, shards, tmp_path, method, monkeypatch):
    made = [train_dad(shards, diffusion, changed(method=method), tmp_path / "kept")]
    monkeypatch.setattr("tasks.adapt.train.runtime", lambda: Runtime(recompute=True))
    calls = []
    again = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(
        torch.utils.checkpoint, "checkpoint", lambda *a, **k: calls.append(1) or again(*a, **k)
    )
    made.append(train_dad(shards, diffusion, changed(method=method), tmp_path / "again"))
    assert calls
    assert made[0].digest == made[1].digest
    assert made[0].losses == made[1].losses


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"base": "no/such/folder"}, "diffusion.base"),
        ({"size": (15, 8)}, "multiples of 2"),
        ({"precision": "fp16"}, "rounds to 0"),
    ],
)
def test_a_base_that_cannot_be_used_is_named(diffusion, change, word, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PedAlignError, match=word):
        train_dad(tmp_path, dataclasses.replace(diffusion, **change), PARAMS, tmp_path)


def test_a_batch_that_cannot_be_divided_is_named(diffusion, shards, tmp_path):
    with pytest.raises(PedAlignError, match="a batch of 4 in 3 parts"):
        train_dad(shards, diffusion, changed(accumulate=3), tmp_path)


def test_a_foreign_or_damaged_checkpoint_is_named(diffusion, shards, tmp_path):
    def die(step: int, *_: object) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_dad(shards, diffusion, changed(epochs=4), tmp_path, checkpoint_seconds=0,
                  progress=die)  # fmt: skip
    with pytest.raises(PedAlignError, match="of another training"):
        train_dad(shards, diffusion, changed(epochs=4, method="lora"), tmp_path)
    with pytest.raises(PedAlignError, match="4 steps, not 5"):
        train_dad(shards, diffusion, changed(epochs=5), tmp_path)
    (tmp_path / "running.pt").write_bytes(b"no checkpoint")
    with pytest.raises(PedAlignError, match="damaged"):
        train_dad(shards, diffusion, changed(epochs=4), tmp_path)


def test_a_pickle_in_place_of_weights_is_refused(diffusion, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(diffusion.base, folder)
    weights_file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights_file.rename(weights_file.with_suffix(".bin"))
    with pytest.raises(PedAlignError, match=r"diffusion\.base"):
        open_base(dataclasses.replace(diffusion, base=str(folder)), "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["controlnet", "lora"])
def test_two_processes_end_with_the_weights_of_one(diffusion, tmp_path, monkeypatch, method):
    write_folder(tmp_path / "target", [target(12)], "images", {}, shard_rows=20)
    (tmp_path / "runtime.yaml").write_text("processes: 2\ndevice: cpu\n")
    monkeypatch.chdir(tmp_path)
    runtime.cache_clear()
    section, made = changed(method=method, accumulate=2), []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        call = partial(train, tmp_path / name, tmp_path / "target", diffusion, section, 30.0)
        told: list[int] = []

        def tell(step: int, steps: int, row: Mapping[str, float], told: list[int] = told) -> None:
            told.append(step)

        if name == "one":
            made.append(call(torch.device("cpu"), tell))
        else:
            made.append(train_together(call, tell))
        assert told == list(range(1, 9))
    runtime.cache_clear()
    one, two = made
    rows = [(folder / "curve.csv").read_text().split()[1:] for folder in made]
    losses = [[float(row.split(",")[-1]) for row in each] for each in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, value in weights(one).items():
        assert torch.allclose(value, weights(two)[name], atol=1e-4), name
    assert (two / "samples.png").exists()
