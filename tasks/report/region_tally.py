"""Phrases and regions in numbers: counts by group, confidences, what is named most.

One pass over the annotated table, a shard at a time and by whole columns: a million pictures take
seconds and their captions are never in memory at once. A table that an earlier version wrote, whose
phrases have no attributes, is read the same way.

    counts = tally_regions(annotated)
    print(counts.how())
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.annotate.reasons import REASONS
from tasks.callouts import COLOURS
from tasks.schemas import OK
from tasks.shards import iter_tables, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

TYPICAL = (2, 4)
"""Regions of a picture in the paper's data, "typically"."""

BINS = 20
"""Bars of the histogram of confidences, from 0 to 1."""

_MOST_WORDS = 200_000
"""Different texts that are counted at once; then those seen once are forgotten."""

_SHOWN = 12
"""Bars of a chart of words."""


@dataclass(frozen=True)
class Group:
    """The phrases of one group."""

    phrases: int
    found: int
    """Phrases with a box."""
    regions: int
    confidence: float
    """Mean confidence of the boxes that stay; 0 without any."""
    silent: int
    """Phrases for which the proposer named no box at all."""
    refused: Mapping[str, int]
    """Refused boxes by reason."""


@dataclass(frozen=True)
class Regions:
    """The annotation in numbers."""

    pictures: int
    groups: Mapping[str, Group]
    """In the order of `tasks.callouts.COLOURS`; groups without a phrase are absent."""
    phrases_each: Sequence[int]
    """Pictures with 0, 1, 2, ... phrases."""
    regions_each: Sequence[int]
    """Pictures with 0, 1, 2, ... regions."""
    kept: Sequence[int]
    """Boxes that stay, by confidence: `BINS` equal parts from 0 to 1."""
    unsure: Sequence[int]
    """Boxes refused for their confidence, the same way."""
    otherwise: Sequence[int]
    """Boxes refused for another reason."""
    named: Mapping[str, Sequence[tuple[str, int]]]
    """What is named most: "phrases", "heads", "colours", "attributes", most frequent first."""
    different: Mapping[str, int]
    """How many different ones there are, of each kind; a lower bound above `_MOST_WORDS`."""
    elsewhere: int
    """Phrases that do not stand in their caption."""
    params: Mapping[str, Any]
    """Section ``annotate`` that made it; empty where the manifest does not say."""

    @property
    def phrases(self) -> int:
        """Phrases of all pictures."""
        return sum(group.phrases for group in self.groups.values())

    @property
    def found(self) -> int:
        """Phrases with a box."""
        return sum(group.found for group in self.groups.values())

    @property
    def regions(self) -> int:
        """Boxes that stay."""
        return sum(group.regions for group in self.groups.values())

    @property
    def refused(self) -> dict[str, int]:
        """Boxes refused by reason, in the order in which the rules are asked."""
        counts: Counter[str] = Counter()
        for group in self.groups.values():
            counts.update(group.refused)
        return {reason: counts[reason] for reason in in_order(counts)}

    @property
    def typical(self) -> float:
        """Share of the pictures that have as many regions as the paper's typically have."""
        low, high = TYPICAL
        return sum(self.regions_each[low : high + 1]) / max(self.pictures, 1)

    @property
    def threshold(self) -> float | None:
        """Least confidence of a box that stays, where the manifest says."""
        value = self.params.get("box_threshold")
        return None if value is None else float(value)

    def how(self) -> str:
        """Say in a sentence or two how phrases and boxes were found; empty where nobody knows."""
        if not self.params:
            return ""
        parser, proposer = self.params.get("parser", "?"), self.params.get("proposer", "?")
        by = {
            "detector": f"Phrases are what the detector {proposer} takes from the whole caption",
            "words": "Phrases are the same words for every picture, those most frequent in the "
            "target's captions",
        }.get(str(self.params.get("phrases")), f"Phrases by the parser {parser}")
        boxes = f"boxes by the proposer {proposer}"
        boxes += ", also asked about the mirrored picture" if self.params.get("flips") else ""
        least = f", kept from a confidence of {self.threshold:g}" if self.threshold else ""
        return f"{by}; {boxes}{least}."


def in_order(reasons: Iterable[str]) -> list[str]:
    """Sort reasons as the rules are asked; unknown ones stand behind, by name."""
    known = list(REASONS)
    return sorted(reasons, key=lambda r: (known.index(r) if r in known else len(known), r))


def tally_regions(annotated: Path) -> Regions:
    """Count an annotated table.

    Args:
        annotated: Folder of the ``annotated`` table.

    Returns:
        The numbers, of usable rows only.
    """
    counting = _Counting()
    columns = ["phrases", "regions", "rejected", "status"]
    for table in iter_tables(annotated, columns, verify=False):
        counting.add(table.filter(pc.equal(table["status"], OK)))
    told = read_manifest(annotated).meta.get("params")
    return counting.result(told if isinstance(told, dict) else {})


class _Counting:
    """Counts of the tables seen so far."""

    def __init__(self) -> None:
        self.pictures = self.elsewhere = 0
        self.groups: dict[str, Counter[str]] = {}
        self.refused: dict[str, Counter[str]] = {}
        self.confidence: defaultdict[str, float] = defaultdict(float)
        self.each = {"phrases": np.zeros(1, np.int64), "regions": np.zeros(1, np.int64)}
        self.scores = {name: np.zeros(BINS, np.int64) for name in ("kept", "unsure", "otherwise")}
        self.words = {name: _Words() for name in ("phrases", "heads", "colours", "attributes")}

    def add(self, table: pa.Table) -> None:
        """Count a table of usable rows."""
        self.pictures += table.num_rows
        phrases, of_phrases = _flat(table["phrases"])
        size = np.bincount(of_phrases, minlength=table.num_rows)
        first = np.cumsum(size) - size
        _, of, score, rows = _boxes(table["regions"], first, size)
        for name, at in (("phrases", of_phrases), ("regions", rows)):
            counts = np.bincount(np.bincount(at, minlength=table.num_rows), minlength=1)
            self.each[name] = _sum(self.each[name], counts)
        groups = np.asarray(phrases.field("group").to_pylist(), object)
        found = np.zeros(len(groups), bool)
        found[of] = True
        asked = found.copy()
        self.scores["kept"] += _histogram(score)
        self._count("regions", groups[of])
        for group in set(groups[of]):
            self.confidence[group] += float(score[groups[of] == group].sum())
        rejected, of, score, _ = _boxes(table["rejected"], first, size)
        asked[of] = True
        slugs = rejected.field("reason").to_pylist()
        reasons = np.asarray([str(slug).split(":", 1)[0] for slug in slugs], object)
        self.scores["unsure"] += _histogram(score[reasons == "low-confidence"])
        self.scores["otherwise"] += _histogram(score[reasons != "low-confidence"])
        for (reason, group), count in Counter(zip(reasons, groups[of], strict=True)).items():
            self.refused.setdefault(group, Counter())[reason] += count
        self._count("phrases", groups)
        self._count("found", groups[found])
        self._count("silent", groups[~asked])
        self.elsewhere += int(pc.sum(pc.less(phrases.field("start"), 0)).as_py() or 0)
        self.words["phrases"].add(pc.utf8_lower(phrases.field("text")))
        self.words["heads"].add(phrases.field("head"))
        self.words["colours"].add(pc.list_flatten(phrases.field("colours")))
        if phrases.type.get_field_index("attributes") >= 0:
            said = pc.list_flatten(phrases.field("attributes"))
            pair = (said.field("kind"), said.field("value"))
            self.words["attributes"].add(pc.binary_join_element_wise(*pair, ": "))

    def _count(self, what: str, groups: NDArray[np.object_]) -> None:
        for group, count in Counter(groups.tolist()).items():
            self.groups.setdefault(group, Counter())[what] += count

    def result(self, params: Mapping[str, Any]) -> Regions:
        """Everything counted."""
        known = list(COLOURS)
        names = sorted(
            self.groups, key=lambda g: (known.index(g) if g in known else len(known), str(g))
        )
        groups = {}
        for name in names:
            counts, refused = self.groups[name], self.refused.get(name, Counter())
            groups[str(name)] = Group(
                phrases=counts["phrases"],
                found=counts["found"],
                regions=counts["regions"],
                confidence=self.confidence[name] / max(counts["regions"], 1),
                silent=counts["silent"],
                refused={reason: refused[reason] for reason in in_order(refused)},
            )
        return Regions(
            pictures=self.pictures,
            groups=groups,
            phrases_each=self.each["phrases"].tolist(),
            regions_each=self.each["regions"].tolist(),
            **{name: counts.tolist() for name, counts in self.scores.items()},
            named={name: words.most(_SHOWN) for name, words in self.words.items()},
            different={name: len(words.counts) for name, words in self.words.items()},
            elsewhere=self.elsewhere,
            params=params,
        )


class _Words:
    """How often each text occurs."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, texts: pa.Array) -> None:
        """Count texts; where there are too many different ones, those seen once are forgotten."""
        for entry in pc.value_counts(pc.drop_null(texts)).to_pylist():
            self.counts[entry["values"]] += entry["counts"]
        if len(self.counts) > _MOST_WORDS:
            self.counts = Counter({text: n for text, n in self.counts.items() if n > 1})

    def most(self, count: int) -> list[tuple[str, int]]:
        """The most frequent ones; between equals, by the alphabet."""
        return sorted(self.counts.items(), key=lambda entry: (-entry[1], entry[0]))[:count]


def _flat(column: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int64]]:
    """The entries of a column of lists, and the row that each stands in."""
    lists = column.combine_chunks()
    return pc.list_flatten(lists), np.asarray(pc.list_parent_indices(lists), np.int64)


def _boxes(
    column: pa.ChunkedArray, first: NDArray[np.int64], size: NDArray[np.int64]
) -> tuple[pa.Array, NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """The boxes of a column whose phrase exists.

    Args:
        column: Lists of boxes.
        first: (R,) number of each row's first phrase among the phrases of all rows.
        size: (R,) how many phrases it has.

    Returns:
        The boxes, and of each its phrase's number, its confidence and its row.
    """
    boxes, rows = _flat(column)
    at = np.asarray(boxes.field("phrase"), np.int64)
    real = (at >= 0) & (at < size[rows])
    boxes, rows, at = boxes.filter(pa.array(real)), rows[real], at[real]
    return boxes, first[rows] + at, np.asarray(boxes.field("score"), np.float64), rows


def _histogram(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    # 0.35 in 32 bits lies below 0.35: it belongs right of the threshold.
    return np.histogram(np.clip(scores + 1e-6, 0, 1), BINS, (0, 1))[0]


def _sum(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add up two lists of counts of different lengths."""
    out = np.zeros(max(len(one), len(other)), np.int64)
    out[: len(one)] += one
    out[: len(other)] += other
    return out
