"""Stage `annotate`: phrases with character spans, and a region for each.

In: ``data/restyled``, ``data/captioned``, with ``phrases: words`` the target's shards. Out:
``data/annotated``, one row an image. Boxes drawn on images show on the run's page. Alone:
``python -m flows.annotate``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import flow
from spacy.language import Language

from flows import windows
from flows.shards import ShardJob, ShardWork, compute_shards, once_a_worker, shard_store
from flows.stage import run
from models.regions.proposals import RegionProposer
from tasks.annotate.shard import (
    AnnotateParams,
    annotate_table,
    check_choices,
    essence,
    load_proposer,
)
from tasks.annotate.words import Word, as_meta, frequent_words
from tasks.inputs import Inputs, optional
from tasks.params import read_section
from tasks.phrases import EMBEDDED, load_parser
from tasks.provenance import computation_key, model_revision
from tasks.runtime import cache_root, device
from tasks.shards import atomic_write, join_side, read_manifest, read_named

IMAGES, CAPTIONED = Path("data/restyled"), Path("data/captioned")
OUT = Path("data/annotated")


@once_a_worker
def _proposer(section: AnnotateParams) -> RegionProposer:
    return load_proposer(section, device())


@once_a_worker
def _parser(name: str) -> Language:
    return load_parser(name)


def find(name: str, section: AnnotateParams, words: tuple[Word, ...]) -> pa.Table:
    """Annotate the images of one shard."""
    images = join_side(read_named(IMAGES, name), read_named(CAPTIONED, name))
    wanted = [word.phrase() for word in words]
    return annotate_table(
        images, _parser(section.parser), _proposer(section), section, words=wanted
    )


def wanted_words(section: AnnotateParams, target: Path | None, parser: str) -> tuple[Word, ...]:
    """The words that ``phrases: words`` looks for, counted once for a target and a parser.

    Args:
        section: The parameters.
        target: Shards whose train captions are counted.
        parser: Its revision.
    """
    if section.phrases != "words" or target is None:
        return ()
    key = computation_key(
        "annotate words",
        inputs=[read_manifest(target).digest],
        params=section.words,
        code=["tasks.annotate.words"],
        revisions={"parser": parser},
    )
    kept = cache_root() / "words" / f"{key}.json"
    if not kept.exists():
        words = frequent_words(target, _parser(section.parser), section.words)
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(kept, json.dumps([asdict(word) for word in words]).encode())
    return tuple(Word(**word) for word in json.loads(kept.read_bytes()))


@flow
def annotate() -> None:
    """Annotate every shard and publish."""
    section = read_section(AnnotateParams, "annotate")
    target = optional(read_section(Inputs, "inputs").words)
    check_choices(section, target)
    # A folder counts by its files, an installed pipeline by its version.
    parser = (
        model_revision(section.parser)
        if Path(section.parser).is_dir()
        else f"{section.parser} {_parser(section.parser).meta['version']}"
    )
    meta: dict[str, Any] = {"params": essence(section), "revisions": {"parser": parser}}
    if section.proposer != EMBEDDED:
        meta["revisions"]["proposer"] = model_revision(section.proposer)
    if words := wanted_words(section, target, parser):
        meta["words"] = as_meta(words)
    captioned = {shard.name: shard.digest for shard in read_manifest(CAPTIONED).shards}
    jobs = [
        ShardJob(
            shard.name,
            computation_key(
                "annotate",
                inputs=[shard.digest, captioned.get(shard.name, "")],
                params=[essence(section), [word.phrase() for word in words]],
                revisions=meta["revisions"],
                device=device().type,
            ),
        )
        for shard in read_manifest(IMAGES).shards
    ]
    work = ShardWork("annotate", "annotated", partial(find, section=section, words=words))
    entries = compute_shards(jobs, work)
    shard_store().publish(OUT, "annotated", entries, meta)
    windows.regions(IMAGES, OUT)


if __name__ == "__main__":
    run(annotate, OUT)
