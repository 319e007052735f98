"""Stage `reid@NAME`: find a person's pictures by a picture, with a pretrained image encoder.

In: the shards and the start (a checkpoint or plain weights) that ``reid.datasets.NAME`` names. Out:
``data/checkpoints/reid/NAME``, the trained encoder, and ``data/reports/reid/NAME``: metrics.json,
cmc.csv, queries.parquet. Alone: ``python -m flows.reid NAME``.
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
from tasks.params import read_section
from tasks.provenance import computation_key, model_revision
from tasks.reid import ReidParams, evaluate_reid, train_reid
from tasks.runtime import device, runtime
from tasks.shards import location, read_manifest

OUT = Path("data/checkpoints/reid")
REPORTS = Path("data/reports/reid")


def make(run_folder: Path, section: ReidParams) -> Path:
    """Train, with a bar in the UI."""
    call = partial(train_reid, section, run_folder, checkpoint_seconds=runtime().checkpoint_seconds)
    return train_together(call, windows.Steps("reid").show)


@flow
def reid(name: str) -> None:
    """Train unless this very training is finished, publish, and rank the test split."""
    section = read_section(ReidParams, f"reid.datasets.{name}")
    key = computation_key(
        "reid",
        inputs=[read_manifest(location(section.images)).digest],
        params=section,
        revisions={"start": model_revision(section.start)} | team_revision(),
        device=device().type,
    )
    have_training(key, OUT / name, partial(make, section=section))
    windows.losses(f"reid@{name}", OUT / name)
    found = evaluate_reid(
        section.images,
        OUT / name,
        device(),
        mirror=section.mirror,
        batch=runtime().batch_size,
        memory=(runtime().memory_mb << 20) // 4,
    )
    found.save(REPORTS / name)
    names = ("R1", "R5", "R10", "mAP", "mINP")
    rows = [
        {"ranking": how, **{k: round(values[k], 2) for k in names if k in values}}
        for how, values in (("cosine", found.metrics), ("chance", found.metrics["chance"]))
    ]
    text = f"{name}: percent over {found.queries.num_rows} pictures"
    windows.table(f"reid-{name}", rows, text)
    windows.rank_lists(f"reid-{name}", REPORTS / name, Path(section.images))


if __name__ == "__main__":
    run(reid, OUT / sys.argv[1], REPORTS / sys.argv[1], name=sys.argv[1])
