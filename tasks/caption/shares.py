"""What a set of pseudo texts says: which attributes, how often, in how many words and templates.

The shares of the optional attributes stand beside those of LUPerson-T (UniPT, sec. 3): 38 % of all
optional attributes there are bags. They tell at a glance whether a threshold, a model or a file of
attributes sees something else than UniPT's did: on other pictures they will differ, but a set of
which every second text names an umbrella was not taken in the rain.

Streamed: a shard at a time, counted by Arrow.

    counted = TextCounting()
    for table in iter_tables(folder, TextCounting.columns):
        counted.add(table)
    counted.figures().shares["bag"].published             # 0.38
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from tasks.caption.vocabulary import OPTIONAL
from tasks.diversity import Counting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.diversity import Diversity

LUPERSON_T: Mapping[str, int] = {
    "bag": 221_750, "glasses": 99_492, "smoke": 693, "hat": 97_063, "cellphone": 118_686,
    "umbrella": 1_578, "gloves": 16_259, "vehicle": 24_736,
}  # fmt: skip
"""How often UniPT's authors count each optional attribute; 580,257 together."""
LUPERSON_T_TEXTS = 1_277_991
"""Texts of the release, by an independent count."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """How often an optional attribute was seen."""

    count: int
    """Pictures that show it."""
    share: float
    """Of all optional attributes that were seen; 0 where none was."""
    published: float
    """The same of LUPerson-T."""
    score: float
    """Mean probability where it was seen; 0 where it was not."""


@dataclass(frozen=True, kw_only=True)
class TextFigures:
    """A set of pseudo texts in numbers."""

    pictures: int
    """Pictures with attributes."""
    optional: float
    """Optional attributes a picture; 0.45 in LUPerson-T."""
    shares: Mapping[str, Share]
    """By optional attribute, in the order of the paper."""
    values: Mapping[str, Mapping[str, int]]
    """How often each value of each attribute was seen, the most frequent first."""
    scores: Mapping[str, float]
    """Mean probability of each attribute's values where they were seen."""
    templates: int
    """Different templates."""
    diversity: Diversity
    """Of all captions."""


class TextCounting:
    """Counts ``captioned`` tables as they come."""

    columns = ("uid", "captions", "templates", "attributes")
    """What it reads of a table."""

    def __init__(self, seed: int = 0) -> None:
        self._diversity = Counting(seed, sample=0)
        self._pictures = 0
        self._seen: Counter[tuple[str, str]] = Counter()
        self._scores: Counter[str] = Counter()
        self._templates: set[str] = set()

    def add(self, table: pa.Table) -> None:
        """Count a table; rows without attributes are passed over."""
        rows = table.filter(pc.is_valid(table["attributes"])).combine_chunks()
        self._pictures += rows.num_rows
        texts = pc.list_flatten(rows["captions"]).to_pylist()
        self._diversity.add([""] * len(texts), texts)
        self._templates.update(pc.unique(pc.list_flatten(rows["templates"])).to_pylist())
        seen = pc.list_flatten(rows["attributes"])
        flat = pa.table({
            name: pc.struct_field(seen, name) for name in ("attribute", "value", "score")
        })  # fmt: skip
        grouped = flat.group_by(["attribute", "value"]).aggregate(
            [("score", "count"), ("score", "sum")]
        )
        for row in grouped.to_pylist():
            self._seen[row["attribute"], row["value"]] += row["score_count"]
            self._scores[row["attribute"]] += row["score_sum"]

    def figures(self) -> TextFigures:
        """The numbers of everything that was counted."""
        values: dict[str, dict[str, int]] = {}
        for (attribute, value), count in sorted(self._seen.items(), key=lambda item: -item[1]):
            values.setdefault(attribute, {})[value] = count
        counts = {name: sum(values.get(name, {}).values()) for name in OPTIONAL}
        total, published = sum(counts.values()), sum(LUPERSON_T.values())
        return TextFigures(
            pictures=self._pictures,
            optional=total / self._pictures if self._pictures else 0.0,
            shares={
                name: Share(
                    count=count,
                    share=count / total if total else 0.0,
                    published=LUPERSON_T[name] / published,
                    score=self._scores[name] / count if count else 0.0,
                )
                for name, count in counts.items()
            },
            values=values,
            scores={
                name: self._scores[name] / sum(found.values()) for name, found in values.items()
            },
            templates=len(self._templates),
            diversity=self._diversity.diversity(),
        )
