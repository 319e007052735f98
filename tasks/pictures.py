"""The pictures of a folder of shards, by number: decoded once where they fit, else when asked for.

Small sets (everything up to `CACHE_BYTES` of pixels, so the whole built-in world) are decoded once
into one flat array. Larger ones are read a row group (at most 64 rows) at a time; the files of one
process stay open, and nothing else is kept, so memory does not grow with the set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.errors import PedAlignError
from tasks.images import ImageError, decode
from tasks.shards import open_parquet, read_manifest, read_shard

CACHE_BYTES = 512 << 20
_OPEN_FILES = 64

Pixels = NDArray[np.uint8]


class Pictures:
    """Random access to decoded pictures, each (h, w, 3) uint8 at its stored size."""

    def __init__(
        self,
        folder: Path,
        places: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
        *,
        cache_bytes: int | None = None,
    ) -> None:
        """Choose how to hold the pictures.

        Args:
            folder: Folder of shards with a column ``image``.
            places: (I, 2) number of the shard in the manifest and row in it, ascending.
            heights: (I,) in pixels.
            widths: (I,).
            cache_bytes: Most bytes of pixels to keep decoded; None is `CACHE_BYTES`.
        """
        self.folder, self.places = folder, places
        self.records = read_manifest(folder).shards
        self._files: dict[int, tuple[pq.ParquetFile, NDArray[np.int64]]] = {}
        self._owner = os.getpid()
        limit = CACHE_BYTES if cache_bytes is None else cache_bytes
        self._shapes = np.stack([heights, widths], axis=1)
        self._starts = np.concatenate([[0], np.cumsum(heights * widths * 3)])
        self._pixels: Pixels | None = None
        if self._starts[-1] <= limit:
            self._pixels = np.empty(int(self._starts[-1]), dtype=np.uint8)
            self._decode_all(self._pixels)

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.places)

    @property
    def cached(self) -> bool:
        """Whether every picture is held decoded."""
        return self._pixels is not None

    def read(self, numbers: NDArray[np.int64]) -> list[Pixels]:
        """Give pictures by number, in the order asked for."""
        if self._pixels is not None:
            flat, starts, shapes = self._pixels, self._starts, self._shapes
            return [
                flat[starts[n] : starts[n + 1]].reshape(shapes[n, 0], shapes[n, 1], 3)
                for n in numbers
            ]
        return [self._decode(data, int(n)) for data, n in self._encoded(numbers)]

    # -------------------------------------------------------------- inside

    def _decode_all(self, flat: Pixels) -> None:
        for shard in np.unique(self.places[:, 0]):
            mine = np.flatnonzero(self.places[:, 0] == shard)
            column = read_shard(self.folder, self.records[shard], ["image"])["image"]
            for number in mine:
                pixels = self._decode(column[int(self.places[number, 1])].as_py(), int(number))
                flat[self._starts[number] : self._starts[number + 1]] = pixels.reshape(-1)

    def _decode(self, data: bytes, number: int) -> Pixels:
        shard, row = self.places[number]
        try:
            pixels = np.asarray(decode(data))
        except ImageError as error:
            raise PedAlignError(
                f"{self.folder / self.records[shard].name}, row {row}: {error}",
                "a row with status ok holds a picture that decodes",
                "run dvc repro: the folder was not written by this version of the program",
            ) from error
        if pixels.shape[:2] != tuple(self._shapes[number]):
            raise PedAlignError(
                f"{self.folder / self.records[shard].name}, row {row}: the picture is "
                f"{pixels.shape[0]}x{pixels.shape[1]}, its row says "
                f"{self._shapes[number, 0]}x{self._shapes[number, 1]}",
                "height and width are those of the decoded picture",
                "run dvc repro: the folder was not written by this version of the program",
            )
        return pixels

    def _encoded(self, numbers: NDArray[np.int64]) -> list[tuple[bytes, int]]:
        """Read the bytes of some pictures, each row group once."""
        if self._owner != os.getpid():  # a forked worker opens its own files
            self._files, self._owner = {}, os.getpid()
        groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for at, number in enumerate(numbers):
            shard, row = (int(v) for v in self.places[number])
            _, starts = self._open(shard)
            group = int(np.searchsorted(starts, row, side="right")) - 1
            groups.setdefault((shard, group), []).append((at, row - int(starts[group])))
        found: list[bytes] = [b""] * len(numbers)
        for (shard, group), wanted in groups.items():
            file, _ = self._open(shard)
            column: pa.ChunkedArray = file.read_row_group(group, columns=["image"])["image"]
            for at, row in wanted:
                found[at] = column[row].as_py()
        return list(zip(found, (int(n) for n in numbers), strict=True))

    def _open(self, shard: int) -> tuple[pq.ParquetFile, NDArray[np.int64]]:
        if shard not in self._files:
            if len(self._files) >= _OPEN_FILES:
                oldest, _ = self._files.pop(next(iter(self._files)))
                oldest.close()
            file = open_parquet(self.folder / self.records[shard].name)
            meta = file.metadata
            rows = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
            self._files[shard] = file, np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind when a worker process is started."""
        return {**self.__dict__, "_files": {}}
