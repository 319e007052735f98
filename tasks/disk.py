"""Disk use: sizes in words, and bytes counted once however many names they have.

The store, a published folder and DVC's cache hold the same shard as hard links of one inode, where
the file system allows that. Adding up the folders would count it three times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path


def size_text(size: float) -> str:
    """Write bytes as people say them: ``640 B``, ``1.5 MB``."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"


def files_of(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield files, and those below folders; what is absent is left out."""
    for path in paths:
        if path.is_dir():
            yield from (inside for inside in path.rglob("*") if inside.is_file())
        elif path.exists():
            yield path


class Inodes:
    """Files of this machine by inode: how many of an inode's names were seen, and its bytes."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        """Look at files, and at those below folders."""
        self._seen: Counter[tuple[int, int]] = Counter()
        self._found: dict[tuple[int, int], tuple[int, int]] = {}
        for path in files_of(paths):
            try:
                status = path.stat()
            except FileNotFoundError:  # a stage's temporary file
                continue
            self._seen[status.st_dev, status.st_ino] += 1
            self._found[status.st_dev, status.st_ino] = (status.st_nlink, status.st_size)

    @property
    def size(self) -> int:
        """Bytes, each inode once."""
        return sum(size for _, size in self._found.values())

    @property
    def own(self) -> int:
        """Bytes of those inodes that have no name elsewhere: what comes free with these files."""
        return sum(size for at, (names, size) in self._found.items() if self._seen[at] == names)


def cache_use(cache: Path) -> dict[str, int]:
    """Measure a ``.cache``: bytes of its store, its trainings and running checkpoints.

    Returns:
        ``shards``, ``trainings``, ``runs``; ``together``, where an inode counts once; and ``own``,
        the bytes that have no name outside.
    """
    parts = {name: Inodes([cache / name]).size for name in ("shards", "trainings", "runs")}
    whole = Inodes([cache])
    return parts | {"together": whole.size, "own": whole.own}
