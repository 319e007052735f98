"""The training loop of the retrieval model, shared by pretraining and fine-tuning.

It does not know what it trains: an objective takes a batch and a generator and gives named losses.

What is unusual: nothing random lives in the loop. A step's dropout and negatives are seeded from
the step's number and a pair's augmentation from its uid, so the running checkpoint is weights,
optimiser and step, and a killed training goes on to bit-for-bit the same result (same machine,
device, dtype and thread count). Which parameter learns how fast is `tasks.rates`' matter.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from models.recomputing import recompute_layers
from models.team import average, join, number
from tasks.arithmetic import Precision
from tasks.errors import PedAlignError
from tasks.params import NonNegative, Positive, PositiveFloat, params
from tasks.rates import FAST, Schedule, parameter_groups, schedule_factor, warmup_steps
from tasks.running import RUNNING, read_running, write_running
from tasks.runtime import runtime
from tasks.shards import item_seed

log = logging.getLogger(__name__)

BETAS, EPSILON = (0.9, 0.98), 1e-8
Row = dict[str, float]
NonNegativeFloat = Annotated[float, Field(ge=0)]


@params
class TrainingParams:
    """How to optimise: the part that pretraining and fine-tuning have in common."""

    epochs: Positive
    """Passes over the training pairs."""
    batch: Positive
    """Pairs a step. Contrastive loss and negatives compare within it."""
    learning_rate: PositiveFloat
    """Peak learning rate."""
    schedule: Schedule
    """After warm-up: ``linear`` to ``floor``; ``step`` is linear times 1, 0.5 from four and 0.2
    from seven times the warm-up on (MRA's); ``multistep`` stays, and falls to a tenth after a
    third, two thirds and five sixths of all steps (LGUR's)."""
    floor: NonNegativeFloat
    """Learning rate that the schedule ends at; 0 as released, 5e-6 in the paper's pretraining."""
    warmup: Annotated[int | float, Field(ge=0)]
    """Steps of warm-up; below 1, the share of all steps."""
    weight_decay: NonNegativeFloat
    """AdamW's decay; biases and normalisation layers have none."""
    rates: dict[str, PositiveFloat]
    """Regular expression to factor: parameters whose names match learn that many times as fast."""
    chunks: Positive
    """Equal consecutive parts of a batch that stand for the released run's devices, whatever the
    number of processes. Of MRA it counts only where the model's reading has ``local_negatives``,
    ``local_statistics`` or ``shared_contrast``; of UniPT's pretraining always; elsewhere it is
    1."""
    micro_batch: NonNegative
    """Rows encoded, and pairs fused, at a time, and again in the backward pass: memory is that of
    so many rows, the losses are those of the whole batch. 0 takes all at once."""
    precision: Precision
    """Autocast of the forward pass; weights and optimiser stay in float32. ``auto`` takes bf16
    where the machine is faster in it (`tasks.arithmetic`)."""
    seed: NonNegative
    """Decides order, augmentation, masking, dropout and negatives."""

    @model_validator(mode="after")
    def _descends(self) -> Self:
        if self.floor > self.learning_rate:
            raise ValueError("floor is a learning rate that is not above the peak")
        return self


@dataclass(frozen=True)
class Plan:
    """How long a training is."""

    pairs: int
    """Training pairs."""
    batch: int
    epochs: int

    @property
    def per_epoch(self) -> int:
        """Steps an epoch; the pairs left over wait for the next one."""
        return self.pairs // self.batch

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.per_epoch * self.epochs

    @property
    def scheduled(self) -> int:
        """Steps that the schedule is laid out for: as released, epochs rounded up (A1)."""
        return math.ceil(self.pairs / self.batch) * self.epochs


@dataclass(frozen=True)
class Trained:
    """What a training leaves besides the last weights, which its model has."""

    rows: list[Row]
    """One a step: step, epoch, lr and every loss."""
    scores: dict[str, list[float]]
    """Scores by name, one an epoch; empty where nothing was scored."""
    best: dict[str, dict[str, Tensor]]
    """By name of the score: the weights of its best epoch, the first of equals."""

    def best_epoch(self, name: str) -> int:
        """Epoch, from 1, whose weights ``best[name]`` are."""
        return self.scores[name].index(max(self.scores[name])) + 1


class Loop:
    """One training: its objective, optimiser and place."""

    def __init__(
        self, objective: nn.Module, plan: Plan, settings: TrainingParams, device: torch.device
    ) -> None:
        """Set up at step 0. Of processes that train together each has one; they stay equal.

        Args:
            objective: ``objective(batch, generator)`` gives named losses and their sum "loss".
                It may have ``chunks``, into which it divides a batch, ``micro_batch``, and
                ``doubled``, expressions for what its model's reading lets learn twice as fast.
            plan: How long.
            settings: How.
            device: Where to compute.

        Raises:
            PedAlignError: The batch is not divisible, an expression matches no parameter, or the
                objective knows nothing of the parts that are asked for.
        """
        self.objective, self.plan, self.settings, self.device = objective, plan, settings, device
        for name, idle in (("chunks", 1), ("micro_batch", 0)):
            if (value := getattr(settings, name)) != idle and not hasattr(objective, name):
                raise PedAlignError(
                    f"training.{name} is {value}, and this objective takes a batch whole",
                    "a parameter never does nothing in silence",
                    f"set {name} to {idle}",
                )
        chunks = getattr(objective, "chunks", 1)
        if chunks > 1 and (plan.batch % chunks or plan.batch < 2 * chunks):
            raise PedAlignError(
                f"a batch of {plan.batch} in {chunks} chunks",
                "where the released run's devices are imitated, a batch is divided into equal "
                "parts of two pairs at least",
                "choose a batch that `chunks` divides, or set `chunks` to 1",
            )
        objective.to(device)
        recompute_layers(objective, runtime().recompute)
        groups = parameter_groups(
            objective.named_parameters(),
            settings.learning_rate,
            settings.weight_decay,
            dict.fromkeys(getattr(objective, "doubled", ()), FAST) | settings.rates,
        )
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=EPSILON, fused=True)
        self.joined = join(objective)
        self.warmup = warmup_steps(settings.warmup, plan.scheduled)
        self.step = 0
        self.rows: list[Row] = []
        self.scores: dict[str, list[float]] = {}
        self.best: dict[str, dict[str, Tensor]] = {}
        self._pending: list[tuple[float, list[str], Tensor]] = []

    def advance(self, batch: dict[str, Tensor]) -> None:
        """Take one step; everything random in it follows from the seed and its number."""
        settings, plan = self.settings, self.plan
        floor = settings.floor / settings.learning_rate
        factor = schedule_factor(settings.schedule, self.step, plan.scheduled, self.warmup, floor)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        # Processes that train together drop other activations, each of its own rows.
        place = f"{self.step}/{number()}" if number() else str(self.step)
        torch.manual_seed(item_seed("dropout", self.settings.seed, place))
        generator = torch.Generator().manual_seed(
            item_seed("negatives", self.settings.seed, str(self.step))
        )
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        self.objective.train()
        half = self.settings.precision == "bf16"
        self.optimizer.zero_grad(set_to_none=True)  # here: they would lie beside the activations
        with _attention(self.device, half=half):  # backwards too: layers may be computed again
            with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                losses = self.joined(batch, generator)
            losses["loss"].backward()
        self.optimizer.step()
        self.step += 1
        # Losses wait on the device: reading each at once would stall a GPU every step.
        values = torch.stack([value.detach().float() for value in losses.values()])
        values = average(values)
        self._pending.append((self.settings.learning_rate * factor, list(losses), values))
        if len(self._pending) >= 20:
            self.collect()

    def collect(self) -> None:
        """Move the waiting losses into rows.

        Raises:
            PedAlignError: One is not finite.
        """
        first = self.step - len(self._pending)
        for at, (rate, names, values) in enumerate(self._pending):
            step = first + at + 1
            row = dict(zip(names, values.tolist(), strict=True))
            if not math.isfinite(row["loss"]):
                raise PedAlignError(
                    f"the loss of step {step} is {row['loss']} ({row})",
                    "a training whose loss is not finite cannot recover",
                    "lower learning_rate, lengthen warmup, or set precision to fp32",
                )
            epoch = (step - 1) // self.plan.per_epoch + 1
            self.rows.append({"step": step, "epoch": epoch, "lr": rate, **row})
        self._pending.clear()

    def consider(self, scores: Mapping[str, float], model: nn.Module) -> None:
        """Take an epoch's scores; the model's weights are kept for each that was never higher.

        A score with a slash in its name ("val/mAP") is written down and chooses nothing.
        """
        higher = [
            name
            for name, score in scores.items()
            if "/" not in name and score > self._highest(name)
        ]
        if higher:  # one copy serves them all, here and in the running checkpoint
            weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            self.best |= dict.fromkeys(higher, weights)
        for name, score in scores.items():
            self.scores.setdefault(name, []).append(score)

    def _highest(self, name: str) -> float:
        return max(self.scores.get(name, []), default=-math.inf)

    def save(self, path: Path) -> None:
        """Write the running checkpoint so that it is either absent or whole."""
        self.collect()
        if number() > 0:  # all processes hold the same
            return
        state = {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "steps": self.plan.steps,
            "rows": self.rows,
            "scores": self.scores,
            "best": self.best,
        }
        write_running(path, state)

    def resume(self, path: Path) -> None:
        """Go on where the running checkpoint stands, if there is one.

        Raises:
            PedAlignError: It belongs to another training.
        """
        with read_running(path, self.plan.steps, "cpu") as state:
            if state is None:
                return
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.rows = state["step"], state["rows"]
            self.scores, self.best = state["scores"], state["best"]
        log.info("training goes on at step %d of %d", self.step, self.plan.steps)


def _attention(device: torch.device, *, half: bool) -> contextlib.AbstractContextManager[None]:
    """Have attention written out where the fused one is slow.

    On a CPU its backward pass in bf16 took a third of a pretraining step, three times that in fp32.
    """
    if half and device.type == "cpu":
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def train(
    objective: nn.Module,
    model: nn.Module,
    batches: Callable[[int], Iterator[dict[str, Tensor]]],
    plan: Plan,
    settings: TrainingParams,
    run_folder: Path,
    device: torch.device,
    *,
    name: str = "train",
    validate: Callable[[], Mapping[str, float]] | None = None,
    checkpoint_seconds: float = 30.0,
    progress: Callable[[int, int, Row], None] | None = None,
) -> Trained:
    """Train, from the start or from the run folder's running checkpoint.

    Args:
        objective: The model with its losses.
        model: The part whose weights are kept, inside the objective.
        batches: Gives the batches from a step on.
        plan: How long.
        settings: How.
        run_folder: Belongs to this training alone; holds the running checkpoint.
        device: Where to compute.
        name: Of the progress bar.
        validate: Called after each epoch, model in evaluation mode; gives named scores, and for
            each name the weights with the highest (the first of equals) are kept. It changes
            nothing that is trained.
        checkpoint_seconds: Wall time between running checkpoints; changes no result.
        progress: Called with step, steps and the newest row.

    Returns:
        The curve and what was kept; ``model`` has the last weights.

    Raises:
        PedAlignError: A loss that is not finite, or a foreign run folder.
    """
    loop = Loop(objective, plan, settings, device)
    running = run_folder / RUNNING
    loop.resume(running)
    saved = time.monotonic()
    source = batches(loop.step)
    with tqdm(
        total=plan.steps, initial=loop.step, desc=name, unit="step", disable=number() > 0
    ) as bar:
        while loop.step < plan.steps:
            loop.advance(next(source))
            bar.update()
            if validate is not None and loop.step % plan.per_epoch == 0 and number() == 0:
                model.eval()
                loop.consider(validate(), model)
            if loop.step % 10 == 0 or loop.step == plan.steps:
                loop.collect()
                bar.set_postfix(loss=f"{loop.rows[-1]['loss']:.3f}", refresh=False)
                if progress is not None:
                    progress(loop.step, plan.steps, loop.rows[-1])
            if time.monotonic() - saved >= checkpoint_seconds and loop.step < plan.steps:
                loop.save(running)
                saved = time.monotonic()
    model.eval()
    return Trained(loop.rows, loop.scores, loop.best)
