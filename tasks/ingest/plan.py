"""From raw entries to the rows of a dataset, before any image is opened.

Two kinds of fault are told apart. An entry that is wrong by itself becomes a rejected row with a
reason. A fault of the dataset (most entries lack a key, one image in two entries, a person in two
splits, a split nobody knows) would poison every result computed from it, so it stops ingestion.

Rows are gathered in Arrow columns, some hundred bytes each, so the 1.5 million entries of MALS fit
beside the one shard of pictures that is in memory later.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.errors import PedAlignError
from tasks.ingest.captions import clean_caption, oddities
from tasks.ingest.raw import PathError, safe_path
from tasks.params import Fraction, NonNegative, params
from tasks.shards import image_uid, item_seed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from tasks.ingest.readers import Entry

SPLITS = ("train", "val", "test")
ATTRIBUTES = 27
"""Labels of a MALS image."""

PLAN = pa.schema(
    [
        ("uid", pa.string()),
        ("split", pa.string()),
        ("person_id", pa.string()),
        ("camera", pa.string()),
        ("source_path", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("announced", pa.int32()),  # captions that the annotation gives, empty ones included
        ("labels", pa.list_(pa.int8())),
        ("regions", pa.string()),  # an SDA entry as JSON
        ("error", pa.string()),
    ]
)

LONGEST_CAPTION = 10_000
"""Characters of the longest caption that is looked at: 20 times a page-long description, and what
keeps cleaning quick however entities and markup are piled up."""
_LONGEST_NAME = 200  # characters of a person's name

_BATCH = 8192
_EXAMPLES = 5


@params
class SplitParams:
    """How a dataset that has no splits is split: by person, and by image where nobody is known."""

    val: Fraction
    """Share of the people in the validation split."""
    test: Fraction
    """Share of the people in the test split."""
    seed: NonNegative
    """Decides who goes where. A person's split depends on nobody else, so adding people moves
    none, and the shares are met only nearly."""

    def __post_init__(self) -> None:
        """Check that people are left to train on."""
        if self.val + self.test >= 1:
            raise ValueError("val + test leaves nobody to train on; their sum is below 1")


@dataclass(frozen=True)
class Plan:
    """The rows of a dataset and what was noticed while they were read."""

    rows: pa.Table
    """Columns of `PLAN`, in the order of the annotation."""
    empty_captions: int
    """Captions that held nothing and were left out."""
    odd: dict[str, int]
    """Captions kept that look wrong, by kind."""
    odd_examples: list[dict[str, str]]


class _Notes:
    def __init__(self) -> None:
        self.empty = 0
        self.odd: Counter[str] = Counter()
        self.examples: list[dict[str, str]] = []

    def look_at(self, caption: str) -> None:
        for kind in oddities(caption):
            self.odd[kind] += 1
            if self.odd[kind] <= _EXAMPLES:
                self.examples.append({"kind": kind, "caption": caption[:200]})


class _RowError(Exception):
    """A reason to reject one row."""


def make_plan(
    entries: Iterable[Entry],
    dataset: str,
    images: str = "",
    split: SplitParams | None = None,
    *,
    need_captions: bool = True,
    bare: Collection[str] = (),
) -> Plan:
    """Check every entry and the dataset as a whole.

    Args:
        entries: From a reader.
        dataset: The dataset's name: part of every uid and of every person's id.
        images: Folder inside the dataset that the entries' paths start from.
        split: How to split where an entry has no split.
        need_captions: Reject images without a caption.
        bare: Splits whose images may be without one all the same.

    Raises:
        PedAlignError: A fault of the dataset; see the module.
    """
    notes = _Notes()
    rows = pa.Table.from_batches(
        _batches(
            _row(e, dataset, images, split, notes, need_captions and e.split not in bare)
            for e in entries
        ),
        schema=PLAN,
    )
    if not rows.num_rows:
        raise PedAlignError(
            f"{dataset}: no entries", "a dataset has at least one image", "check its `annotation`"
        )
    _check_entries(rows, dataset)
    _check_splits(rows, dataset)
    _check_paths(rows, dataset)
    _check_people(rows, dataset)
    # Only rejected rows are still without a known split; the column is required.
    known = pc.if_else(pc.is_in(rows["split"], pa.array(SPLITS)), rows["split"], "train")
    rows = rows.set_column(rows.schema.get_field_index("split"), "split", known)
    return Plan(rows, notes.empty, dict(sorted(notes.odd.items())), notes.examples)


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    waiting: list[dict[str, Any]] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == _BATCH:
            yield pa.RecordBatch.from_pylist(waiting, schema=PLAN)
            waiting = []
    if waiting:
        yield pa.RecordBatch.from_pylist(waiting, schema=PLAN)


def _row(
    entry: Entry,
    dataset: str,
    images: str,
    split: SplitParams | None,
    notes: _Notes,
    need_captions: bool,
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(PLAN.names)
    row |= {"captions": [], "announced": 0, "error": entry.fault}
    try:
        if entry.fault:
            raise _RowError(entry.fault)
        path = safe_path(entry.path)
        row["source_path"] = f"{images}/{path}" if images else path
    except (_RowError, PathError) as fault:
        # A row must have a name of its own even if its image has none.
        row["source_path"], row["error"] = entry.where, str(fault)
        row["uid"] = image_uid(dataset, f"\0{entry.where}")
        row["split"] = entry.split if entry.split in SPLITS else "train"
        return row
    row["uid"] = image_uid(dataset, row["source_path"])
    row["camera"] = clean_caption(entry.camera or "") or None
    row["split"] = _text(entry.split)
    row["announced"] = len(entry.captions) if isinstance(entry.captions, list | tuple) else 1
    try:
        row["person_id"] = _person(entry.person, dataset)
        row["captions"] = _captions(entry.captions, notes, need_captions)
        row["labels"] = _labels(entry.labels)
        row["regions"] = _regions(entry, row["captions"])
    except _RowError as fault:
        row["error"] = str(fault)
    if row["split"] is None and split is not None:
        row["split"] = _drawn_split(row["person_id"] or row["uid"], split)
    return row


def _drawn_split(name: str, split: SplitParams) -> str:
    point = item_seed(name, split.seed, "split") / 2**63
    return "test" if point < split.test else "val" if point < split.test + split.val else "train"


def _person(value: object, dataset: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        value = value.strip()
        # A CSV has no numbers, only their digits; "007" is a name.
        digits = value.isascii() and value.isdigit() and len(value) < 10
        value = int(value) if digits and value == str(int(value)) else value
    if isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable():
        return f"{dataset}/{value}"
    if type(value) is int and 0 <= value < 1 << 63:
        return f"{dataset}/{value:05d}"
    raise _RowError(f"bad-person: {value!r:.80} is neither a number from 0 nor a name")


def _text(value: object) -> str | None:
    plain = value is None or (isinstance(value, str) and value.isprintable())
    return value if plain else repr(value)  # type: ignore[return-value]  # plain is str or None


def _captions(value: object, notes: _Notes, needed: bool) -> list[str]:
    if value is None and not needed:
        return []
    told = [value] if isinstance(value, str) else value
    if not isinstance(told, list | tuple) or not all(isinstance(text, str) for text in told):
        raise _RowError(f"caption-not-text: {value!r:.80}")
    if longest := max((len(text) for text in told if len(text) > LONGEST_CAPTION), default=0):
        raise _RowError(f"caption-too-long: {longest} characters, more than {LONGEST_CAPTION}")
    cleaned = [clean_caption(text) for text in told]
    captions = [text for text in cleaned if text]
    notes.empty += len(cleaned) - len(captions)
    for caption in captions:
        notes.look_at(caption)
    if needed and not captions:
        raise _RowError(f"no-caption: {len(told)} given, none with words")
    return captions


def _labels(value: object) -> list[int] | None:
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != ATTRIBUTES
        or any(type(label) is not int or label not in (-1, 0, 1) for label in value)
    ):
        raise _RowError(f"bad-labels: {value!r:.80} is not {ATTRIBUTES} of -1, 0 and 1")
    return value


def _regions(entry: Entry, captions: list[str]) -> str | None:
    if entry.regions is None:
        return None
    boxes, scores, phrases = (entry.regions[key] for key in ("boxes", "logits", "phrases"))
    fits = (
        all(isinstance(part, list) for part in (boxes, scores, phrases))
        and len(boxes) == len(scores) == len(phrases)
        and all(isinstance(box, list) and len(box) == 4 for box in boxes)
        and all(_number(value) for box in [*boxes, scores] for value in box)
        and all(isinstance(phrase, str) for phrase in phrases)
    )
    if not fits:
        raise _RowError("bad-regions: boxes (four numbers), logits and phrases run in parallel")
    clean = [clean_caption(phrase) for phrase in phrases]
    told = {"boxes": boxes, "logits": scores, "phrases": clean, "caption": captions[0]}
    return json.dumps(told)


def _number(value: object) -> bool:
    # The comparison is false for NaN too.
    return type(value) in (int, float) and -1e6 < value < 1e6  # type: ignore[operator]  # see left


# ------------------------------------------------------------------ the dataset as a whole


def _check_entries(rows: pa.Table, dataset: str) -> None:
    wrong = rows.filter(pc.is_valid(rows["error"]))["error"].to_pylist()
    for slug in ("not-a-mapping", "missing-key"):
        mine = [error for error in wrong if error.startswith(slug)]
        if 2 * len(mine) > rows.num_rows:
            raise PedAlignError(
                f"{dataset}: {len(mine)} of {rows.num_rows} entries are faulty ({mine[0]})",
                "most entries have the keys of the dataset's layout",
                "check `format` and `annotation`: this may be another dataset's file",
            )
    outside = [error for error in wrong if error.startswith("unsafe-path")]
    if 2 * len(outside) > rows.num_rows:
        raise PedAlignError(
            f"{dataset}: {len(outside)} of {rows.num_rows} paths lead elsewhere ({outside[0]})",
            "a path is relative to the images' folder, with forward slashes",
            "cut off the folder that stands before the paths, in a copy of the annotation",
        )


def _check_splits(rows: pa.Table, dataset: str) -> None:
    counts = Counter(rows.filter(pc.is_null(rows["error"]))["split"].to_pylist())
    unknown = {split: n for split, n in counts.items() if split not in SPLITS}
    if None in unknown:
        raise PedAlignError(
            f"{dataset}: {unknown[None]} images belong to no split",
            f"an image belongs to {', '.join(SPLITS)}",
            "give the dataset a `split` section with the shares of val and test",
        )
    if unknown:
        name, count = max(unknown.items(), key=lambda item: item[1])
        raise PedAlignError(
            f"{dataset}: {count} entries of split {name!r:.40}",
            f"the splits are {', '.join(SPLITS)}",
            "correct the annotation: a guess could put test people into training",
        )


def _check_paths(rows: pa.Table, dataset: str) -> None:
    counts = rows["uid"].value_counts()
    often = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(often):
        again = pc.is_in(rows["uid"], value_set=often.field("values"))
        paths = sorted(set(rows.filter(again)["source_path"].to_pylist()))
        raise PedAlignError(
            f"{dataset}: {len(paths)} images stand in several entries, such as {paths[:3]}",
            "an image has one entry, with all its captions",
            "merge the entries; if the files are one entry a caption, their format is `finetune`",
        )


def _check_people(rows: pa.Table, dataset: str) -> None:
    known = rows.filter(pc.and_(pc.is_valid(rows["person_id"]), pc.is_null(rows["error"])))
    people = known.group_by("person_id").aggregate([("split", "count_distinct")])
    torn = people.filter(pc.greater(people["split_count_distinct"], 1))["person_id"]
    if len(torn):
        one = torn[0].as_py()
        splits = sorted(set(known.filter(pc.equal(known["person_id"], one))["split"].to_pylist()))
        raise PedAlignError(
            f"{dataset}: {len(torn)} people stand in two splits, such as {one} in {splits}",
            "nobody in the test split is trained on",
            "correct the annotation; results on such a split mean nothing",
        )
