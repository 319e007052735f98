"""How well a parser finds labelled phrases: by token overlap, by exact span, by what it says.

A found phrase matches a labelled one where they share at least `OVERLAP` of the tokens that either
has, each at most once. As neither the found nor the labelled phrases of a caption overlap one
another, there is at most one candidate. Tokens are runs of letters and digits, and every other mark
by itself: the same for every parser, whatever its own tokenizer does.

    rows = read_labels(Path("tests/data/phrases.jsonl"))
    score(rows, parse(load_parser(), [row.text for row in rows])).f1
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from tasks.errors import PedAlignError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tasks.phrases.chunking import Phrase

OVERLAP = 0.8
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Label:
    """A phrase as a person marked it."""

    start: int
    end: int
    group: str
    colours: frozenset[str] | None = None
    """None where nobody wrote the colours down."""
    attributes: frozenset[tuple[str, str]] | None = None


@dataclass(frozen=True)
class LabelledCaption:
    """A caption with its phrases."""

    text: str
    style: str
    half: str
    """``dev`` may be looked at, ``kept`` may not."""
    phrases: tuple[Label, ...]


@dataclass
class Score:
    """Counts, and the figures that follow from them."""

    labelled: int = 0
    found: int = 0
    matched: int = 0
    exact: int = 0
    groups: int = 0
    """Matched phrases of the right group."""
    coloured: int = 0
    """Matched phrases whose label says the colours."""
    colours: int = 0
    """Those with exactly these colours."""
    said: int = 0
    """Labelled attributes of matched phrases."""
    told: int = 0
    """Attributes found on them."""
    attributes: int = 0
    """Attributes found and labelled."""

    def __iadd__(self, other: Score) -> Score:
        """Add the counts of another."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        return self

    @property
    def precision(self) -> float:
        """Share of the found phrases that match a label."""
        return self.matched / max(self.found, 1)

    @property
    def recall(self) -> float:
        """Share of the labels that are matched."""
        return self.matched / max(self.labelled, 1)

    @property
    def f1(self) -> float:
        """Harmonic mean of both, by token overlap."""
        return 2 * self.matched / max(self.found + self.labelled, 1)

    @property
    def exact_f1(self) -> float:
        """The same by exact span."""
        return 2 * self.exact / max(self.found + self.labelled, 1)

    @property
    def group_accuracy(self) -> float:
        """Share of the matched phrases with the right group."""
        return self.groups / max(self.matched, 1)

    @property
    def colour_accuracy(self) -> float | None:
        """Share of the matched phrases with exactly the right colours; None without labels."""
        return self.colours / self.coloured if self.coloured else None

    @property
    def attribute_f1(self) -> float | None:
        """F1 of the attributes on matched phrases; None without labels."""
        return 2 * self.attributes / (self.said + self.told) if self.said + self.told else None


@dataclass
class Scores:
    """Scores of one parser on one half, in all and by style."""

    total: Score = field(default_factory=Score)
    styles: dict[str, Score] = field(default_factory=dict)


def read_labels(path: Path) -> list[LabelledCaption]:
    """Read labelled captions, one JSON object a line (``tests/data/phrases.md``).

    Raises:
        PedAlignError: A line is not of that shape, or a span does not give its text.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            body = json.loads(line)
            labels = tuple(_label(body["text"], each) for each in body["phrases"])
            rows.append(LabelledCaption(body["text"], body["style"], body["split"], labels))
        except (ValueError, LookupError, TypeError) as error:
            raise PedAlignError(
                f"{path}, line {number}: {type(error).__name__}: {error}",
                "a line has text, style, split and phrases, each with text, start, end and group",
                "mend the line",
            ) from error
    return rows


def _label(text: str, body: dict[str, Any]) -> Label:
    start, end = body["start"], body["end"]
    if text[start:end] != body["text"]:
        raise ValueError(f"{start}:{end} is {text[start:end]!r}, not {body['text']!r}")
    colours, attributes = body.get("colours"), body.get("attributes")
    return Label(
        start,
        end,
        body["group"],
        None if colours is None else frozenset(colours),
        None if attributes is None else frozenset((a["kind"], a["value"]) for a in attributes),
    )


def score(rows: Iterable[LabelledCaption], found: Iterable[Sequence[Phrase]]) -> Score:
    """Compare phrases with labels.

    Args:
        rows: Labelled captions.
        found: The phrases found in each.
    """
    total = Score()
    for row, phrases in zip(rows, found, strict=True):
        total += _score_one(row, phrases)
    return total


def score_styles(rows: Sequence[LabelledCaption], found: Sequence[Sequence[Phrase]]) -> Scores:
    """Compare phrases with labels, in all and by style."""
    scores = Scores()
    for row, phrases in zip(rows, found, strict=True):
        one = _score_one(row, phrases)
        scores.total += one
        scores.styles.setdefault(row.style, Score())
        scores.styles[row.style] += one
    return scores


def _score_one(row: LabelledCaption, phrases: Sequence[Phrase]) -> Score:
    counts = Score(labelled=len(row.phrases), found=len(phrases))
    starts = [match.start() for match in _TOKEN.finditer(row.text)]
    free = [({at for at in starts if p.start <= at < p.end}, p) for p in phrases]
    for label in row.phrases:
        want = {at for at in starts if label.start <= at < label.end}
        for i, (have, phrase) in enumerate(free):
            if len(want & have) >= OVERLAP * len(want | have) > 0:
                del free[i]
                counts.matched += 1
                counts.exact += (label.start, label.end) == (phrase.start, phrase.end)
                counts.groups += label.group == phrase.group
                _compare(label, phrase, counts)
                break
    return counts


def _compare(label: Label, phrase: Phrase, counts: Score) -> None:
    if label.colours is not None:
        counts.coloured += 1
        counts.colours += label.colours == frozenset(phrase.colours)
    if label.attributes is not None:
        told = {(each.kind, each.value) for each in phrase.attributes}
        counts.said += len(label.attributes)
        counts.told += len(told)
        counts.attributes += len(label.attributes & told)
