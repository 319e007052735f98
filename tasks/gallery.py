"""The index of a gallery: every image embedded once, on disk, ready to be searched.

What is unusual: building can be interrupted. Each finished part is a file named after its content
and the model, so a later run, also one after images were added, embeds only what is new. The
images stay where they are; the index refers to them. An image that cannot be read is a row with a
reason in rejected.parquet.

An index is a folder: ``vectors.npy`` (N, E) float32, unit rows, memory-mapped by the search;
``rows.arrow``, uid and path of each; ``rejected.parquet``; ``parts/``, what a later run reuses; and
``index.json``, written last.

Shapes: N images, E width of a feature, B images of a batch, H x W pixels.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from tasks.errors import PedAlignError
from tasks.images import ImageError, decode
from tasks.schemas import OK, REJECTED
from tasks.shards import (
    MANIFEST,
    ShardRecord,
    atomic_write,
    image_uid,
    partition,
    read_manifest,
    read_shard,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.encoder import Encoder

log = logging.getLogger(__name__)

INDEX_FILE = "index.json"
FORMAT = 1
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
PART_ROWS = 1024
"""Most images of a plain folder in one part: what an interruption can cost."""


@dataclass(frozen=True)
class Built:
    """What building an index did."""

    rows: int
    """Images that can be found."""
    rejected: int
    """Images that could not be read, in rejected.parquet with their reasons."""
    computed: int
    """Parts embedded now."""
    reused: int
    """Parts found from an earlier run."""


@dataclass(frozen=True)
class _Part:
    """Some images that are embedded together: their name by content, and how to read them."""

    key: str
    uids: list[str]
    paths: list[str]
    read: Callable[[], Iterable[bytes | None]]
    """Gives the encoded images, None for one that is known to be bad, in the order of ``uids``."""


def build_index(
    encoder: Encoder, images: Path, out: Path, *, batch: int = 64, workers: int = 2
) -> Built:
    """Embed every image of a folder, or of a folder of shards, into a searchable index.

    Args:
        encoder: The retrieval model.
        images: A folder of image files (searched through all its subfolders) or of shards.
        out: Where the index goes. An index that is there is brought up to date.
        batch: Images a forward pass.
        workers: Threads that decode.

    Returns:
        What was done.

    Raises:
        PedAlignError: The folder holds no image that can be read.
    """
    parts = list(_parts(images))
    folder = out / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    computed = 0
    names = []
    for part in tqdm(parts, desc="embedding", unit="part", disable=None):
        text = f"{FORMAT}\0{encoder.revision}\0{encoder.size}\0{part.key}"
        name = f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.parquet"
        names.append(name)
        if not (folder / name).exists():
            table = _embed(encoder, part, batch, workers)
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            atomic_write(folder / name, bytes(sink.getvalue()))
            computed += 1
    rows, rejected = _publish(encoder, images, out, names)
    for stale in {path.name for path in folder.glob("*.parquet")} - set(names):
        (folder / stale).unlink()
    return Built(rows, rejected, computed, len(parts) - computed)


def _parts(images: Path) -> Iterator[_Part]:
    if (images / MANIFEST).exists():
        for record in read_manifest(images).shards:
            narrow = read_shard(images, record, ["uid", "source_path"], verify=False)
            yield _Part(
                record.digest,
                narrow["uid"].to_pylist(),
                narrow["source_path"].to_pylist(),
                partial(_shard_images, images, record),
            )
        return
    found = sorted(p for p in images.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise PedAlignError(
            f"{images}: neither {MANIFEST} nor an image file",
            f"a gallery is a folder of shards or of files named {' '.join(sorted(SUFFIXES))}",
            "correct the path",
        )
    paths = [path.relative_to(images).as_posix() for path in found]
    uids = [image_uid("", path) for path in paths]
    for _, order in partition(uids, PART_ROWS):
        files = [found[i] for i in order]
        stats = [path.stat() for path in files]
        seen = [(paths[i], s.st_size, s.st_mtime_ns) for i, s in zip(order, stats, strict=True)]
        yield _Part(
            json.dumps(seen),
            [uids[i] for i in order],
            [paths[i] for i in order],
            partial(_file_images, files),
        )


def _shard_images(folder: Path, record: ShardRecord) -> Iterable[bytes | None]:
    images: list[bytes | None] = read_shard(folder, record, ["image"])["image"].to_pylist()
    return images


def _file_images(files: Sequence[Path]) -> Iterable[bytes | None]:
    return (read_file(path) for path in files)


def read_file(path: Path) -> bytes | None:
    """A file's bytes; None, with a warning, where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        log.warning("%s cannot be read: %s", path.name, error.strerror)
        return None


def prepare(data: bytes | None, size: tuple[int, int]) -> NDArray[np.uint8] | str:
    """Pixels (H, W, 3), or the reason why there are none."""
    if data is None:
        return "unreadable: there are no bytes"
    try:
        image = decode(data)
    except ImageError as error:
        return str(error)
    height, width = size
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _embed(encoder: Encoder, part: _Part, batch: int, workers: int) -> pa.Table:
    errors: list[str | None] = []
    vectors: list[NDArray[np.float32]] = []
    waiting: list[NDArray[np.uint8]] = []

    def flush() -> None:
        if waiting:
            vectors.append(np.asarray(encoder.encode_images(np.stack(waiting)), dtype=np.float32))
            waiting.clear()

    datas = iter(part.read())
    with ThreadPoolExecutor(workers) as pool:
        while chunk := [data for _, data in zip(range(batch), datas, strict=False)]:
            for pixels in pool.map(lambda data: prepare(data, encoder.size), chunk):
                errors.append(pixels if isinstance(pixels, str) else None)
                if not isinstance(pixels, str):
                    waiting.append(pixels)
            flush()
    good = [n for n, error in enumerate(errors) if error is None]
    flat = np.concatenate(vectors) if vectors else np.empty((0, 0), dtype=np.float32)
    rows: list[list[float] | None] = [None] * len(errors)
    for n, vector in zip(good, flat, strict=True):
        rows[n] = vector
    return pa.table(
        {
            "uid": part.uids,
            "path": part.paths,
            "status": [OK if error is None else REJECTED for error in errors],
            "error": pa.array(errors, pa.string()),
            "vector": pa.array(rows, pa.list_(pa.float32())),
        }
    )


def _publish(encoder: Encoder, images: Path, out: Path, names: Sequence[str]) -> tuple[int, int]:
    """Merge the parts into one array and one table of rows, a part in memory at a time."""
    folder = out / "parts"
    counts = [
        pc.sum(pc.equal(pq.read_table(folder / name, columns=["status"])["status"], OK)).as_py()
        for name in names
    ]
    rows = sum(count or 0 for count in counts)
    if not rows:
        raise PedAlignError(
            f"{images}: none of its images can be read",
            "an index holds at least one image",
            f"see the reasons in the parts below {folder}",
        )
    # Presence of index.json means complete: an old one must not stand beside new arrays.
    (out / INDEX_FILE).unlink(missing_ok=True)
    vectors: np.memmap[Any, np.dtype[np.float32]] | None = None
    rejected = []
    schema = pa.schema([("uid", pa.string()), ("path", pa.string())])
    with pa.OSFile(str(out / "rows.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        start = 0
        for name in names:
            table = pq.read_table(folder / name)
            ok = pc.equal(table["status"], OK)
            good = table.filter(ok)
            rejected.append(table.filter(pc.invert(ok)).select(["uid", "path", "error"]))
            if not good.num_rows:
                continue
            flat = good["vector"].combine_chunks().flatten().to_numpy()
            block = flat.reshape(good.num_rows, -1)
            if vectors is None:
                vectors = np.lib.format.open_memmap(
                    out / "vectors.npy", "w+", np.float32, (rows, block.shape[1])
                )
            vectors[start : start + len(block)] = block
            writer.write_table(good.select(["uid", "path"]))
            start += len(block)
    assert vectors is not None
    vectors.flush()
    refused = pa.concat_tables(rejected)
    pq.write_table(refused, out / "rejected.parquet")
    body = {
        "format": FORMAT,
        "model": encoder.revision,
        "rows": rows,
        "rejected": refused.num_rows,
        "width": int(vectors.shape[1]),
        "images": str(images.resolve()),
        "shards": (images / MANIFEST).exists(),
    }
    atomic_write(out / INDEX_FILE, (json.dumps(body, indent=1) + "\n").encode())
    return rows, refused.num_rows
