"""Stage `restyle`: source images in the target's look, straight to Parquet.

In: source shards (with ``mode: generate`` the target's) and the DaD adapter. Out:
``data/restyled``. Before/after sheets show on the run's page. Alone: ``python -m flows.restyle``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
from prefect import flow

from flows import windows
from flows.shards import ShardJob, ShardWork, compute_shards, once_a_device, shard_store
from flows.stage import run
from tasks.diffusion import DiffusionParams, base_revision
from tasks.eda import lexicon_revision
from tasks.images import decode
from tasks.inputs import Inputs, optional
from tasks.params import read_section
from tasks.provenance import computation_key, folder_digest
from tasks.restyle.renderer import Renderer, needs_model, open_renderer
from tasks.restyle.shard import RestyleParams, restyle_table
from tasks.runtime import device, runtime
from tasks.shards import location, read_manifest, read_named

OUT = Path("data/restyled")
SHEET_IMAGES = 10


@once_a_device
def _renderer(diffusion: DiffusionParams, dad: Path | None, model: bool) -> Renderer:
    return open_renderer(diffusion, dad, device(), model=model, compiled=runtime().compile)


def redraw(
    name: str,
    images: Path,
    diffusion: DiffusionParams,
    section: RestyleParams,
    dad: Path | None,
) -> pa.Table:
    """Restyle one shard."""
    renderer = _renderer(diffusion, dad, needs_model(section))
    arm = renderer.arm(section)
    return restyle_table(read_named(images, name), arm, batch=runtime().batch_size)


@flow
def restyle() -> None:
    """Restyle every shard and publish."""
    section = read_section(RestyleParams, "restyle")
    diffusion = read_section(DiffusionParams, "diffusion")
    inputs = read_section(Inputs, "inputs")
    images, dad = location(inputs.restyle), optional(inputs.dad)
    revisions = {"base": base_revision(diffusion)} if needs_model(section) else {}
    if dad is not None and section.mode != "none":
        revisions["dad"] = folder_digest(dad)
    if section.mode == "generate":
        revisions["synonyms"] = lexicon_revision(section.synonyms)
    shards = read_manifest(images).shards
    jobs = [
        ShardJob(
            shard.name,
            computation_key(
                "restyle",
                inputs=[shard.digest],
                params=[section, diffusion],
                revisions=revisions,
                device=device().type,
            ),
        )
        for shard in shards
    ]
    compute = partial(redraw, images=images, diffusion=diffusion, section=section, dad=dad)
    entries = compute_shards(jobs, ShardWork("restyle", "restyled", compute))
    shard_store().publish(OUT, "restyled", entries, {"mode": section.mode, "revisions": revisions})
    _show(None if section.mode == "generate" else images, entries[0][1])


def _show(images: Path | None, name: str) -> None:
    """Put the first images of a shard above what was made of them; new ones have no such."""
    made = read_named(OUT, name).slice(0, SHEET_IMAGES).to_pylist()
    if images is None:
        pictures = [decode(row["image"]) if row["image"] else None for row in made]
        windows.sheet("generated", [("generated", pictures)], "Generated from captions")
        return
    parents = {row["uid"]: row for row in read_named(images, name, ["uid", "image"]).to_pylist()}
    before, after = (
        [decode(row["image"]) if row["image"] else None for row in rows]
        for rows in ([parents[row["uid"].rpartition(".")[0]] for row in made], made)
    )
    rows = [("source", before), ("restyled", after)]
    windows.sheet("restyled", rows, "Source above, restyled below")


if __name__ == "__main__":
    run(restyle, OUT)
