"""An experiment's records in one file, small enough to be kept beside its pages.

    pack(folders, Path("docs/results/ablation-records.tar.xz"), whole={("restyle-regions", 0)})
    unpack(Path("docs/results/ablation-records.tar.xz"), workspace.root / "records" / "evidence")

What is left out is what only rank lists need, the first pictures of each query, but for the runs
that are shown so. The same records give the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.ablate.records import read_record
from tasks.ablate.workspaces import RESULT
from tasks.errors import PedAlignError
from tasks.shards import atomic_write

TOP = "top"
"""The column that only rank lists need."""


def pack(records: Iterable[Path], path: Path, whole: Collection[tuple[str, int]] = ()) -> None:
    """Write records into one file.

    Args:
        records: Folders of finished runs.
        path: The file, ``.tar.xz``; replaced.
        whole: Arm and seed of runs whose first pictures are kept.
    """
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:xz", preset=9) as archive:
        runs = sorted((read_record(folder) for folder in records), key=lambda r: (r.arm, r.seed))
        for run in runs:
            name = f"{run.arm}/seed-{run.seed}"
            _add(archive, f"{name}/{RESULT}", (run.folder / RESULT).read_bytes())
            for file in sorted(run.folder.glob("*.parquet")):
                table = pq.read_table(file)
                if (run.arm, run.seed) not in whole:
                    nothing = pa.array([[]] * table.num_rows, pa.list_(pa.string()))
                    at = table.schema.get_field_index(TOP)
                    table = table.set_column(at, TOP, nothing)
                # Plain, since the archive finds what tables have in common.
                written = io.BytesIO()
                pq.write_table(table, written, compression="none", use_dictionary=False)
                _add(archive, f"{name}/{file.name}", written.getvalue())
    atomic_write(path, sink.getvalue())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)  # of no time and nobody
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def unpack(path: Path, folder: Path, planned: Collection[str] = ()) -> list[Path]:
    """Put the records of a file where an experiment keeps them.

    Args:
        path: What `pack` wrote.
        folder: Of the experiment's records. A record that is there stays if it is of a planned
            run, or if nobody says what is planned.
        planned: Identities of the runs that are planned.

    Returns:
        Folders of the runs that were not there.

    Raises:
        PedAlignError: It is no such file.
    """
    found: dict[PurePosixPath, dict[str, bytes]] = {}
    try:
        with tarfile.open(path, "r:xz") as archive:
            for entry in archive:
                content, place = archive.extractfile(entry), PurePosixPath(entry.name)
                inside = not place.is_absolute() and ".." not in place.parts
                if content is None or len(place.parts) != 3 or not inside:
                    raise _no_archive(path, f"it holds {entry.name!r}")
                found.setdefault(place.parent, {})[place.name] = content.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise _no_archive(path, str(error)) from error
    new = []
    for run, files in sorted(found.items()):
        out = folder.joinpath(*run.parts)
        if (out / RESULT).exists() and (
            not planned or json.loads((out / RESULT).read_bytes()).get("run") in planned
        ):
            continue
        out.mkdir(parents=True, exist_ok=True)
        for name in sorted(files, key=lambda name: name == RESULT):  # which says that all is there
            atomic_write(out / name, files[name])
        new.append(out)
    return new


def _no_archive(path: Path, found: str) -> PedAlignError:
    return PedAlignError(
        f"{path}: no records of an experiment ({found})",
        "ablation-records.tar.xz beside an experiment's pages holds them",
        "name such a file, or leave --records out",
    )
