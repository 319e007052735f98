"""A batch spread over processes: the losses and gradients of one process with the whole batch."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from models.dual.finetuning import IdentityObjective
from models.dual.granularity import GranularityConfig
from models.dual.model import DualEncoder
from models.dual.pretraining import UniptObjective
from models.team import average, join, own_part

Batch = dict[str, Tensor]
Case = tuple[nn.Module, Batch]
Found = dict[str, dict[str, Tensor]]
NAMES = ["pretraining", "in chunks", "in parts", "no words", "fine-tuning", "people in parts"]


def run(objective: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Losses and gradients of a step, as the loop takes it."""
    joined = join(objective.train())  # kept: it is what averages in the backward pass
    losses = joined(batch, torch.Generator().manual_seed(11))
    losses["loss"].backward()
    found = {f"loss {name}": average(value.detach().clone()) for name, value in losses.items()}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            found[f"grad {name}"] = parameter.grad.clone()
    return found


def part(batch: Batch) -> Batch:
    """This process's rows, texts cut to the longest of them, as `tasks.batches` gives them."""
    own = {name: own_part(rows) for name, rows in batch.items()}
    longest = int(own["mask"].sum(1).max())
    return {name: rows[:, :longest] if rows.ndim == 2 else rows for name, rows in own.items()}


def member(rank: int, folder: Path) -> None:
    """Be one of two processes: take every case's step and leave what came of it."""
    torch.set_num_threads(1)
    # What accelerate asks for; the meeting itself is a file.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    place = (folder / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    cases: dict[str, Case] = torch.load(folder / "cases.pt", weights_only=False)
    found = {name: run(objective, part(batch)) for name, (objective, batch) in cases.items()}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def cases(
    make_model: Callable[..., DualEncoder], make_batch: Callable[..., Batch]
) -> dict[str, Case]:
    unlabelled, batch = make_batch(), make_batch()
    unlabelled["masked_labels"][3:] = -100  # nothing to predict for the second process
    sizes = GranularityConfig(parts=3, part_dim=4, heads=2, head_dim=4, inner_dim=8, dictionary=5)
    torch.manual_seed(0)
    return {
        "pretraining": (UniptObjective(make_model()), unlabelled),
        "in chunks": (UniptObjective(make_model(), chunks=3, temperature=0.1), batch),
        "in parts": (UniptObjective(make_model(), micro_batch=2), batch),
        "no words": (UniptObjective(make_model(), mlm_weight=0.0), batch),
        "fine-tuning": (IdentityObjective(make_model(granularity=sizes), people=5), batch),
        "people in parts": (
            IdentityObjective(make_model(granularity=sizes), people=5, micro_batch=2),
            batch,
        ),
    }


@pytest.fixture(scope="module")
def together(cases: dict[str, Case], tmp_path_factory: Any) -> list[Found]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("together")
    torch.save(cases, folder / "cases.pt")
    start_processes(member, args=(folder,), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_are_those_of_one_process(
    cases: dict[str, Case], together: list[Found], name: str
) -> None:
    objective, batch = cases[name]
    wanted, found = run(copy.deepcopy(objective), batch), together[0][name]
    assert found.keys() == wanted.keys()
    assert wanted["loss loss"] > 0
    largest = max(float(v.abs().max()) for k, v in wanted.items() if k.startswith("grad"))
    for key, value in wanted.items():
        rtol, atol = (1e-4, 1e-6 * largest) if key.startswith("grad") else (1e-5, 1e-8)
        assert torch.allclose(found[key], value, rtol=rtol, atol=atol), key
        assert torch.equal(found[key], together[1][name][key]), key
