"""Train DaD: a ControlNet that learns the target's look from its train split (PAPERS.md 1.1).

The base stays frozen and the control image is white, so what is trained is one adapter for one
domain. What the paper leaves open (rate, batch, optimiser, dropped prompts, averaging) is a
parameter of `AdaptParams`.

What is unusual: latents and text states are computed once into memory-mapped files of the run
folder, since every epoch would give the same; a step's batch, noise and timesteps follow from
the seed and the step's number alone, so a killed run continues to the very same weights.

    result = train_dad(iter_tables(folder), diffusion, params, run_folder, "cpu")

Shape legend: N pictures, P pairs of a picture and one of its captions, T distinct captions,
B batch, C h w latents, L tokens, D text width.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from PIL import Image
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from models.dad.base import Base, folder_revision
from models.dad.controlnet import DaDObjective, new_controlnet
from models.dad.restyler import Restyler, Sampling
from models.team import average, join, number, own_part, processes, wait
from tasks.diffusion import DiffusionParams, open_base
from tasks.errors import PedAlignError
from tasks.pairs import LOOK, Pairs, cache_pairs, look_statistics
from tasks.params import Fraction, NonNegative, Positive, PositiveFloat, params
from tasks.shards import atomic_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pyarrow as pa
    from diffusers import ControlNetModel
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

SHEET_PICTURES = 8
"""Columns of the sample sheet."""
SHEET_SAMPLING = Sampling(steps=12, guidance=3.0, scheduler="dpm")
_BATCH_KEY = 1_000_003


@params
class AdaptParams:
    """Section ``adapt``: how the DaD ControlNet is trained."""

    epochs: Positive
    """Passes over all pairs of a picture and one of its captions; the paper's are 3."""
    batch: Positive
    """Pairs a step. Not published; ControlNet's own default is 4."""
    learning_rate: PositiveFloat
    """AdamW's rate after warm-up. Not published; ControlNet's own default is 1e-5."""
    warmup_steps: NonNegative
    """Steps over which the rate rises from 0."""
    decay: bool
    """Whether the rate falls to 0 along a cosine after warm-up; constant otherwise."""
    weight_decay: Annotated[float, Field(ge=0)]
    """AdamW's decoupled weight decay."""
    clip: PositiveFloat
    """Largest norm of the gradient."""
    prompt_dropout: Fraction
    """Share of the pairs whose prompt is replaced by the empty one. The ControlNet paper drops
    half; it makes the adapter carry the look by itself and serves classifier-free guidance."""
    ema: Annotated[float, Field(ge=0, lt=1)]
    """Decay of the averaged weights that are kept; 0 keeps the last ones."""
    seed: NonNegative
    """Seed of the hint encoder's weights, batches, noise, timesteps and dropped prompts."""


@dataclass(frozen=True)
class AdaptResult:
    """What `train_dad` leaves."""

    folder: Path
    """The ControlNet, for `ControlNetModel.from_pretrained`, and the target's statistics."""
    digest: str
    """SHA-256 of its files."""
    losses: list[float]
    """The loss of every step."""
    sheet: Path
    """Pictures from fixed prompts and seeds: target, then before, halfway and after training."""
    images: int
    """Pictures trained on."""
    pairs: int
    """Pairs of a picture and a caption."""
    skipped: int
    """Rows that were not used: of another split, rejected, or unreadable."""


# ------------------------------------------------------------------ training


def train_dad(
    tables: Iterable[pa.Table],
    diffusion: DiffusionParams,
    section: AdaptParams,
    run_folder: Path,
    device: torch.device | str = "cpu",
    *,
    checkpoint_seconds: float = 30.0,
    progress: Callable[[int, int, float], None] | None = None,
) -> AdaptResult:
    """Train the DaD ControlNet, from the start or from the run folder's newest checkpoint.

    Args:
        tables: Shards of the target's ``images``.
        diffusion: The base.
        section: How to train.
        run_folder: Belongs to this training alone (same data, parameters and code); holds the
            cache, the running checkpoint, the samples and, last, the finished ControlNet.
        device: Where to compute. Called in several processes that accelerate has joined,
            each computes its part of a batch and the first one writes.
        checkpoint_seconds: Wall time between checkpoints; changes no result.
        progress: Called with step, steps and loss, after every step.

    Returns:
        Where the ControlNet is, and how the training went.

    Raises:
        PedAlignError: No base, no data, or a loss that is not finite.
    """
    base = open_base(diffusion, device)
    if number() > 0:
        wait()  # the first process encodes for all
    data = cache_pairs(tables, base, diffusion.size, run_folder / "cache")
    if number() == 0:
        wait()
    objective = DaDObjective(base, new_controlnet(base, section.seed), diffusion.size)
    loop = _Loop(objective, data, section, base.device)
    loop.resume(run_folder / "running.pt")
    saved = time.monotonic()
    marks = {0: "before", loop.steps // 2: "halfway", loop.steps: "after"}
    with tqdm(
        total=loop.steps, initial=loop.step, desc="adapt", unit="step", disable=number() > 0
    ) as bar:
        while True:
            if (name := marks.get(loop.step)) is not None and number() == 0:
                _sample(loop, base, diffusion.size, run_folder / f"{name}.png")
            if loop.step == loop.steps:
                break
            loss = loop.advance()
            if progress is not None:
                progress(loop.step, loop.steps, loss)
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update()
            if time.monotonic() - saved >= checkpoint_seconds and loop.step < loop.steps:
                loop.save(run_folder / "running.pt")
                saved = time.monotonic()
    folder, sheet = run_folder / "controlnet", run_folder / "sheet.png"
    if number() == 0:
        partial = run_folder / f".controlnet.{os.getpid()}.tmp"
        loop.finished().save_pretrained(partial)
        save_file({"statistics": look_statistics(data)}, partial / LOOK)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
        _sheet(data, base, run_folder).save(sheet)
    wait()
    return AdaptResult(
        folder=folder,
        digest=folder_revision(folder),
        losses=loop.losses,
        sheet=sheet,
        images=len(data.latents),
        pairs=len(data.pairs),
        skipped=data.skipped,
    )


class _Loop:
    """One training: its weights, its optimiser, its place; of a team each process has one."""

    def __init__(
        self, objective: DaDObjective, data: Pairs, section: AdaptParams, device: torch.device
    ) -> None:
        self.objective, self.data, self.section, self.device = objective, data, section, device
        self.batch = min(section.batch, len(data.pairs))
        self.per_epoch = len(data.pairs) // self.batch
        self.steps = self.per_epoch * section.epochs
        if self.batch % processes():
            raise PedAlignError(
                f"adapt: a batch of {self.batch} for {processes()} processes",
                "every process takes an equal part of each batch",
                f"set adapt.batch to a multiple of {processes()}, or runtime.yaml's processes to 1",
            )
        self.joined = join(objective)
        self.step = 0
        self.losses: list[float] = []
        self.optimizer = torch.optim.AdamW(
            objective.parameters(), section.learning_rate, weight_decay=section.weight_decay,
            fused=True,
        )  # fmt: skip
        self.ema = (
            EMAModel(objective.parameters(), decay=section.ema, foreach=True)
            if section.ema else None
        )  # fmt: skip

    def advance(self) -> float:
        """Take one step; everything random in it follows from the seed and its number."""
        clean, words, noise, steps = self._draw()
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.objective.train()
        # Drawn whole by every process, so that the draw does not depend on their number.
        loss = self.joined(*(own_part(part) for part in (clean, words, noise, steps)))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.objective.parameters(), self.section.clip)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.step(self.objective.parameters())
        self.step += 1
        value = float(average(loss.detach()).item())
        if not np.isfinite(value):
            raise PedAlignError(
                f"adapt: the loss of step {self.step} is {value}",
                "a training whose loss is not finite cannot recover",
                "lower adapt.learning_rate, or set diffusion.precision to fp32",
            )
        self.losses.append(value)
        return value

    def _draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        epoch, place = divmod(self.step, self.per_epoch)
        order = np.random.default_rng((self.section.seed, epoch)).permutation(len(self.data.pairs))
        rows = self.data.pairs[order[place * self.batch : (place + 1) * self.batch]]
        generator = torch.Generator().manual_seed(self.section.seed * _BATCH_KEY + self.step)
        posterior = torch.from_numpy(self.data.latents[rows[:, 0]]).float()
        mean, deviation = posterior.unbind(1)
        clean = mean + deviation * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        levels = self.objective.timesteps
        steps = torch.randint(0, levels, (len(rows),), generator=generator)
        dropped = torch.rand(len(rows), generator=generator) < self.section.prompt_dropout
        which = np.where(dropped.numpy(), 0, rows[:, 1])  # the first is the empty prompt
        words = torch.from_numpy(self.data.words[which]).float()
        to = self.device
        return clean.to(to), words.to(to), noise.to(to), steps.to(to)

    def _rate(self) -> float:
        warm = min(1.0, (self.step + 1) / max(1, self.section.warmup_steps))
        left = 0.5 * (1 + np.cos(np.pi * self.step / self.steps)) if self.section.decay else 1.0
        return float(self.section.learning_rate * warm * left)

    def save(self, path: Path) -> None:
        """Write the running checkpoint so that it is either absent or whole."""
        if number() > 0:  # all processes hold the same
            return
        state = {
            "controlnet": self.objective.controlnet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "step": self.step,
            "losses": self.losses,
        }
        with atomic_file(path) as sink:
            torch.save(state, sink)

    def resume(self, path: Path) -> None:
        """Continue where the running checkpoint stands, if there is one."""
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.objective.controlnet.load_state_dict(state["controlnet"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.step, self.losses = state["step"], state["losses"]
        log.info("adapt continues at step %d of %d", self.step, self.steps)

    def finished(self) -> ControlNetModel:
        """Return the weights to keep, in the ControlNet itself."""
        if self.ema is not None:
            self.ema.copy_to(self.objective.parameters())
        return self.objective.controlnet

    def current(self) -> ControlNetModel:
        """Return the ControlNet with the weights that would be kept now; see `restore`."""
        if self.ema is not None:
            self.ema.store(self.objective.parameters())
            self.ema.copy_to(self.objective.parameters())
        return self.objective.controlnet

    def restore(self) -> None:
        """Go back from `current` to the weights in training."""
        if self.ema is not None:
            self.ema.restore(self.objective.parameters())


# ------------------------------------------------------------------ sample sheet


def _examples(data: Pairs) -> NDArray[np.int32]:
    """Pairs of the sheet: the first captions of pictures spread over the split."""
    _, firsts = np.unique(data.pairs[:, 0], return_index=True)
    return data.pairs[firsts[:: max(1, len(firsts) // SHEET_PICTURES)][:SHEET_PICTURES]]


def _sample(loop: _Loop, base: Base, size: tuple[int, int], path: Path) -> None:
    rows = _examples(loop.data)
    words = torch.from_numpy(loop.data.words[rows[:, 1]]).float()
    # A fresh Restyler each time is cheap: it only puts the same networks into a pipeline.
    made = Restyler(base, loop.current(), size, SHEET_SAMPLING).generate(words, range(len(rows)))
    loop.restore()
    Image.fromarray(np.concatenate(made, axis=1)).save(path)


def _sheet(data: Pairs, base: Base, folder: Path) -> Image.Image:
    rows = _examples(data)
    latents = torch.from_numpy(data.latents[rows[:, 0], 0]).float()
    seen = base.decode_latents(latents.to(base.device)).add(1).mul(127.5).round().to(torch.uint8)
    target = np.concatenate(seen.permute(0, 2, 3, 1).cpu().numpy(), axis=1)
    made = [np.asarray(Image.open(folder / f"{n}.png")) for n in ("before", "halfway", "after")]
    return Image.fromarray(np.concatenate([target, *made], axis=0))
