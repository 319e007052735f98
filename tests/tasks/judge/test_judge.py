"""Training the judge: what it reads, what it learns from, and that a killed run ends the same."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, ViTImageProcessor

from tasks.errors import PedAlignError
from tasks.images import to_array_batch
from tasks.judge.content import content
from tasks.judge.lessons import augment
from tasks.judge.naming import named_attributes
from tasks.judge.train import JudgeParams, load_judge, train_judge
from tasks.params import check_section
from tasks.schemas import IMAGES
from tasks.shards import iter_tables

SIZE = (24, 12)
PARAMS = JudgeParams(
    features="trained", size=SIZE, channels=8, width=10, epochs=30, batch=9, learning_rate=0.01,
    weight_decay=0.05, dropout=0.1, smoothing=0.05, shift=0.05, erasing=0.2, jitter=0.05, least=2,
    parser="embedded", precision="fp32", seed=1,
)  # fmt: skip


def but(**changes) -> JudgeParams:
    return dataclasses.replace(PARAMS, **changes)


def rows_of(tables, split: str) -> list[dict]:
    rows = [row for table in tables for row in table.to_pylist()]
    return [row for row in rows if row["split"] == split and row["status"] == "ok"]


def test_it_learns_from_train_captions_what_it_reads_off_others(shards, tmp_path):
    seen: list[tuple[int, int]] = []
    result = train_judge(
        iter_tables(shards), PARAMS, tmp_path, progress=lambda at, of, _: seen.append((at, of))
    )
    assert (result.pictures, result.skipped) == (27, 21)
    assert seen[0] == (1, 90)
    assert seen[-1] == (90, 90)
    assert len(result.losses) == 90
    assert np.mean(result.losses[-9:]) < np.mean(result.losses[:9]) / 2
    judge = load_judge(result.folder)
    # The two captions of a picture disagree about gender and upper kind: nothing is named.
    assert set(judge.attributes) == {"upper colour", "lower colour"}
    assert judge.attributes["lower colour"] == tuple(sorted(judge.attributes["lower colour"]))
    assert judge.width == judge.extractor.width == 2 * 10
    rows = rows_of(iter_tables(shards), "test")
    pixels = to_array_batch([row["image"] for row in rows], SIZE)
    readings = judge.read(judge.encode_images(pixels))
    found = content(readings, named_attributes([r["captions"] for r in rows]), judge.attributes)
    for name in ("upper colour", "lower colour"):
        assert found[name].count >= 8
        assert found[name].corrected > 0.7, found[name]


def test_a_killed_training_ends_the_same(shards, tmp_path):
    section = but(epochs=4, precision="bf16")
    whole = train_judge(iter_tables(shards), section, tmp_path / "whole")

    def killed(step: int, _steps: int, _loss: float) -> None:
        if step == 8:  # in the middle of the third epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_judge(iter_tables(shards), section, tmp_path / "killed", progress=killed)
    left: list[int] = []
    again = train_judge(
        iter_tables(shards), section, tmp_path / "killed",
        progress=lambda step, _steps, _loss: left.append(step),
    )  # fmt: skip
    assert left[0] == 7  # after the second epoch
    assert again.digest == whole.digest
    assert again.losses == whole.losses
    assert train_judge(iter_tables(shards), but(epochs=1, seed=2), tmp_path / "other").digest != (
        whole.digest
    )


def test_only_train_pictures_are_learned_from(shards, tmp_path):
    """Other splits may hold anything: the judge stays the same."""
    section = but(epochs=1)
    plain = train_judge(iter_tables(shards), section, tmp_path / "plain")
    tables = []
    for table in iter_tables(shards):
        rows = table.to_pylist()
        for row in rows:
            if row["split"] != "train":
                row |= {"captions": ["a purple coat and orange boots"], "image": b"nothing"}
        tables.append(pa.Table.from_pylist(rows, schema=IMAGES))
    assert train_judge(tables, section, tmp_path / "changed").digest == plain.digest


def test_rare_values_and_attributes_of_one_value_are_left_out(shards, tmp_path):
    tables = list(iter_tables(shards))
    rows = rows_of(tables, "train")
    for i, row in enumerate(rows):
        colour = "red" if i % 2 else "teal" if i == 0 else "green"
        row["captions"] = [f"a man in a {colour} coat"]
    table = pa.Table.from_pylist(rows, schema=IMAGES)
    result = train_judge([table], but(epochs=1, least=3), tmp_path)
    # Teal counts as blue, once.
    assert set(result.attributes["upper colour"]) == {"green", "red"}
    assert set(result.attributes) == {"upper colour"}
    assert result.left_out["upper colour: blue"] == "1 train pictures, fewer than 3"
    assert "it takes 2" in result.left_out["gender"]
    assert "it takes 2" in result.left_out["upper kind"]


def changed(shards, limit: int | None = None, **values) -> list[pa.Table]:
    rows = rows_of(iter_tables(shards), "train")[:limit]
    return [pa.Table.from_pylist([row | values for row in rows], schema=IMAGES)]


def test_nothing_to_learn_from_is_said_clearly(shards, tmp_path):
    with pytest.raises(PedAlignError, match="0 of the target's 27 rows"):
        train_judge(changed(shards, captions=[]), PARAMS, tmp_path / "a")
    with pytest.raises(PedAlignError, match="0 are train pictures"):
        train_judge(changed(shards, split="test"), PARAMS, tmp_path / "b")
    with pytest.raises(PedAlignError, match="5 of the target's 5 rows"):
        train_judge(changed(shards, limit=5), PARAMS, tmp_path / "c")
    with pytest.raises(PedAlignError, match="0 of the target's 27 rows"):
        train_judge(changed(shards, image=b"\xff\xd8 no picture"), PARAMS, tmp_path / "d")
    with pytest.raises(PedAlignError, match="no attribute with two values"):
        train_judge(changed(shards, captions=["a man in red"]), PARAMS, tmp_path / "e")


def test_parameters_that_cannot_work_are_refused(shards, tmp_path):
    with pytest.raises(PedAlignError, match="multiples of"):
        train_judge(iter_tables(shards), but(size=(96, 50)), tmp_path / "size")
    with pytest.raises(PedAlignError, match="vision model"):
        train_judge(iter_tables(shards), but(features=str(tmp_path / "no")), tmp_path / "hub")
    with pytest.raises(PedAlignError, match="dropout"):
        check_section(JudgeParams, dataclasses.asdict(PARAMS) | {"dropout": 1.0}, "gap.judge")


def test_a_frozen_hub_model_under_linear_heads(shards, tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "dinov2"
    Dinov2Model(
        Dinov2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=24,
            patch_size=4, mlp_ratio=2,
        )
    ).save_pretrained(folder)  # fmt: skip
    ViTImageProcessor(size={"height": 24, "width": 12}).save_pretrained(folder)
    before = (folder / "model.safetensors").read_bytes()
    section = but(features=str(folder), epochs=40, learning_rate=0.03)
    result = train_judge(iter_tables(shards), section, tmp_path / "run")
    assert (folder / "model.safetensors").read_bytes() == before
    judge = load_judge(result.folder)
    assert judge.width == 16
    assert json.loads((result.folder / "judge.json").read_text())["features"] == str(folder)
    rows = rows_of(iter_tables(shards), "train")
    features = judge.encode_images(to_array_batch([row["image"] for row in rows], SIZE))
    mean, scale = judge.heads.mean.numpy(), judge.heads.scale.numpy()
    np.testing.assert_allclose(features.mean(0), mean, atol=1e-4)
    np.testing.assert_allclose(features.std(0), scale, atol=1e-4)
    named = named_attributes([row["captions"] for row in rows])
    assert content(judge.read(features), named, judge.attributes)["lower colour"].corrected > 0.5


def test_augmentation_moves_mirrors_and_blanks_within_bounds():
    still = but(shift=0.0, erasing=0.0, jitter=0.0)
    images = torch.arange(2 * 3 * 24 * 12).view(2, 3, 24, 12).float() % 251
    draw = torch.Generator()
    for seed in range(6):
        out = augment(images, still, draw.manual_seed(seed))
        for one, origin in zip(out, images, strict=True):
            assert torch.equal(one, origin) or torch.equal(one, origin.flip(2))
    erased = augment(torch.zeros(64, 3, 24, 12), but(shift=0.0, erasing=1.0, jitter=0.0), draw)
    share = (erased == 127.5).float().mean((1, 2, 3))
    assert 0 < share.max() <= 0.2
    assert share.mean() > 0.01
    grey = torch.full((64, 3, 24, 12), 127.5)
    tinted = augment(grey, but(shift=0.0, erasing=0.0, jitter=0.1), draw)
    assert 1 < (tinted - 127.5).abs().max() <= 2 * 0.1 * 64
    moved = augment(images, but(shift=0.1, erasing=0.0, jitter=0.0), draw.manual_seed(0))
    assert set(moved.flatten().tolist()) <= set(images.flatten().tolist())
    again = augment(images, but(shift=0.1, erasing=0.0, jitter=0.0), draw.manual_seed(0))
    assert torch.equal(moved, again)
