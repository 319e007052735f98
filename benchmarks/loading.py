"""Pictures a second from Parquet shards beside loose JPEG files with a JSON of annotations.

    python -m benchmarks.loading [--images 8000] [--workers 2] [--cold]

Writes the same pictures (384x256, about 25 kB each, one caption) as shards and as files, and loads
two shuffled epochs from each, in processes of their own, in turns:

- ``decode``: pictures only. Shards by `tasks.pictures.Pictures`; files by an ordinary
  ``torch.utils.data.Dataset`` that opens and converts one picture with Pillow.
- ``batches``: what fine-tuning trains on. `tasks.batches.PairDataset` both times, so that
  augmentation, tokenizing and masking cost the same; only where the bytes come from differs.

Start is what it takes to know the pairs: `read_pairs`, or reading the JSON. Memory is the loader's
with its workers (proportional set size), less what the interpreter held before; CPU time is
theirs in the later epoch, and says more than the rate where the machine has other work. The files
are in the page cache, having just been written; ``--cold`` drops them from it before each start,
so that the first epoch reads the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tasks.augment import Recipe
from tasks.batches import PairDataset, Pairs, Preparation, read_pairs
from tasks.images import encode_jpeg
from tasks.order import EpochBatches, load
from tasks.pictures import Pictures
from tasks.schemas import IMAGES
from tasks.shards import image_uid, write_folder
from tasks.tokens import Masking, Words, load_tokenizer

SIZE = (384, 256)
BATCH = 40
EPOCHS = 2
"""The first finds out where pictures lie in their shards."""
TOKENIZER = Path("models/tiny/bert")
CAPTION = "a woman wearing a red shirt and black trousers is walking with a white bag"
ANNOTATIONS = "annotations.json"

Pixels = NDArray[np.uint8]


# ------------------------------------------------------------------ the pictures


def picture(number: int) -> bytes:
    """A JPEG with large shapes and a little noise, about as heavy as a photo of that size."""
    rng = np.random.default_rng(number)
    rough = rng.integers(0, 256, (12, 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(rough).resize(SIZE[::-1], Image.Resampling.BICUBIC)
    pixels = np.asarray(smooth).astype(np.float32) + rng.normal(0, 4, (*SIZE, 1))
    return encode_jpeg(np.clip(pixels, 0, 255).astype(np.uint8))


def write(root: Path, count: int, shard_rows: int) -> int:
    """Write both forms; give the bytes of all pictures."""
    (root / "files").mkdir()
    rows, entries, total = [], [], 0
    for number in range(count):
        data, name = picture(number), f"{number:06}.jpg"
        (root / "files" / name).write_bytes(data)
        total += len(data)
        entries.append({"image": name, "caption": CAPTION, "image_id": number})
        rows.append(
            {
                "uid": image_uid("loading", name), "dataset": "loading", "split": "train",
                "person_id": f"loading/{number}", "camera": None, "image": data,
                "width": SIZE[1], "height": SIZE[0], "captions": [CAPTION], "labels": None,
                "source_path": name, "parent_uid": None, "status": "ok", "error": None,
            }
        )  # fmt: skip
    (root / ANNOTATIONS).write_text(json.dumps(entries))
    write_folder(root / "shards", [pa.Table.from_pylist(rows, IMAGES)], "images", None, shard_rows)
    return total


def drop_from_cache(root: Path) -> None:
    """Ask the system to forget the pictures' pages."""
    for path in [*(root / "files").iterdir(), *(root / "shards").iterdir()]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


# ------------------------------------------------------------------ the sides


class LooseFiles(Dataset[Pixels]):
    """An ordinary dataset: a list from a JSON, a file opened and converted an item."""

    def __init__(self, root: Path) -> None:
        self.root = root / "files"
        self.entries: list[dict[str, Any]] = json.loads((root / ANNOTATIONS).read_text())

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: int) -> Pixels:
        with Image.open(self.root / self.entries[number]["image"]) as image:
            return np.asarray(image.convert("RGB"))

    def read(self, numbers: NDArray[np.int64]) -> list[Pixels]:
        """Pictures by number, as `Pictures.read` gives them."""
        return [self[int(number)] for number in numbers]


class Decoded(Dataset[list[Pixels]]):
    """Batches of decoded pictures of shards."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Pixels]:
        return self.pictures.read(np.array([row for _, row in keys]))


def _as_it_is(batch: Any) -> Any:
    return batch


def loose_pairs(files: LooseFiles) -> Pairs:
    """The entries of a JSON as pairs."""
    count = len(files)
    each = np.arange(count)
    names = pa.array([entry["image"] for entry in files.entries])
    return Pairs(
        uids=names,
        names=names,
        people=each,
        image=each,
        caption=pa.array([entry["caption"] for entry in files.entries]),
        turn=np.zeros(count, dtype=np.int64),
        person=each,
        first=np.zeros(count + 1, dtype=np.int64),
        box=np.zeros((0, 4), dtype=np.float32),
        phrase=np.zeros(0, dtype=np.int64),
        phrases=pa.array([], pa.string()),
        skipped={},
    )


def batches(root: Path, side: str, variant: str, workers: int) -> tuple[int, Iterator[Any]]:
    """The number of pairs, and two shuffled epochs of batches of one side."""
    source: Pictures | LooseFiles
    if side == "shards":
        pairs, source = read_pairs(root / "shards", split="train", identity="image", cache_bytes=0)
    else:
        source = LooseFiles(root)
        pairs = loose_pairs(source)
    order = EpochBatches(len(pairs), BATCH, EPOCHS, seed=0)
    if variant == "batches":
        preparation = Preparation(
            image=Recipe(size=SIZE, stride=32, flip=0.5, erasing=0.6),
            words=Words(load_tokenizer(TOKENIZER), 56),
            masking=Masking(),
            seed=0,
        )
        return len(pairs), load(
            PairDataset(pairs, cast(Pictures, source), preparation), order, workers
        )
    if isinstance(source, Pictures):
        return len(pairs), load(cast(PairDataset, Decoded(source)), order, workers)
    loader: DataLoader[Pixels] = DataLoader(
        source,
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        collate_fn=_as_it_is,
        persistent_workers=workers > 0,
    )
    return len(pairs), (batch for _ in range(EPOCHS) for batch in loader)


def held() -> tuple[float, float]:
    """What this process and its workers hold and have used.

    Returns:
        Memory in MiB, shared pages parted among their holders, and seconds of CPU time.
    """
    memory, spent = 0.0, 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            memory += process.memory_full_info().pss / 2**20
            times = process.cpu_times()
            spent += times.user + times.system
        except psutil.Error:  # gone meanwhile
            continue
    return memory, spent


def measure(root: Path, side: str, variant: str, workers: int) -> None:
    """Load both epochs of one side and print what it took, as JSON."""
    torch.set_num_threads(1)
    before, _ = held()
    began = time.perf_counter()
    count, source = batches(root, side, variant, workers)
    found = {"start": time.perf_counter() - began, "mib": 0.0}
    per_epoch = count // BATCH
    for epoch in ("first", "later"):
        began, (_, spent) = time.perf_counter(), held()
        for number in range(per_epoch):
            next(source)
            if number % 50 == min(25, per_epoch - 1):
                found["mib"] = max(found["mib"], held()[0] - before)
        found[epoch] = per_epoch * BATCH / (time.perf_counter() - began)
        found["cpu"] = 1e3 * (held()[1] - spent) / (per_epoch * BATCH)
    print(json.dumps(found))


def main() -> None:
    """Write the pictures, load them in turns, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard-rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop the files from the page cache")
    parser.add_argument("--side", choices=("shards", "files"), help=argparse.SUPPRESS)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure(options.root, options.side, options.variant, options.workers)
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        total = write(root, options.images, options.shard_rows)
        shards = len(list((root / "shards").glob("*.parquet")))
        print(
            f"{options.images} pictures of {SIZE[0]}x{SIZE[1]}, {total / options.images / 1e3:.1f} "
            f"kB each, in {shards} shards and as files; batches of {BATCH}, {options.workers} "
            f"workers, {os.cpu_count()} cores; "
            + ("first epoch from disk" if options.cold else "page cache warm")
            + f"; load of the machine before: {os.getloadavg()[0]:.1f}"
        )
        print("| what | source | images/s, first epoch | later | CPU ms each | start, s | MiB |")
        print("|---|---|---|---|---|---|---|")
        for variant in ("decode", "batches"):
            found: dict[str, list[dict[str, float]]] = {"files": [], "shards": []}
            for _ in range(options.rounds):
                for side, rows in found.items():
                    if options.cold:
                        drop_from_cache(root)
                    command = [sys.executable, "-m", "benchmarks.loading", "--side", side]
                    command += ["--variant", variant, "--root", str(root)]
                    command += ["--workers", str(options.workers)]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    rows.append(json.loads(done.stdout.splitlines()[-1]))
            middle = {
                side: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
                for side, rows in found.items()
            }
            for side, row in middle.items():
                print(
                    f"| {variant} | {side} | {row['first']:.0f} | {row['later']:.0f} | "
                    f"{row['cpu']:.2f} | "
                    f"{row['start']:.2f} | {row['mib']:.0f} |"
                )
            gain = {key: middle["shards"][key] / middle["files"][key] for key in ("first", "later")}
            print(f"| {variant} | ratio | {gain['first']:.2f} | {gain['later']:.2f} | | | |")


if __name__ == "__main__":
    main()
