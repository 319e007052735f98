"""The loop: what an objective may ask of it, and a killed run that ends as if undisturbed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tasks.errors import PedAlignError
from tasks.training import RUNNING, Loop, Plan, TrainingParams, train

CPU = torch.device("cpu")


def settings(**changes) -> TrainingParams:
    base = TrainingParams(
        epochs=3, batch=4, learning_rate=0.05, schedule="linear", warmup=0.2, weight_decay=0.01,
        rates={}, chunks=1, micro_batch=0, precision="fp32", floor=0.0, seed=9,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


class Toy(nn.Module):
    """A small network with dropout and BatchNorm, and a draw from the generator in its loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1)
        )

    def forward(self, batch, generator):
        noise = torch.rand(len(batch["x"]), generator=generator)
        first = (self.body(batch["x"])[:, 0] - batch["y"] - 0.1 * noise).square().mean()
        second = 0.01 * self.body[0].weight.square().sum()
        return {"fit": first, "small": second, "loss": first + second}


def batches(start: int):
    for step in range(start, 1000):
        x = torch.from_numpy(np.random.default_rng(step).random((4, 3), np.float32))
        yield {"x": x, "y": x.sum(1)}


PLAN = Plan(pairs=22, batch=4, epochs=3)


def run(folder: Path, toy: Toy | None = None, **options):
    toy = toy or Toy()
    trained = train(toy, toy.body, batches, PLAN, settings(), folder, CPU, **options)
    return toy, trained


def test_a_floor_above_the_peak_is_refused():
    with pytest.raises(ValueError, match="not above the peak"):
        settings(floor=0.06)


def test_what_an_objective_doubles_learns_twice_as_fast():
    class Doubling(Toy):
        doubled = (r"body\.0\.",)

    loop = Loop(Doubling(), PLAN, settings(), CPU)
    peaks = {name: g["peak"] for g in loop.optimizer.param_groups for name in g["names"]}
    assert peaks["body.0.weight"] == 2 * peaks["body.3.weight"]


def test_the_users_rate_counts_where_an_objective_doubles_the_same():
    class Doubling(Toy):
        doubled = (r"body\.0\.",)

    loop = Loop(Doubling(), PLAN, settings(rates={r"body\.0\.": 5.0}), CPU)
    peaks = {name: g["peak"] for g in loop.optimizer.param_groups for name in g["names"]}
    assert peaks["body.0.weight"] == 5 * peaks["body.3.weight"]


@pytest.mark.parametrize("part", [{"chunks": 2}, {"micro_batch": 2}])
def test_parts_that_an_objective_knows_nothing_of_are_an_error(part):
    with pytest.raises(PedAlignError, match=f"{next(iter(part))} is 2, and this objective takes"):
        Loop(Toy(), PLAN, settings(**part), CPU)


@pytest.mark.parametrize("count", [3, 4])
def test_a_batch_that_the_objectives_chunks_do_not_divide(count):
    class Chunked(Toy):
        chunks = count

    with pytest.raises(PedAlignError, match=f"a batch of 4 in {count} chunks"):
        Loop(Chunked(), PLAN, settings(), CPU)


def test_a_run_has_a_row_a_step_and_learns(tmp_path):
    toy, trained = run(tmp_path)
    assert PLAN.steps == 15
    assert PLAN.scheduled == 18
    assert [row["step"] for row in trained.rows] == list(range(1, 16))
    assert [row["epoch"] for row in trained.rows] == [1] * 5 + [2] * 5 + [3] * 5
    assert trained.rows[0]["lr"] == 0
    assert max(row["lr"] for row in trained.rows) == pytest.approx(0.05)
    assert trained.rows[-1]["loss"] < 0.5 * trained.rows[0]["loss"]
    assert all(row["loss"] == pytest.approx(row["fit"] + row["small"]) for row in trained.rows)
    assert (trained.scores, trained.best) == ({}, {})
    assert not toy.body.training


class KilledError(Exception):
    pass


@pytest.mark.parametrize("kill_at", [1, 4, 5, 13])
def test_killed_and_resumed_equals_undisturbed(tmp_path, kill_at):
    def score(toy: Toy) -> dict[str, float]:
        norm = float(toy.body[0].weight.detach().square().sum())
        return {"small": -norm, "large": norm}

    (tmp_path / "whole").mkdir()
    (tmp_path / "torn").mkdir()
    whole = Toy()
    _, undisturbed = run(tmp_path / "whole", whole, validate=lambda: score(whole))

    def dying(start: int):
        for step, batch in enumerate(batches(start), start):
            if step == kill_at:
                raise KilledError
            yield batch

    torn = Toy()
    with pytest.raises(KilledError):
        train(
            torn, torn.body, dying, PLAN, settings(), tmp_path / "torn", CPU,
            validate=lambda: score(torn), checkpoint_seconds=0,
        )  # fmt: skip
    torch.rand(7)  # what else drew random numbers does not matter
    fresh = Toy()
    with torch.no_grad():
        fresh.body[0].weight.zero_()
    _, resumed = run(tmp_path / "torn", fresh, validate=lambda: score(fresh))
    assert resumed.rows == undisturbed.rows
    assert resumed.scores == undisturbed.scores
    assert [len(scores) for scores in resumed.scores.values()] == [3, 3]
    assert set(resumed.best) == {"small", "large"}
    for which, kept in undisturbed.best.items():
        assert resumed.best_epoch(which) == undisturbed.best_epoch(which)
        for name, value in kept.items():
            assert torch.equal(value, resumed.best[which][name]), (which, name)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), name


def test_for_each_score_the_best_epochs_weights_are_kept(tmp_path):
    toy, seen = Toy(), []
    scores = iter([{"a": 1.0, "b": 3.0}, {"a": 3.0, "b": 4.0}, {"a": 3.0, "b": 5.0}])

    def validate() -> dict[str, float]:
        assert not toy.body.training
        seen.append(toy.body[0].weight.detach().clone())
        return next(scores)

    _, trained = run(tmp_path, toy, validate=validate)
    assert trained.scores == {"a": [1.0, 3.0, 3.0], "b": [3.0, 4.0, 5.0]}
    assert (trained.best_epoch("a"), trained.best_epoch("b")) == (2, 3)
    assert torch.equal(trained.best["a"]["0.weight"], seen[1])
    assert torch.equal(trained.best["b"]["0.weight"], seen[2])
    assert torch.equal(toy.body[0].weight, seen[2])  # the model has the last
    assert not torch.equal(seen[1], seen[2])


def test_scoring_changes_nothing_that_is_trained(tmp_path):
    def validate() -> dict[str, float]:
        torch.rand(5)
        return {"a": 1.0}

    plain, _ = run(tmp_path / "plain")
    scored, _ = run(tmp_path / "scored", validate=validate)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, scored.state_dict()[name]), name


def test_weights_best_by_two_scores_are_held_once(tmp_path):
    toy = Toy()
    loop = Loop(toy, PLAN, settings(), CPU)
    loop.consider({"a": 1.0, "b": 2.0}, toy)
    assert loop.best["a"] is loop.best["b"]
    loop.save(tmp_path / RUNNING)
    once = (tmp_path / RUNNING).stat().st_size
    loop.best = {"a": loop.best["a"]}
    loop.save(tmp_path / RUNNING)
    held = sum(value.nbytes for value in toy.state_dict().values())
    assert once - (tmp_path / RUNNING).stat().st_size < held
    loop.consider({"a": 0.5, "b": 3.0}, toy)
    assert loop.best["a"] is not loop.best["b"]


def test_a_loss_that_is_not_finite_stops_with_its_step(tmp_path):
    def broken(start: int):
        for step, batch in enumerate(batches(start)):
            yield {**batch, "y": batch["y"] * (float("nan") if step == 6 else 1)}

    toy = Toy()
    with pytest.raises(PedAlignError, match="step 7 is nan"):
        train(toy, toy.body, broken, PLAN, settings(), tmp_path, CPU)


def test_a_foreign_running_checkpoint_is_an_error(tmp_path):
    loop = Loop(Toy(), Plan(8, 4, 1), settings(), CPU)
    loop.advance(next(batches(0)))
    loop.save(tmp_path / RUNNING)
    with pytest.raises(PedAlignError, match="another training"):
        run(tmp_path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut off", b"\x80\x02not a checkpoint"])
def test_a_damaged_running_checkpoint_names_the_file_and_the_remedy(tmp_path, data):
    (tmp_path / RUNNING).write_bytes(data)
    with pytest.raises(PedAlignError, match="or damaged") as caught:
        run(tmp_path)
    assert str(tmp_path) in caught.value.remedy


def test_half_precision_keeps_float32_weights(tmp_path):
    toy = Toy()
    train(toy, toy.body, batches, PLAN, settings(precision="bf16"), tmp_path, CPU)
    assert {p.dtype for p in toy.parameters()} == {torch.float32}


@pytest.mark.parametrize(("precision", "fused"), [("fp32", True), ("bf16", False)])
def test_attention_is_written_out_in_bf16_on_a_cpu_also_backwards(tmp_path, precision, fused):
    seen = []

    class Watching(Toy):
        def forward(self, batch, generator):
            losses = super().forward(batch, generator)

            def look(*_):
                seen.append(torch.backends.cuda.flash_sdp_enabled())

            look()
            losses["loss"].register_hook(look)
            return losses

    loop = Loop(Watching(), PLAN, settings(precision=precision), CPU)
    loop.advance(next(batches(0)))
    assert seen == [fused, fused]
    assert torch.backends.cuda.flash_sdp_enabled()


def test_progress_is_told(tmp_path):
    told = []
    run(tmp_path, progress=lambda step, steps, row: told.append((step, steps, row["step"])))
    assert told == [(10, 15, 10), (15, 15, 15)]
