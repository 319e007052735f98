"""Stage `restyle`: source images in the target's look, straight to Parquet.

In: source shards and the DaD adapter; with ``mode: generate`` the target's shards and, where it has
no captions of its own, what `describe` said about it. Out: ``data/restyled``. Before/after sheets
show on the run's page. Alone: ``python -m flows.restyle``.
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
from tasks.inputs import Inputs, adapter, optional
from tasks.params import read_section
from tasks.provenance import computation_key, folder_digest
from tasks.restyle.renderer import Renderer, needs_model, open_renderer
from tasks.restyle.shard import RestyleParams, restyle_table
from tasks.runtime import device, runtime
from tasks.shards import location, read_manifest, read_named
from tasks.target import told_shard

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
    captions: Path | None = None,
) -> pa.Table:
    """Restyle one shard."""
    renderer = _renderer(diffusion, dad, needs_model(section))
    arm = renderer.arm(section)
    return restyle_table(told_shard(images, captions, name), arm, batch=runtime().batch_size)


@flow
def restyle() -> None:
    """Restyle every shard and publish."""
    section = read_section(RestyleParams, "restyle")
    diffusion = read_section(DiffusionParams, "diffusion")
    inputs = read_section(Inputs, "inputs")
    images, dad = location(inputs.restyle), adapter(inputs)
    revisions = {"base": base_revision(diffusion)} if needs_model(section) else {}
    if dad is not None and section.mode != "none":
        revisions["dad"] = folder_digest(dad)
    if section.mode == "generate":
        revisions["synonyms"] = lexicon_revision(section.synonyms)
    captions = pseudo_texts(inputs, section)
    said = {} if captions is None else {s.name: s.digest for s in read_manifest(captions).shards}
    shards = read_manifest(images).shards
    jobs = [
        ShardJob(
            shard.name,
            computation_key(
                "restyle",
                inputs=[shard.digest, *([said.get(shard.name, "")] if captions else [])],
                params=[section, diffusion],
                revisions=revisions,
                device=device().type,
            ),
        )
        for shard in shards
    ]
    compute = partial(
        redraw, images=images, diffusion=diffusion, section=section, dad=dad, captions=captions
    )
    entries = compute_shards(jobs, ShardWork("restyle", "restyled", compute))
    shard_store().publish(OUT, "restyled", entries, {"mode": section.mode, "revisions": revisions})
    _show(None if section.mode == "generate" else images, entries[0][1])


def pseudo_texts(inputs: Inputs, section: RestyleParams) -> Path | None:
    """The side table whose captions become prompts, if the target is generated from and has one."""
    if section.mode != "generate" or inputs.restyle != inputs.adapt:
        return None
    return optional(inputs.adapt_captions)


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
