"""How the shipped captioner, poser and CLIP are trained: one loop, one command line, one record.

What differs between them is the network and its loss; batches of a pool, the optimiser, averaged
weights and what training.json says are the same.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tasks.base.pool import PEOPLE, SIZE, Pool, draw_pool

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

HELD_OUT_SEED = 1_000_003
"""Seed of the pools that the models are measured on."""
HELD_OUT = 600

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a model is trained; recorded in training.json."""

    seed: int
    images: int
    source_share: float
    steps: int
    batch: int
    rate: float


def fit(
    model: M,
    pictures: int,
    plan: Plan,
    loss_of: Callable[[M, NDArray[np.int64], torch.Generator], Tensor],
    name: str,
) -> tuple[M, float]:
    """Train by AdamW with one cycle of the learning rate, averaging the weights.

    Args:
        model: A new network; it is trained in place.
        pictures: Size of the pool.
        plan: How.
        loss_of: The loss of some of the pool's pictures, by the model, their numbers in ascending
            order and the step's own generator.
        name: For the log.

    Returns:
        The averaged network (moving average of 0.998), and the mean loss of the last 100 steps.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.998))
    optimizer = torch.optim.AdamW(model.parameters(), plan.rate, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.rate, plan.steps, pct_start=0.08, final_div_factor=100
    )
    rng = np.random.default_rng(plan.seed)
    recent: list[float] = []
    began = time.monotonic()
    for step in range(plan.steps):
        rows = np.sort(rng.integers(0, pictures, plan.batch))
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        loss = loss_of(model, rows, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        recent = [*recent[-99:], loss.item()]
        if step % 200 == 0:
            spent = time.monotonic() - began
            log.info("%s %d loss %.5f %.0f s", name, step, np.mean(recent), spent)
    # AveragedModel declares its copy as any module.
    trained = cast("M", average.module)
    return trained.eval(), float(np.mean(recent))


def command_line(
    name: str, what: str, steps: int, arguments: list[str] | None
) -> tuple[argparse.Namespace, Plan]:
    """Read the command line of a training script and set up logging and threads.

    Args:
        name: Of the script and of the folder below models/tiny.
        what: What is trained, in words.
        steps: As many as made the shipped weights.
        arguments: Of the command line; the process's own where None.
    """
    parser = argparse.ArgumentParser(description=f"train the shipped tiny {what}")
    parser.add_argument("--work", type=Path, required=True, help="where the pool is kept")
    parser.add_argument("--out", type=Path, default=Path("models/tiny") / name)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    plan = Plan(
        seed=args.seed,
        images=args.images,
        source_share=0.35,
        steps=args.steps,
        batch=64,
        rate=1.5e-3,
    )
    return args, plan


def held_out(
    measure: Callable[[Pool], dict[str, float]], work: Path, size: tuple[int, int] = SIZE
) -> dict[str, Any]:
    """Measure a trained model on new people, in the source look and in random ones."""
    looks = (("source", 1.0), ("random", 0.0))
    return {
        look: measure(draw_pool(HELD_OUT, share, HELD_OUT_SEED, work, size))
        for look, share in looks
    }


def write_record(
    out: Path, name: str, plan: Plan, losses: dict[str, float], measured: dict[str, Any]
) -> None:
    """Write training.json beside the weights: how they were made, and how good they are."""
    record = {
        "command": f"python -m tasks.base.{name} --seed {plan.seed} --images {plan.images} "
        f"--steps {plan.steps}",
        "seed": plan.seed,
        "looks": ["source", "random"],
        "images": plan.images,
        "people": PEOPLE,
        "plan": asdict(plan),
        "losses": losses,
        "held_out": {"images": HELD_OUT, "seed": HELD_OUT_SEED, **measured},
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    log.info("%s", json.dumps(measured))
