"""Stage `pretrain`: a retrieval model on pairs that nobody labelled by hand.

ITC + ITM + MLM + beta (RPC + RPM) for an MRA; InfoNCE + MLM for UniPT's dual encoder. In:
``inputs.pretrain_images``, ``inputs.pretrain_annotations`` (annotations with regions, or captions)
and the starting weights, or the checkpoint that ``pretrain.init`` names. Out:
``data/checkpoints/pretrain``: model, tokenizer, ``curve.csv``. A killed training goes on with the
samples that it has not seen. Alone: ``python -m flows.pretrain``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from prefect import flow

from flows import windows
from flows.shards import have_training
from flows.stage import run
from flows.together import team_revision, train_together
from tasks.inputs import Inputs, optional
from tasks.params import read_section
from tasks.pretrain import PretrainParams
from tasks.pretrain import pretrain as train
from tasks.provenance import computation_key, model_revision
from tasks.runtime import device, runtime
from tasks.shards import location, read_manifest

OUT = Path("data/checkpoints/pretrain")


def make(run_folder: Path, images: Path, annotations: Path | None, section: PretrainParams) -> Path:
    """Train, with a bar in the UI."""
    call = partial(
        train,
        images,
        annotations,
        section,
        run_folder,
        checkpoint_seconds=runtime().checkpoint_seconds,
    )
    return train_together(call, windows.Steps("pretrain").show)


@flow
def pretrain() -> None:
    """Train unless this very training is finished, and publish."""
    section = read_section(PretrainParams, "pretrain")
    inputs = read_section(Inputs, "inputs")
    images, annotations = location(inputs.pretrain_images), optional(inputs.pretrain_annotations)
    folders = [images, *([annotations] if annotations else [])]
    names = (
        {"init": section.init}
        if section.init not in {"start", "none"}
        else {"vision": section.vision, "text": section.text}
    )
    key = computation_key(
        "pretrain",
        inputs=[read_manifest(folder).digest for folder in folders],
        params=section,
        revisions={part: model_revision(name) for part, name in names.items()} | team_revision(),
        device=device().type,
    )
    have_training(key, OUT, partial(make, images=images, annotations=annotations, section=section))
    windows.losses("pretrain", OUT)


if __name__ == "__main__":
    run(pretrain, OUT)
