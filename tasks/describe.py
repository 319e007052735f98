"""Stage `describe@NAME`: pseudo texts for the pictures of a set that nobody described.

What `caption` does for the pictures of pretraining this does for a target: the same methods, the
same side table (`tasks.caption`). So a set of person pictures without one caption can be the target
of `adapt` and of the judge of `gap` (`inputs.adapt_captions`, `tasks.target`).

Unusual: only some splits are described. A row of another split is in the table as a rejected one
with that reason: what is tested on is neither described nor needed by who trains.

    said = caption_table(only_splits(images, section.splits), speaker, section.caption)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import pyarrow as pa
from pydantic import Field

from tasks.caption.parameters import CaptionParams
from tasks.params import params
from tasks.schemas import OK, REJECTED

if TYPE_CHECKING:
    from collections.abc import Collection


@params
class DescribeParams:
    """An entry of ``describe.datasets``: a set of pictures that gets pseudo texts."""

    images: str
    """Its shards."""
    splits: Annotated[tuple[Literal["train", "val", "test"], ...], Field(min_length=1)]
    """Splits whose pictures are described. Trainings ask for ``train`` alone."""
    captioner: str
    """What DVC watches of the model: its folder, or data/nothing where it comes from the hub; see
    ``inputs.captioner``."""
    attributes: str
    """The same of the file of attributes; data/nothing where captions are not made of them."""
    caption: CaptionParams
    """How: as the section ``caption``. With method ``keep`` nothing new is said."""


def only_splits(images: pa.Table, splits: Collection[str]) -> pa.Table:
    """Mark the rows of other splits, so that whoever captions leaves them alone.

    Args:
        images: Rows of ``images``.
        splits: What is to be described.

    Returns:
        The table; a usable row of another split is rejected with that reason.
    """
    status, errors = images["status"].to_pylist(), images["error"].to_pylist()
    for row, split in enumerate(images["split"].to_pylist()):
        if split not in splits and status[row] == OK:
            status[row] = REJECTED
            errors[row] = f"other-split: rows of {split} are not described"
    for name, values in (("status", status), ("error", errors)):
        at = images.schema.get_field_index(name)
        images = images.set_column(at, images.schema.field(at), pa.array(values, pa.string()))
    return images
