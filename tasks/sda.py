"""SDA's released annotation layout, to and from a row of the ``annotated`` table.

An entry (PAPERS.md 1.4) is ``{"image", "boxes", "logits", "phrases", "caption", "image_id"}``: the
three lists run in parallel, one element a region, boxes as (cx, cy, w, h) in [0, 1]. It holds the
regions, so phrases without one and refused boxes stay behind; numbers are written so that they
read back as the same 32-bit floats.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import PedAlignError
from tasks.phrases import load_parser, parse
from tasks.phrases.chunking import Phrase, colours_of, group_of

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYS = ("image", "boxes", "logits", "phrases", "caption", "image_id")
"""The keys of an entry, in the order of the release."""


def _short(value: float) -> float:
    """The shortest decimal that reads back as the same 32-bit float."""
    return float(str(np.float32(value)))


def to_sda(annotation: Mapping[str, Any], image: str, image_id: int) -> dict[str, Any]:
    """Make an entry of SDA's list.

    Args:
        annotation: ``caption``, ``phrases`` and ``regions`` of an annotated row.
        image: Path of the picture inside the set.
        image_id: A number of its own.

    Returns:
        The entry; its lists are empty for a row without regions.
    """
    phrases, regions = annotation["phrases"] or [], annotation["regions"] or []
    return {
        "image": image,
        "boxes": [[_short(v) for v in region["box"]] for region in regions],
        "logits": [_short(region["score"]) for region in regions],
        "phrases": [phrases[region["phrase"]]["text"] for region in regions],
        "caption": annotation["caption"],
        "image_id": image_id,
    }


def from_sda(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Read an entry into what an annotated row holds: caption, phrases and regions.

    The release does not say where in the caption a phrase stands: it is looked up, from where the
    one before ended, then from the beginning, whatever its case. A phrase that the caption does
    not contain (the detector joins word pieces) has start and end -1.

    Args:
        entry: One element of a released file.

    Returns:
        ``caption``, ``phrases``, ``regions``, and an empty ``rejected``.

    Raises:
        PedAlignError: A key is missing, the lists differ in length, or a box is not four numbers.
    """
    missing = [key for key in ("boxes", "logits", "phrases", "caption") if key not in entry]
    if missing:
        raise PedAlignError(
            f"SDA entry {entry.get('image')!r}: no {', '.join(missing)}",
            f"an entry has {', '.join(KEYS)}",
            "mend the file, or read it as a set without regions",
        )
    boxes, scores, texts = entry["boxes"], entry["logits"], entry["phrases"]
    if not len(boxes) == len(scores) == len(texts) or any(len(box) != 4 for box in boxes):
        raise PedAlignError(
            f"SDA entry {entry.get('image')!r}: {len(boxes)} boxes, {len(scores)} logits, "
            f"{len(texts)} phrases",
            "the three lists run in parallel and a box is cx, cy, w, h",
            "mend the entry",
        )
    caption = str(entry["caption"])
    phrases: list[dict[str, Any]] = []
    place: dict[str, int] = {}
    regions = []
    for box, score, text in zip(boxes, scores, texts, strict=True):
        if text not in place:
            place[text] = len(phrases)
            start = phrases[-1]["end"] if phrases else 0
            phrases.append(_located(str(text), caption, max(start, 0)))
        regions.append(
            {"phrase": place[text], "box": [float(v) for v in box], "score": float(score)}
        )
    return {"caption": caption, "phrases": phrases, "regions": regions, "rejected": []}


def _located(text: str, caption: str, after: int) -> dict[str, Any]:
    """A phrase record for a text, found in the caption if it is there."""
    start = _find(text, caption, after)
    if start < 0:
        start = _find(text, caption, 0)
    end = start + len(text) if start >= 0 else -1
    (found,) = parse(load_parser(), [text])
    if found:
        head, group, colours = found[-1].head, found[-1].group, found[-1].colours
    else:
        words = text.lower().split()
        head = words[-1] if words else ""
        group, colours = group_of(head, (), ""), colours_of(words)
    phrase = Phrase(text, start, end, head, group, colours)
    return {**asdict(phrase), "colours": list(phrase.colours)}


def _find(text: str, caption: str, after: int) -> int:
    at = caption.find(text, after)
    if at < 0 and len(caption.lower()) == len(caption):  # some letters change length with case
        at = caption.lower().find(text.lower(), after)
    return at
