"""Stage `caption`: new captions for the images that were kept.

In: ``data/restyled``, ``data/screened``. Out: ``data/captioned``, one row an image. Alone:
``python -m flows.caption``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
from prefect import flow

from flows import speakers
from flows.shards import ShardJob, ShardWork, compute_shards, shard_store
from flows.stage import run
from tasks.caption.parameters import CaptionParams
from tasks.params import read_section
from tasks.provenance import computation_key
from tasks.runtime import device
from tasks.shards import join_side, read_manifest, read_named

IMAGES, SCREENED = Path("data/restyled"), Path("data/screened")
OUT = Path("data/captioned")


def say(name: str, section: CaptionParams) -> pa.Table:
    """Caption the images of one shard."""
    images = join_side(read_named(IMAGES, name), read_named(SCREENED, name))
    return speakers.say(images, section)


@flow
def caption() -> None:
    """Caption every shard and publish."""
    section = read_section(CaptionParams, "caption")
    revisions = speakers.revisions_of(section)
    screened = {shard.name: shard.digest for shard in read_manifest(SCREENED).shards}
    jobs = [
        ShardJob(
            shard.name,
            computation_key(
                "caption",
                inputs=[shard.digest, screened.get(shard.name, "")],
                params=section.mattering(),
                revisions=revisions,
                device=device().type,
            ),
        )
        for shard in read_manifest(IMAGES).shards
    ]
    meta = {"method": section.method, "revisions": revisions}
    entries = compute_shards(jobs, ShardWork("caption", "captioned", partial(say, section=section)))
    shard_store().publish(OUT, "captioned", entries, meta)
    speakers.show("captions", entries[0][0], "The first captions")


if __name__ == "__main__":
    run(caption, OUT)
