"""Stage `screen`: which generated pictures go on, a decision and a reason for every row.

Generators make grey pictures, blank ones, people without heads or legs, and the same picture
twice. The paper drops 10.63 % by two filters, grey or blank and malformed person, and gives no
thresholds (PAPERS.md 1.3); here they are parameters, each with the reason for its value, and
near-duplicates are a third filter.

Unusual: nothing is dropped. A refused picture keeps its row with ``keep`` false, every reason
that applies, in the order of `REASONS`, and what was measured. Its ``status`` and ``error`` tell
later stages to pass over it and the report why.

Two steps, because duplicates are a question to the whole set:

    shards = [screen_table(table, poser, params) for table in tables]    # a shard each, stored
    repeats = repeated(shards, params)                                   # one decision
    final = [mark_repeats(shard, repeats) for shard in shards]

The rule for a whole person. A joint is *seen* if its confidence is at least `keypoint_score`.
- head: nose, an eye or an ear is seen; torso: a shoulder and a hip; legs: a knee and an ankle.
- If all three are there, the mean heights of head, shoulders, hips, knees and ankles descend in
  this order, each allowed to fall short by `order_slack`; the torso (shoulders to hips) is
  between the two `torso_share` of the body (head to ankles); the body is at least `body_height`
  of the picture. Otherwise the parts are in disorder.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from models.poser import KEYPOINTS, Pose, VitPosePoser
from tasks.duplicates import (
    find_duplicates,
    hash_thumbnails,
    hash_to_bytes,
    hashes_from_bytes,
    thumbnail,
)
from tasks.errors import PedAlignError
from tasks.images import ImageError, decode
from tasks.params import Fraction, NonNegative, params
from tasks.schemas import JUDGED, OK, REJECTED, SCREENED, conform

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch

    from models.poser import Poser

logger = logging.getLogger(__name__)

REASONS = (
    "upstream",  # the row was refused by an earlier stage
    "unreadable",  # its bytes are no picture
    "file-small",
    "file-large",
    "grey",
    "no-person",  # neither head nor torso nor legs
    "no-head",
    "no-torso",
    "no-legs",
    "disorder",  # all parts, not arranged as a person
    "duplicate",
)
"""Every reason there is. Where several apply all are listed in this order, and the first counts."""

_HEAD, _SHOULDERS, _HIPS, _KNEES, _ANKLES = (
    [i for i, name in enumerate(KEYPOINTS) if name.endswith(parts)]
    for parts in (("nose", "eye", "ear"), "shoulder", "hip", "knee", "ankle")
)
_CHUNK = 256  # Pictures held as pixels at once: a quarter of a gigabyte at 384x256.


@params
class ScreenParams:
    """Section ``screen``: what a picture must be like to go on."""

    grey_variance: Annotated[float, Field(ge=0)]
    """Least mean variance of the channel differences, squared 8-bit levels; 0 turns it off. On the
    paper's own examples kept pictures have 188 or more and grey rejects 76 or less."""
    file_bytes_min: NonNegative
    """Smallest encoded picture, bytes; blank ones compress best. 0 turns it off."""
    file_bytes_max: NonNegative
    """Largest encoded picture, bytes; noise compresses worst. 0 turns it off."""
    poser: str
    """Pose model, a hub name or folder; ``none`` judges nobody's body."""
    keypoint_score: Fraction
    """Confidence from which a joint is seen."""
    body_height: Fraction
    """Least height of the body, head to ankles, as a share of the picture's height."""
    torso_share: Annotated[tuple[float, ...], Field(min_length=2, max_length=2)]
    """Least and greatest length of the torso, as a share of the body's height."""
    order_slack: Fraction
    """By how much a body part may stand above the one that belongs above it, as a share of the
    picture's height: room for a coarse heatmap and for bent people."""
    duplicate_bits: Annotated[int, Field(ge=-1, lt=48)]
    """Largest number of differing bits, of 192, of two pictures that count as one; -1 keeps
    duplicates."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.torso_share[0] > self.torso_share[1]:
            raise ValueError(f"torso_share is {list(self.torso_share)}; the least stands first")
        return self


def load_poser(section: ScreenParams, device: torch.device) -> Poser | None:
    """Load the pose model, or None where the section says ``none``.

    Raises:
        PedAlignError: There is no such model.
    """
    if section.poser == "none":
        return None
    try:
        return VitPosePoser.from_pretrained(section.poser, device)
    except ValueError as error:
        raise PedAlignError(
            f"screen.poser: {error}",
            "a ViTPose model of transformers by hub name or folder, or none",
            "set screen.poser to models/tiny/poser, usyd-community/vitpose-base-simple or none",
        ) from error


def screen_table(
    table: pa.Table, poser: Poser | None, section: ScreenParams, workers: int = 2
) -> pa.Table:
    """Judge every picture of a shard on its own; duplicates are still to be marked.

    Args:
        table: Columns ``uid``, ``image``, ``status``, ``error``.
        poser: Finds keypoints; None leaves bodies unjudged and ``pose_score`` null.
        section: The thresholds.
        workers: Decoding threads; no result depends on it.

    Returns:
        A ``judged`` table, one row a row.
    """
    blobs = table["image"].to_pylist()
    states = table["status"].to_pylist()
    chunks = []
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(blobs), _CHUNK):
            window = slice(start, start + _CHUNK)
            looks = list(pool.map(_look, blobs[window], states[window]))
            chunks.append(_judge(looks, poser, section))
    rows = [row for chunk in chunks for row in chunk]
    errors = [
        error if state != OK else row.error
        for row, state, error in zip(rows, states, table["error"].to_pylist(), strict=True)
    ]
    columns = {
        "uid": table["uid"].to_pylist(),
        "keep": [not row.reasons for row in rows],
        "reason": ["+".join(row.reasons) or None for row in rows],
        "grey_variance": [row.grey for row in rows],
        "jpeg_bytes": [row.size for row in rows],
        "pose_score": [row.pose for row in rows],
        "duplicate_of": [None] * len(rows),
        "status": [REJECTED if row.reasons else OK for row in rows],
        "error": errors,
        "phash": [row.phash for row in rows],
    }
    return conform(pa.table(columns, schema=JUDGED), "judged")


def repeated(tables: Iterable[pa.Table], section: ScreenParams) -> dict[str, str]:
    """Decide over the whole set which pictures repeat another.

    Pictures that were refused already take no part: a good one is never dropped in favour of one
    that does not go on.

    Args:
        tables: All shards of `screen_table`, in any order.
        section: The greatest distance.

    Returns:
        uid of the duplicate to uid of the picture that stays.
    """
    uids: list[str] = []
    hashes: list[bytes] = []
    for table in tables:
        kept = table.select(["uid", "keep", "phash"]).filter(table["keep"])
        uids += kept["uid"].to_pylist()
        hashes += kept["phash"].to_pylist()
    if section.duplicate_bits < 0 or not uids:
        return {}
    found = find_duplicates(hashes_from_bytes(hashes), uids, section.duplicate_bits)
    return {uid: other for uid, other in zip(uids, found, strict=True) if other is not None}


def mark_repeats(table: pa.Table, repeats: Mapping[str, str]) -> pa.Table:
    """Write the decision of `repeated` into a shard.

    Args:
        table: A shard of `screen_table`.
        repeats: uid of the duplicate to uid of the picture that stays.

    Returns:
        The final ``screened`` table.
    """
    rows = table.select(SCREENED.names).to_pylist()
    for row in rows:
        other = repeats.get(row["uid"])
        if other is not None:
            row |= {
                "keep": False,
                "reason": "duplicate",
                "duplicate_of": other,
                "status": REJECTED,
                "error": f"duplicate: of {other}",
            }
    return conform(pa.Table.from_pylist(rows, schema=SCREENED), "screened")


def grey_variance(pixels_HW3: np.ndarray) -> float:
    """Mean over (R-G, G-B, B-R) of the variance over pixels, squared 8-bit levels.

    A grey or blank picture has about 0; a tint over all of it changes nothing (PAPERS.md 1.3).
    """
    red, green, blue = np.moveaxis(pixels_HW3.astype(np.float32), -1, 0)
    return float(np.mean([np.var(red - green), np.var(green - blue), np.var(blue - red)]))


def body_faults(pose: Pose, section: ScreenParams) -> list[tuple[str, ...]]:
    """Judge bodies by the rule at the top of this file.

    Args:
        pose: Keypoints of B pictures.
        section: The thresholds.

    Returns:
        For each picture the reasons against it, in the order of `REASONS`; none for a person.
    """
    seen_BK = pose.scores_BK >= section.keypoint_score
    height_BK = pose.points_BK2[..., 1]

    def seen(part: Sequence[int]) -> np.ndarray:
        return np.asarray(seen_BK[:, part].any(axis=1))

    def level(part: Sequence[int]) -> np.ndarray:
        weight = seen_BK[:, part]
        return (height_BK[:, part] * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1)

    head = seen(_HEAD)
    torso = seen(_SHOULDERS) & seen(_HIPS)
    legs = seen(_KNEES) & seen(_ANKLES)
    levels = np.stack([level(p) for p in (_HEAD, _SHOULDERS, _HIPS, _KNEES, _ANKLES)], axis=1)
    body = levels[:, 4] - levels[:, 0]
    share = (levels[:, 2] - levels[:, 1]) / np.maximum(body, 1e-6)
    low, high = section.torso_share
    fine = (
        (np.diff(levels, axis=1) >= -section.order_slack).all(axis=1)
        & (body >= section.body_height)
        & (share >= low)
        & (share <= high)
    )
    whole = head & torso & legs
    nobody = ~(head | torso | legs)
    verdicts = {
        "no-person": nobody,
        "no-head": ~head & ~nobody,
        "no-torso": ~torso & ~nobody,
        "no-legs": ~legs & ~nobody,
        "disorder": whole & ~fine,
    }
    return [
        tuple(name for name, hits in verdicts.items() if hits[row]) for row in range(len(seen_BK))
    ]


@dataclass(frozen=True)
class _Look:
    """What one picture is, before it is judged."""

    size: int
    state: str
    pixels: np.ndarray | None = None
    grey: float = 0.0
    thumbnail: np.ndarray | None = None
    fault: str = ""


@dataclass(frozen=True)
class _Row:
    """What goes into the table about one picture."""

    reasons: tuple[str, ...]
    error: str | None
    grey: float
    size: int
    pose: float | None
    phash: bytes | None


def _look(blob: bytes | None, state: str) -> _Look:
    size = len(blob or b"")
    if state != OK or blob is None:
        return _Look(size, state, fault="no picture" if state == OK else "")
    try:
        image = decode(blob)
    except ImageError as error:
        return _Look(size, state, fault=str(error))
    pixels = np.asarray(image)
    return _Look(size, state, pixels, grey_variance(pixels), thumbnail(image))


def _judge(looks: Sequence[_Look], poser: Poser | None, section: ScreenParams) -> list[_Row]:
    readable = [i for i, look in enumerate(looks) if look.pixels is not None]
    pixels = [look.pixels for look in looks if look.pixels is not None]
    planes = [look.thumbnail for look in looks if look.thumbnail is not None]
    hashes = dict(zip(readable, hash_thumbnails(np.stack(planes)) if planes else [], strict=True))
    faults: dict[int, tuple[str, ...]] = {}
    scores: dict[int, float] = {}
    if poser is not None and readable:
        pose = poser.pose(pixels)
        faults = dict(zip(readable, body_faults(pose, section), strict=True))
        means = pose.scores_BK.mean(axis=1).clip(0, 1).tolist()
        scores = dict(zip(readable, means, strict=True))
    rows = []
    for index, look in enumerate(looks):
        # Each reason with its finding, in the order of REASONS.
        found: dict[str, str] = {}
        if look.state != OK:
            found["upstream"] = ""
        elif look.pixels is None:
            found["unreadable"] = look.fault
        else:
            if look.size < section.file_bytes_min:
                found["file-small"] = f"{look.size} bytes, at least {section.file_bytes_min}"
            if section.file_bytes_max and look.size > section.file_bytes_max:
                found["file-large"] = f"{look.size} bytes, at most {section.file_bytes_max}"
            if look.grey < section.grey_variance:
                found["grey"] = f"variance {look.grey:.1f}, at least {section.grey_variance:g}"
            for fault in faults.get(index, ()):
                found[fault] = f"mean confidence {scores[index]:.2f}"
        first = next(iter(found), None)
        rows.append(
            _Row(
                reasons=tuple(found),
                error=None if first is None else f"{first}: {found[first]}",
                grey=look.grey,
                size=look.size,
                pose=scores.get(index),
                phash=hash_to_bytes(hashes[index]) if index in hashes else None,
            )
        )
    return rows
