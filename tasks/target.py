"""The target as trainings read it: its pictures, and the captions that go with them.

A target's captions stand in its shards, or beside them where nobody wrote any: the stage `describe`
leaves a side table of pseudo texts (``inputs.adapt_captions``). Who learns from the target's
pictures and captions reads both here, so a set without a single caption is a target like any other.

    for table in told_tables(Path("data/ingested/target"), Path("data/described/target")):
        ...                                       # rows of images with the described captions

Unusual: where there is a side table it alone counts, so nothing that people wrote can slip in among
pseudo texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import PedAlignError
from tasks.shards import join_side, read_manifest, read_named, read_shard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

TRAIN = "train"
_SIDE = ["uid", "captions", "status", "error"]


def told_tables(
    images: Path,
    captions: Path | None = None,
    columns: Sequence[str] | None = None,
    *,
    verify: bool = True,
) -> Iterator[pa.Table]:
    """Read a target shard by shard in uid order, each row with the captions that count.

    Args:
        images: Folder of shards of ``images``.
        captions: Folder of their side table, ``captioned``; its captions and status rule. None
            where the shards' own captions count.
        columns: Only these columns of the images.
        verify: Compare the images' files with their manifest first.

    Raises:
        PedAlignError: The side table is of other images.
    """
    for record in read_manifest(images).shards:
        if captions is None:
            yield read_shard(images, record, columns, verify=verify)
            continue
        own = None
        if columns is not None:  # what the side table overrules need not be read
            own = [name for name in dict.fromkeys(("uid", *columns)) if name not in _SIDE[1:]]
        table = read_shard(images, record, own, verify=verify)
        joined = join_side(table, read_named(captions, record.name, _SIDE))
        yield joined if columns is None else joined.select(list(columns))


def told_shard(images: Path, captions: Path | None, name: str) -> pa.Table:
    """Read one shard of a target with the captions that count; see `told_tables`."""
    table = read_named(images, name)
    return table if captions is None else join_side(table, read_named(captions, name, _SIDE))


def digests(images: Path, captions: Path | None) -> list[str]:
    """What a training on a target depends on: digests of the manifests of both folders."""
    return [read_manifest(folder).digest for folder in (images, captions) if folder is not None]


def has_captions(images: Path, captions: Path | None) -> bool:
    """Whether any train picture has a caption."""
    return any(_train_texts(images, captions))


def _train_texts(images: Path, captions: Path | None) -> Iterator[bool]:
    """Tell of each train picture whether it has a caption; reads few columns."""
    columns = ["uid", "split", "captions"]
    for table in told_tables(images, captions, columns, verify=False):
        for row in table.to_pylist():
            if row["split"] == TRAIN:
                yield any(text.strip() for text in row["captions"] or ())


def check_captions(images: Path, captions: Path | None) -> None:
    """Refuse a target that has train pictures and not one caption for them.

    Raises:
        PedAlignError: No train picture has a caption.
    """
    pictures = 0
    for told in _train_texts(images, captions):
        if told:
            return
        pictures += 1
    if not pictures:  # which is another mistake
        return
    name = images.name
    if captions is None:
        found = (
            f"{images}: {pictures} train pictures without one caption; inputs.adapt_captions is "
            "data/nothing"
        )
        remedy = (
            f"let a model describe them: an entry {name} in describe.datasets, and "
            f"inputs.adapt_captions: data/described/{name} (docs/unlabelled.md)"
        )
    else:
        found = f"{captions}: no caption for any of the {pictures} train pictures of {images}"
        remedy = f"describe.datasets.{name}.splits has to name train; the report counts the reasons"
    raise PedAlignError(
        found, "what learns from the target learns from pictures and captions", remedy
    )
