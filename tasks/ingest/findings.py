"""What ingestion found out about a dataset, for the report and for a curator.

Split statistics are compared with the published ones, because copies of the
benchmarks differ: RSTPReid's file carries 3,901/100/100 people where the paper says
3,701/200/200, and a result on one says nothing about the other. Captions that several people
share (RSTPReid has many) are false negatives of training and evaluation alike, so they are listed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.ingest.plan import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tasks.ingest.plan import Plan

SHARED_LISTED = 50


@dataclass(frozen=True)
class Split:
    """Size of a split as the annotation gives it, before anything is rejected."""

    people: int | None
    """Identities; None where nobody is known."""
    images: int
    captions: int


Splits = dict[str, Split]

PUBLISHED: dict[str, dict[str, Splits]] = {
    "cuhk-pedes": {
        "the published split": {
            "train": Split(11_003, 34_054, 68_126),
            "val": Split(1_000, 3_078, 6_158),
            "test": Split(1_000, 3_074, 6_156),
        }
    },
    "icfg-pedes": {
        "the published split": {
            "train": Split(3_102, 34_674, 34_674),
            "test": Split(1_000, 19_848, 19_848),
        }
    },
    "rstpreid": {
        "the published split 3701/200/200": {
            "train": Split(3_701, 18_505, 37_010),
            "val": Split(200, 1_000, 2_000),
            "test": Split(200, 1_000, 2_000),
        },
        "the circulating split 3901/100/100": {
            "train": Split(3_901, 19_505, 39_010),
            "val": Split(100, 500, 1_000),
            "test": Split(100, 500, 1_000),
        },
    },
    "mals": {"the published set": {"train": Split(None, 1_510_330, 1_510_330)}},
    "sda": {"the published set": {"train": Split(None, 1_217_750, 1_217_750)}},
    "market1501": {
        "the published split": {
            "train": Split(751, 12_936, 0),
            # 3,368 queries; 19,732 detections, junk and distractors among them.
            "test": Split(750, 3_368 + 19_732, 0),
        }
    },
    "luperson-t": {"an independent count": {"train": Split(None, 957_606, 1_277_991)}},
}
"""Format -> name of a split in circulation -> its size. RSTPReid has five images a person and two
captions an image, whence the sizes of its second split."""


@dataclass(frozen=True)
class Comparison:
    """How a dataset differs from what was published about it."""

    variant: str
    """The split in circulation that is nearest."""
    exact: bool
    differences: list[str]
    """One sentence a number that differs."""


@dataclass(frozen=True)
class IngestReport:
    """All that is worth knowing about an ingested dataset; plain values, so JSON can hold it."""

    dataset: str
    format: str
    rows: int
    ok: int
    reasons: dict[str, int]
    """Rejected rows by reason."""
    splits: Splits
    comparison: Comparison | None
    """None for a dataset that is not known, such as a plain folder."""
    empty_captions: int
    """Captions left out because they held nothing."""
    odd_captions: dict[str, int]
    """Captions kept that look wrong, by kind; see `tasks.ingest.captions`."""
    odd_examples: list[dict[str, str]]
    captions_per_image: dict[str, int]
    """Number of captions -> images with so many."""
    images_per_person: dict[str, int]
    """Number of images -> people with so many."""
    shared_captions: int
    """Sentences that stand word for word with more than one person."""
    shared_examples: list[dict[str, Any]]
    """The ones with the most people."""
    copied: dict[str, int]
    """Pictures stored as a clean copy instead of the original's bytes, by reason."""
    pictures_in_two_splits: int
    """Pictures whose perceptual hash stands in more than one split."""

    def to_json(self) -> dict[str, Any]:
        """Give the report as JSON-able values."""
        return asdict(self)

    def summary(self) -> str:
        """Say the main points in one line."""
        parts = [f"{self.dataset}: {self.ok} of {self.rows} images"]
        parts += [f"{count} {reason}" for reason, count in self.reasons.items()]
        if self.comparison:
            how = "exactly" if self.comparison.exact else "not exactly"
            parts.append(f"{how} {self.comparison.variant}")
        if self.shared_captions:
            parts.append(f"{self.shared_captions} captions shared by several people")
        return "; ".join(parts)


def split_sizes(rows: pa.Table) -> Splits:
    """Count people, images and captions of every split in a plan's rows, all-faulty rows too."""
    named = rows.filter(pc.is_valid(rows["split"]))
    sizes = named.group_by("split").aggregate(
        [("person_id", "count_distinct"), ("uid", "count"), ("announced", "sum")]
    )
    found = {row["split"]: row for row in sizes.to_pylist()}
    return {
        split: Split(
            found[split]["person_id_count_distinct"] or None,
            found[split]["uid_count"],
            found[split]["announced_sum"],
        )
        for split in SPLITS
        if split in found
    }


def compare(name: str, splits: Mapping[str, Split]) -> Comparison | None:
    """Compare a known dataset's splits with the published ones.

    Args:
        name: Key of `PUBLISHED`.
        splits: The dataset's own.

    Returns:
        The nearest split in circulation (least sum of differences) and how the dataset differs
        from it; None for an unknown dataset.
    """
    best: tuple[int, Comparison] | None = None
    for variant, published in PUBLISHED.get(name, {}).items():
        distance, sentences = 0, []
        for split in SPLITS:
            here = splits.get(split, Split(0, 0, 0))
            there = published.get(split, Split(0, 0, 0))
            for what in ("people", "images", "captions"):
                now, then = getattr(here, what), getattr(there, what)
                if then is None or now == then:
                    continue
                distance += abs((now or 0) - then)
                told = "unknown" if now is None else f"{now:,} ({now - then:+,})"
                sentences.append(f"{split} {what}: {told}, {variant} has {then:,}")
        if best is None or distance < best[0]:
            best = (distance, Comparison(variant, not sentences, sentences))
    return best[1] if best else None


def shared_captions(rows: pa.Table) -> list[dict[str, Any]]:
    """List the captions that more than one person has.

    Upper and lower case count as the same. Where nobody is known, images stand for people.

    Args:
        rows: Columns ``uid``, ``person_id``, ``captions``, such as a plan's or of an ``images``
            table.

    Returns:
        ``{"caption", "people", "examples"}``, most people first, then in the caption's order.
    """
    whole = rows.combine_chunks()
    owner = pc.coalesce(whole["person_id"], whole["uid"])
    said = pc.list_flatten(whole["captions"])
    told = pa.table(
        {
            "caption": said,
            "key": pc.utf8_lower(said),
            "owner": owner.take(pc.list_parent_indices(whole["captions"])),
        }
    )
    counts = told.group_by("key").aggregate([("owner", "count_distinct")])
    often = counts.filter(pc.greater(counts["owner_count_distinct"], 1))["key"]
    # Few are left: the rest is readable Python.
    spelled: dict[str, str] = {}
    owners: dict[str, set[str]] = defaultdict(set)
    for row in told.filter(pc.is_in(told["key"], often.combine_chunks())).to_pylist():
        spelled.setdefault(row["key"], row["caption"])
        owners[row["key"]].add(row["owner"])
    shared = sorted(owners.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"caption": spelled[key], "people": len(people), "examples": sorted(people)[:5]}
        for key, people in shared
    ]


def make_report(
    dataset: str,
    form: str,
    known_as: str,
    plan: Plan,
    counts: Mapping[str, int],
    copied: Mapping[str, int],
    pictures_in_two_splits: int,
) -> IngestReport:
    """Put the findings together.

    Args:
        dataset: The dataset's name.
        form: Its format.
        known_as: Key of `PUBLISHED` to compare with; any other name compares with nothing.
        plan: The checked entries.
        counts: Rows by status or reason, from the manifest.
        copied: Pictures not stored as they were, by reason.
        pictures_in_two_splits: See `IngestReport`.
    """
    rows = plan.rows
    sizes = split_sizes(rows)
    shared = shared_captions(rows)
    people = Counter(rows["person_id"].drop_null().to_pylist())
    return IngestReport(
        dataset=dataset,
        format=form,
        rows=rows.num_rows,
        ok=counts.get("ok", 0),
        reasons={reason: n for reason, n in sorted(counts.items()) if reason != "ok"},
        splits=sizes,
        comparison=compare(known_as, sizes),
        empty_captions=plan.empty_captions,
        odd_captions=plan.odd,
        odd_examples=plan.odd_examples,
        captions_per_image=_histogram(pc.list_value_length(rows["captions"]).to_pylist()),
        images_per_person=_histogram(people.values()),
        shared_captions=len(shared),
        shared_examples=shared[:SHARED_LISTED],
        copied=dict(sorted(copied.items())),
        pictures_in_two_splits=pictures_in_two_splits,
    )


def _histogram(values: Iterable[int]) -> dict[str, int]:
    # Keys are text, because JSON's are.
    return {str(value): count for value, count in sorted(Counter(values).items())}
