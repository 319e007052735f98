"""Annotation files read one entry at a time: JSON lists, JSON lines and CSV.

The official files are single JSON lists of up to hundreds of megabytes (CUHK-PEDES ships its
captions a second time as tokens), so the list is decoded while it is read and memory holds one
entry. A file that is no list, no UTF-8 or cut in the middle is a fault of the file, not of an
entry, and stops ingestion. An entry that can be read in two ways is given as `Refused`.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from tasks.errors import PedAlignError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO

_CHUNK = 1 << 20  # characters
_LARGEST = 64 << 20  # characters of one entry; beyond it the file is not what it claims to be
_DEEPEST = 16  # brackets within brackets; the layouts need three


@dataclass(frozen=True, slots=True)
class Refused:
    """Stands for an entry that is not used."""

    fault: str
    """``slug: detail``."""


class _Repeated(dict[str, Any]):
    """A mapping in whose text a key stood twice: JSON does not say which value counts."""


def read_entries(path: Path) -> Iterator[object]:
    """Read an annotation file, by its extension: ``.json``, ``.jsonl`` or ``.csv``.

    Args:
        path: The file.

    Yields:
        Its entries, as JSON gives them: mappings, unless the file is odd. CSV gives mappings of
        strings without the empty cells. A line of JSON lines that is no JSON is its own text. An
        entry with a key twice, nested without end or with cells beyond the header is `Refused`.

    Raises:
        PedAlignError: The file cannot be read as what its extension says.
    """
    kinds = {".json": _json_list, ".jsonl": _json_lines, ".csv": _csv_rows}
    if path.suffix.lower() not in kinds:
        raise PedAlignError(
            f"{path}: an annotation file that ends in {path.suffix!r}",
            f"annotations are {', '.join(kinds)}",
            "name another file under `annotation`, or convert it",
        )
    if path.exists() and not path.is_file():
        raise PedAlignError(
            f"{path}: not a regular file",
            "an annotation file is one that can be read to its end",
            "put the file itself there; reading from a pipe would wait for ever",
        )
    try:
        # `utf-8-sig`, because files that passed through Windows begin with a byte-order mark.
        with path.open(encoding="utf-8-sig", newline="") as source:
            yield from kinds[path.suffix.lower()](source, path)
    except OSError as error:
        raise PedAlignError(
            f"{path}: {error.strerror or error}",
            "the annotation file of a dataset is readable",
            "put the file there, or correct `annotation` in params.yaml",
        ) from error
    except UnicodeDecodeError as error:
        raise PedAlignError(
            f"{path}: byte {error.start} of a block is not UTF-8 ({error.reason})",
            "annotation files are UTF-8",
            "convert the file, for example with iconv -t utf-8",
        ) from error


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Repeated(found)


_DECODER = json.JSONDecoder(object_pairs_hook=_mapping)


def _checked(value: object, text: str) -> object:
    """Refuse an entry that is nested too deeply to look at, or that names a key twice."""
    if text.count("[") + text.count("{") > _DEEPEST and _depth(value) > _DEEPEST:
        return Refused(f"nested-too-deep: more than {_DEEPEST} levels")
    if isinstance(value, _Repeated):
        return Refused(f"duplicate-key: one of {', '.join(value)!r:.80} stands twice")
    return value


def _depth(value: object) -> int:
    level, depth = [value], 0
    while level := [part for part in level if isinstance(part, dict | list)]:
        depth += 1
        level = [
            inner for part in level for inner in (part.values() if isinstance(part, dict) else part)
        ]
    return depth


def _json_list(source: TextIO, path: Path) -> Iterator[object]:
    buffer, at, ended, count = "", 0, False, 0

    def more() -> None:
        nonlocal buffer, at, ended
        # At least doubling, so that a long entry is not tried again for every block.
        block = source.read(max(_CHUNK, len(buffer) - at))
        buffer, at, ended = buffer[at:] + block, 0, not block

    def skip_space() -> str:
        nonlocal at
        while True:
            while at < len(buffer) and buffer[at] in " \t\r\n":
                at += 1
            if at < len(buffer):
                return buffer[at]
            if ended:
                return ""
            more()

    if (first := skip_space()) != "[":
        _not_a_list(path, first)
    at += 1
    if skip_space() == "]":
        return
    while True:
        skip_space()
        while True:
            try:
                value, end = _DECODER.raw_decode(buffer, at)
            except RecursionError as error:
                _damaged(path, count, f"nested too deeply ({error})")
            except ValueError as error:
                if ended or len(buffer) - at > _LARGEST:
                    _damaged(path, count, str(error))
                more()
                continue
            # A number at the border of a block may go on in the next one.
            if end == len(buffer) and not ended:
                more()
                continue
            break
        text, at = buffer[at:end], end
        yield _checked(value, text)
        count += 1
        mark = skip_space()
        if mark == "]":
            return
        if mark != ",":
            _damaged(path, count, f"{mark!r} where a comma belongs" if mark else "the file ends")
        at += 1


def _not_a_list(path: Path, first: str) -> NoReturn:
    names = {"{": "a mapping", "": "nothing"}
    raise PedAlignError(
        f"{path}: holds {names.get(first, f'something that begins with {first!r}')}",
        "an annotation file is a JSON list with one entry an image or caption",
        "download it again, or convert it to a list",
    )


def _damaged(path: Path, count: int, why: str) -> NoReturn:
    raise PedAlignError(
        f"{path}: broken after {count} entries: {why}",
        "the file is one whole JSON list",
        "download it again: it is cut short or was edited",
    )


def _json_lines(source: TextIO, path: Path) -> Iterator[object]:  # noqa: ARG001
    for line in source:
        if not line.strip():
            continue
        try:
            yield _checked(_DECODER.decode(line), line)
        except (ValueError, RecursionError):
            yield line


def _csv_rows(source: TextIO, path: Path) -> Iterator[object]:
    try:
        rows = csv.DictReader(source, strict=True)
        if not rows.fieldnames:
            raise PedAlignError(
                f"{path}: no header line",
                "the first line of a CSV names its columns",
                "add one, for example image,caption",
            )
        names = [name for name in rows.fieldnames if name]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PedAlignError(
                f"{path}: several columns are called {', '.join(twice)}",
                "a column has a name of its own",
                "rename or remove one of them",
            )
        for row in rows:
            # A caption with a bare comma would otherwise lose its end without a word.
            beyond = row.pop(None, None) or ()
            if any(beyond):
                yield Refused(f"too-many-cells: {beyond!r:.80} stand beyond the header's columns")
            else:
                yield {key: value for key, value in row.items() if key and value}
    except csv.Error as error:
        raise PedAlignError(
            f"{path}: not readable as CSV ({error})",
            "fields with commas, quotes or line ends stand in double quotes",
            "write the file with a CSV library",
        ) from error
