"""A batch spread over processes: the losses AND gradients of one process with the whole batch.

Gradients, not weights after a step: AdamW takes the scale out of them, and a wrong one with it.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from models.mra import MRA, PAPER, RELEASED
from models.mra.objectives import FinetuneObjective, PretrainObjective
from models.team import average, gather, join, number, own_part, own_share, processes

Make = Callable[..., MRA]
Batch = dict[str, Tensor]
Case = tuple[nn.Module, Batch]
Found = dict[str, dict[str, Tensor]]
LENGTHS = {
    "mask": "ids masked_ids masked_labels",
    "region_mask": "region_ids",
    "eda_mask": "eda_ids",
}


def run(objective: nn.Module, batch: Batch, half: bool = False) -> dict[str, Tensor]:
    """Losses, gradients and buffers of a step, as the loop takes it."""
    joined = join(objective.train())  # kept: it is what averages in the backward pass
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses = joined(batch, torch.Generator().manual_seed(11))
    losses["loss"].backward()
    found = {f"loss {name}": average(value.detach().clone()) for name, value in losses.items()}
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        found[f"grad {name}"] = parameter.grad.clone()
    return found | {f"buffer {n}": b.clone() for n, b in objective.named_buffers()}


def part(batch: Batch, trim: bool) -> Batch:
    """This process's rows, texts cut to the longest of them, as `tasks.batches` gives them.

    Where the text's feature averages over pads, texts are not cut.
    """
    own = {name: own_part(rows) for name, rows in batch.items()}
    if not trim:
        return own
    for mask, names in LENGTHS.items():
        longest = int(own[mask].sum(1).max())
        for name in (mask, *names.split()):
            own[name] = own[name][:, :longest]
    return own


def member(rank: int, folder: Path) -> None:
    """Be one of two processes: take every case's step and leave what came of it."""
    torch.set_num_threads(1)
    # What accelerate asks for; the meeting itself is a file.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    place = (folder / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    cases: dict[str, Case] = torch.load(folder / "cases.pt", weights_only=False)
    found = {}
    for name, (objective, batch) in cases.items():
        trim = not objective.get_submodule("model").config.reading.pool_pads
        found[name] = run(objective, part(batch, trim), half=name == "half precision")
    rows = gather(torch.arange(4.0).reshape(2, 2)[:, : rank + 1] + 10 * rank, padding=-1)
    found["helpers"] = {
        "gather": rows,
        "share": own_share(torch.arange(5)),
        "turned": gather(torch.arange(6.0).reshape(3, 2).t()),
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def cases(make_model: Make, make_batch: Callable[..., Batch]) -> dict[str, Case]:
    longer = make_batch(8)
    own_heads = make_model(dataclasses.replace(PAPER, region_heads=True))
    regions, unlabelled, one_person = make_batch(), make_batch(), make_batch()
    regions["patch_mask"][3] = 0  # a row without a region, in the second process
    regions["patch_mask"][0, :] = 1
    unlabelled["masked_labels"][::2] = -100  # nothing to predict for one process's share
    one_person["person"][:] = 7  # no negatives at all
    return {
        "regions": (PretrainObjective(make_model()), regions),
        "released": (PretrainObjective(make_model(RELEASED)), make_batch()),
        "token head": (PretrainObjective(make_model(head="token")), make_batch()),
        "no regions": (PretrainObjective(make_model(), region_weight=0.0), make_batch()),
        "unlabelled": (PretrainObjective(make_model()), unlabelled),
        "edits": (FinetuneObjective(make_model()), make_batch()),
        "one person": (FinetuneObjective(make_model()), one_person),
        # One device a process, two devices a process, and a device over two processes.
        "2 chunks": (PretrainObjective(make_model(RELEASED), chunks=2), longer),
        "4 chunks": (PretrainObjective(make_model(RELEASED), chunks=4), longer),
        "1 chunk": (PretrainObjective(make_model(RELEASED), chunks=1), longer),
        "edits in 4 chunks": (FinetuneObjective(make_model(RELEASED), chunks=4), longer),
        "paper in 4 chunks": (PretrainObjective(make_model(), chunks=4), longer),
        "parts": (PretrainObjective(make_model(), micro_batch=2), make_batch()),
        "parts of chunks": (
            PretrainObjective(make_model(RELEASED), chunks=4, micro_batch=3),
            longer,
        ),
        "edits in parts": (FinetuneObjective(make_model(), micro_batch=2), make_batch()),
        "own heads": (PretrainObjective(own_heads), make_batch()),
        "half precision": (PretrainObjective(make_model()), make_batch()),
    }


@pytest.fixture(scope="module")
def alone(cases: dict[str, Case]) -> Found:
    return {
        name: run(copy.deepcopy(objective), batch, half=name == "half precision")
        for name, (objective, batch) in cases.items()
    }


@pytest.fixture(scope="module")
def together(cases: dict[str, Case], tmp_path_factory: Any) -> list[Found]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("together")
    torch.save(cases, folder / "cases.pt")
    start_processes(member, args=(folder,), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


NAMES = [
    *("regions", "released", "token head", "no regions", "unlabelled", "edits", "one person"),
    *("1 chunk", "2 chunks", "4 chunks", "edits in 4 chunks", "paper in 4 chunks"),
    *("parts", "parts of chunks", "edits in parts", "own heads"),
]


@pytest.mark.parametrize("name", NAMES)
def test_losses_gradients_and_batch_statistics_are_those_of_one_process(
    alone: Found, together: list[Found], name: str
) -> None:
    wanted, found = alone[name], together[0][name]
    assert found.keys() == wanted.keys()
    assert any(key.startswith("grad") for key in wanted)
    largest = max(float(v.abs().max()) for k, v in wanted.items() if k.startswith("grad"))
    for key, value in wanted.items():
        rtol, atol = (1e-4, 1e-6 * largest) if key.startswith("grad") else (1e-5, 1e-8)
        assert torch.allclose(found[key], value, rtol=rtol, atol=atol), key


@pytest.mark.parametrize("name", [*NAMES, "half precision"])
def test_all_processes_end_a_step_with_the_same_bits(together: list[Found], name: str) -> None:
    for key, value in together[0][name].items():
        assert torch.equal(value, together[1][name][key]), key


def test_half_precision_is_near_too(alone: Found, together: list[Found]) -> None:
    wanted, found = alone["half precision"], together[0]["half precision"]
    for key in (key for key in wanted if key.startswith("loss")):
        assert found[key].item() == pytest.approx(wanted[key].item(), rel=0.05), key


def test_rows_of_unequal_length_are_padded_and_shares_part_all_rows(together: list[Found]) -> None:
    first, second = (found["helpers"] for found in together)
    wanted = torch.tensor([[0.0, -1], [2, -1], [10, 11], [12, 13]])
    assert torch.equal(first["gather"], wanted)
    assert torch.equal(second["gather"], wanted)
    assert sorted(torch.cat([first["share"], second["share"]]).tolist()) == list(range(5))


def test_rows_in_another_order_of_memory_are_gathered(together: list[Found]) -> None:
    turned = torch.arange(6.0).reshape(3, 2).t()
    assert torch.equal(together[0]["helpers"]["turned"], torch.cat([turned, turned]))


def test_alone_nothing_is_gathered() -> None:
    rows = torch.rand(3, 2)
    assert gather(rows) is rows
    assert own_share(rows) is rows
    assert (number(), processes()) == (0, 1)
