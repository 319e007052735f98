"""Pictures out of an LMDB, the form in which LUPerson is handed on.

The layout is that of LUPerson and LUPerson-NL (``convert_lmdb.py`` of their repositories): a key
is a name such as ``00_03_0012_00000345`` (country, city, video, picture), its value the encoded
picture. Any other LMDB whose values are encoded pictures is read just so. The ``keys.pkl`` beside
is not opened: the database knows its keys, and a pickle runs whatever its author put into it. For
the same reason values that are pickled, Arrow, NumPy or msgpack records are refused.

Unusual: a key may be any bytes, the column `source_path` is text. A key that is a plain path is
its own name; any other is ``0x`` and its bytes in hexadecimal, so no two keys share a name.

LMDB maps its file and trusts it: a file that was cut short would end the process by a signal, so
its size is compared first, but one that was crafted to do harm is not seen through. The package is
an extra: ``pip install 'pedalign[lmdb]'``.
"""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.errors import PedAlignError
from tasks.images import ImageError, read_header
from tasks.ingest.raw import LARGEST_FILE, PathError, safe_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from lmdb import Environment

T = TypeVar("T")

DATA = "data.mdb"

_AGAIN = "copy or download it again"
_HEX = "0x"
_LIKE = {
    b"\x80\x02": "pickled Python objects",
    b"\x80\x03": "pickled Python objects",
    b"\x80\x04": "pickled Python objects",
    b"\x80\x05": "pickled Python objects",
    b"\xff\xff\xff\xff": "Arrow records",
    b"ARROW1": "Arrow records",
    b"\x93NUMPY": "NumPy arrays",
}
"""How other people's records begin."""


def name_of(key: bytes) -> str:
    """Name a key as a path, one that `tasks.ingest.raw.safe_path` leaves as it is."""
    try:
        text = key.decode()
        if safe_path(text) == text and not text.startswith(_HEX):
            return text
    except (UnicodeDecodeError, PathError):
        pass
    return _HEX + key.hex()


def key_of(name: str) -> bytes:
    """Give back the key of a name.

    Raises:
        ImageError: Reason ``missing``: no key has that name.
    """
    try:
        key = bytes.fromhex(name[len(_HEX) :]) if name.startswith(_HEX) else name.encode()
    except ValueError:
        key = b""
    if not key or name_of(key) != name:
        raise ImageError("missing", name)
    return key


class LmdbPictures:
    """The pictures of an open environment; any thread may read."""

    def __init__(self, environment: Environment) -> None:
        """Wrap an open environment."""
        self._environment = environment

    def names(self) -> Iterator[str]:
        """Yield the names of all keys, in the order of the keys.

        Raises:
            PedAlignError: The database is damaged.
        """
        try:
            with self._environment.begin() as transaction:
                for key in transaction.cursor().iternext(keys=True, values=False):
                    yield name_of(key)
        except _library().Error as error:
            raise PedAlignError(
                f"{self._environment.path()}: {error}", "the file is a whole LMDB", _AGAIN
            ) from error

    def find(self, path: str) -> None:
        """Look whether there is such a picture.

        Raises:
            ImageError: Reasons ``missing``, ``too-large``, ``record``, ``unreadable``.
        """
        self._use(path, len)

    def digest(self, path: str) -> str:
        """Return the SHA-256 of a value; see `find`."""
        return self._use(path, lambda value: hashlib.sha256(value).hexdigest())

    def read(self, path: str) -> bytes:
        """Return a value; see `find`."""
        return self._use(path, bytes)

    def _use(self, path: str, use: Callable[[memoryview], T]) -> T:
        # Not copied before its length is known.
        key = key_of(path)
        if len(key) > self._environment.max_key_size():
            raise ImageError("missing", path)
        try:
            with self._environment.begin(buffers=True) as transaction:
                value: memoryview | None = transaction.get(key)
                if value is None:
                    raise ImageError("missing", path)
                if len(value) > LARGEST_FILE:
                    raise ImageError("too-large", f"{path} has {len(value)} bytes")
                like = looks_like(value[:8])
                if like:
                    raise ImageError("record", f"{path} holds {like}, which are not opened")
                return use(value)
        except _library().Error as error:
            raise ImageError("unreadable", f"{path} ({type(error).__name__})") from error

    def check_values(self, names: Iterable[str]) -> None:
        """Look at the values of some keys, whether most are encoded pictures.

        Raises:
            PedAlignError: They are not.
        """
        faults = []
        count = 0
        for name in names:
            count += 1
            try:
                read_header(self.read(name))
            except ImageError as error:
                faults.append(str(error))
        if 2 * len(faults) > count:
            raise PedAlignError(
                f"{self._environment.path()}: {len(faults)} of {count} values looked at are no "
                f"pictures ({faults[0]})",
                "a value is an encoded picture; records are not opened, since a pickle runs code",
                'write the pictures into an LMDB of their own: docs/datasets.md, "LMDB"',
            )


def looks_like(start: bytes | memoryview) -> str | None:
    """Say what kind of record begins like that; None where it may be a picture."""
    head = bytes(start)
    return next((kind for mark, kind in _LIKE.items() if head.startswith(mark)), None)


# ------------------------------------------------------------------ opening

_LOCK = threading.Lock()
_OPEN: dict[tuple[int, Path], tuple[Environment, list[int]]] = {}
"""By process and path: LMDB must not be opened twice in one process, nor used across a fork."""


@contextmanager
def open_lmdb(path: Path) -> Iterator[LmdbPictures]:
    """Open an LMDB for reading; it is closed when the last who opened it is done.

    Args:
        path: A folder with ``data.mdb``, or the file itself.

    Raises:
        PedAlignError: The package is missing, or there is no whole LMDB.
    """
    file = _data_file(path)
    at = (os.getpid(), file)
    with _LOCK:
        if at not in _OPEN:
            _OPEN[at] = (_open(file), [0])
        environment, users = _OPEN[at]
        users[0] += 1
    try:
        yield LmdbPictures(environment)
    finally:
        with _LOCK:
            users[0] -= 1
            if not users[0]:
                _OPEN.pop(at)
                environment.close()


def check_inside(root: Path, path: Path) -> None:
    """Check that an LMDB lies in its raw dataset's folder.

    Raises:
        PedAlignError: There is none, or a link leads to it.
    """
    if not _data_file(path).is_relative_to(root.resolve()):
        raise PedAlignError(
            f"{path}: a link out of {root}",
            "the fingerprint, which DVC watches, covers what lies in the dataset's folder",
            f"make {root} itself the link",
        )


def _data_file(path: Path) -> Path:
    file = (path / DATA if path.is_dir() else path).resolve()
    if not file.is_file():
        raise PedAlignError(
            f"{path}: no LMDB",
            f"an LMDB is a folder with {DATA}, or one file; `images` names it, below `root`",
            "correct `root` or `images` in params.yaml",
        )
    return file


def _open(file: Path) -> Environment:
    lmdb = _library()
    try:
        # Without locks nothing is written, so a read-only disk will do.
        environment: Environment = lmdb.open(
            str(file), subdir=False, readonly=True, create=False, lock=False, readahead=False,
            meminit=False,
        )  # fmt: skip
    except lmdb.Error as error:
        raise PedAlignError(f"{file}: {error}", "the file is a whole LMDB", _AGAIN) from error
    size = file.stat().st_size
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < needed:
        environment.close()
        raise PedAlignError(f"{file}: {size} bytes of {needed}", "the file is a whole LMDB", _AGAIN)
    return environment


def _library() -> Any:
    try:
        import lmdb
    except ImportError:
        raise PedAlignError(
            "format lmdb, and no package `lmdb`",
            "LMDBs are read by that package, which is an extra",
            "pip install 'pedalign[lmdb]'",
        ) from None
    return lmdb
