"""Stage `adapt`: train the DaD ControlNet on the target's train split.

In: the target's shards. Out: ``data/checkpoints/dad``: the ControlNet, the sample sheet that shows
what it learned, and the loss curve. A killed training goes on from its running checkpoint. Alone:
``python -m flows.adapt``.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from PIL import Image
from prefect import flow

from flows import windows
from flows.shards import have_training
from flows.stage import run
from tasks.adapt import AdaptParams, train_dad
from tasks.curves import write_curve
from tasks.diffusion import DiffusionParams, base_revision
from tasks.inputs import Inputs
from tasks.params import read_section
from tasks.provenance import computation_key
from tasks.runtime import device, runtime
from tasks.shards import iter_tables, location, read_manifest

OUT = Path("data/checkpoints/dad")


def train(run_folder: Path, target: Path, diffusion: DiffusionParams, section: AdaptParams) -> Path:
    """Train, and put what the stage leaves into one folder."""
    window = windows.Progress("adapt: steps", 100)

    def progress(step: int, steps: int, loss: float) -> None:
        window.reach(step / steps, f"loss {loss:.4f}")

    result = train_dad(
        iter_tables(target),
        diffusion,
        section,
        run_folder,
        device(),
        checkpoint_seconds=runtime().checkpoint_seconds,
        progress=progress,
    )
    shutil.copy(result.sheet, result.folder / "samples.png")
    write_curve(result.folder / "curve.csv", [{"loss": loss} for loss in result.losses])
    return result.folder


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
        code=["tasks.adapt"],
        revisions={"base": base_revision(diffusion)},
        libraries=["diffusers", "numpy", "pillow", "torch", "transformers"],
        device=device().type,
    )
    make = partial(train, target=target, diffusion=diffusion, section=section)
    have_training(key, OUT, make)
    windows.losses("adapt", OUT)
    windows.picture(
        "dad-samples",
        Image.open(OUT / "samples.png"),
        "Target; then fixed prompts and seeds before, halfway through and after training",
    )


if __name__ == "__main__":
    run(adapt, OUT)
