"""Stage `screen`: which generated pictures go on, a decision and a reason for every row.

Generators make grey pictures, blank ones, people without heads or legs, two people for one, and
the same picture twice. The paper drops 10.63 % by two filters, grey or blank and malformed person,
and gives no thresholds (sec. 3.2); here they are parameters, each with the reason for its
value, and near-duplicates are a third filter. docs/screening.md measures them.

Unusual: nothing is dropped. A refused picture keeps its row with ``keep`` false, every reason that
applies, in the order of `tasks.screen.reasons`, and what was measured. Its ``status`` and ``error``
tell later stages to pass over it and the report why.

Measuring and judging are two things. Models look at a picture once and their findings are stored,
a shard each; the rules are then applied to findings, so another threshold costs no forward pass.

    instruments = load_instruments(section, device)                       # tasks.screen.instruments
    measured = [measure_table(table, instruments) for table in tables]    # a shard each, stored
    repeats = repeated(measured, section, scratch, device)                # one decision for all
    screened = [judge_table(table, section, repeats) for table in measured]

Who is whole: `tasks.screen.bodies`. What repeats what: `tasks.duplicates` by hash,
`tasks.screen.lookalikes` by embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from tasks.duplicates import find_duplicates, hashes_from_bytes
from tasks.params import Fraction, NonNegative, params
from tasks.schemas import OK, REJECTED, SCREENED, conform
from tasks.screen.bodies import body_faults, pose_from_bytes
from tasks.screen.lookalikes import find_lookalikes
from tasks.screen.reasons import REASONS

if TYPE_CHECKING:
    import torch

NONE = "none"


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
    people: str
    """Person detector, a hub name or folder; ``none`` takes the whole picture for the person."""
    person_score: Fraction
    """Confidence from which a box is a person."""
    second_person: Fraction
    """Area of the second largest person's box, as a share of the largest's, from which there are
    several people. Someone in the background is smaller; 0 turns it off."""
    poser: str
    """Pose model, a hub name or folder; ``none`` judges nobody's body."""
    keypoint_score: Fraction
    """Confidence from which a joint is seen."""
    pose_score: Fraction
    """Least mean confidence of the 17 joints; 0 turns it off."""
    rival_share: Fraction
    """Greatest share, of the joints' confidence, with which they point at other places as well;
    1 turns it off."""
    body_height: Fraction
    """Least height of the body, head to ankles, as a share of the picture's height."""
    torso_share: Annotated[tuple[float, ...], Field(min_length=2, max_length=2)]
    """Least and greatest length of the torso, as a share of the body's height."""
    order_slack: Fraction
    """By how much a body part may stand above the one that belongs above it, as a share of the
    picture's height: room for a coarse heatmap and for bent people."""
    duplicates: Literal["hash", "embedding", "none"]
    """How near-duplicates are told: by perceptual hash, by the cosine of a vision model's vectors,
    or not at all."""
    duplicate_bits: Annotated[int, Field(ge=0, lt=48)]
    """By hash: largest number of differing bits, of 192, of two pictures that count as one."""
    embedder: str
    """By embedding: the vision model, a hub name or folder; else ``none``."""
    duplicate_cosine: Fraction
    """By embedding: least cosine of two pictures that count as one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.torso_share[0] > self.torso_share[1]:
            raise ValueError(f"torso_share is {list(self.torso_share)}; the least stands first")
        if (self.duplicates == "embedding") != (self.embedder != NONE):
            raise ValueError(
                f"duplicates is {self.duplicates!r} and embedder {self.embedder!r}; an embedder "
                "is named where duplicates is embedding, and nowhere else"
            )
        return self

    @property
    def models(self) -> dict[str, str]:
        """The models that look at pictures, by the parameter that names them."""
        named = {"people": self.people, "poser": self.poser, "embedder": self.embedder}
        return {part: name for part, name in named.items() if name != NONE}

    @property
    def measuring(self) -> dict[str, object]:
        """What a shard's measurements depend on; the other fields only judge them."""
        score = self.person_score if self.people != NONE else None
        return {**self.models, "person_score": score, "duplicates": self.duplicates}


def judge_table(
    measured: pa.Table, section: ScreenParams, repeats: Mapping[str, str] | None = None
) -> pa.Table:
    """Apply the rules to a shard's measurements.

    Args:
        measured: From `measure_table`.
        section: The thresholds.
        repeats: From `repeated`; None leaves near-duplicates unmarked.

    Returns:
        A ``screened`` table, one row a row.
    """
    rows = measured.to_pylist()
    posed = [i for i, row in enumerate(rows) if row["pose"] is not None]
    faults: dict[int, tuple[str, ...]] = {}
    scores: dict[int, float] = {}
    if posed:
        pose = pose_from_bytes([rows[i]["pose"] for i in posed])
        faults = dict(zip(posed, body_faults(pose, section), strict=True))
        means = pose.scores_BK.mean(axis=1).clip(0, 1).tolist()
        scores = dict(zip(posed, means, strict=True))
    out = []
    for index, row in enumerate(rows):
        found = _findings(row, section)
        for fault in faults.get(index, ()):
            found[fault] = f"mean confidence {scores[index]:.2f}"
        other = (repeats or {}).get(row["uid"])
        if other is not None and not found:
            found["duplicate"] = f"of {other}"
        reasons = sorted(found, key=list(REASONS).index)
        error = None
        if reasons:  # an earlier stage's own words stay
            error = row["error"] or f"{reasons[0]}: {found[reasons[0]]}"
        kept = {key: row[key] for key in ("uid", "grey_variance", "jpeg_bytes", "people")}
        out.append(
            kept
            | {
                "keep": not reasons,
                "reason": "+".join(reasons) or None,
                "pose_score": scores.get(index),
                "duplicate_of": other if "duplicate" in found else None,
                "status": REJECTED if reasons else OK,
                "error": error,
            }
        )
    return conform(pa.Table.from_pylist(out, schema=SCREENED), "screened")


def repeated(
    measured: Iterable[pa.Table],
    section: ScreenParams,
    scratch: Path = Path(),
    device: str | torch.device = "cpu",
) -> dict[str, str]:
    """Decide over the whole set which pictures repeat another.

    Pictures that the other rules refuse take no part: a good one is never dropped in favour of one
    that does not go on.

    Args:
        measured: All shards of `measure_table`; by embedding in uid order, by hash in any.
        section: How, and from when on.
        scratch: By embedding: a folder for a temporary file.
        device: By embedding: where vectors are compared.

    Returns:
        uid of the duplicate to uid of the picture that stays.
    """
    if section.duplicates == "none":
        return {}
    column = "phash" if section.duplicates == "hash" else "embedding"
    parts = _kept(measured, section, column)
    if section.duplicates == "embedding":
        vectors = (
            (uids, np.frombuffer(b"".join(rows), dtype="<f2").reshape(len(uids), -1))
            for uids, rows in parts
        )
        return find_lookalikes(vectors, section.duplicate_cosine, scratch, device)
    uids: list[str] = []
    hashes = bytearray()
    for names, rows in parts:
        uids += names
        hashes += b"".join(rows)
    if not uids:
        return {}
    found = find_duplicates(hashes_from_bytes([bytes(hashes)]), uids, section.duplicate_bits)
    return {uid: other for uid, other in zip(uids, found, strict=True) if other is not None}


def _kept(
    measured: Iterable[pa.Table], section: ScreenParams, column: str
) -> Iterator[tuple[list[str], list[bytes]]]:
    """One column, with its uids, of the pictures that the rules keep, shard by shard."""
    for table in measured:
        chosen = table.select(["uid", column]).filter(judge_table(table, section)["keep"])
        if chosen.num_rows:
            yield chosen["uid"].to_pylist(), chosen[column].to_pylist()


def _findings(row: Mapping[str, Any], section: ScreenParams) -> dict[str, str]:
    """Reasons against a picture but for its pose and its repeats, each with what was found."""
    if not row["arrived"]:
        return {"upstream": ""}
    if row["status"] != OK:
        return {"unreadable": ""}
    found: dict[str, str] = {}
    size, grey = row["jpeg_bytes"], row["grey_variance"]
    if size < section.file_bytes_min:
        found["file-small"] = f"{size} bytes, at least {section.file_bytes_min}"
    if section.file_bytes_max and size > section.file_bytes_max:
        found["file-large"] = f"{size} bytes, at most {section.file_bytes_max}"
    if grey < section.grey_variance:
        found["grey"] = f"variance {grey:.1f}, at least {section.grey_variance:g}"
    second = row["second_area"]
    if row["people"] == 0:
        found["no-person"] = f"no box above {section.person_score:g}"
    elif second is not None and 0 < section.second_person <= second:
        found["several-people"] = (
            f"{row['people']}, the second has {second:.2f} of the first's area"
        )
    return found
