"""Loss curves on disk: ``curve.csv``, a row a step, which DVC plots and the report draws."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.shards import atomic_write


def write_curve(path: Path, rows: Sequence[Mapping[str, float | int | str]]) -> None:
    """Write one row a step: ``step`` from 1, then the columns of the rows.

    Args:
        path: The file.
        rows: Values of every step by name; every row has the same names.
    """
    sink = io.StringIO()
    names = [name for name in (rows[0] if rows else {}) if name != "step"]
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["step", *names])
    writer.writerows(
        [row.get("step", step), *(row[name] for name in names)]
        for step, row in enumerate(rows, start=1)
    )
    atomic_write(path, sink.getvalue().encode())
