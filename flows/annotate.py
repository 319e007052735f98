"""Stage `annotate`: phrases with character spans, and a region for each.

In: ``data/restyled``, ``data/captioned``. Out: ``data/annotated``, one row an image. Boxes drawn on
images show on the run's page. Alone: ``python -m flows.annotate``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
from prefect import flow
from spacy.language import Language

from flows import windows
from flows.shards import ShardJob, ShardWork, compute_shards, once_a_worker, shard_store
from flows.stage import run
from models.regions.proposals import RegionProposer
from tasks.annotate.shard import AnnotateParams, annotate_table, load_proposer
from tasks.images import decode
from tasks.overlays import draw_regions
from tasks.params import read_section
from tasks.phrases import EMBEDDED, load_parser
from tasks.provenance import computation_key, model_revision
from tasks.runtime import device
from tasks.schemas import OK
from tasks.shards import join_side, read_manifest, read_named

IMAGES, CAPTIONED = Path("data/restyled"), Path("data/captioned")
OUT = Path("data/annotated")
SHEET_IMAGES = 8


@once_a_worker
def _proposer(section: AnnotateParams) -> RegionProposer:
    return load_proposer(section, device())


@once_a_worker
def _parser(name: str) -> Language:
    return load_parser(name)


def find(name: str, section: AnnotateParams) -> pa.Table:
    """Annotate the images of one shard."""
    images = join_side(read_named(IMAGES, name), read_named(CAPTIONED, name))
    return annotate_table(images, _parser(section.parser), _proposer(section), section)


@flow
def annotate() -> None:
    """Annotate every shard and publish."""
    section = read_section(AnnotateParams, "annotate")
    # A folder counts by its files, an installed pipeline by its version.
    parser = (
        model_revision(section.parser)
        if Path(section.parser).is_dir()
        else f"{section.parser} {_parser(section.parser).meta['version']}"
    )
    revisions = {"parser": parser}
    if section.proposer != EMBEDDED:
        revisions["proposer"] = model_revision(section.proposer)
    captioned = {shard.name: shard.digest for shard in read_manifest(CAPTIONED).shards}
    jobs = [
        ShardJob(
            shard.name,
            computation_key(
                "annotate",
                inputs=[shard.digest, captioned.get(shard.name, "")],
                params=section,
                revisions=revisions,
                device=device().type,
            ),
        )
        for shard in read_manifest(IMAGES).shards
    ]
    entries = compute_shards(
        jobs, ShardWork("annotate", "annotated", partial(find, section=section))
    )
    shard_store().publish(OUT, "annotated", entries, {"revisions": revisions})
    _show(entries[0][1])


def _show(name: str) -> None:
    """Draw the boxes of a shard's first usable images."""
    rows = [row for row in read_named(OUT, name).to_pylist() if row["status"] == OK][:SHEET_IMAGES]
    images = {r["uid"]: r["image"] for r in read_named(IMAGES, name, ["uid", "image"]).to_pylist()}
    drawn = [draw_regions(decode(images[row["uid"]]), row) for row in rows]
    if drawn:
        # Two rows, so that the words at the boxes can be read.
        half = (len(drawn) + 1) // 2
        rows_of_images = [("regions", drawn[:half]), ("", drawn[half:])]
        windows.sheet("annotated", rows_of_images, "A box for each phrase")


if __name__ == "__main__":
    run(annotate, OUT)
