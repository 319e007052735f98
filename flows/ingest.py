"""Stage `ingest@NAME`: a dataset in its official format to Parquet shards.

In: ``data/raw/NAME`` as ``ingest.datasets.NAME`` describes it (the built-in world is drawn there
first). Out: ``data/ingested/NAME``. The annotation is read and checked whole; the pictures are a
shard's business, so a killed run goes on where it was. Alone: ``python -m flows.ingest NAME``.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from prefect import flow

from flows import windows
from flows.shards import ShardJob, ShardWork, compute_shards, shard_store
from flows.stage import run
from tasks.images import decode
from tasks.ingest import IngestDatasetParams, make_shard, open_dataset, publish_dataset
from tasks.params import read_section
from tasks.runtime import cache_root, runtime
from tasks.schemas import OK
from tasks.shards import read_manifest, read_named

OUT = Path("data/ingested")
SHEET_IMAGES = 10


@flow
def ingest(dataset: str) -> None:
    """Read, check and shard one dataset, and say what was found."""
    section = read_section(IngestDatasetParams, f"ingest.datasets.{dataset}")
    plans = cache_root().resolve() / "plans" / dataset
    opened = open_dataset(section, dataset, plans, runtime().workers)
    store = shard_store()
    jobs = [ShardJob(name, key) for name, key in opened.shards]
    make = partial(make_shard, source=opened.source, store=store)
    entries = compute_shards(jobs, ShardWork(f"ingest@{dataset}", "images", make))
    publish_dataset(opened, OUT / dataset, store, entries)
    _show(dataset)


def _show(dataset: str) -> None:
    manifest = read_manifest(OUT / dataset)
    counts = [{"outcome": slug, "rows": rows} for slug, rows in manifest.counts.items()]
    windows.table(f"ingest-{dataset}", counts, f"Rows of {dataset} by outcome")
    rows = read_named(OUT / dataset, manifest.shards[0].name, ["image", "status"]).to_pylist()
    images = [decode(row["image"]) for row in rows if row["status"] == OK][:SHEET_IMAGES]
    windows.sheet(f"ingest-{dataset}-images", [(dataset, images)], f"First images of {dataset}")


if __name__ == "__main__":
    run(ingest, OUT / sys.argv[1], dataset=sys.argv[1])
