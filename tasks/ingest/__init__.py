"""Stage `ingest`: official formats to Parquet shards of the ``images`` schema.

Reading order: `dataset` (the stage), `readers` (one iterator a layout), `plan` (what is a bad row
and what is a bad dataset), `shard` (what a shard is made from, and its making), `picture` (what
bytes are stored), `findings` (the report). Beside them: `raw` (safe reading, fingerprints),
`lmdb_pictures` (pictures out of a database), `crossing` (pictures in two datasets), `photos`
(captions from region labels), `worlds` (the built-in world).

What is unusual: a dataset is compared with what was published about it, and everything odd is
kept, counted and shown, never silently mended.
"""

from tasks.ingest.crossing import shared_images
from tasks.ingest.dataset import (
    IngestDatasetParams,
    ingest_dataset,
    open_dataset,
    publish_dataset,
)
from tasks.ingest.findings import IngestReport, shared_captions
from tasks.ingest.raw import fingerprint
from tasks.ingest.shard import make_shard

__all__ = [
    "IngestDatasetParams",
    "IngestReport",
    "fingerprint",
    "ingest_dataset",
    "make_shard",
    "open_dataset",
    "publish_dataset",
    "shared_captions",
    "shared_images",
]
