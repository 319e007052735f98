"""Changed and missing files: flipped bits, deleted shards, a dvc.lock that was cut off."""

from __future__ import annotations

import os
import re
from pathlib import Path

from benchmarks.reliability.bench import Bench
from benchmarks.reliability.case import SHARDS, TRAINING, Case
from benchmarks.reliability.project import Project, differing
from benchmarks.reliability.results import FaultOutcome


def flip_bit(path: Path, *, silently: bool = False) -> None:
    """Flip one bit in the middle of a file, in place.

    Args:
        path: The file, which other names may be linked to.
        silently: Leave its time as it was, as a failing disk does.
    """
    status = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as both:
        both.seek(status.st_size // 2)
        byte = both.read(1)[0]
        both.seek(status.st_size // 2)
        both.write(bytes([byte ^ 1]))
    path.chmod(status.st_mode)
    if silently:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flipped_bit_in_the_store(bench: Bench) -> FaultOutcome:
    """An entry of the store has changed; the shard is computed again, and only that one."""
    case = Case(bench, "flipped bit in the store")
    case.forget(SHARDS, store=False)
    entry = case.project.folder / ".cache" / sorted(case.entries(SHARDS))[0]
    flip_bit(entry.with_suffix(".parquet"))
    said = case.run()
    changed, total = case.recomputed(SHARDS)
    return case.finish(
        how=f"one bit of one of the {total} entries of `{SHARDS}`, whose output is gone",
        seen=said.paragraph("has changed"),
        said=said,
        recomputed=f"{changed} of {total}",
        sound=said.code == 0 and changed == 1 and "has changed" in said.text,
    )


def flipped_bit_in_a_finished_training(bench: Bench) -> FaultOutcome:
    """Weights in the store have changed; the training is run again."""
    case = Case(bench, "flipped bit in a finished training")
    case.forget(TRAINING, store=False)
    note = case.project.folder / ".cache" / sorted(case.entries(TRAINING))[0]
    flip_bit(max(note.with_suffix("").rglob("*.safetensors"), key=lambda p: p.stat().st_size))
    said = case.run()
    return case.finish(
        how=f"one bit of the finished weights of `{TRAINING}`, whose output is gone",
        seen=said.paragraph("has changed"),
        said=said,
        recomputed="1 of 1",
        sound=said.code == 0 and "has changed" in said.text,
    )


def flipped_bit_in_a_published_shard(bench: Bench) -> FaultOutcome:
    """A published shard has changed, and with it, by a hard link, DVC's copy.

    DVC sees a file of another time, takes its own object on trust and is content.
    """
    case = Case(bench, "flipped bit in a published shard")
    flip_bit(_first_shard(case.project))
    said = case.run()
    wrong = differing(case.project.digests(), bench.reference)
    mended = case.run("flows.mending")
    again = case.run()
    changed, total = case.recomputed(SHARDS)
    return case.finish(
        how="one bit of a shard in `data/restyled`, which is one file with DVC's object",
        seen=f"{said.paragraph('checking out outputs|Running stage')}; {len(wrong)} file differs",
        said=said,
        remedy="`python -m flows.mending`, `dvc repro`",
        recomputed=f"{changed} of {total}",
        sound=mended.code == again.code == 0 and changed == 0,
    )


def silently_flipped_bit(bench: Bench) -> FaultOutcome:
    """The same without a trace in the file's time, which DVC goes by: the reader notices.

    DVC's object is the same file, and DVC takes its own objects on trust, so it has to go too.
    """
    case = Case(bench, "silently flipped bit")
    flip_bit(_first_shard(case.project), silently=True)
    case.forget("screen")
    said = case.run()
    mended = case.run("flows.mending")
    again = case.run()
    changed, total = case.recomputed(SHARDS)
    return case.finish(
        how="the same with the file's time put back, and `screen` to be run, which reads the shard",
        seen=said.paragraph("content has changed"),
        said=said,
        remedy="`python -m flows.mending`, `dvc repro`",
        recomputed=f"{changed} of {total}",
        sound=said.code != 0 and not said.traceback and mended.code == again.code == 0,
    )


def deleted_shard(bench: Bench) -> FaultOutcome:
    """A published shard is deleted by hand."""
    case = Case(bench, "deleted shard")
    _first_shard(case.project).unlink()
    said = case.run()
    changed, total = case.recomputed(SHARDS)
    return case.finish(
        how="a shard of `data/restyled` deleted by hand",
        seen=said.paragraph("checking out outputs|Running stage"),
        said=said,
        recomputed=f"{changed} of {total}",
        sound=said.code == 0 and changed == 0,
    )


def deleted_shard_and_entry(bench: Bench) -> FaultOutcome:
    """A published shard, its store entry and DVC's copy of it are deleted by hand."""
    case = Case(bench, "deleted shard and entry")
    shard = _first_shard(case.project)
    data = shard.read_bytes()  # the store's copy is a file of its own
    for root in (".cache/shards", ".dvc/cache/files", "data/restyled"):
        for path in (case.project.folder / root).rglob("*"):
            if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
                path.unlink()
    said = case.run()
    changed, total = case.recomputed(SHARDS)
    return case.finish(
        how="a shard of `data/restyled` deleted, with its copies in the store and in DVC's cache",
        seen=said.paragraph("Running stage 'restyle"),
        said=said,
        recomputed=f"{changed} of {total}",
        sound=said.code == 0 and changed == 1,
    )


def _first_shard(project: Project) -> Path:
    return sorted((project.folder / "data" / "restyled").glob("*.parquet"))[0]


def torn_lock(bench: Bench) -> FaultOutcome:
    """dvc.lock is empty, as a kill leaves it when DVC has just opened it to write it anew."""
    case = Case(bench, "torn lock")
    (case.project.folder / "dvc.lock").write_bytes(b"")
    said = case.run()
    mended = case.run("flows.mending")
    again = case.run()
    ran = len(re.findall(r"Running stage '", again.text))
    changed, total = case.recomputed()
    return case.finish(
        how="dvc.lock cut off at its first byte",
        seen=said.paragraph("(?i)corrupted|invalid|validation"),
        said=said,
        remedy=f"`python -m flows.mending`, `dvc repro`: {ran} stages ran",
        recomputed=f"{changed} of {total}",
        sound=said.code != 0 and mended.code == again.code == 0 and changed == 0,
    )
