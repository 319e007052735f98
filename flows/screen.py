"""Stage `screen`: a decision and a reason for every restyled image.

In: ``data/restyled``. Out: ``data/screened``, one row an image. Shards are judged one by one and
stored; near-duplicates are a question to the whole set, asked last. Alone:
``python -m flows.screen``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
from prefect import flow

from flows import windows
from flows.shards import ShardJob, ShardWork, compute_shards, once_a_worker, shard_store
from flows.stage import run
from models.poser import Poser
from tasks.params import read_section
from tasks.provenance import computation_key, model_revision
from tasks.runtime import device
from tasks.schemas import OK
from tasks.screen import ScreenParams, load_poser, mark_repeats, repeated, screen_table
from tasks.shards import read_manifest, read_named, write_folder

IMAGES = Path("data/restyled")
OUT = Path("data/screened")


@once_a_worker
def _poser(section: ScreenParams) -> Poser | None:
    return load_poser(section, device())


def judge(name: str, section: ScreenParams) -> pa.Table:
    """Judge the images of one shard."""
    return screen_table(read_named(IMAGES, name), _poser(section), section)


@flow
def screen() -> None:
    """Judge every shard, mark near-duplicates over all of them, publish."""
    section = read_section(ScreenParams, "screen")
    revisions = {} if section.poser == "none" else {"poser": model_revision(section.poser)}
    shards = read_manifest(IMAGES).shards
    jobs = [
        ShardJob(
            shard.name,
            computation_key(
                "screen",
                inputs=[shard.digest],
                params=section,
                revisions=revisions,
                device=device().type,
            ),
        )
        for shard in shards
    ]
    entries = compute_shards(jobs, ShardWork("screen", "judged", partial(judge, section=section)))
    store = shard_store()
    repeats = repeated((store.read(key) for key, _, _ in entries), section)
    manifest = write_folder(
        OUT,
        (mark_repeats(store.read(key), repeats) for key, _, _ in entries),
        "screened",
        # `entries`: what the shards were made of, so that `pedalign gc` keeps it.
        {
            "revisions": revisions,
            "repeats": len(repeats),
            "entries": [record.digest for _, _, record in entries],
        },
        names=[name for _, name, _ in entries],
    )
    rows = [{"reason": reason, "images": count} for reason, count in manifest.counts.items()]
    windows.table("screened", rows, f"{manifest.counts.get(OK, 0)} of {manifest.rows} images kept")


if __name__ == "__main__":
    run(screen, OUT)
