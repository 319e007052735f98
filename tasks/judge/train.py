"""Train the judge: what a true target picture looks like, and what its captions say it shows.

The judge measures everything else (`models.judge`, `tasks.judge.content`), so it is trained on the
target's TRAIN pictures and on nothing else: not on the source, not on a restyled picture, not on
held-out pictures. Its labels are what the captions name (`tasks.judge.naming`); no attribute table
of the dataset is read, so a folder of pictures with captions will do.

What is unusual: colours are hardly augmented. A judge that has learned to look through casts and
darkness would find source and target alike and hide the very gap that it is to measure; one that
knows five cameras and not a shade beside them cannot read a shirt in a sixth. `JudgeParams.jitter`
is the measured middle.

    result = train_judge(iter_tables(target), section, run_folder, "cpu")
    judge = load_judge(result.folder)

Shape legend: N pictures, A attributes, D width of a feature, B batch.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from models.features import AttributeNet
from models.judge import CONFIG, TRAINED, WEIGHTS, Heads, Judge, load_judge, reading_loss
from models.loading import ALONE
from tasks.arithmetic import Precision
from tasks.errors import PedAlignError
from tasks.judge.lessons import Lessons, augment, open_extractor, prepare_lessons
from tasks.params import Fraction, NonNegative, Positive, PositiveFloat, params
from tasks.running import RUNNING, read_running, write_running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import pyarrow as pa

__all__ = ["JudgeParams", "JudgeResult", "load_judge", "train_judge"]

log = logging.getLogger(__name__)

_BATCH_KEY = 1_000_003


@params
class JudgeParams:
    """Sub-section ``judge`` of section ``gap``."""

    features: str
    """``trained``: a small network trained on the target's train pictures. Or the hub name or
    folder of a vision model (CLIP, DINOv2, ViT), which stays frozen under linear heads."""
    size: tuple[int, int]
    """Height and width to which every picture is brought, pixels. A hub model's own preprocessing
    follows."""
    channels: Positive
    """trained: channels of the first layer; up to three times as many follow."""
    width: Positive
    """trained: features of each attribute that captions name, an even number. 13 attributes of 10
    make 130, about as many as there are pictures in a half of the target; 8 read kinds worse."""
    epochs: Positive
    """Passes over the train pictures (over their features, with a hub model)."""
    batch: Positive
    """Pictures a step."""
    learning_rate: PositiveFloat
    """AdamW's highest rate; it rises over the first fifth of the steps and falls to 0."""
    weight_decay: Annotated[float, Field(ge=0)]
    """AdamW's decoupled weight decay."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Share of the features that the heads do not see in a step."""
    smoothing: Annotated[float, Field(ge=0, lt=1)]
    """Label smoothing."""
    shift: Annotated[float, Field(ge=0, lt=0.5)]
    """trained: how far a picture is shifted at most, as a share of each side."""
    erasing: Fraction
    """trained: share of the pictures of which a box is blanked."""
    jitter: Annotated[float, Field(ge=0, lt=1)]
    """trained: how far each channel's contrast and the brightness are changed at most, as a share.
    A little lets it read looks that differ a little; much would hide the gap that it measures."""
    least: Positive
    """Fewest train pictures of a value; a rarer one is not learned, and not asked for."""
    parser: str
    """Phrase parser of the captions; see annotate.parser."""
    precision: Precision
    """trained: of the training's activations; ``auto`` takes bf16 where the machine is faster in it
    (`tasks.arithmetic`)."""
    seed: NonNegative
    """Of weights, batches and augmentation."""


@dataclass(frozen=True)
class JudgeResult:
    """What `train_judge` leaves."""

    folder: Path
    """For `models.judge.load_judge`."""
    digest: str
    """SHA-256 of its files."""
    losses: list[float]
    """The loss of every step."""
    pictures: int
    """Pictures trained on."""
    skipped: int
    """Rows that were not used: of another split, rejected, unreadable, or without a named value."""
    attributes: Mapping[str, Mapping[str, int]]
    """Attribute -> value -> train pictures that name it."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Attribute, or ``attribute: value``, -> why the judge does not know it."""


def train_judge(
    tables: Iterable[pa.Table],
    section: JudgeParams,
    run_folder: Path,
    device: torch.device | str = "cpu",
    *,
    progress: Callable[[int, int, float], None] | None = None,
) -> JudgeResult:
    """Train a judge, from the start or from the run folder's last finished epoch.

    Args:
        tables: Shards of the target's ``images``, all splits; train rows are taken.
        section: How to train.
        run_folder: Belongs to this training alone (same data, parameters and code); holds the
            decoded pictures, the running checkpoint and, last, the judge.
        device: Where to compute.
        progress: Called with step, steps and loss, after every step.

    Returns:
        Where the judge is, and what it knows.

    Raises:
        PedAlignError: No train picture or no caption to learn from, a hub model that cannot be
            loaded, or a loss that is not finite.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    data = prepare_lessons(tables, section, run_folder / "pictures", device)
    loop = _Loop(data, section, torch.device(device))
    loop.resume(run_folder / RUNNING)
    with tqdm(total=loop.steps, initial=loop.step, desc="judge", unit="step") as bar:
        while loop.step < loop.steps:
            loss = loop.advance()
            if progress is not None:
                progress(loop.step, loop.steps, loss)
            bar.update()
            if loop.step % loop.per_epoch == 0 and loop.step < loop.steps:
                loop.save(run_folder / RUNNING)
    folder = run_folder / "judge"
    partial = run_folder / f".judge.{os.getpid()}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    loop.judge().save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return JudgeResult(
        folder=folder,
        digest=judge_digest(folder),
        losses=loop.losses,
        pictures=len(data.inputs),
        skipped=data.skipped,
        attributes=data.counts,
        left_out=data.left_out,
    )


def judge_digest(folder: Path) -> str:
    """SHA-256 over the two files of a judge."""
    entries = [hashlib.sha256((folder / name).read_bytes()).digest() for name in (CONFIG, WEIGHTS)]
    return hashlib.sha256(b"".join(entries)).hexdigest()


# ------------------------------------------------------------------ training


class _Loop:
    """One training: its weights, its optimiser, its place."""

    def __init__(self, data: Lessons, section: JudgeParams, device: torch.device) -> None:
        self.data, self.section, self.device = data, section, device
        self.trained = section.features == TRAINED
        with ALONE, torch.random.fork_rng(devices=[]):  # its arms load models meanwhile
            torch.manual_seed(section.seed)
            self.extractor: nn.Module = (
                open_extractor(data.config) if self.trained else nn.Identity()
            )
            self.heads = Heads(data.config, self._width())
        if not self.trained:
            self.heads.standardise(*_moments(data.inputs))
        self.half = self.trained and section.precision == "bf16"
        self.extractor.to(device)
        self.heads.to(device)
        self.batch = min(section.batch, len(data.inputs))
        self.per_epoch = len(data.inputs) // self.batch
        self.steps = self.per_epoch * section.epochs
        self.step = 0
        self.losses: list[float] = []
        weights: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for name, value in [*self.extractor.named_parameters(), *self.heads.named_parameters()]:
            (weights if value.ndim > 1 and name != "position" else plain).append(value)
        self.optimizer = torch.optim.AdamW(
            [{"params": weights, "weight_decay": section.weight_decay},
             {"params": plain, "weight_decay": 0.0}], section.learning_rate, fused=True,
        )  # fmt: skip

    def _width(self) -> int:
        return (
            self.extractor.width
            if isinstance(self.extractor, AttributeNet)
            else self.data.config.width
        )

    def advance(self) -> float:
        """Take one step; everything random in it follows from the seed and its number."""
        epoch, place = divmod(self.step, self.per_epoch)
        order = np.random.default_rng((self.section.seed, epoch)).permutation(len(self.data.inputs))
        rows = np.sort(order[place * self.batch : (place + 1) * self.batch])
        draw = torch.Generator().manual_seed(self.section.seed * _BATCH_KEY + self.step)
        given = torch.from_numpy(self.data.inputs[rows])
        if self.trained:
            given = augment(given.permute(0, 3, 1, 2).float(), self.section, draw)
        labels = torch.from_numpy(self.data.labels[rows]).to(self.device)
        self.extractor.train()
        given = given.to(self.device)
        if self.trained:
            given = given.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            features = self.extractor(given).float()
        share = 1 - self.section.dropout
        kept = (torch.rand(features.shape, generator=draw) < share).float() / share
        loss = reading_loss(
            self.heads(features, kept.to(self.device)), labels, self.section.smoothing
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*self.extractor.parameters(), *self.heads.parameters()], 5.0)
        self.optimizer.step()
        self.step += 1
        value = float(loss.detach())
        if not np.isfinite(value):
            raise PedAlignError(
                f"judge: the loss of step {self.step} is {value}",
                "a training whose loss is not finite cannot recover",
                "lower gap.judge.learning_rate",
            )
        self.losses.append(value)
        return value

    def _rate(self) -> float:
        """Up over the first fifth, down to 0, along half cosines."""
        rise = max(1, self.steps // 5)
        if self.step < rise:
            share = 0.04 + 0.96 * (1 - np.cos(np.pi * (self.step + 1) / rise)) / 2
        else:
            share = (1 + np.cos(np.pi * (self.step - rise) / max(1, self.steps - rise))) / 2
        return float(self.section.learning_rate * share)

    def save(self, path: Path) -> None:
        """Write the running checkpoint so that it is either absent or whole."""
        state = {
            "extractor": self.extractor.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
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
            self.extractor.load_state_dict(state["extractor"])
            self.heads.load_state_dict(state["heads"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.losses = state["step"], state["losses"]
        log.info("the judge's training continues at step %d of %d", self.step, self.steps)

    def judge(self) -> Judge:
        """The judge as it stands; a hub model is loaded again."""
        own = self.extractor if isinstance(self.extractor, AttributeNet) else None
        return Judge(self.data.config, own, self.heads, self.device)


def _moments(features: NDArray[np.generic]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, chunk by chunk."""
    total = np.zeros(features.shape[1])
    squares = np.zeros(features.shape[1])
    for start in range(0, len(features), 4096):
        part = features[start : start + 4096].astype(np.float64)
        total += part.sum(0)
        squares += np.square(part).sum(0)
    mean = total / len(features)
    deviation = np.sqrt((squares / len(features) - mean**2).clip(0)).clip(1e-6)
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()
