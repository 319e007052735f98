"""One raw dataset to shards: read the entries, check them, then the pictures shard by shard.

    report = ingest_dataset(section, Path("data/ingested/cuhk-pedes"))

That is `open_dataset` (the annotation, the checks, a plan for every shard), `make_shard` for each,
and `publish_dataset`; the stage does the same with `flows.shards` and the store in the middle, so
a killed run goes on where it was.

Beside the shards lie ``phash.parquet`` (perceptual hashes, `tasks.ingest.crossing`),
``annotated/`` for an SDA release, which so enters the pipeline where annotation ends, and
``truth.parquet`` where the raw folder has one: for evaluation, reports and tests only.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from tasks.duplicates import hashes_from_bytes
from tasks.errors import PedAlignError
from tasks.images import ImageError
from tasks.ingest.crossing import splits_shared, write_hashes
from tasks.ingest.findings import IngestReport, make_report
from tasks.ingest.lmdb_pictures import LmdbPictures, check_inside
from tasks.ingest.market import read_market
from tasks.ingest.plan import SPLITS, Plan, SplitParams, make_plan
from tasks.ingest.raw import check_fingerprint
from tasks.ingest.readers import READERS, Place, annotation_files, register
from tasks.ingest.shard import ShardSource, clear_plans, make_shard, read_evidence, write_plan
from tasks.ingest.worlds import WorldFormat, WorldParams, draw_world
from tasks.inputs import NOTHING
from tasks.market import FORMAT as MARKET
from tasks.params import Positive, params
from tasks.schemas import ANNOTATED, OK
from tasks.shards import MANIFEST, Manifest, ShardRecord, partition, write_folder
from tasks.store import ShardStore
from tasks.world.dataset import SOURCE_JSON, TARGET_JSON

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

register(MARKET)(read_market)  # a module apart: it reads names of files, the others annotations

TRUTH = "truth.parquet"
ANNOTATED_FOLDER = "annotated"

StoreEntry = tuple[str, str, ShardRecord]
"""``(key, file name, record)``, as `ShardStore.publish` takes them."""

_PROBES = 200
_WORLDS = {
    "world-source": ("mals", SOURCE_JSON, ""),
    "world-target": ("cuhk-pedes", TARGET_JSON, "imgs"),
    "world-second": ("cuhk-pedes", TARGET_JSON, "imgs"),
    "world-unlabelled": ("folder", "", ""),
}
"""Format -> the reader, the annotation file and the images' folder of what is drawn."""
_FREE = ("folder", "lmdb")
"""Formats of anybody's own, which may lack captions and splits."""
_UNANNOTATED = (*_FREE, MARKET)
"""Formats of real pictures that need no annotation file."""
_CAPTIONLESS = {*_UNANNOTATED, "world-unlabelled"}
"""Formats whose images need no caption."""
_CAPTIONS: dict[str, dict[str, int]] = {"world-source": {"train": 1}, "world-unlabelled": {}}
"""Format -> captions of an image by split, where there is no choice."""


@params
class IngestDatasetParams:
    """One dataset, ``ingest.datasets.NAME``."""

    format: Literal[
        "cuhk-pedes",
        "icfg-pedes",
        "rstpreid",
        "finetune",
        "mals",
        "sda",
        "luperson-t",
        "folder",
        "lmdb",
        "market1501",
        "world-source",
        "world-target",
        "world-second",
        "world-unlabelled",
    ]
    """The dataset's layout; see `tasks.ingest.readers`."""
    root: str
    """The raw dataset's folder, a copy or a link. The built-in world is drawn into it."""
    annotation: str
    """Annotation file, or a folder of them; data/nothing for the world and for a folder or LMDB of
    images without captions. A dependency of the stage."""
    fingerprint: str
    """The raw folder's fingerprint.json, by `pedalign fingerprint`; data/nothing for the world. A
    dependency of the stage."""
    files: str = "*.json"
    """Which files, if `annotation` is a folder."""
    images: str = ""
    """Folder inside the root that the annotation's paths start from, such as imgs; of `lmdb` the
    database in it, a folder with data.mdb or a file."""
    shard_rows: Positive
    """Largest number of rows in a shard. About 64 to 128 MB: 8192 at 10 kB a picture."""
    min_side: Positive
    """Shortest side of a usable picture, in pixels."""
    max_side: Positive
    """Longest side that is stored, in pixels; a larger picture is reduced."""
    split: SplitParams | None = None
    """How to split a dataset that has no splits; `folder` and `lmdb` only."""
    world: WorldParams | None = None
    """What to draw; the built-in world only."""

    def __post_init__(self) -> None:
        """Check that what is given is used and what is used is given."""
        drawn = self.format in _WORLDS
        if drawn != (self.world is not None):
            raise ValueError("`world` is given for the formats world-*, and only there")
        if drawn and not (self.annotation == self.fingerprint == NOTHING and not self.images):
            raise ValueError(f"a world has annotation and fingerprint {NOTHING}, and no `images`")
        if self.world:
            self._check_world(self.world)
        if not drawn and self.fingerprint == NOTHING:
            raise ValueError("a raw dataset has a fingerprint, by `pedalign fingerprint ROOT`")
        if self.annotation == NOTHING and not drawn and self.format not in _UNANNOTATED:
            raise ValueError("only `folder`, `lmdb` and `market1501` do without an annotation file")
        if self.format == MARKET and self.annotation != NOTHING:
            raise ValueError(f"{MARKET} says all in its file names: annotation is {NOTHING}")
        if self.split and self.format not in _FREE:
            raise ValueError("the other formats have splits of their own; leave `split` out")
        if self.min_side > self.max_side:
            raise ValueError("min_side is not above max_side")

    def _check_world(self, world: WorldParams) -> None:
        if self.format not in _CAPTIONS:
            return
        if not (isinstance(world.people, int) and isinstance(world.images_per_person, int)):
            raise ValueError(f"{self.format} has no splits: one number of people, one of images")
        if self.format == "world-source" and world.images_per_person != 1:
            raise ValueError("in world-source every image is of another person: 1 each")
        if world.captions != _CAPTIONS[self.format]:
            found = f"`captions` of {self.format} is {_CAPTIONS[self.format]}"
            raise ValueError(f"{found}; a choice is to be had in a target of the world only")


@dataclass(frozen=True)
class Dataset:
    """A dataset that has been read and checked, before any of its pictures is decoded."""

    section: IngestDatasetParams
    source: ShardSource
    """What its shards are made from."""
    plan: Plan
    shards: tuple[tuple[str, str], ...]
    """File name and store key of every shard, in uid order."""
    known_as: str
    """The published dataset that it is compared with, or nothing."""


def open_dataset(section: IngestDatasetParams, name: str, plans: Path, workers: int = 2) -> Dataset:
    """Read a dataset's annotation, check it as a whole, and plan its shards.

    Args:
        section: Its parameters.
        name: The dataset's name, part of every uid.
        plans: Folder for the shards' plans; whatever is in it goes.
        workers: Reading threads; no result depends on it.

    Raises:
        PedAlignError: A fault of the dataset as a whole; see `tasks.ingest.plan`.
    """
    root = Path(section.root)
    reader: str = section.format
    place, images = _place(section), section.images
    if section.world:
        draw_world(cast("WorldFormat", section.format), root, section.world)
        reader, file, images = _WORLDS[section.format]
        place = Place(root / images, str(root / file) if file else NOTHING, file)
    else:
        check_fingerprint(root, Path(section.fingerprint))
    database = None
    if section.format == "lmdb":
        database = str(place.root)
        check_inside(root, place.root)
        images = ""  # a row is named by its key alone
    plan = make_plan(
        tqdm(READERS[reader](place), desc=f"read {name}", unit="entry", disable=None),
        name,
        images,
        section.split,
        need_captions=section.format not in _CAPTIONLESS,
        bare=[s for s in SPLITS if s not in section.world.captions] if section.world else (),
    )
    source = ShardSource(name, str(root), str(plans), section.min_side, section.max_side, database)
    _check_some_are_there(plan, source)
    clear_plans(source)
    parts = partition(plan.rows["uid"].to_pylist(), section.shard_rows)
    with ThreadPoolExecutor(workers) as pool:
        shards = tuple(
            (shard, write_plan(source, shard, plan.rows.take(pa.array(numbers)), pool))
            for shard, numbers in tqdm(parts, desc=f"plan {name}", unit="shard", disable=None)
        )
    return Dataset(section, source, plan, shards, _known_as(section.format, place))


def publish_dataset(
    dataset: Dataset, out: Path, store: ShardStore, entries: Sequence[StoreEntry]
) -> IngestReport:
    """Make a folder hold exactly a dataset's shards, side files and manifest, all at once.

    Args:
        dataset: From `open_dataset`.
        out: The folder; what an earlier run left there is replaced, and until then stays whole.
        store: Holds the shards and what was seen of their pictures.
        entries: ``(key, file name, record)`` of every shard, in uid order.

    Returns:
        What was found, which is also ``meta["report"]`` of the manifest.
    """
    evidence = read_evidence([(key, name) for key, name, _ in entries], dataset.source, store)
    usable = evidence.filter(pc.equal(evidence["status"], OK))
    uids, hashes = usable["uid"].to_pylist(), hashes_from_bytes(usable["phash"].to_pylist())
    rows = dataset.plan.rows
    splits = rows["split"].take(pc.index_in(usable["uid"], rows["uid"])).to_pylist()
    report = make_report(
        dataset.source.dataset,
        dataset.section.format,
        dataset.known_as,
        dataset.plan,
        Manifest("images", tuple(record for _, _, record in entries)).counts,
        Counter(usable["copied"].drop_null().to_pylist()),
        splits_shared(uids, hashes, splits),
    )
    meta = {
        "format": dataset.section.format,
        "drawn": dataset.section.world is not None,
        "report": report.to_json(),
    }
    for left in out.parent.glob(f".{out.name}.*.tmp"):  # by a run that was killed here
        shutil.rmtree(left)
    partial = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    store.publish(partial, "images", entries, meta)
    write_hashes(partial, uids, hashes)
    _carry_truth(Path(dataset.source.root), partial, dataset.plan)
    if dataset.section.format == "sda":
        write_folder(
            partial / ANNOTATED_FOLDER,
            (_annotated(dataset.plan, store.path(key)) for key, _, _ in entries),
            "annotated",
            {"format": "sda"},
            names=[name for _, name, _ in entries],
        )
    if out.exists():
        # First: a folder with a manifest counts as whole.
        (out / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(out)
    partial.replace(out)
    clear_plans(dataset.source)
    log.info(report.summary())
    return report


def ingest_dataset(
    section: IngestDatasetParams, out: Path, name: str | None = None, workers: int = 2
) -> IngestReport:
    """Ingest one dataset here and now, without a store that outlives the call.

    Args:
        section: Its parameters.
        out: Folder to write; what an earlier run left there is replaced.
        name: The dataset's name, part of every uid; the last part of ``out`` by default.
        workers: Threads, each at a shard of its own; no result depends on it.

    Returns:
        What was found; see `publish_dataset`.

    Raises:
        PedAlignError: A fault of the dataset as a whole; see `tasks.ingest.plan`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".ingest-", dir=out.parent) as scratch:
        store = ShardStore(Path(scratch) / "shards")
        dataset = open_dataset(section, name or out.name, Path(scratch) / "plans", workers)

        def have(shard: tuple[str, str]) -> StoreEntry:
            file, key = shard
            table = make_shard(file, dataset.source, store)
            return key, file, store.save(key, file, table, "images")

        with ThreadPoolExecutor(workers) as pool:
            entries = list(pool.map(have, dataset.shards))
        return publish_dataset(dataset, out, store, entries)


def _place(section: IngestDatasetParams) -> Place:
    return Place(Path(section.root) / section.images, section.annotation, section.files)


_PREFIXES = {"cuhk": "cuhk-pedes", "icfg": "icfg-pedes", "rstp": "rstpreid"}


def _known_as(form: str, place: Place) -> str:
    """Name the published dataset to compare with: the format, or what its files are called."""
    if form != "finetune":
        return form
    found = {_PREFIXES.get(file.name[:4].lower(), "") for file in annotation_files(place)}
    return found.pop() if len(found) == 1 else ""


def _check_some_are_there(plan: Plan, source: ShardSource) -> None:
    """Stop before reading half a million files that are somewhere else, or that are no pictures."""
    paths = plan.rows.filter(pc.is_null(plan.rows["error"]))["source_path"]
    probes = np.unique(np.linspace(0, len(paths) - 1, min(_PROBES, len(paths))).astype(int))
    missing: list[str] = []
    there: list[str] = []
    with source.pictures() as pictures:
        for number in probes.tolist():
            path = paths[number].as_py()
            try:
                pictures.find(path)
                there.append(path)
            except ImageError as error:
                (missing if error.reason == "missing" else there).append(path)
        if 2 * len(missing) <= len(probes):
            if isinstance(pictures, LmdbPictures):
                pictures.check_values(there)
            return
    where = "under the KEY" if source.lmdb else "at root/images/PATH, with the PATH"
    raise PedAlignError(
        f"{source.dataset}: {len(missing)} of {len(probes)} images looked for are not there, such "
        f"as {missing[0]}",
        f"an image lies {where} of its entry",
        "correct `root` or `images` in params.yaml, or unpack the images",
    )


def _annotated(plan: Plan, shard: Path) -> pa.Table:
    """Put the regions of an SDA release beside one shard of its pictures."""
    # Imported here: looking up phrases loads spaCy, and only SDA has phrases.
    from tasks.sda import from_sda_list

    done = pq.read_table(shard, columns=["uid", "status", "error"])
    told = plan.rows.filter(pc.is_in(plan.rows["uid"], done["uid"].combine_chunks()))
    regions = dict(zip(told["uid"].to_pylist(), told["regions"].to_pylist(), strict=True))
    rows = done.to_pylist()
    usable = [json.loads(regions[row["uid"]]) for row in rows if row["status"] == OK]
    parts = iter(from_sda_list(usable))
    nothing: dict[str, Any] = {"caption": "", "phrases": [], "regions": [], "rejected": []}
    for row in rows:
        row |= _sorted_out(next(parts)) if row["status"] == OK else nothing
    return pa.Table.from_pylist(rows, schema=ANNOTATED)


def _sorted_out(parts: dict[str, Any]) -> dict[str, Any]:
    """Put the regions that are none where refused boxes stand."""
    sound = [_sound(region["box"]) for region in parts["regions"]]
    both = list(zip(parts["regions"], sound, strict=True))
    return parts | {
        "regions": [region for region, fine in both if fine],
        "rejected": [region | {"reason": "degenerate"} for region, fine in both if not fine],
    }


def _sound(box: list[float]) -> bool:
    """Whether a box has an area and its middle lies in the picture."""
    cx, cy, w, h = box
    return 0 <= cx <= 1 and 0 <= cy <= 1 and 0 < w <= 1 and 0 < h <= 1


def _carry_truth(root: Path, out: Path, plan: Plan) -> None:
    """Copy a raw folder's truth, by uid, for evaluation, reports and tests."""
    if not (root / TRUTH).exists():
        return
    names = plan.rows.select(["source_path", "uid"])
    truth = pq.read_table(root / TRUTH)
    joined = truth.take(pc.index_in(names["source_path"], truth["source_path"]).drop_null())
    kept = names.filter(pc.is_in(names["source_path"], truth["source_path"].combine_chunks()))
    table = joined.add_column(0, pa.field("uid", pa.string()), kept["uid"]).sort_by("uid")
    pq.write_table(table, out / TRUTH, compression="zstd")
