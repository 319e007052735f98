"""Stage `adapt`: train DaD, the target's look, on the target's train split.

In: the target's shards and, where it has no captions of its own, what `describe` said about it.
Out: ``data/checkpoints/dad``: the adapter (a ControlNet or a LoRA), the target's statistics, the
sample sheet that shows what it learned, and the loss curve; with ``method: none`` a note that there
is nothing. The sheet is shown on the run's page whenever it has a new row. A killed training goes
on from its running checkpoint. Alone: ``python -m flows.adapt``.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from prefect import flow

from flows import windows
from flows.shards import have_training
from flows.stage import run
from flows.together import Progress, team_revision, train_together
from models.team import number
from tasks.adapt.train import NONE, AdaptParams, train_dad
from tasks.curves import write_curve
from tasks.diffusion import DiffusionParams, base_revision
from tasks.inputs import UNTRAINED, Inputs, optional
from tasks.params import read_section
from tasks.provenance import computation_key
from tasks.runtime import device, runtime
from tasks.shards import atomic_write, location
from tasks.target import digests

log = logging.getLogger(__name__)

OUT = Path("data/checkpoints/dad")
CAPTION = "Target; below it the same captions from fixed seeds, as training goes on"


def train(
    run_folder: Path,
    target: Path,
    diffusion: DiffusionParams,
    section: AdaptParams,
    checkpoint_seconds: float,
    device: torch.device,
    progress: Progress | None,
    captions: Path | None = None,
) -> Path:
    """Train, and put what the stage leaves into one folder."""

    def tell(step: int, steps: int, loss: float) -> None:
        if progress is not None:
            progress(step, steps, {"loss": loss})

    result = train_dad(
        target,
        diffusion,
        section,
        run_folder,
        device,
        captions=captions,
        checkpoint_seconds=checkpoint_seconds,
        progress=tell,
    )
    if number() == 0:
        shutil.copy(result.sheet, result.folder / "samples.png")
        write_curve(result.folder / "curve.csv", [{"loss": loss} for loss in result.losses])
    return result.folder


class Window:
    """The bar in the UI, and the sample sheet beside it as soon as it has a new row."""

    def __init__(self, sheet: Path) -> None:
        """Begin; the sheet may be there from an earlier try."""
        self.sheet, self.steps = sheet, windows.Steps("adapt")
        self.shown = self._state()

    def _state(self) -> int:
        return self.sheet.stat().st_mtime_ns if self.sheet.exists() else 0

    def show(self, step: int, steps: int, row: Mapping[str, float]) -> None:
        """Show a step."""
        self.steps.show(step, steps, row)
        if (state := self._state()) != self.shown:
            self.shown = state
            with Image.open(self.sheet) as sheet:
                windows.picture("dad-samples", sheet, CAPTION)


def make(
    run_folder: Path,
    target: Path,
    captions: Path | None,
    diffusion: DiffusionParams,
    section: AdaptParams,
) -> Path:
    """Train, with a bar and the sample sheet in the UI."""
    every = runtime().checkpoint_seconds
    call = partial(train, run_folder, target, diffusion, section, every, captions=captions)
    return train_together(call, Window(run_folder / "samples" / "sheet.png").show)


def leave_note(folder: Path) -> None:
    """Say in an otherwise empty folder that nothing was trained (`tasks.inputs.adapter`)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    note = {"method": NONE, "reason": "adapt.method is none: no look was learned"}
    atomic_write(folder / UNTRAINED, json.dumps(note).encode())
    log.info("adapt.method is none: nothing is trained")


@flow
def adapt() -> None:
    """Train unless this very training is finished, and publish."""
    section = read_section(AdaptParams, "adapt")
    diffusion = read_section(DiffusionParams, "diffusion")
    inputs = read_section(Inputs, "inputs")
    target, captions = location(inputs.adapt), optional(inputs.adapt_captions)
    if section.method == NONE:
        leave_note(OUT)
        return
    key = computation_key(
        "adapt",
        inputs=digests(target, captions),
        params=[section, diffusion],
        revisions={"base": base_revision(diffusion)} | team_revision(),
        device=device().type,
    )
    call = partial(make, target=target, captions=captions, diffusion=diffusion, section=section)
    have_training(key, OUT, call)
    windows.losses("adapt", OUT)
    windows.picture("dad-samples", Image.open(OUT / "samples.png"), CAPTION)


if __name__ == "__main__":
    run(adapt, OUT)
