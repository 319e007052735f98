"""The pictures of a folder of shards, by number: decoded once where they fit, else when asked for.

Small sets (everything up to `CACHE_BYTES` of pixels, so the whole built-in world) are decoded once
into one flat array. Of larger ones the files of a picture alone are read: shards keep pictures
uncompressed, so a picture is a run of bytes of its shard. Parquet does not say which; the first
picture asked for of a row group (at most 64 rows) has the whole group read through pyarrow, and
where its pictures begin is noted, 8 bytes each, in memory that the loader's workers share. What
cannot be noted (a shard on another machine, or written anew since) is read through pyarrow each
time. So memory does not grow with the set but for those 8 bytes.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.errors import PedAlignError
from tasks.images import ImageError, decode
from tasks.shards import is_local, open_parquet, read_manifest, read_shard

CACHE_BYTES = 512 << 20
_OPEN_FILES = 64
_LENGTH_BITS = 24
"""Of a note's 63 bits, those for a picture's length (16 MiB); the others say where it begins."""
_PREFIX = 4
"""Bytes before a binary value in a Parquet page: its length, little-endian."""

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
        # One word a picture, 0 for unknown: written whole, so that workers may share it unlocked.
        self._notes: NDArray[np.int64] = np.frombuffer(
            mmap.mmap(-1, max(1, len(places)) * 8), dtype=np.int64
        )
        self._stamps = self._stamped() if is_local(folder) else {}
        self._keys = (places[:, 0] << 32) + places[:, 1]
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
        """Read the bytes of some pictures: alone where noted, else each row group once."""
        if self._owner != os.getpid():  # a forked worker opens its own files
            self._files, self._owner = {}, os.getpid()
        found = [self._noted(int(number)) for number in numbers]
        groups: dict[tuple[int, int], list[int]] = {}
        for at, number in enumerate(numbers):
            if found[at] is None:
                shard, row = (int(v) for v in self.places[number])
                _, starts = self._open(shard)
                group = int(np.searchsorted(starts, row, side="right")) - 1
                groups.setdefault((shard, group), []).append(at)
        for (shard, group), wanted in groups.items():
            file, starts = self._open(shard)
            column: pa.ChunkedArray = file.read_row_group(group, columns=["image"])["image"]
            first = int(starts[group])
            for at in wanted:
                found[at] = column[int(self.places[numbers[at], 1]) - first].as_py()
            if shard in self._stamps:
                self._note(shard, file.metadata.row_group(group), first, column)
        return [(data or b"", int(number)) for data, number in zip(found, numbers, strict=True)]

    def _noted(self, number: int) -> bytes | None:
        """Read a picture where its note says it is; None where that is not so."""
        note = int(self._notes[number])
        if not note:
            return None
        begin, length = note >> _LENGTH_BITS, note & ((1 << _LENGTH_BITS) - 1)
        shard = int(self.places[number, 0])
        try:
            with (self.folder / self.records[shard].name).open("rb", buffering=0) as file:
                if _stamp(os.fstat(file.fileno())) != self._stamps[shard]:
                    return None
                file.seek(begin)
                return file.read(length)
        except OSError:  # pyarrow says what is wrong
            return None

    def _note(self, shard: int, group: Any, first: int, column: pa.ChunkedArray) -> None:
        """Note where the pictures of a row group lie.

        Args:
            shard: Its number.
            group: The row group's metadata.
            first: Its first row.
            column: Its pictures.
        """
        names = [group.column(number).path_in_schema for number in range(group.num_columns)]
        chunk = group.column(names.index("image"))
        if chunk.compression != "UNCOMPRESSED":
            return
        begin = chunk.dictionary_page_offset or chunk.data_page_offset
        with (self.folder / self.records[shard].name).open("rb", buffering=0) as file:
            if _stamp(os.fstat(file.fileno())) != self._stamps[shard]:
                return
            file.seek(begin)
            raw = file.read(chunk.total_compressed_size)
        rows = np.array([first, first + len(column)]) + (shard << 32)
        low, high = np.searchsorted(self._keys, rows).tolist()
        at = 0
        for number in range(low, high):
            data = column[int(self.places[number, 1]) - first].as_py()
            # Values follow each other; at the start of a page, what is between has to be skipped.
            at += _PREFIX
            if not raw.startswith(data, at):
                at = raw.find(data)
            if at < _PREFIX or int.from_bytes(raw[at - _PREFIX : at], "little") != len(data):
                return
            if len(data) >> _LENGTH_BITS == 0:
                self._notes[number] = (begin + at) << _LENGTH_BITS | len(data)
            at += len(data)

    def _stamped(self) -> dict[int, tuple[int, int, int]]:
        """Which file each shard is, of those that can be asked."""
        stamps = {}
        for shard in np.unique(self.places[:, 0]).tolist():
            try:
                stamps[shard] = _stamp((self.folder / self.records[shard].name).stat())
            except OSError:  # whoever reads it is told
                continue
        return stamps

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


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    """What tells a file from another one that took its name."""
    return status.st_ino, status.st_mtime_ns, status.st_size
