"""Stage `finetune@NAME`: train on a target dataset's train split, whose people are known.

ITC + ITM + MLM with EDA text for an MRA; identities and ranking for a dual encoder.

In: the shards that ``finetune.datasets.NAME.images`` names and ``data/checkpoints/pretrain``, so
that one dataset can be trained on under several names. Out: ``data/checkpoints/finetune/NAME``.
Alone: ``python -m flows.finetune NAME``.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from prefect import flow

from flows import windows
from flows.shards import have_training
from flows.stage import run
from flows.together import team_revision, train_together
from tasks.eda import lexicon_revision
from tasks.finetune import FinetuneParams
from tasks.finetune import finetune as train
from tasks.params import read_section
from tasks.provenance import computation_key, folder_digest
from tasks.runtime import device, runtime
from tasks.shards import location, read_manifest

START = Path("data/checkpoints/pretrain")
OUT = Path("data/checkpoints/finetune")


def make(run_folder: Path, section: FinetuneParams) -> Path:
    """Train, with a bar in the UI."""
    call = partial(
        train,
        START,
        section,
        run_folder,
        checkpoint_seconds=runtime().checkpoint_seconds,
    )
    return train_together(call, windows.Steps("finetune").show)


@flow
def finetune(dataset: str) -> None:
    """Train unless this very training is finished, and publish."""
    section = read_section(FinetuneParams, f"finetune.datasets.{dataset}")
    losses = section.objective
    words = {"synonyms": lexicon_revision(losses.synonyms)} if losses.kind == "mra" else {}
    key = computation_key(
        "finetune",
        inputs=[read_manifest(location(section.images)).digest],
        params=section,
        revisions={"start": folder_digest(START)} | words | team_revision(),
        device=device().type,
    )
    have_training(key, OUT / dataset, partial(make, section=section))
    windows.losses(f"finetune@{dataset}", OUT / dataset)


if __name__ == "__main__":
    run(finetune, OUT / sys.argv[1], dataset=sys.argv[1])
