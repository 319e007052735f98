"""Tiny raw datasets that look like the real releases."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tasks.ingest import IngestDatasetParams, fingerprint, ingest_dataset
from tasks.params import check_section


def picture(seed=0, size=(24, 48), name="JPEG", detail=(6, 3), **options):
    """Bytes of an image that no other seed gives: smooth, so that JPEG keeps it."""
    small = np.random.default_rng(seed).integers(0, 256, (*detail, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def put(root, path, data=None, seed=0):
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(picture(seed) if data is None else data)


def section(root, form, **values):
    """Check a dataset's section as params.yaml would give it; fingerprint the folder."""
    annotation = values.pop("annotation", root / "a.json")
    fingerprint(root)
    told = {
        "format": form,
        "root": str(root),
        "annotation": str(annotation),
        "fingerprint": str(root / "fingerprint.json"),
        "shard_rows": 4,
        "min_side": 8,
        "max_side": 256,
    }
    return check_section(IngestDatasetParams, told | values, "ingest.datasets.test")


@pytest.fixture
def raw(tmp_path):
    """A raw folder with helpers to fill it and to ingest it as dataset ``test``."""
    root = tmp_path / "raw"
    root.mkdir()

    def annotate(entries, name="a.json"):
        (root / name).write_text(json.dumps(entries), encoding="utf-8")

    def ingest(form, out=tmp_path / "test", **values):
        return ingest_dataset(section(root, form, **values), out)

    return SimpleNamespace(
        section=section,
        root=root,
        out=tmp_path / "test",
        put=lambda path, data=None, seed=0: put(root, path, data, seed),
        annotate=annotate,
        ingest=ingest,
        picture=picture,
    )


@pytest.fixture
def rows():
    """Read all rows of a folder of shards as mappings by source_path."""
    from tasks.shards import iter_tables

    def read(folder):
        return {
            row["source_path"]: row for table in iter_tables(folder) for row in table.to_pylist()
        }

    return read
