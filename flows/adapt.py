"""Stage `adapt`: train the DaD ControlNet on the target's train split.

In: the target's shards. Out: ``data/checkpoints/dad``: the ControlNet, the sample sheet that shows
what it learned, and the loss curve. A killed training goes on from its running checkpoint. Alone:
``python -m flows.adapt``.
"""

from __future__ import annotations

import shutil
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
from tasks.adapt import AdaptParams, train_dad
from tasks.curves import write_curve
from tasks.diffusion import DiffusionParams, base_revision
from tasks.inputs import Inputs
from tasks.params import read_section
from tasks.provenance import computation_key
from tasks.runtime import device, runtime
from tasks.shards import iter_tables, location, read_manifest

OUT = Path("data/checkpoints/dad")


def train(
    run_folder: Path,
    target: Path,
    diffusion: DiffusionParams,
    section: AdaptParams,
    checkpoint_seconds: float,
    device: torch.device,
    progress: Progress | None,
) -> Path:
    """Train, and put what the stage leaves into one folder."""

    def tell(step: int, steps: int, loss: float) -> None:
        if progress is not None:
            progress(step, steps, {"loss": loss})

    result = train_dad(
        iter_tables(target),
        diffusion,
        section,
        run_folder,
        device,
        checkpoint_seconds=checkpoint_seconds,
        progress=tell,
    )
    if number() == 0:
        shutil.copy(result.sheet, result.folder / "samples.png")
        write_curve(result.folder / "curve.csv", [{"loss": loss} for loss in result.losses])
    return result.folder


def make(run_folder: Path, target: Path, diffusion: DiffusionParams, section: AdaptParams) -> Path:
    """Train, with a bar in the UI."""
    call = partial(train, run_folder, target, diffusion, section, runtime().checkpoint_seconds)
    return train_together(call, windows.Steps("adapt").show)


@flow
def adapt() -> None:
    """Train unless this very training is finished, and publish."""
    section = read_section(AdaptParams, "adapt")
    diffusion = read_section(DiffusionParams, "diffusion")
    target = location(read_section(Inputs, "inputs").adapt)
    key = computation_key(
        "adapt",
        inputs=[read_manifest(target).digest],
        params=[section, diffusion],
        revisions={"base": base_revision(diffusion)} | team_revision(),
        device=device().type,
    )
    have_training(key, OUT, partial(make, target=target, diffusion=diffusion, section=section))
    windows.losses("adapt", OUT)
    windows.picture(
        "dad-samples",
        Image.open(OUT / "samples.png"),
        "Target; then fixed prompts and seeds before, halfway through and after training",
    )


if __name__ == "__main__":
    run(adapt, OUT)
