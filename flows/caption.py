"""Stage `caption`: new captions for the images that were kept.

In: ``data/restyled``, ``data/screened``. Out: ``data/captioned``, one row an image. Alone:
``python -m flows.caption``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
from prefect import flow

from flows import windows
from flows.shards import ShardJob, ShardWork, compute_shards, once_a_worker, shard_store
from flows.stage import run
from models.captioner import Captioner
from tasks.caption import CaptionParams, caption_table, load_captioner
from tasks.params import read_section
from tasks.provenance import computation_key, model_revision
from tasks.runtime import device
from tasks.shards import join_side, read_manifest, read_named

IMAGES, SCREENED = Path("data/restyled"), Path("data/screened")
OUT = Path("data/captioned")


@once_a_worker
def _captioner(model: str) -> Captioner:
    return load_captioner(model, device())


def describe(name: str, section: CaptionParams) -> pa.Table:
    """Caption the images of one shard."""
    images = join_side(read_named(IMAGES, name), read_named(SCREENED, name))
    captioner = _captioner(section.model) if section.method == "captioner" else None
    return caption_table(images, captioner, section)


@flow
def caption() -> None:
    """Caption every shard and publish."""
    section = read_section(CaptionParams, "caption")
    revisions = (
        {"captioner": model_revision(section.model)} if section.method == "captioner" else {}
    )
    screened = {shard.name: shard.digest for shard in read_manifest(SCREENED).shards}
    jobs = [
        ShardJob(
            shard.name,
            computation_key(
                "caption",
                inputs=[shard.digest, screened.get(shard.name, "")],
                params=section,
                revisions=revisions,
                device=device().type,
            ),
        )
        for shard in read_manifest(IMAGES).shards
    ]
    entries = compute_shards(
        jobs, ShardWork("caption", "captioned", partial(describe, section=section))
    )
    shard_store().publish(OUT, "captioned", entries, {"revisions": revisions})
    first = shard_store().read(entries[0][0]).slice(0, 20).to_pylist()
    rows = [{"uid": row["uid"], "caption": " | ".join(row["captions"])} for row in first]
    windows.table("captions", rows, "The first captions")


if __name__ == "__main__":
    run(caption, OUT)
