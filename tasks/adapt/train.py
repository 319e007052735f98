"""Train DaD: an adapter that learns the target's look from its train split (MRA's paper, sec. 3.1).

The base stays frozen. With ``method: controlnet``, the paper's, the control image is white, so what
is trained is one adapter for one domain; ``method: lora`` is the light alternative. What the paper
leaves open (rate, batch, optimiser, dropped prompts, averaging) is a parameter of `AdaptParams`;
docs/adapting.md gives the reasons.

What is unusual: latents and text states are computed once, since every epoch would give the same
(`tasks.pairs`); a killed run continues to the very same weights (`tasks.adapt.loop`); and a sheet
of pictures from fixed prompts and seeds grows by a row now and then (`tasks.adapt.samples`).

    result = train_dad(Path("data/ingested/target"), diffusion, params, run_folder, "cpu")
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from models.dad.base import Base, folder_revision
from models.dad.controlnet import ControlNetObjective, new_controlnet
from models.dad.lora import LoraObjective, new_lora
from models.team import number, wait
from tasks.adapt.loop import Loop
from tasks.adapt.samples import Samples
from tasks.diffusion import DiffusionParams, open_base
from tasks.errors import PedAlignError
from tasks.pairs import LOOK, prepare_pairs
from tasks.params import Fraction, NonNegative, Positive, PositiveFloat, params
from tasks.running import RUNNING
from tasks.runtime import runtime
from tasks.target import check_captions

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.dad.objective import DaDObjective

NONE = "none"
"""Method that trains nothing."""


@params
class Focus:
    """Timesteps that are trained more often: those that `restyle` runs."""

    below: Annotated[float, Field(gt=0, lt=1)]
    """Share of the noise schedule, from the clean end; ``restyle.strength`` runs so much of it."""
    share: Fraction
    """Share of the draws that fall there, evenly; the others fall evenly on the rest."""

    def draw(self, levels: int, count: int, generator: torch.Generator) -> Tensor:
        """Draw timesteps.

        Args:
            levels: Timesteps of the base's schedule.
            count: How many to draw.
            generator: Randomness.

        Returns:
            Timesteps, int64 (count,).
        """
        border = min(max(1, round(self.below * levels)), levels - 1)
        low = torch.randint(0, border, (count,), generator=generator)
        high = torch.randint(border, levels, (count,), generator=generator)
        return torch.where(torch.rand(count, generator=generator) < self.share, low, high)


@params
class AdaptParams:
    """Section ``adapt``: how the DaD adapter is trained."""

    method: Literal["controlnet", "lora", "none"]
    """``controlnet``: the paper's, copies of the base's encoder fed with a white image. ``lora``:
    low-rank updates of the attention of the base's UNet; far fewer weights, no cost in sampling.
    ``none``: nothing is trained, for a run whose pictures are taken as they are."""
    rank: Positive
    """Method lora: rank of the updates."""
    alpha: PositiveFloat
    """Method lora: updates are multiplied by ``alpha / rank``."""
    epochs: Positive
    """Passes over all pairs of a picture and one of its captions; the paper's are 3."""
    batch: Positive
    """Pairs a step. Not published; ControlNet's own default is 4."""
    accumulate: Positive
    """Equal parts of a batch whose gradients are summed: the step of the whole. On a GPU they are
    computed one after the other, in the memory of one; on a CPU side by side, as many at once as
    runtime.yaml has ``workers``, which no result depends on. It changes the last bits only."""
    learning_rate: PositiveFloat
    """AdamW's rate after warm-up. Not published; ControlNet's own default is 1e-5."""
    warmup_steps: NonNegative
    """Steps over which the rate rises from 0."""
    schedule: Literal["constant", "linear", "cosine"]
    """How the rate goes on: as it is, or down to 0 over the whole training."""
    weight_decay: Annotated[float, Field(ge=0)]
    """AdamW's decoupled weight decay."""
    clip: PositiveFloat
    """Largest norm of the gradient."""
    prompt_dropout: Fraction
    """Share of the pairs whose prompt is replaced by the empty one. The ControlNet paper drops
    half; it makes the adapter carry the look by itself and serves classifier-free guidance."""
    timesteps: Literal["uniform"] | Focus
    """Which timesteps are trained: all alike, the paper's loss, or those that restyle runs more
    often: ``{below: 0.6, share: 0.9}``."""
    offset_noise: Annotated[float, Field(ge=0)]
    """Deviation of a constant that each latent channel of a picture gets on top of its noise. Noise
    hides details long before it hides a channel's mean, which is light and colour cast: so an
    ordinary adapter learns to keep those of the start, this one to set them. 0 is the paper's."""
    ema: Annotated[float, Field(ge=0, lt=1)]
    """Decay of the averaged weights that are kept; 0 keeps the last ones."""
    cache: bool
    """Whether latents and text states are computed once and kept while the training runs (118 KB
    a caption and 25 KB a picture with Stable Diffusion at 384x256), or with every batch."""
    flip: bool
    """Whether every other picture is mirrored, at random; with ``cache`` both versions are kept.
    Captions are not mirrored: leave it off where they tell left from right."""
    sample_every: NonNegative
    """Steps between two rows of the sample sheet; 0 samples before and after training only."""
    seed: NonNegative
    """Seed of the new weights, batches, noise, timesteps, dropped prompts and mirrored pictures."""


@dataclass(frozen=True)
class AdaptResult:
    """What `train_dad` leaves."""

    folder: Path
    """The adapter, for `models.dad.adapters.load_adapter`, and the target's statistics."""
    digest: str
    """SHA-256 of its files."""
    losses: list[float]
    """The loss of every step."""
    sheet: Path
    """The sample sheet: the target, then a row for each time."""
    images: int
    """Pictures trained on."""
    pairs: int
    """Pairs of a picture and a caption."""
    skipped: int
    """Rows that were not used: of another split, rejected, or unreadable."""


def train_dad(
    target: Path,
    diffusion: DiffusionParams,
    section: AdaptParams,
    run_folder: Path,
    device: torch.device | str = "cpu",
    *,
    captions: Path | None = None,
    checkpoint_seconds: float = 30.0,
    progress: Callable[[int, int, float], None] | None = None,
) -> AdaptResult:
    """Train the DaD adapter, from the start or from the run folder's newest checkpoint.

    Args:
        target: Folder of the target's shards of ``images``.
        diffusion: The base.
        section: How to train.
        run_folder: Belongs to this training alone (same data, parameters and code); holds the
            cache, the running checkpoint, the samples and, last, the finished adapter.
        device: Where to compute. Called in several processes that accelerate has joined,
            each computes its part of a batch and the first one writes.
        captions: Side table of the target's captions, such as `describe` leaves; None where those
            of its shards count.
        checkpoint_seconds: Wall time between checkpoints; changes no result.
        progress: Called with step, steps and loss, after every step.

    Returns:
        Where the adapter is, and how the training went.

    Raises:
        PedAlignError: Nothing to train, no base, no data, not one caption, a batch that cannot be
            divided, a foreign run folder, or a loss that is not finite.
    """
    if section.method == NONE:
        raise PedAlignError(
            "adapt.method is none and something is to be trained",
            "with method none nothing is trained",
            "set adapt.method to controlnet or lora",
        )
    if diffusion.precision == "fp16":
        raise PedAlignError(
            "diffusion.precision is fp16",
            "adapt computes gradients, which fp16 rounds to 0 without a scaled loss",
            "set diffusion.precision to bf16, or to fp32",
        )
    objective = _objective(open_base(diffusion, device), diffusion.size, section)
    check_captions(target, captions)
    base, _ = objective.running()  # with LoRA the plain UNet is let go
    if number() > 0:
        wait()  # the first process encodes for all
    data = prepare_pairs(
        target,
        base,
        diffusion.size,
        run_folder / "pairs",
        captions=captions,
        cache=section.cache,
        mirror=section.flip,
    )
    if number() == 0:
        wait()
    loop = Loop(objective, data, section, base.device)
    loop.resume(run_folder / RUNNING)
    samples = Samples(data, base, diffusion.size, run_folder / "samples")
    try:
        _run(loop, samples, run_folder / RUNNING, checkpoint_seconds, progress)
    finally:
        loop.close()
    folder = run_folder / "adapter"
    if number() == 0:
        partial = run_folder / f".adapter.{os.getpid()}.tmp"
        shutil.rmtree(partial, ignore_errors=True)
        with loop.kept() as finished:
            finished.save(partial)
        shutil.copy(data.look, partial / LOOK)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    wait()
    return AdaptResult(
        folder=folder,
        digest=folder_revision(folder),
        losses=loop.losses,
        sheet=samples.path,
        images=data.images,
        pairs=len(data.pairs),
        skipped=data.skipped,
    )


def _objective(base: Base, size: tuple[int, int], section: AdaptParams) -> DaDObjective:
    again = runtime().recompute
    if section.method == "lora":
        unet = new_lora(base, section.rank, section.alpha, section.seed)
        return LoraObjective(base, unet, size, recompute=again)
    return ControlNetObjective(base, new_controlnet(base, section.seed), size, recompute=again)


def _run(
    loop: Loop,
    samples: Samples,
    running: Path,
    checkpoint_seconds: float,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    """Take the steps that are left, with samples and checkpoints between them."""
    saved, every = time.monotonic(), loop.section.sample_every
    with tqdm(
        total=loop.steps, initial=loop.step, desc="adapt", unit="step", disable=number() > 0
    ) as bar:
        while True:
            due = loop.step in {0, loop.steps} or (every > 0 and loop.step % every == 0)
            if due and number() == 0:
                samples.add(loop)
            if loop.step == loop.steps:
                break
            loss = loop.advance()
            if progress is not None:
                progress(loop.step, loop.steps, loss)
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update()
            if time.monotonic() - saved >= checkpoint_seconds and loop.step < loop.steps:
                loop.save(running)
                saved = time.monotonic()
