"""Stage `annotate`: the phrases of a caption and the region of the picture that each names.

The paper feeds picture and caption to Grounding DINO (thresholds 0.35/0.35) and keeps boxes,
confidences and phrases; its figure shows a "bbox filtering" that the text never defines
(PAPERS.md 1.4). Here a parser finds the phrases first, so that every box has one with a span, a
proposer behind `models.detector.RegionProposer` finds the boxes, and the filter is written down:
`REASONS`.

Unusual: nothing is dropped. A refused box stays in its row with the reason; a picture without any
region is a valid row; a picture or caption that cannot be used is a rejected one.

    nlp, proposer = load_parser(params.parser), load_proposer(params, device)
    annotated = annotate_table(restyled_joined_with_screened_and_captioned, nlp, proposer, params)
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from models.detector import GroundingDino, Proposals, Query
from models.proposer import BodyProposer
from tasks.errors import PedAlignError
from tasks.images import ImageError, decode
from tasks.overlays import draw_regions
from tasks.params import Fraction, Positive, params
from tasks.phrases import EMBEDDED, Phrase, load_parser, parse
from tasks.schemas import ANNOTATED, OK, REJECTED, conform
from tasks.sda import to_sda

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image
    from spacy.language import Language

    from models.detector import RegionProposer

REASONS = (
    "degenerate",  # no number, no area, or outside the picture
    "full-image",  # nearly the whole picture for a part of the person
    "low-confidence",  # below the threshold
    "duplicate",  # the same words on nearly the same box, with a better one
    "contradiction",  # other things, or other colours, on nearly the same box, with a better one
    "surplus",  # more boxes than a phrase may have
)
"""Why a box is refused, in the order in which the rules are asked."""

_WHOLE = frozenset({"person", "scene"})
"""Groups whose box may fill the picture."""

_CHUNK = 256  # Pictures held as pixels at once: a quarter of a gigabyte at 384x256.


@params
class AnnotateParams:
    """Section ``annotate``: how phrases and regions are found and which boxes stay."""

    parser: str
    """``embedded``, a spaCy package such as ``en_core_web_sm``, or the folder of a pipeline."""
    proposer: str
    """``embedded`` (body layout and colours, no weights), or a Grounding DINO by hub name or
    folder."""
    box_threshold: Fraction
    """Least confidence of a box. The paper: 0.35."""
    text_threshold: Fraction
    """Least confidence of a phrase's best token; Grounding DINO alone asks. The paper: 0.35."""
    boxes_per_phrase: Positive
    """Most boxes that one phrase keeps, the surest first."""
    side_min: Fraction
    """Shortest side of a box, as a share of the picture's side; below it is degenerate."""
    full_image: Fraction
    """Share of the picture from which a box cannot be a part of the person."""
    same_box_iou: Fraction
    """Overlap (IoU) from which two boxes are the same place."""
    batch: Positive
    """Pictures a forward pass. Another size changes floating-point noise, hence a parameter."""


def load_proposer(section: AnnotateParams, device: torch.device) -> RegionProposer:
    """Load what finds regions.

    Raises:
        PedAlignError: There is no such detector.
    """
    if section.proposer == EMBEDDED:
        return BodyProposer(batch_size=section.batch)
    try:
        return GroundingDino.from_pretrained(
            section.proposer,
            device=device,
            box_threshold=section.box_threshold,
            text_threshold=section.text_threshold,
            batch_size=section.batch,
        )
    except (OSError, ValueError) as error:
        raise PedAlignError(
            f"annotate.proposer is {section.proposer!r}: {' '.join(str(error).split())[:200]}",
            f"it is {EMBEDDED!r} or a Grounding DINO of transformers by hub name or folder",
            f"set it to IDEA-Research/grounding-dino-base, or to {EMBEDDED}",
        ) from error


def annotate_table(
    table: pa.Table,
    nlp: Language,
    proposer: RegionProposer,
    section: AnnotateParams,
    workers: int = 2,
) -> pa.Table:
    """Find the phrases and regions of every usable row of a shard.

    Args:
        table: Columns ``uid``, ``image``, ``captions``, ``status``, ``error``, joined with the
            screening and the captions. The first caption that is not empty is annotated.
        nlp: From `tasks.phrases.load_parser`.
        proposer: From `load_proposer`.
        section: The parameters.
        workers: Decoding threads; no result depends on it.

    Returns:
        An ``annotated`` table, one row a row.
    """
    count = table.num_rows
    errors: list[str | None] = table["error"].to_pylist()
    captions = [_first(texts) for texts in table["captions"].to_pylist()]
    usable = [i for i, state in enumerate(table["status"].to_pylist()) if state == OK]
    for i in usable:
        if not captions[i]:
            errors[i] = "no-caption: nothing was said about the picture"
    usable = [i for i in usable if errors[i] is None]
    phrases: list[list[Phrase]] = [[] for _ in range(count)]
    for i, found in zip(usable, parse(nlp, [captions[i] for i in usable]), strict=True):
        phrases[i] = found
    regions: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    rejected: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    with ThreadPoolExecutor(workers) as pool:
        for at in range(0, len(usable), _CHUNK):
            rows = usable[at : at + _CHUNK]
            blobs = table["image"].take(pa.array(rows)).to_pylist()
            pictures = dict(zip(rows, pool.map(_pixels, blobs), strict=True))
            for row, picture in pictures.items():
                if isinstance(picture, ImageError):
                    errors[row] = str(picture)
                    phrases[row] = []
            seen = {row: p for row, p in pictures.items() if not isinstance(p, ImageError)}
            found_boxes = proposer.propose(
                list(seen.values()),
                [[query_of(phrase) for phrase in phrases[row]] for row in seen],
            )
            for row, proposals in zip(seen, found_boxes, strict=True):
                regions[row], rejected[row] = filter_boxes(proposals, phrases[row], section)
    columns = {
        "uid": table["uid"],
        "caption": captions,
        "phrases": [[_record(phrase) for phrase in row] for row in phrases],
        "regions": regions,
        "rejected": rejected,
        "status": [OK if error is None else REJECTED for error in errors],
        "error": errors,
    }
    return conform(pa.table(columns, schema=ANNOTATED), "annotated")


def _first(texts: Sequence[str] | None) -> str:
    return next((text for text in texts or () if text.strip()), "")


def _pixels(blob: bytes | None) -> NDArray[np.uint8] | ImageError:
    try:
        return np.asarray(decode(blob or b""))
    except ImageError as error:
        return error


def _record(phrase: Phrase) -> dict[str, Any]:
    return {**asdict(phrase), "colours": list(phrase.colours)}


def query_of(phrase: Phrase) -> Query:
    """What a proposer is told of a phrase."""
    return Query(phrase.text, phrase.head, phrase.group, phrase.colours)


def filter_boxes(
    proposals: Proposals, phrases: Sequence[Phrase], section: AnnotateParams
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Decide which boxes of a picture stay, by the rules of `REASONS`.

    Boxes are first cut at the picture's border. Between two boxes at one place the surer stays;
    between equals, the one that stands first in the caption.

    Args:
        proposals: The boxes of one picture.
        phrases: Its phrases.
        section: The thresholds.

    Returns:
        What stays and what does not, as records of the ``annotated`` schema; what stays is in the
        order of the phrases, then of the confidence.
    """
    boxes, scores = _cut(proposals.boxes_N4), proposals.scores_N.astype(np.float64)
    of = proposals.phrase_N
    reason: list[str] = [""] * len(scores)
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    boxes, scores = np.nan_to_num(boxes), np.nan_to_num(scores)
    part = np.array([phrases[p].group not in _WHOLE for p in of], bool)
    thin = ~finite | (boxes[:, 2:] < max(section.side_min, 1e-6)).any(axis=1)
    full = part & (boxes[:, 2] * boxes[:, 3] >= section.full_image)
    unsure = scores < section.box_threshold
    for slug, wrong in (("degenerate", thin), ("full-image", full), ("low-confidence", unsure)):
        for n in np.flatnonzero(wrong):
            reason[n] = reason[n] or slug
    overlap = _iou(boxes)
    kept: list[int] = []
    for n in np.lexsort((of, -scores)):
        if reason[n]:
            continue
        same = [m for m in kept if overlap[n, m] >= section.same_box_iou]
        verdicts = {_clash(phrases[of[n]], phrases[of[m]]) for m in same}
        if "duplicate" in verdicts or "contradiction" in verdicts:
            reason[n] = "duplicate" if "duplicate" in verdicts else "contradiction"
        elif sum(of[m] == of[n] for m in kept) >= section.boxes_per_phrase:
            reason[n] = "surplus"
        else:
            kept.append(int(n))
    records = [
        {"phrase": int(of[n]), "box": boxes[n].tolist(), "score": float(scores[n])}
        for n in range(len(scores))
    ]
    kept.sort(key=lambda n: (of[n], -scores[n]))
    refused = [{**records[n], "reason": reason[n]} for n in range(len(scores)) if reason[n]]
    return [records[n] for n in kept], refused


def _cut(boxes_N4: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cut (cx, cy, w, h) boxes at the picture's border."""
    centre, half = boxes_N4[:, :2].astype(np.float64), boxes_N4[:, 2:].astype(np.float64) / 2
    low, high = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    return np.concatenate([(low + high) / 2, high - low], axis=1)


def _iou(boxes_N4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Overlap (N, N) of all pairs of boxes."""
    low, high = boxes_N4[:, :2] - boxes_N4[:, 2:] / 2, boxes_N4[:, :2] + boxes_N4[:, 2:] / 2
    side = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
    both = np.prod(np.maximum(side, 0), axis=2)
    area = np.prod(boxes_N4[:, 2:], axis=1)
    union = area[:, None] + area[None] - both
    found: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return found


def _clash(one: Phrase, other: Phrase) -> str:
    """What is wrong if two phrases name the same place: nothing, a repetition, a contradiction."""
    if one is other or one.text.lower() == other.text.lower():
        return "duplicate"
    if one.group != other.group:
        return "contradiction"
    if one.colours and other.colours and not set(one.colours) & set(other.colours):
        return "contradiction"
    return ""


# -- one at a time, for the command line ----------------------------------------------------------

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
    return [[_record(p) for p in found] for found in parse(load_parser(parser), captions)]


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
