"""Recomputed activations: the same numbers from less memory, also with dropout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.recomputing import in_parts, recompute_layers, recomputed

ROWS = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))


def saved(module: nn.Module, call) -> tuple[Tensor, int, list[Tensor]]:
    """Result, bytes kept for the backward pass (parameters aside), and gradients."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    module.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        found = call()
        total = sum(kept.values())
    found.square().sum().backward()
    return (
        found.detach(),
        total,
        [p.grad.clone() for p in module.parameters() if p.grad is not None],
    )


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_parts_give_what_the_whole_gives(size: int) -> None:
    net = nn.Sequential(nn.Linear(5, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))
    whole, kept, gradients = saved(net, lambda: net(ROWS))
    parts, less, again = saved(net, lambda: in_parts(net, ROWS, size=size))
    torch.testing.assert_close(parts, whole)
    for a, b in zip(gradients, again, strict=True):
        torch.testing.assert_close(a, b)
    assert less < 0.2 * kept


def test_dropout_drops_the_same_again() -> None:
    net = nn.Sequential(nn.Linear(5, 32), nn.Dropout(0.5), nn.Linear(32, 1))
    found = []
    for again in (False, True):
        torch.manual_seed(3)
        found.append(saved(net, lambda again=again: recomputed(net, ROWS, again=again)))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(a, b) for a, b in zip(found[0][2], found[1][2], strict=True))


def test_without_gradients_nothing_is_kept_and_0_takes_all_at_once() -> None:
    net = nn.Linear(5, 2)
    calls = []

    def call(rows: Tensor) -> Tensor:
        calls.append(len(rows))
        return net(rows)

    with torch.no_grad():
        in_parts(call, ROWS, size=3)
    assert calls == [3, 3, 1]
    in_parts(call, ROWS, size=0).sum().backward()
    assert calls == [3, 3, 1, 7]
    in_parts(call, ROWS, size=4).sum().backward()
    assert calls == [3, 3, 1, 7, 4, 3, 3, 4]  # and again, the last part first


def test_layers_are_told_wherever_they_are() -> None:
    class Layered(nn.Module):
        recompute = False

    inner = Layered()
    recompute_layers(nn.Sequential(nn.Linear(1, 1), nn.Sequential(inner)), again=True)
    assert inner.recompute


def test_gradients_of_parts_are_summed_in_full_precision() -> None:
    """A row of gradient 1, then 255 of 1/256 each: half precision would lose the latter."""
    weight = nn.Parameter(torch.ones(1, 1))
    rows = torch.ones(256, 1)
    scale = torch.full((256, 1), 1 / 256)
    scale[0] = 1.0

    def call(part: Tensor) -> Tensor:
        return part @ weight

    with torch.autocast("cpu", torch.bfloat16):
        found = in_parts(call, rows, size=1)
    (found.float() * scale).sum().backward()
    assert weight.grad is not None
    assert float(weight.grad) == pytest.approx(1 + 255 / 256, abs=1e-3)
