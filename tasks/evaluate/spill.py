"""A table of numbers that is in memory as long as the budget allows, and else in a file.

The file is unnamed (it is removed from its folder as soon as it is open), so its space is given
back even where the process is killed. It is read and written, not mapped: what is in memory is
what was asked for, and no more.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.errors import PedAlignError


class Budget:
    """Bytes that several tables may take together."""

    def __init__(self, size: int, folder: Path | None = None) -> None:
        """Begin with all of it free.

        Args:
            size: Bytes.
            folder: Where files go; None is the system's folder for temporary files (TMPDIR).
        """
        self.free, self.folder = size, folder

    def take(self, size: int) -> bool:
        """Take some, if there is as much."""
        if size > self.free:
            return False
        self.free -= size
        return True


class Rows:
    """Rows of one width, written once and read in runs."""

    def __init__(self, count: int, width: int, dtype: torch.dtype, budget: Budget) -> None:
        """Choose where the rows are kept.

        Args:
            count: Rows.
            width: Numbers a row.
            dtype: Of the numbers.
            budget: What is left of the memory; a table that does not fit goes into a file.

        Raises:
            PedAlignError: The file's folder has not enough space.
        """
        self.count, self.width, self.dtype = count, width, dtype
        self._row_bytes = width * dtype.itemsize
        self._memory: Tensor | None = None
        self._file: Any = None
        if budget.take(count * self._row_bytes):
            self._memory = torch.empty(count, width, dtype=dtype)
            return
        folder = Path(budget.folder or tempfile.gettempdir())
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if count * self._row_bytes > free:
            raise PedAlignError(
                f"{folder}: {free >> 20} MB are free, {count * self._row_bytes >> 20} MB needed",
                "tokens that do not fit into memory_mb are kept in a temporary file",
                "name a folder with more space in TMPDIR, or raise memory_mb in runtime.yaml",
            )
        # It lives as long as the table.
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115

    def __len__(self) -> int:
        """Count the rows."""
        return self.count

    @property
    def in_file(self) -> bool:
        """Whether the rows are in a file."""
        return self._file is not None

    def write(self, start: int, rows: Tensor) -> None:
        """Write some rows (n, width), from any device, cast to the table's type."""
        rows = rows.detach().to(self.dtype)
        if self._memory is not None:
            self._memory[start : start + len(rows)] = rows
            return
        self._file.seek(start * self._row_bytes)
        data = _bytes(rows.cpu().contiguous())
        while len(data):
            data = data[self._file.write(data) :]

    def read(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop): a view of the table, or a copy from the file."""
        if self._memory is not None:
            return self._memory[start:stop]
        out = torch.empty(stop - start, self.width, dtype=self.dtype)
        data = _bytes(out)
        self._file.seek(start * self._row_bytes)
        while len(data):
            count = self._file.readinto(data)
            if not count:
                raise EOFError(f"rows {start} to {stop} were never written")
            data = data[count:]
        return out

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Rows by number, ascending: read run by run."""
        edges = np.flatnonzero(np.diff(rows) != 1) + 1
        runs = np.split(rows, edges)
        parts = [self.read(int(run[0]), int(run[-1]) + 1) for run in runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @classmethod
    def of(cls, rows: Tensor) -> Rows:
        """A table in memory of rows that are there already, not copied."""
        table = cls(0, rows.shape[1], rows.dtype, Budget(0))
        table.count, table._memory = len(rows), rows
        return table


def _bytes(rows: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU, whatever its type (numpy has no bfloat16)."""
    return rows.flatten().view(torch.uint8).numpy().data
