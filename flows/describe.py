"""Stage `describe@NAME`: pseudo texts for the pictures of a target that has no captions.

In: the shards that ``describe.datasets.NAME.images`` names. Out: ``data/described/NAME``, a side
table as `caption` writes it, one row an image. Alone: ``python -m flows.describe NAME``.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pyarrow as pa
from prefect import flow

from flows import speakers
from flows.shards import ShardJob, ShardWork, compute_shards, shard_store
from flows.stage import run
from tasks.describe import DescribeParams, only_splits
from tasks.params import read_section
from tasks.provenance import computation_key
from tasks.runtime import device
from tasks.shards import location, read_manifest, read_named

OUT = Path("data/described")


def say(name: str, section: DescribeParams) -> pa.Table:
    """Describe the images of one shard."""
    images = read_named(location(section.images), name)
    return speakers.say(only_splits(images, section.splits), section.caption)


@flow
def describe(dataset: str) -> None:
    """Describe every shard and publish."""
    section = read_section(DescribeParams, f"describe.datasets.{dataset}")
    revisions = speakers.revisions_of(section.caption)
    jobs = [
        ShardJob(
            shard.name,
            computation_key(
                "describe",
                inputs=[shard.digest],
                params=[sorted(section.splits), section.caption.mattering()],
                revisions=revisions,
                device=device().type,
            ),
        )
        for shard in read_manifest(location(section.images)).shards
    ]
    work = ShardWork("describe", "captioned", partial(say, section=section))
    entries = compute_shards(jobs, work)
    meta = {"method": section.caption.method, "revisions": revisions}
    shard_store().publish(OUT / dataset, "captioned", entries, meta)
    speakers.show(f"described-{dataset}", entries[0][0], "The first pseudo texts")


if __name__ == "__main__":
    run(describe, OUT / sys.argv[1], dataset=sys.argv[1])
