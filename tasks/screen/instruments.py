"""What screening looks at pictures with: a detector, a pose model, an embedder, plain arithmetic.

Each picture of a shard is decoded once and looked at by every instrument that the parameters name;
what they find is a row of the ``measured`` table, which is stored. No rule is applied here, so no
threshold is in these bytes but the detector's own: `tasks.screen.rules` judges.

Unusual: a picture without a person in it has no pose, because there is no box to look into.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from models.embedder import VisionEmbedder
from models.people import ObjectDetector
from models.poser import VitPosePoser
from tasks.duplicates import hash_thumbnails, hash_to_bytes, thumbnail
from tasks.errors import PedAlignError
from tasks.images import ImageError, decode
from tasks.schemas import MEASURED, OK, REJECTED, conform
from tasks.screen.bodies import pose_to_bytes
from tasks.screen.rules import NONE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from models.embedder import Embedder
    from models.people import PersonFinder
    from models.poser import Poser
    from tasks.screen.rules import ScreenParams

_CHUNK = 256  # Pictures held as pixels at once: a quarter of a gigabyte at 384x256.


@dataclass(frozen=True)
class Instruments:
    """What looks at pictures; None where nobody asks."""

    finder: PersonFinder | None = None
    poser: Poser | None = None
    embedder: Embedder | None = None
    hashes: bool = True
    """Whether pictures are hashed."""


def load_instruments(section: ScreenParams, device: torch.device) -> Instruments:
    """Load the models that the section names.

    Raises:
        PedAlignError: There is no such model, or it is not whole.
    """
    part, rule, remedy = "", "", ""
    try:
        finder = poser = embedder = None
        if section.people != NONE:
            part, rule = "people", "an object detector of transformers that knows people"
            remedy = "PekingU/rtdetr_r50vd or none"
            finder = ObjectDetector.from_pretrained(
                section.people, device=device, score=section.person_score
            )
        if section.poser != NONE:
            part, rule = "poser", "a ViTPose model of transformers by hub name or folder, or none"
            remedy = "models/tiny/poser, usyd-community/vitpose-base-simple or none"
            poser = VitPosePoser.from_pretrained(section.poser, device)
        if section.embedder != NONE:
            part, rule = "embedder", "a vision model of transformers by hub name or folder"
            remedy = "models/tiny/swin or facebook/dinov2-base"
            embedder = VisionEmbedder.from_pretrained(section.embedder, device=device)
    except ValueError as error:
        raise PedAlignError(
            f"screen.{part}: {error}", rule, f"set screen.{part} to {remedy}"
        ) from (error)
    return Instruments(finder, poser, embedder, hashes=section.duplicates == "hash")


def measure_table(table: pa.Table, instruments: Instruments, workers: int = 2) -> pa.Table:
    """Look at every picture of a shard.

    Args:
        table: Columns ``uid``, ``image``, ``status``, ``error``.
        instruments: The models.
        workers: Decoding threads; no result depends on it.

    Returns:
        A ``measured`` table, one row a row.
    """
    blobs, states = table["image"].to_pylist(), table["status"].to_pylist()
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(blobs), _CHUNK):
            window = slice(start, start + _CHUNK)
            looks = list(
                pool.map(_look, blobs[window], states[window], [instruments.hashes] * _CHUNK)
            )
            rows += _measure(looks, instruments)
    uids, errors = table["uid"].to_pylist(), table["error"].to_pylist()
    for row, uid, state, error in zip(rows, uids, states, errors, strict=True):
        row["uid"] = uid
        if state != OK:
            row["error"] = error
    return conform(pa.Table.from_pylist(rows, schema=MEASURED), "measured")


def grey_variance(pixels_HW3: np.ndarray) -> float:
    """Mean over (R-G, G-B, B-R) of the variance over pixels, squared 8-bit levels.

    A grey or blank picture has about 0; a tint over all of it changes nothing (sec. 3.2 of the
    paper names the measure).
    """
    red, green, blue = np.moveaxis(pixels_HW3.astype(np.float32), -1, 0)
    return float(np.mean([np.var(red - green), np.var(green - blue), np.var(blue - red)]))


@dataclass(frozen=True)
class _Look:
    """What one picture is, before any model looks at it."""

    size: int
    state: str
    pixels: np.ndarray | None = None
    grey: float = 0.0
    thumbnail: np.ndarray | None = None
    fault: str = ""


def _look(blob: bytes | None, state: str, hashes: bool) -> _Look:
    size = len(blob or b"")
    if state != OK or blob is None:
        return _Look(size, state, fault="no picture")
    try:
        image = decode(blob)
    except ImageError as error:
        return _Look(size, state, fault=str(error))
    pixels = np.asarray(image)
    return _Look(size, state, pixels, grey_variance(pixels), thumbnail(image) if hashes else None)


def _measure(looks: Sequence[_Look], instruments: Instruments) -> list[dict[str, Any]]:
    """Have the models look at the readable pictures of a chunk: rows without uid."""
    rows: list[dict[str, Any]] = [
        {
            "arrived": look.state == OK,
            "grey_variance": look.grey,
            "jpeg_bytes": look.size,
            "status": OK if look.pixels is not None else REJECTED,
            "error": None if look.pixels is not None else f"unreadable: {look.fault}",
        }
        for look in looks
    ]
    readable = [row for row, look in zip(rows, looks, strict=True) if look.pixels is not None]
    pixels = [look.pixels for look in looks if look.pixels is not None]
    planes = [look.thumbnail for look in looks if look.thumbnail is not None]
    if planes:
        for row, words in zip(readable, hash_thumbnails(np.stack(planes)), strict=True):
            row["phash"] = hash_to_bytes(words)
    if not readable:
        return rows
    posed, boxes = list(range(len(readable))), None
    if instruments.finder is not None:
        found = instruments.finder.find(pixels)
        for row, people in zip(readable, found, strict=True):
            areas = people.boxes_P4[:, 2] * people.boxes_P4[:, 3]
            row["people"] = len(areas)
            row["person_box"] = people.boxes_P4[0].tolist() if len(areas) else None
            row["second_area"] = float(areas[1] / areas[0]) if len(areas) > 1 else None
        posed = [i for i, row in enumerate(readable) if row["people"]]
        boxes = [readable[i]["person_box"] for i in posed]
    if instruments.poser is not None and posed:
        pose = instruments.poser.pose([pixels[i] for i in posed], boxes)
        for i, data in zip(posed, pose_to_bytes(pose), strict=True):
            readable[i]["pose"] = data
    if instruments.embedder is not None:
        vectors = instruments.embedder.embed(pixels).astype("<f2")
        for row, vector in zip(readable, vectors, strict=True):
            row["embedding"] = vector.tobytes()
    return rows
