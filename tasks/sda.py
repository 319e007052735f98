"""SDA's released annotation layout, to and from a row of the ``annotated`` table.

An entry (MRA's README) is ``{"image", "boxes", "logits", "phrases", "caption", "image_id"}``: the
three lists run in parallel, one element a region, boxes as (cx, cy, w, h) in [0, 1]. It holds the
regions, so phrases without one and refused boxes stay behind; numbers are written so that they
read back as the same 32-bit floats.

What is unusual: the layout has a phrase's text and not its place. Where a text stands in a caption
once, that says it all. Where it stands there several times ("a red shirt ... the red shirt"), the
order of the list decides: the writer looks for an order that reads back right, and counts what no
order can say. The reader takes a list that runs forward through the caption as running
forward, one that runs backward as running backward, and anything else phrase by phrase.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import PedAlignError
from tasks.phrases import load_parser, parse
from tasks.phrases.chunking import Phrase, group_of, said_of

if TYPE_CHECKING:
    from collections.abc import Sequence

KEYS = ("image", "boxes", "logits", "phrases", "caption", "image_id")
"""The keys of an entry, in the order of the release."""

_Place = tuple[int, int]
"""First character of a phrase and one past its last, in code points; -1, -1: not in the caption."""

_NOWHERE = (-1, -1)

_Region = Mapping[str, Any]


# ------------------------------------------------------------------ writing


def to_sda(annotation: Mapping[str, Any], image: str, image_id: int) -> dict[str, Any]:
    """Make an entry of SDA's list; see `to_sda_counted`."""
    return to_sda_counted(annotation, image, image_id)[0]


def to_sda_counted(
    annotation: Mapping[str, Any], image: str, image_id: int
) -> tuple[dict[str, Any], int]:
    """Make an entry of SDA's list, and say how much of it reads back otherwise.

    Args:
        annotation: ``caption``, ``phrases`` and ``regions`` of an annotated row.
        image: Path of the picture inside the set.
        image_id: A number of its own.

    Returns:
        The entry; its lists are empty for a row without regions, and regions keep their order
        unless another one alone says where their phrases stand. And the number of regions whose
        phrase `from_sda` finds at another place: its text stands in the caption more than once and
        no order says which is meant, or it is in the caption and was not taken from there.

    Raises:
        PedAlignError: A number is not finite: JSON has no such numbers.
    """
    phrases = annotation["phrases"] or []
    regions, unclear = _legible(annotation["caption"], phrases, annotation["regions"] or [])
    numbers = [value for region in regions for value in (*region["box"], region["score"])]
    if not np.isfinite(numbers).all():
        raise PedAlignError(
            f"{image}: a box or a confidence that is not finite",
            "boxes and confidences are numbers from 0 to 1",
            "annotate the set again: the filter of `annotate` lets no such box pass",
        )
    entry = {
        "image": image,
        "boxes": [[shortest(v) for v in region["box"]] for region in regions],
        "logits": [shortest(region["score"]) for region in regions],
        "phrases": [phrases[region["phrase"]]["text"] for region in regions],
        "caption": annotation["caption"],
        "image_id": image_id,
    }
    return entry, unclear


def thick_enough(box: Sequence[float], width: int, height: int) -> bool:
    """Whether a box still has a width and a height where it is cut to whole pixels.

    The released loader turns boxes into pixels by ``int()`` and then asserts both
    (dataset/pretrain_dataset.py).

    Args:
        box: cx, cy, w, h as shares of the picture.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
    """
    w, h = map(shortest, box[2:])
    return int(w * width) > 0 and int(h * height) > 0


def shortest(value: float) -> float:
    """The shortest decimal that reads back as the same 32-bit float."""
    exact = np.float32(value)
    short = float(str(exact))
    return short if np.float32(short) == exact else float(exact)


def _legible(
    caption: str, phrases: Sequence[Mapping[str, Any]], regions: Sequence[_Region]
) -> tuple[list[_Region], int]:
    """The regions in an order that reads back right, or in their own; and how many do not."""
    spots = _spots(caption, [phrases[region["phrase"]]["text"] for region in regions])
    if any(len(found) > 1 for found in spots.values()):  # only then the parser has a say
        (said,) = parse(load_parser(), [caption])
        spots = _preferred(caption, spots, said)

    def misread(ordered: Sequence[_Region]) -> int:
        told = [phrases[region["phrase"]] for region in ordered]
        found = _places([phrase["text"] for phrase in told], spots)
        return sum((p["start"], p["end"]) != at for p, at in zip(told, found, strict=True))

    own = list(regions)
    forward = sorted(own, key=lambda region: phrases[region["phrase"]]["start"])
    for ordered in (own, forward, forward[::-1]):
        if not misread(ordered):
            return ordered, 0
    return own, misread(own)


# ------------------------------------------------------------------ reading


def from_sda(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Read one entry; see `from_sda_list`, which is the quicker way to read many."""
    return from_sda_list([entry])[0]


def from_sda_list(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Read entries into what annotated rows hold: caption, phrases and regions.

    The release does not say where in the caption a phrase stands: it is looked up, whatever its
    case. Of several places those written alike are preferred, then whole words, then what the
    embedded parser takes for a phrase, and of what is left the order of the list decides (see the
    module). A phrase that the caption does not contain (the detector joins word pieces) has start
    and end -1. Head, group, colours and attributes are the parser's: of the phrase in its caption
    where the parser finds it there, of the text by itself elsewhere.

    Args:
        entries: Elements of a released file.

    Returns:
        For each ``caption``; ``phrases``, those that have a region, each once, in the order of the
        caption; ``regions`` in the order of the entry; and an empty ``rejected``.

    Raises:
        PedAlignError: A key is missing, the lists differ in length, or a value is of another kind.
    """
    for entry in entries:
        _check(entry)
    nlp = load_parser()
    said = parse(nlp, [entry["caption"] for entry in entries])
    found: list[list[tuple[str, _Place]]] = []
    for entry, phrases in zip(entries, said, strict=True):
        texts = entry["phrases"]
        spots = _preferred(entry["caption"], _spots(entry["caption"], texts), phrases)
        found.append(list(zip(texts, _places(texts, spots), strict=True)))
    known = [{(p.text, (p.start, p.end)): p for p in phrases} for phrases in said]
    alone = list(
        dict.fromkeys(
            text
            for of, phrases in zip(found, known, strict=True)
            for text, place in of
            if (text, place) not in phrases
        )
    )
    apart = dict(zip(alone, map(_by_itself, alone, parse(nlp, alone)), strict=True))
    return [
        _row(entry, of, phrases, apart)
        for entry, of, phrases in zip(entries, found, known, strict=True)
    ]


def _row(
    entry: Mapping[str, Any],
    found: Sequence[tuple[str, _Place]],
    known: Mapping[tuple[str, _Place], Phrase],
    apart: Mapping[str, Phrase],
) -> dict[str, Any]:
    # Those that the caption does not hold come last.
    distinct = sorted(dict.fromkeys(found), key=lambda of: (of[1] == _NOWHERE, of[1]))
    number = {of: at for at, of in enumerate(distinct)}
    phrases = []
    for text, (start, end) in distinct:
        phrase = known.get((text, (start, end))) or apart[text]
        phrases.append(phrase.record() | {"text": text, "start": start, "end": end})
    regions = [
        {"phrase": number[of], "box": [float(value) for value in box], "score": float(score)}
        for of, box, score in zip(found, entry["boxes"], entry["logits"], strict=True)
    ]
    return {"caption": entry["caption"], "phrases": phrases, "regions": regions, "rejected": []}


def _by_itself(text: str, found: Sequence[Phrase]) -> Phrase:
    """What a text by itself is about: its first phrase, which the rest describes, or last word."""
    if found:
        return found[0]
    words = tuple(text.lower().split()) or ("",)
    group = group_of(words[-1], (), "")
    said = said_of(words, len(words) - 1, words[-1], group)
    return Phrase(text, *_NOWHERE, words[-1], group, *said)


def _check(entry: Mapping[str, Any]) -> None:
    name = f"SDA entry {entry.get('image')!r}"
    missing = [key for key in ("boxes", "logits", "phrases", "caption") if key not in entry]
    if missing:
        raise PedAlignError(
            f"{name}: no {', '.join(missing)}",
            f"an entry has {', '.join(KEYS)}",
            "mend the file, or read it as a set without regions",
        )
    boxes, scores, texts = entry["boxes"], entry["logits"], entry["phrases"]
    lists = all(isinstance(part, list | tuple) for part in (boxes, scores, texts))
    if not lists or not len(boxes) == len(scores) == len(texts):
        sizes = [len(p) if isinstance(p, list | tuple) else repr(p) for p in (boxes, scores, texts)]
        raise PedAlignError(
            f"{name}: {sizes[0]} boxes, {sizes[1]} logits, {sizes[2]} phrases",
            "the three are lists that run in parallel",
            "mend the entry",
        )
    numbers = [scores, *boxes]
    if (
        any(not isinstance(box, list | tuple) or len(box) != 4 for box in boxes)
        or any(type(value) not in (int, float) for part in numbers for value in part)
        or not all(isinstance(text, str) for text in (*texts, entry["caption"]))
    ):
        raise PedAlignError(
            f"{name}: {boxes!r:.80}, {scores!r:.40}, {texts!r:.80}",
            "a box is the numbers cx, cy, w, h, a logit a number, a phrase and a caption text",
            "mend the entry",
        )


# ------------------------------------------------------------------ where a text stands


def _folded(text: str) -> str:
    """Lower case, letter by letter: a letter that grows with its case would move all others."""
    if text.isascii():
        return text.lower()
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)


def _spots(caption: str, texts: Sequence[str]) -> dict[str, list[_Place]]:
    """Every place where each text stands in a caption, whatever its case, in order."""
    folded = _folded(caption)
    found: dict[str, list[_Place]] = {}
    for text in dict.fromkeys(texts):
        wanted, spots = _folded(text), found.setdefault(text, [])
        at = folded.find(wanted) if wanted else -1
        while at >= 0:
            spots.append((at, at + len(wanted)))
            at = folded.find(wanted, at + 1)
    return found


def _preferred(
    caption: str, spots: Mapping[str, list[_Place]], said: Sequence[Phrase]
) -> dict[str, list[_Place]]:
    """Of several places those written alike, on word borders, and phrases; as far as there are."""
    spoken = {(phrase.start, phrase.end) for phrase in said}

    def inside_a_word(at: int) -> bool:
        return 0 < at < len(caption) and caption[at - 1 : at + 1].isalnum()

    def best(text: str, places: list[_Place]) -> list[_Place]:
        alike = [p for p in places if caption[p[0] : p[1]] == text] or places
        words = [p for p in alike if not any(map(inside_a_word, p))] or alike
        return [p for p in words if p in spoken] or words

    return {text: best(text, found) for text, found in spots.items()}


def _places(texts: Sequence[str], spots: Mapping[str, list[_Place]]) -> list[_Place]:
    """Which of its places each text of a list has."""
    if all(len(found) < 2 for found in spots.values()):
        return [spots[text][0] if spots[text] else _NOWHERE for text in texts]
    forward = _running(texts, spots)
    if forward is not None:
        return forward
    mirrored = {
        text: [(-start, -end) for start, end in reversed(found)] for text, found in spots.items()
    }
    backward = _running(texts, mirrored)
    if backward is not None:
        return [p if p == _NOWHERE else (-p[0], -p[1]) for p in backward]
    return _scattered(texts, spots)


def _running(texts: Sequence[str], spots: Mapping[str, list[_Place]]) -> list[_Place] | None:
    """Read a list as running through the caption: each text at its first place from the one before.

    The same text again is its next place or, where there is none, another box of the same phrase.
    """
    places: list[_Place] = []
    before: tuple[str, _Place] | None = None
    for text in texts:
        if not spots[text]:
            places.append(_NOWHERE)
            continue
        ahead = [p for p in spots[text] if before is None or p[0] >= before[1][0]]
        if before is not None and before[0] == text:
            ahead = [p for p in ahead if p > before[1]] or [before[1]]
        if not ahead:
            return None
        before = (text, ahead[0])
        places.append(ahead[0])
    return places


def _scattered(texts: Sequence[str], spots: Mapping[str, list[_Place]]) -> list[_Place]:
    """Read a list in no order: each text's next place, the last one again when there is none."""
    used: dict[str, int] = {}
    places: list[_Place] = []
    for text in texts:
        found = spots[text]
        used[text] = min(used.get(text, -1) + 1, len(found) - 1)
        places.append(found[used[text]] if found else _NOWHERE)
    return places
