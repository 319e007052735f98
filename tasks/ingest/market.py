"""Reader of Market-1501's folder of pictures; `tasks.market` knows its names."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from tasks.errors import PedAlignError
from tasks.ingest.readers import SUFFIXES, Entry, Place
from tasks.market import SPLIT_OF, read_name

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_market(place: Place) -> Iterator[Entry]:
    """Read Market-1501: no captions; people, cameras and splits out of names.

    Raises:
        PedAlignError: One of the three folders of pictures is not there.
    """
    # Imported here: `raw` reads files, which no other reader needs.
    from tasks.ingest.raw import RawFolder

    missing = [name for name in SPLIT_OF if not (place.root / name).is_dir()]
    if missing:
        raise PedAlignError(
            f"{place.root}: no folder {', '.join(missing)}",
            f"Market-1501 has the folders {', '.join(SPLIT_OF)}",
            "correct `root` or `images` in params.yaml: unpacked, the release has one folder "
            "around them, Market-1501-v15.09.15",
        )
    for path in RawFolder(place.root).walk():
        parts = PurePosixPath(path)
        split = SPLIT_OF.get(parts.parent.as_posix())
        if split is None or parts.suffix.lower() not in SUFFIXES:
            continue
        found = read_name(path)
        fault = None if found else f"bad-name: {parts.name!r:.80} is none of Market-1501's"
        person, camera = found or (None, None)
        yield Entry(
            where=path,
            path=path,
            captions=(),
            split=split,
            person=person,
            camera=camera,
            fault=fault,
        )
