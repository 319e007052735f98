"""How long one question to 100,000 images takes, opening the index included.

    python -m benchmarks.search [--images 100000] [--width 256]

Compared in one run: this project's `SearchIndex` (memory-mapped array, faiss), and what the peers'
scripts do (load every vector, multiply with numpy, sort all scores). Vectors are random, which
does not matter to an exact search. Both answers have to be the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tasks.gallery import FORMAT, INDEX_FILE
from tasks.search import SearchIndex

if TYPE_CHECKING:
    from collections.abc import Callable

K = 10
REPEATS = 7


def fake_index(folder: Path, images: int, width: int) -> None:
    """Write an index of random unit vectors, a block in memory at a time."""
    rng = np.random.default_rng(0)
    shape = (images, width)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, shape)
    for start in range(0, images, 10_000):
        block = rng.standard_normal((min(10_000, images - start), width), dtype=np.float32)
        vectors[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    vectors.flush()
    uids = [f"{n:016x}" for n in range(images)]
    rows = pa.table({"uid": uids, "path": [f"{uid}.jpg" for uid in uids]})
    path = str(folder / "rows.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    body = {"format": FORMAT, "model": "random", "images": str(folder), "shards": False}
    (folder / INDEX_FILE).write_text(json.dumps(body))


def ours(folder: Path, query: np.ndarray) -> list[str]:
    """Open and ask."""
    index = SearchIndex.open(folder)
    _, places = index.nearest(query, K)
    found: list[str] = index.rows.take(pa.array(places[0]))["uid"].to_pylist()
    return found


def plain(folder: Path, query: np.ndarray) -> list[str]:
    """Load everything, multiply, sort everything."""
    vectors = np.load(folder / "vectors.npy")
    with pa.OSFile(str(folder / "rows.arrow")) as source:
        uids = pa.ipc.open_file(source).read_all()["uid"].to_pylist()
    order = np.argsort(-(vectors @ query[0]), kind="stable")[:K]
    return [uids[place] for place in order]


def median_seconds(run: Callable[[], object]) -> float:
    """Median time of a few runs after one that warms the page cache."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Measure both and print their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fake_index(folder, options.images, options.width)
        query = np.random.default_rng(1).standard_normal((1, options.width)).astype(np.float32)
        query /= np.linalg.norm(query)
        if ours(folder, query) != plain(folder, query):
            raise SystemExit("the two searches disagree")
        mine = median_seconds(lambda: ours(folder, query))
        theirs = median_seconds(lambda: plain(folder, query))
    print(f"{options.images:,} images, {options.width} wide, top {K}, opening included")
    print(f"  SearchIndex        {1000 * mine:8.1f} ms")
    print(f"  load, dot, argsort {1000 * theirs:8.1f} ms")
    print(f"  ratio              {theirs / mine:8.1f} x")


if __name__ == "__main__":
    main()
