"""A raw dataset's folder: reading out of it safely, and telling when it has changed.

Annotation files come from strangers and name the files to open, so a name is refused when it is
absolute, climbs (``..``) or leads outside by a symbolic link. The dataset folder itself may be a
link (data/raw/NAME often is); what lies in it must lie in it.

`fingerprint` writes fingerprint.json: per folder the number of files, their size and a digest of
names, sizes and contents. DVC watches that one file and not 50,000 images; `check_fingerprint`
compares names and sizes with it, without reading an image.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from tasks.errors import PedAlignError
from tasks.images import ImageError
from tasks.shards import atomic_write, file_digest

FINGERPRINT = "fingerprint.json"
LARGEST_FILE = 128 << 20
"""Bytes of the largest image file that is opened."""

_LOCKS = re.compile(r"(^|/)lock\.mdb$|\.l?mdb-lock$")
"""What LMDB leaves beside a database that somebody opened; no data."""
_FORMAT = 1
_LONGEST_PATH = 1024
_DEPTH = 2  # Folders are told apart down to this depth: CUHK's imgs/cam_a, ICFG's imgs/train.
_DRIVE = re.compile(r"[A-Za-z]:")


class PathError(ValueError):
    """A path in an annotation file that is not opened, with its ``reason`` slug."""

    def __init__(self, reason: str, detail: str) -> None:
        """Build the message ``reason: detail``."""
        self.reason = reason
        super().__init__(f"{reason}: {detail}")


def safe_path(value: object) -> str:
    """Check a path of an annotation file and write it in one way.

    Args:
        value: What stood in the file.

    Returns:
        A relative POSIX path without ``.`` and doubled slashes.

    Raises:
        PathError: Reason ``bad-path`` (no usable text) or ``unsafe-path`` (it could lead out of
            the dataset's folder).
    """
    if not isinstance(value, str):
        raise PathError("bad-path", f"{value!r:.80} is not text")
    if not value.strip() or len(value) > _LONGEST_PATH or not value.isprintable():
        raise PathError("bad-path", f"{value!r:.80} is empty, too long or not printable")
    path = PurePosixPath(value)
    plain = path.as_posix()
    if path.is_absolute() or "\\" in value or _DRIVE.match(plain) or ".." in path.parts:
        raise PathError("unsafe-path", f"{value!r:.80} is not a plain path inside the folder")
    if not path.parts or not plain.strip():
        raise PathError("bad-path", f"{value!r:.80} names no file")
    return plain


class RawFolder:
    """Files below one folder, and none outside it."""

    def __init__(self, root: Path) -> None:
        """Open the folder.

        Raises:
            PedAlignError: There is none.
        """
        if not root.is_dir():
            raise PedAlignError(
                f"{root}: no such folder",
                "a raw dataset lies at data/raw/NAME, as a copy or a link",
                f"ln -s /where/it/is {root}",
            )
        self.root = root.resolve()

    def find(self, path: str) -> Path:
        """Locate a file.

        Args:
            path: From `safe_path`.

        Raises:
            ImageError: Reasons ``missing``, ``unsafe-path``, ``not-a-file``, ``too-large``,
                ``unreadable``.
        """
        try:
            found = (self.root / path).resolve(strict=True)
            if not found.is_relative_to(self.root):
                raise ImageError("unsafe-path", f"{path} is a link out of the dataset's folder")
            status = found.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise ImageError("missing", path) from None
        except (OSError, RuntimeError) as error:
            raise ImageError("unreadable", f"{path} ({type(error).__name__})") from error
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not-a-file", path)
        if status.st_size > LARGEST_FILE:
            raise ImageError("too-large", f"{path} has {status.st_size} bytes")
        return found

    def digest(self, path: str) -> str:
        """Return the SHA-256 of a file; see `find`."""
        try:
            return file_digest(self.find(path))
        except OSError as error:
            raise ImageError("unreadable", f"{path} ({type(error).__name__})") from error

    def read(self, path: str) -> bytes:
        """Read a file; see `find`."""
        try:
            return self.find(path).read_bytes()
        except OSError as error:
            raise ImageError("unreadable", f"{path} ({type(error).__name__})") from error

    def walk(self) -> list[str]:
        """List the files below, hidden ones left out, sorted; links to folders are not followed."""
        found = []
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = Path(folder).relative_to(self.root)
            found += [(below / name).as_posix() for name in files if not name.startswith(".")]
        return sorted(found)


def fingerprint(root: Path) -> None:
    """Write ``fingerprint.json`` into a raw dataset's folder; reads every file once.

    Raises:
        PedAlignError: The folder is missing or a file in it cannot be read.
    """
    folder = RawFolder(root)
    sizes = _sizes(folder)

    def describe(path: str) -> str:
        return file_digest(folder.root / path)

    try:
        with ThreadPoolExecutor(4) as pool:
            contents = list(
                tqdm(
                    pool.map(describe, sizes),
                    total=len(sizes),
                    desc=f"fingerprint {root.name}",
                    unit="file",
                    disable=None,
                )
            )
    except OSError as error:
        raise PedAlignError(
            f"{root}: {error}", "every file of a dataset can be read", "mend its permissions"
        ) from error
    lines = [f"{path}\0{sizes[path]}" for path in sizes]
    whole = [f"{line}\0{content}" for line, content in zip(lines, contents, strict=True)]
    body = {
        "format": _FORMAT,
        "files": len(sizes),
        "bytes": sum(sizes.values()),
        "content": _digest(whole),
        "folders": _folders(sizes),
    }
    atomic_write(root / FINGERPRINT, (json.dumps(body, indent=1, sort_keys=True) + "\n").encode())


def check_fingerprint(root: Path, file: Path) -> None:
    """Compare a folder's names and sizes with its fingerprint, without reading the files.

    Raises:
        PedAlignError: There is no fingerprint, or the folder is another than it was.
    """
    remedy = f"pedalign fingerprint {root}"
    rule = "the fingerprint says what lies in a raw dataset, and DVC watches the fingerprint"
    try:
        body = json.loads(file.read_bytes())
        known = dict(body["folders"]) if body["format"] == _FORMAT else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PedAlignError(f"{file}: {type(error).__name__}: {error}", rule, remedy) from error
    if known is None:
        raise PedAlignError(f"{file}: another format", rule, remedy)
    seen = _folders(_sizes(RawFolder(root)))
    changed = sorted(
        name for name in known.keys() | seen.keys() if known.get(name) != seen.get(name)
    )
    if changed:
        first = changed[0]
        raise PedAlignError(
            f"{root}: {len(changed)} folders differ from {file.name}, first {first!r} "
            f"({known.get(first, {}).get('files', 0)} files then, "
            f"{seen.get(first, {}).get('files', 0)} now)",
            rule,
            remedy,
        )


def listing(root: Path, without: str) -> str:
    """Digest of the names and sizes of a folder's files, one of them left out."""
    sizes = _sizes(RawFolder(root))
    return _digest([f"{path}\0{size}" for path, size in sizes.items() if path != without])


def _sizes(folder: RawFolder) -> dict[str, int]:
    """List the regular files inside; a link that leads outside is not followed even here."""
    sizes = {}
    for path in folder.walk():
        try:
            status = (folder.root / path).lstat()
            if stat.S_ISLNK(status.st_mode):
                found = (folder.root / path).resolve(strict=True)
                if not found.is_relative_to(folder.root):
                    continue
                status = found.stat()
        except (OSError, RuntimeError):  # a dangling link, a loop
            continue
        known = path == FINGERPRINT or _LOCKS.search(path)
        if not known and stat.S_ISREG(status.st_mode):
            sizes[path] = status.st_size
    return sizes


def _folders(sizes: dict[str, int]) -> dict[str, dict[str, int | str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for path in sizes:
        groups["/".join(PurePosixPath(path).parts[:-1][:_DEPTH]) or "."].append(path)
    return {
        name: {
            "files": len(paths),
            "bytes": sum(sizes[path] for path in paths),
            "listing": _digest([f"{path}\0{sizes[path]}" for path in paths]),
        }
        for name, paths in sorted(groups.items())
    }


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
