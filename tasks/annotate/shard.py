"""Stage `annotate`: the phrases of a caption and the region of the picture that each names.

The paper feeds picture and caption to Grounding DINO (thresholds 0.35/0.35) and keeps boxes,
confidences and phrases; its figure shows a "bbox filtering" that the text never defines
(PAPERS.md 1.4). Here a parser finds the phrases first, so that every box has one with a span, a
proposer behind `models.regions.proposals.RegionProposer` finds the boxes, and the filter is
written down: `tasks.annotate.boxes`.

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

from models.regions.body import BodyProposer
from models.regions.grounding_dino import GroundingDino
from models.regions.proposals import Query
from tasks.annotate.boxes import filter_boxes
from tasks.errors import PedAlignError
from tasks.images import ImageError, decode
from tasks.params import Fraction, Positive, params
from tasks.phrases import EMBEDDED, Phrase, parse
from tasks.schemas import ANNOTATED, OK, REJECTED, conform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from spacy.language import Language

    from models.regions.proposals import RegionProposer

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
        "phrases": [[record_of(phrase) for phrase in row] for row in phrases],
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


def record_of(phrase: Phrase) -> dict[str, Any]:
    """A phrase as a record of the ``annotated`` schema."""
    return {**asdict(phrase), "colours": list(phrase.colours)}


def query_of(phrase: Phrase) -> Query:
    """What a proposer is told of a phrase."""
    return Query(phrase.text, phrase.head, phrase.group, phrase.colours)
