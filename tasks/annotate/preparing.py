"""What annotation needs before it looks: pictures decoded, captions parsed, a chunk at a time.

Unusual: the next chunk is made ready while a detector looks at this one, so a GPU waits for neither
(a trained parser reads some 500 captions a second, about as many as a GPU looks at in ten).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tasks.images import ImageError, decode
from tasks.phrases import Phrase, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor, Future

    from numpy.typing import NDArray
    from spacy.language import Language

    Pixels = NDArray[np.uint8]

CHUNK = 256
"""Pictures of a chunk: 75 MB of pixels at 384x256, and two chunks are held at a time."""


@dataclass(frozen=True)
class Ready:
    """A picture that can be looked at."""

    row: int
    """Of the shard's table."""
    pixels: Pixels
    caption: str
    phrases: Sequence[Phrase]
    """Of the caption; none where nobody parses."""


def prepared(
    images: pa.ChunkedArray,
    captions: Sequence[str],
    rows: Sequence[int],
    pool: Executor,
    nlp: Language | None,
) -> Iterator[tuple[list[Ready], dict[int, str]]]:
    """Make some rows of a shard ready, in chunks.

    Args:
        images: The encoded pictures of all rows.
        captions: The caption of each row.
        rows: Which ones.
        pool: Threads.
        nlp: Parses, each distinct caption once; None: nobody does.

    Yields:
        The rows of a chunk that are ready; and why the others are not.
    """
    known: dict[str, list[Phrase]] = {}
    asked: set[str] = set()
    waiting: list[_Chunk] = []
    for at in range(0, len(rows), CHUNK):
        chunk = rows[at : at + CHUNK]
        fresh = [text for text in dict.fromkeys(captions[i] for i in chunk) if text not in asked]
        asked.update(fresh)
        blobs = images.take(pa.array(chunk)).to_pylist()
        parsed = pool.submit(parse, nlp, fresh) if nlp is not None else None
        waiting.append(_Chunk(chunk, pool.map(_pixels, blobs), fresh, parsed))
        if len(waiting) > 1:
            yield waiting.pop(0).finish(captions, known)
    for last in waiting:
        yield last.finish(captions, known)


@dataclass(frozen=True)
class _Chunk:
    """On its way."""

    rows: Sequence[int]
    pixels: Iterator[Pixels | ImageError]
    fresh: list[str]
    parsed: Future[list[list[Phrase]]] | None

    def finish(
        self, captions: Sequence[str], known: dict[str, list[Phrase]]
    ) -> tuple[list[Ready], dict[int, str]]:
        if self.parsed is not None:
            known.update(zip(self.fresh, self.parsed.result(), strict=True))
        ready, errors = [], {}
        for row, pixels in zip(self.rows, self.pixels, strict=True):
            if isinstance(pixels, ImageError):
                errors[row] = str(pixels)
            else:
                ready.append(Ready(row, pixels, captions[row], known.get(captions[row], [])))
        return ready, errors


def _pixels(blob: bytes | None) -> Pixels | ImageError:
    try:
        return np.asarray(decode(blob or b""))
    except ImageError as error:
        return error
