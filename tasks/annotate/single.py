"""Phrases of a caption, regions of a picture, one at a time: for the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from tasks.annotate.shard import AnnotateParams, annotate_table, load_proposer, record_of
from tasks.errors import PedAlignError
from tasks.images import ImageError, decode
from tasks.overlays import draw_regions
from tasks.phrases import EMBEDDED, load_parser, parse
from tasks.schemas import OK
from tasks.sda import to_sda

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

DEFAULT = AnnotateParams(
    parser=EMBEDDED,
    proposer=EMBEDDED,
    box_threshold=0.35,
    text_threshold=0.35,
    boxes_per_phrase=1,
    side_min=0.01,
    full_image=0.9,
    same_box_iou=0.9,
    batch=32,
)
"""What `annotate_one` uses when it is told nothing else."""


def phrases_of(captions: Sequence[str], parser: str = EMBEDDED) -> list[list[dict[str, Any]]]:
    """The phrases of captions as plain objects: text, start, end, head, group, colours.

    Args:
        captions: Any texts.
        parser: See `AnnotateParams.parser`.
    """
    return [[record_of(p) for p in found] for found in parse(load_parser(parser), captions)]


def annotate_one(
    image: Path, caption: str, section: AnnotateParams = DEFAULT
) -> tuple[dict[str, Any], Image.Image]:
    """Annotate one picture.

    Args:
        image: An image file.
        caption: What is said of it.
        section: The parameters.

    Returns:
        The entry in SDA's layout, and the picture with its boxes drawn.

    Raises:
        PedAlignError: The file cannot be read, or the caption is empty.
    """
    try:
        data = image.read_bytes()
        picture = decode(data)
    except (OSError, ImageError) as error:
        raise PedAlignError(
            f"{image}: {error}", "an image file that decodes is needed", "name another file"
        ) from error
    table = pa.table(
        {
            "uid": ["one"],
            "image": pa.array([data], pa.binary()),
            "captions": [[caption]],
            "status": [OK],
            "error": pa.array([None], pa.string()),
        }
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    (row,) = annotate_table(
        table, load_parser(section.parser), load_proposer(section, device), section
    ).to_pylist()
    if row["status"] != OK:
        raise PedAlignError(
            f"{image}, {caption!r}: {row['error']}", "a caption says something", "write one"
        )
    return to_sda(row, image.name, 0), draw_regions(picture, row)
