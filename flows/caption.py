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
from flows.shards import (
    ShardJob,
    ShardWork,
    compute_shards,
    once_a_device,
    once_a_worker,
    shard_store,
)
from flows.stage import run
from models.captioner import Captioner
from tasks.caption.describing import load_captioner
from tasks.caption.parameters import AttributesParams, CaptionParams
from tasks.caption.seeing import AttributeReader, load_reader
from tasks.caption.shard import caption_table
from tasks.caption.vocabulary import read_vocabulary
from tasks.params import read_section
from tasks.provenance import computation_key, model_revision
from tasks.runtime import device
from tasks.shards import join_side, read_manifest, read_named

IMAGES, SCREENED = Path("data/restyled"), Path("data/screened")
OUT = Path("data/captioned")


@once_a_worker
def _captioner(model: str) -> Captioner:
    return load_captioner(model, device())


@once_a_device
def _reader(section: AttributesParams) -> AttributeReader:
    return load_reader(section, device())


def describe(name: str, section: CaptionParams) -> pa.Table:
    """Caption the images of one shard."""
    images = join_side(read_named(IMAGES, name), read_named(SCREENED, name))
    speaker: Captioner | AttributeReader | None = None
    if section.method == "captioner":
        speaker = _captioner(section.captioner.model)
    elif section.method == "clip_attributes":
        speaker = _reader(section.clip_attributes)
    return caption_table(images, speaker, section)


def revisions_of(section: CaptionParams) -> dict[str, str]:
    """What the chosen method reads besides pictures, each with its digest or hub commit."""
    if section.method == "captioner":
        return {"captioner": model_revision(section.captioner.model)}
    if section.method == "clip_attributes":
        own = section.clip_attributes
        # A file that cannot be meant stops the stage here, once, and not in every shard.
        read_vocabulary(Path(own.attributes))
        return {
            "captioner": model_revision(own.model),
            "attributes": model_revision(own.attributes),
        }
    return {}


@flow
def caption() -> None:
    """Caption every shard and publish."""
    section = read_section(CaptionParams, "caption")
    revisions = revisions_of(section)
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
    entries = compute_shards(
        jobs, ShardWork("caption", "captioned", partial(describe, section=section))
    )
    shard_store().publish(OUT, "captioned", entries, {"revisions": revisions})
    first = shard_store().read(entries[0][0]).slice(0, 20).to_pylist()
    rows = [{"uid": row["uid"], "caption": " | ".join(row["captions"])} for row in first]
    windows.table("captions", rows, "The first captions")


if __name__ == "__main__":
    run(caption, OUT)
