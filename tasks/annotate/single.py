"""Phrases of a caption, regions of a picture, one at a time: for the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from tasks.annotate.shard import AnnotateParams, annotate_table, check_choices, load_proposer
from tasks.errors import PedAlignError
from tasks.images import ImageError, decode
from tasks.overlays import draw_regions
from tasks.phrases import EMBEDDED, load_parser, parse
from tasks.schemas import OK
from tasks.sda import shortest, to_sda

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

DEFAULT = AnnotateParams(
    phrases="parser",
    words=24,
    parser=EMBEDDED,
    proposer=EMBEDDED,
    precision="fp32",
    flips=False,
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
    """The phrases of captions as plain objects, as the column ``phrases`` has them.

    Args:
        captions: Any texts.
        parser: See `AnnotateParams.parser`.
    """
    return [[p.record() for p in found] for found in parse(load_parser(parser), captions)]


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
        PedAlignError: See `annotate_row`.
    """
    row, picture = annotate_row(image, caption, section)
    return to_sda(row, path_in_a_set(image), 0), draw_regions(picture, row)


def annotate_row(
    image: Path, caption: str, section: AnnotateParams = DEFAULT
) -> tuple[dict[str, Any], Image.Image]:
    """Annotate one picture, and keep everything that an annotated row says.

    Args:
        image: An image file.
        caption: What is said of it.
        section: The parameters.

    Returns:
        ``caption``, ``phrases``, ``regions`` and ``rejected`` of the row, numbers as short as
        their 32 bits allow; and the picture.

    Raises:
        PedAlignError: The file cannot be read, the caption is empty, or the section asks for what
            a single picture cannot have.
    """
    check_choices(section, None)
    if not caption.strip():
        raise PedAlignError(
            f"{image}, caption {caption!r}: no-caption: nothing is said about the picture",
            "a caption says something",
            'write one, such as "a man in a red shirt"',
        )
    try:
        data = image.read_bytes()
        picture = decode(data)
    except (OSError, ImageError) as error:
        raise PedAlignError(
            f"{image}: {getattr(error, 'strerror', None) or error}",
            "an image file that decodes is needed",
            "name another file",
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
            f"{image}, {caption!r}: {row['error']}",
            "a picture that decodes and a caption that says something can be annotated",
            "name another file, or write another caption",
        )
    for region in (*row["regions"], *row["rejected"]):
        region["box"] = [shortest(value) for value in region["box"]]
        region["score"] = shortest(region["score"])
    return {name: row[name] for name in ("caption", "phrases", "regions", "rejected")}, picture


def path_in_a_set(image: Path) -> str:
    """How an entry names a picture: by its path, or by its name where the path leads elsewhere.

    A set's paths are relative and stay inside it (`tasks.ingest.raw`).
    """
    return image.name if image.is_absolute() or ".." in image.parts else image.as_posix()
