"""Who captions pictures: what the stages `caption` and `describe` have in common.

A model is loaded once a worker, or once a device where several threads may use it at once; what a
shard's captions depend on besides pictures is named by `revisions_of`.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from flows import windows
from flows.shards import once_a_device, once_a_worker, shard_store
from models.captioner import Captioner
from tasks.caption.describing import load_captioner
from tasks.caption.parameters import AttributesParams, CaptionParams
from tasks.caption.seeing import AttributeReader, load_reader
from tasks.caption.shard import caption_table
from tasks.caption.vocabulary import read_vocabulary
from tasks.provenance import model_revision
from tasks.runtime import device

SHOWN = 20


@once_a_worker
def _captioner(model: str) -> Captioner:
    return load_captioner(model, device())


@once_a_device
def _reader(section: AttributesParams) -> AttributeReader:
    return load_reader(section, device())


def say(images: pa.Table, section: CaptionParams) -> pa.Table:
    """Caption the usable pictures of a table by the section's method."""
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


def show(key: str, entry: str, title: str) -> None:
    """Show the first captions of a shard on the run's page.

    Args:
        key: Of the artifact.
        entry: The shard's key in the store.
        title: Above the table.
    """
    table = shard_store().read(entry).select(["uid", "captions"])
    said = [row for row in table.to_pylist() if row["captions"]]
    rows = [{"uid": row["uid"], "caption": " | ".join(row["captions"])} for row in said[:SHOWN]]
    windows.table(key, rows, title)
