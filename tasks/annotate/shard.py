"""Stage `annotate`: the phrases of a caption and the region of the picture that each names.

The paper feeds picture and caption to Grounding DINO (thresholds 0.35/0.35) and keeps boxes,
confidences and phrases; its figure shows a "bbox filtering" that the text never defines
(secs. 3.2, 3.3). Here a parser finds the phrases first, unless the section says otherwise, so that
every box has one with a span, a proposer behind `models.regions.proposals.RegionProposer` finds the
boxes, and the filter is written down: `tasks.annotate.boxes`.

Unusual: nothing is dropped. A refused box stays in its row with the reason; a picture without any
region is a valid row; a picture or caption that cannot be used is a rejected one.

    nlp, proposer = load_parser(params.parser), load_proposer(params, device)
    annotated = annotate_table(restyled_joined_with_screened_and_captioned, nlp, proposer, params)
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import torch

from models.regions.body import BodyProposer
from models.regions.detectors import can_ground, load_detector
from models.regions.proposals import CaptionGrounder
from tasks.annotate.boxes import filter_boxes
from tasks.annotate.finding import find_known, find_named, find_words
from tasks.annotate.preparing import prepared
from tasks.errors import PedAlignError
from tasks.params import Fraction, Positive, params
from tasks.phrases import EMBEDDED
from tasks.schemas import ANNOTATED, OK, REJECTED, conform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from spacy.language import Language

    from models.regions.proposals import RegionProposer
    from tasks.annotate.finding import Found
    from tasks.annotate.preparing import Ready
    from tasks.phrases import Phrase


@params
class AnnotateParams:
    """Section ``annotate``: how phrases and regions are found and which boxes stay."""

    phrases: Literal["parser", "detector", "words"]
    """Who names what is looked for. ``parser``: spaCy, in the caption. ``detector``: the detector
    itself, the whole caption being its prompt, as in the paper. ``words``: the same list for every
    picture, the paper's object-word ablation; needs ``inputs.words``."""
    words: Positive
    """How many words ``phrases: words`` looks for: the most frequent head nouns of the target's
    train captions."""
    parser: str
    """``embedded``, a spaCy package such as ``en_core_web_sm``, or the folder of a pipeline."""
    proposer: str
    """``embedded`` (body layout and colours, no weights), or a Grounding DINO or OWLv2 by hub name
    or folder."""
    precision: Literal["fp32", "bf16"]
    """Of a detector's arithmetic."""
    flips: bool
    """Whether the mirrored picture is looked at, too; its boxes are mirrored back and join the
    others before the filter. With ``words`` v1 of the paper's ablation, with ``parser`` v3."""
    box_threshold: Fraction
    """Least confidence of a box. The paper: 0.35, of Grounding DINO; OWLv2's are lower by nature,
    0.1 to 0.3 is usual."""
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


def essence(section: AnnotateParams) -> dict[str, Any]:
    """The parameters that the section's own choices read: another value of no other matters."""
    read = asdict(section)
    if section.phrases != "words":
        del read["words"]
    if section.proposer == EMBEDDED:
        del read["precision"], read["text_threshold"]
    return read


def check_choices(section: AnnotateParams, target: Path | None) -> None:
    """Refuse what cannot be done together, before anything is loaded.

    Args:
        section: The parameters.
        target: What ``inputs.words`` names; None for nothing.

    Raises:
        PedAlignError: Nobody can name the phrases, or there is no such detector.
    """
    if section.phrases == "words" and target is None:
        raise PedAlignError(
            "annotate.phrases is 'words', and inputs.words names nothing",
            "the words are the most frequent nouns of a target's train captions",
            "set inputs.words to the target's shards, data/ingested/NAME, "
            "or annotate.phrases to parser",
        )
    if section.phrases == "detector" and not _can_ground(section):
        raise _no_names(section)


def _no_names(section: AnnotateParams) -> PedAlignError:
    return PedAlignError(
        f"annotate.phrases is 'detector', and annotate.proposer is {section.proposer!r}",
        "Grounding DINO alone finds phrases in a caption; others look for those they are given",
        "set annotate.proposer to IDEA-Research/grounding-dino-base or its folder, "
        "or annotate.phrases to parser",
    )


def _can_ground(section: AnnotateParams) -> bool:
    try:
        return section.proposer != EMBEDDED and can_ground(section.proposer)
    except (OSError, ValueError) as error:
        raise _no_proposer(section, error) from error


def load_proposer(section: AnnotateParams, device: torch.device) -> RegionProposer:
    """Load what finds regions.

    Raises:
        PedAlignError: There is no such detector.
    """
    if section.proposer == EMBEDDED:
        return BodyProposer(batch_size=section.batch)
    try:
        return load_detector(
            section.proposer,
            device=device,
            precision=section.precision,
            box_threshold=section.box_threshold,
            text_threshold=section.text_threshold,
            batch_size=section.batch,
        )
    except (OSError, ValueError) as error:
        raise _no_proposer(section, error) from error


def _no_proposer(section: AnnotateParams, error: Exception) -> PedAlignError:
    return PedAlignError(
        f"annotate.proposer is {section.proposer!r}: {' '.join(str(error).split())[:400]}",
        f"it is {EMBEDDED!r}, or a Grounding DINO or OWLv2 of transformers by hub name or folder",
        f"set it to IDEA-Research/grounding-dino-base, or to {EMBEDDED}",
    )


def annotate_table(
    table: pa.Table,
    nlp: Language,
    proposer: RegionProposer,
    section: AnnotateParams,
    workers: int = 2,
    words: Sequence[Phrase] = (),
) -> pa.Table:
    """Find the phrases and regions of every usable row of a shard.

    Args:
        table: Columns ``uid``, ``image``, ``captions``, ``status``, ``error``, joined with the
            screening and the captions. The first caption that is not empty is annotated.
        nlp: From `tasks.phrases.load_parser`.
        proposer: From `load_proposer`.
        section: The parameters.
        workers: Decoding threads; no result depends on it.
        words: What ``phrases: words`` looks for.

    Returns:
        An ``annotated`` table, one row a row.

    Raises:
        PedAlignError: See `check_choices`.
    """
    count = table.num_rows
    errors: list[str | None] = table["error"].to_pylist()
    captions = [_first(texts) for texts in table["captions"].to_pylist()]
    usable = [i for i, state in enumerate(table["status"].to_pylist()) if state == OK]
    for i in usable:
        if not captions[i]:
            errors[i] = "no-caption: nothing was said about the picture"
    usable = [i for i in usable if errors[i] is None]
    find = _finder(nlp, proposer, section, words)
    phrases: list[list[Phrase]] = [[] for _ in range(count)]
    regions: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    rejected: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    parser = nlp if section.phrases == "parser" else None
    with ThreadPoolExecutor(workers) as pool:
        for ready, faults in prepared(table["image"], captions, usable, pool, parser):
            for row, fault in faults.items():
                errors[row] = fault
            found = find(ready) if ready else []
            for seen, (named, proposals) in zip(ready, found, strict=True):
                phrases[seen.row] = named
                regions[seen.row], rejected[seen.row] = filter_boxes(proposals, named, section)
    columns = {
        "uid": table["uid"],
        "caption": captions,
        "phrases": [[phrase.record() for phrase in row] for row in phrases],
        "regions": regions,
        "rejected": rejected,
        "status": [OK if error is None else REJECTED for error in errors],
        "error": errors,
    }
    return conform(pa.table(columns, schema=ANNOTATED), "annotated")


def _finder(
    nlp: Language, proposer: RegionProposer, section: AnnotateParams, words: Sequence[Phrase]
) -> Callable[[Sequence[Ready]], Found]:
    """How phrases and boxes are found, by `AnnotateParams.phrases`. See `annotate_table`."""
    flips = section.flips
    if section.phrases == "parser":
        return lambda ready: find_known(
            [each.pixels for each in ready], [each.phrases for each in ready], proposer, flips=flips
        )
    if section.phrases == "words":
        if not words:
            check_choices(section, None)
        return lambda ready: find_words(
            [each.pixels for each in ready], words, proposer, flips=flips
        )
    if not isinstance(proposer, CaptionGrounder):
        raise _no_names(section)
    return lambda ready: find_named(
        [each.pixels for each in ready], [each.caption for each in ready], proposer, nlp,
        flips=flips,
    )  # fmt: skip


def _first(texts: Sequence[str] | None) -> str:
    return next((text for text in texts or () if text.strip()), "")
