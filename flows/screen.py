"""Stage `screen`: a decision and a reason for every restyled image.

In: ``data/restyled``. Out: ``data/screened``, one row an image. Shards are measured one by one and
stored; the rules, and near-duplicates as a question to the whole set, come last. Alone:
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
from tasks.params import read_section
from tasks.provenance import computation_key, model_revision
from tasks.runtime import cache_root, device
from tasks.screen.instruments import Instruments, load_instruments, measure_table
from tasks.screen.rules import ScreenParams, judge_table, repeated
from tasks.shards import read_manifest, read_named, write_folder

IMAGES = Path("data/restyled")
OUT = Path("data/screened")


@once_a_worker
def _instruments(section: ScreenParams) -> Instruments:
    return load_instruments(section, device())


def measure(name: str, section: ScreenParams) -> pa.Table:
    """Look at the images of one shard."""
    return measure_table(read_named(IMAGES, name), _instruments(section))


@flow
def screen() -> None:
    """Measure every shard, mark near-duplicates over all of them, publish the decisions."""
    section = read_section(ScreenParams, "screen")
    revisions = {part: model_revision(name) for part, name in section.models.items()}
    shards = read_manifest(IMAGES).shards
    jobs = [
        ShardJob(
            shard.name,
            computation_key(
                "screen",
                inputs=[shard.digest],
                params=section.measuring,
                revisions=revisions,
                device=device().type,
            ),
        )
        for shard in shards
    ]
    work = ShardWork("screen", "measured", partial(measure, section=section))
    entries = compute_shards(jobs, work)
    store = shard_store()
    repeats = repeated((store.read(key) for key, _, _ in entries), section, cache_root(), device())
    write_folder(
        OUT,
        (judge_table(store.read(key), section, repeats) for key, _, _ in entries),
        "screened",
        # `entries`: what the shards were made of, so that `pedalign gc` keeps it.
        {
            "revisions": revisions,
            "repeats": len(repeats),
            "entries": [record.digest for _, _, record in entries],
        },
        names=[name for _, name, _ in entries],
    )
    windows.rejects(IMAGES, OUT)


if __name__ == "__main__":
    run(screen, OUT)
