"""The steps of a DaD training: its draws, its rate, its running checkpoint.

What is unusual: a step's pairs, noise, timesteps, dropped prompts and mirrored pictures follow from
the seed and the step's number alone, so the running checkpoint is weights, optimiser and step, and
a killed run continues to the very same weights. The next step's pairs are read on a thread while
this one is computed. All of a step is drawn in every process of a team, so that neither their
number nor `accumulate` changes a draw; each then takes its own rows. On a CPU the parts of a batch
are computed side by side, as many at once as runtime.yaml has workers, and their gradients are
added in order: how many it were changes no bit.

Shape legend: B pairs of a step, C h w latents, L tokens, D text width.
"""

from __future__ import annotations

import contextlib
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from models.team import average, join, number, own_part, processes
from tasks.errors import PedAlignError
from tasks.running import read_running, write_running
from tasks.runtime import runtime, use_threads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from models.dad.objective import DaDObjective
    from tasks.adapt.train import AdaptParams
    from tasks.pairs import Pairs, Read

log = logging.getLogger(__name__)

_BATCH_KEY = 1_000_003


@dataclass(frozen=True)
class _Part:
    """What is computed at a time: some rows of a step, all of them unless `accumulate` is set."""

    read: Read
    posterior_noise_BChw: Tensor
    noise_BChw: Tensor
    steps_B: Tensor


def _begin(threads: int) -> None:
    """Prepare a thread that computes parts."""
    use_threads(threads)
    # All threads have one such cache, and whichever leaves autocast first would empty it.
    torch.set_autocast_cache_enabled(False)


class Loop:
    """One training: its weights, its optimiser, its place; of a team each process has one.

    Args:
        objective: The adapter and its loss.
        data: What it is trained on.
        section: How.
        device: Where to compute.

    Raises:
        PedAlignError: The batch cannot be divided as it has to be.
    """

    def __init__(
        self, objective: DaDObjective, data: Pairs, section: AdaptParams, device: torch.device
    ) -> None:
        self.objective, self.data, self.section, self.device = objective, data, section, device
        self.batch = min(section.batch, len(data.pairs))
        self.per_epoch = len(data.pairs) // self.batch
        self.steps = self.per_epoch * section.epochs
        if self.batch % (processes() * section.accumulate):
            raise PedAlignError(
                f"adapt: a batch of {self.batch} in {section.accumulate} parts for {processes()} "
                "processes",
                "every process takes an equal part of each batch, and adapt.accumulate divides it "
                "equally",
                "set adapt.batch to a multiple of both (it is at most the number of pairs, "
                f"{len(data.pairs)}), or runtime.yaml's processes to 1",
            )
        self.joined = join(objective)
        self.learned = list(objective.learned.values())
        self.step = 0
        self.losses: list[float] = []
        self.optimizer = torch.optim.AdamW(
            self.learned, section.learning_rate, weight_decay=section.weight_decay, fused=True
        )
        self.ema = EMAModel(self.learned, decay=section.ema, foreach=True) if section.ema else None
        self._reader = ThreadPoolExecutor(1, "adapt-reader")
        self._workers: ThreadPoolExecutor | None = None
        most = min(section.accumulate, runtime().workers)
        if most > 1 and processes() == 1 and device.type == "cpu":
            self._workers = ThreadPoolExecutor(
                most, "adapt-part", _begin, (torch.get_num_threads(),)
            )
        self._ahead: tuple[int, Future[list[_Part]]] | None = None

    def advance(self) -> float:
        """Take one step; everything random in it follows from the seed and its number."""
        parts = self._parts()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad()
        losses = self._backward(parts) if self._workers is None else self._side_by_side(parts)
        nn.utils.clip_grad_norm_(self.learned, self.section.clip)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.step(self.learned)
        self.step += 1
        value = float(average(torch.stack(losses).sum()).item())
        if not np.isfinite(value):
            raise PedAlignError(
                f"adapt: the loss of step {self.step} is {value}",
                "a training whose loss is not finite cannot recover",
                "lower adapt.learning_rate, or set diffusion.precision to fp32",
            )
        self.losses.append(value)
        return value

    def _backward(self, parts: list[_Part]) -> list[Tensor]:
        """Add up the gradients of a step, part after part; return the parts' losses."""
        losses = []
        for at, part in enumerate(parts):
            # Gradients are averaged over processes once, with the last part's.
            whole = at + 1 == len(parts) or processes() == 1
            joined: Any = self.joined
            with contextlib.nullcontext() if whole else joined.no_sync():
                loss = self._loss(part) / len(parts)
                loss.backward()
            losses.append(loss.detach())
        return losses

    def _side_by_side(self, parts: list[_Part]) -> list[Tensor]:
        """Do the same with several parts at a time; each has gradients of its own until then."""

        def differentiate(part: _Part) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            loss = self._loss(part) / len(parts)
            return loss.detach(), torch.autograd.grad(loss, self.learned, allow_unused=True)

        assert self._workers is not None
        losses = []
        for loss, gradients in self._workers.map(differentiate, parts):
            for weight, gradient in zip(self.learned, gradients, strict=True):
                if weight.grad is not None and gradient is not None:
                    weight.grad += gradient
                elif gradient is not None:  # laid out as the weight is: the optimiser needs it so
                    weight.grad = torch.empty_like(weight).copy_(gradient)
            losses.append(loss)
        return losses

    def _loss(self, part: _Part) -> Tensor:
        device = self.device
        posterior, words = self.data.encode(part.read, device)
        mean, deviation = posterior.unbind(1)
        clean = mean + deviation * part.posterior_noise_BChw.to(device)
        loss: Tensor = self.joined(
            clean, words, part.noise_BChw.to(device), part.steps_B.to(device)
        )
        return loss

    # -------------------------------------------------------------- draws

    def _parts(self) -> list[_Part]:
        """Have this step's parts, and begin to read the next one's."""
        here, self._ahead = self._ahead, None
        parts = here[1].result() if here and here[0] == self.step else self.draw(self.step)
        if self.step + 1 < self.steps:
            self._ahead = self.step + 1, self._reader.submit(self.draw, self.step + 1)
        return parts

    def draw(self, step: int) -> list[_Part]:
        """Draw a step and read this process's rows of it."""
        section = self.section
        epoch, place = divmod(step, self.per_epoch)
        order = np.random.default_rng((section.seed, epoch)).permutation(len(self.data.pairs))
        rows = self.data.pairs[order[place * self.batch : (place + 1) * self.batch]].copy()
        generator = torch.Generator().manual_seed(section.seed * _BATCH_KEY + step)
        shape = (len(rows), *self.data.shape)
        posterior_noise = torch.randn(shape, generator=generator)
        noise = torch.randn(shape, generator=generator)
        if section.offset_noise > 0:
            offset = torch.randn((*shape[:2], 1, 1), generator=generator)
            noise = noise + section.offset_noise * offset
        steps = torch.randint(0, self.objective.timesteps, (len(rows),), generator=generator)
        dropped = torch.rand(len(rows), generator=generator) < section.prompt_dropout
        rows[dropped.numpy(), 1] = 0  # the first is the empty prompt
        mirrored = torch.rand(len(rows), generator=generator) < (0.5 if section.flip else 0.0)
        if section.timesteps != "uniform":
            steps = section.timesteps.draw(self.objective.timesteps, len(rows), generator)

        own = [own_part(each) for each in (torch.from_numpy(rows), mirrored, posterior_noise, noise,
                                           steps)]  # fmt: skip
        return [
            _Part(self.data.read(pairs.numpy(), flips.numpy()), *tensors)
            for pairs, flips, *tensors in zip(
                *(each.chunk(section.accumulate) for each in own), strict=True
            )
        ]

    def rate(self) -> float:
        """The learning rate of the step that comes next."""
        section = self.section
        warm = min(1.0, (self.step + 1) / max(1, section.warmup_steps))
        done = self.step / self.steps
        left = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + np.cos(np.pi * done))}
        return float(section.learning_rate * warm * left[section.schedule])

    # -------------------------------------------------------------- checkpoints

    def save(self, path: Path) -> None:
        """Write the running checkpoint so that it is either absent or whole."""
        if number() > 0:  # all processes hold the same
            return
        state = {
            "learned": {name: value.data for name, value in self.objective.learned.items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "step": self.step,
            "steps": self.steps,
            "losses": self.losses,
        }
        write_running(path, state)

    def resume(self, path: Path) -> None:
        """Continue where the running checkpoint stands, if there is one.

        Raises:
            PedAlignError: It belongs to another training, or is damaged.
        """
        with read_running(path, self.steps, self.device) as state:
            if state is None:
                return
            self.objective.restore(state["learned"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
            self.step, self.losses = state["step"], state["losses"]
        log.info("adapt continues at step %d of %d", self.step, self.steps)

    @contextlib.contextmanager
    def kept(self) -> Iterator[DaDObjective]:
        """Give the objective with the weights that would be kept now: the averaged ones, if any."""
        if self.ema is not None:
            self.ema.store(self.learned)
            self.ema.copy_to(self.learned)
        try:
            yield self.objective
        finally:
            if self.ema is not None:
                self.ema.restore(self.learned)
            self.objective.eval()

    def close(self) -> None:
        """End the threads."""
        self._reader.shutdown(cancel_futures=True)
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)
