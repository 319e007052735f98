"""A step in parts, or with layers recomputed: the whole step's numbers from less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.mra import MRA, RELEASED
from models.mra.objectives import FinetuneObjective, PretrainObjective
from models.recomputing import recompute_layers

Make = Callable[..., MRA]
Batch = dict[str, Tensor]
Taken = tuple[dict[str, Tensor], dict[str, Tensor], int]
OBJECTIVES: dict[str, Callable[..., nn.Module]] = {
    "pretraining": PretrainObjective,
    "fine-tuning": FinetuneObjective,
}
DROPPING = {"text_dropout": 0.3, "head_dropout": 0.3, "vision_dropout": 0.3, "drop_path": 0.3}


def take(objective: nn.Module, batch: Batch, *, again: bool = False, half: bool = False) -> Taken:
    """Losses, gradients and bytes kept for the backward pass, the model's own aside."""
    recompute_layers(objective, again)
    own = {p.untyped_storage().data_ptr() for p in objective.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    objective.train().zero_grad()
    torch.manual_seed(2)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        losses = objective(batch, torch.Generator().manual_seed(11))
        total = sum(kept.values())
    losses["loss"].backward()
    gradients = {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients, total


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("changes", [{}, {"reading": RELEASED}, {"head": "token"}])
def test_parts_give_the_whole_steps_losses_and_gradients(
    make_model: Make, batch: Batch, size: int, name: str, changes: dict[str, Any]
) -> None:
    batch["masked_labels"][4] = -100  # a part with nothing to predict, at size 1
    model = make_model(**changes)
    whole, wanted, _ = take(OBJECTIVES[name](model, chunks=2), batch)
    losses, gradients, _ = take(OBJECTIVES[name](model, chunks=2, micro_batch=size), batch)
    for key, loss in whole.items():
        torch.testing.assert_close(losses[key], loss, rtol=1e-5, atol=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    assert gradients.keys() == wanted.keys()
    for key, gradient in wanted.items():
        assert (gradients[key] - gradient).abs().max() < 2e-6 * largest, key


@pytest.mark.parametrize("half", [False, True])
def test_recomputed_layers_change_no_bit(make_model: Make, batch: Batch, half: bool) -> None:
    model = make_model(**DROPPING)
    plain, wanted, kept = take(PretrainObjective(model), batch, half=half)
    losses, gradients, less = take(PretrainObjective(model), batch, again=True, half=half)
    assert less < 0.7 * kept
    assert all(torch.equal(losses[name], loss) for name, loss in plain.items())
    assert all(torch.equal(gradients[name], gradient) for name, gradient in wanted.items())


@pytest.mark.parametrize("again", [False, True])
def test_parts_with_dropout_repeat(make_model: Make, batch: Batch, again: bool) -> None:
    model = make_model(**DROPPING)
    objective = PretrainObjective(model, micro_batch=2)
    first, second = take(objective, batch, again=again), take(objective, batch, again=again)
    assert all(torch.equal(first[0][name], loss) for name, loss in second[0].items())
    assert all(torch.equal(first[1][name], gradient) for name, gradient in second[1].items())
    # What is not of the parts stays: dropping is on.
    assert not torch.equal(first[0]["itc"], take(PretrainObjective(model.eval()), batch)[0]["itc"])


@pytest.mark.parametrize("again", [False, True])
def test_parts_in_half_precision_are_near(make_model: Make, batch: Batch, again: bool) -> None:
    model = make_model()
    whole, wanted, _ = take(PretrainObjective(model), batch, half=True)
    losses, found, _ = take(PretrainObjective(model, micro_batch=2), batch, again=again, half=True)
    for name in ("itc", "mlm", "loss"):  # the others' negatives may be drawn differently
        assert losses[name].item() == pytest.approx(whole[name].item(), rel=0.05), name
    assert found.keys() == wanted.keys()
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_kept_memory_of_a_row_is_that_of_its_tokens(make_model: Make, batch: Batch) -> None:
    """Twice the rows cost the tokens' share more, not that of the activations."""
    model = make_model()
    twice = {name: torch.cat([rows, rows]) for name, rows in batch.items()}
    kept = {
        (size, rows): take(PretrainObjective(model, micro_batch=size), data)[2]
        for size in (0, 2)
        for rows, data in ((6, batch), (12, twice))
    }
    a_row_plain = (kept[0, 12] - kept[0, 6]) / 6
    a_row = (kept[2, 12] - kept[2, 6]) / 6
    assert a_row < 0.25 * a_row_plain
