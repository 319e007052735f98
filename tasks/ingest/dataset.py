"""One raw dataset to shards: read the entries, check them, then the pictures shard by shard.

    report = ingest_dataset(section, Path("data/ingested/cuhk-pedes"))

Beside the shards lie ``phash.parquet`` (perceptual hashes, `tasks.ingest.crossing`),
``annotated/`` for an SDA release, which so enters the pipeline where annotation ends, and
``truth.parquet`` where the raw folder has one: for evaluation, reports and tests only.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from tasks.duplicates import hash_thumbnails
from tasks.errors import PedAlignError
from tasks.images import ImageError
from tasks.ingest.crossing import splits_shared, write_hashes
from tasks.ingest.findings import IngestReport, make_report
from tasks.ingest.picture import Picture, prepare
from tasks.ingest.plan import Plan, SplitParams, make_plan
from tasks.ingest.raw import RawFolder, check_fingerprint
from tasks.ingest.readers import READERS, Place, annotation_files
from tasks.ingest.worlds import WorldFormat, WorldParams, draw_world
from tasks.inputs import NOTHING
from tasks.params import Positive, params
from tasks.schemas import ANNOTATED, OK, REJECTED, conform
from tasks.shards import (
    MANIFEST,
    Manifest,
    ShardRecord,
    atomic_write,
    describe_shard,
    partition,
    read_shard,
    shard_bytes,
    write_folder,
    write_manifest,
)
from tasks.world.dataset import SOURCE_JSON, TARGET_JSON

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

TRUTH = "truth.parquet"
ANNOTATED_FOLDER = "annotated"

_PROBES = 200
_WORLDS = {
    "world-source": ("mals", SOURCE_JSON, ""),
    "world-target": ("cuhk-pedes", TARGET_JSON, "imgs"),
}
"""Format -> the reader, the annotation file and the images' folder of what is drawn."""


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
        "world-source",
        "world-target",
    ]
    """The dataset's layout; see `tasks.ingest.readers`."""
    root: str
    """The raw dataset's folder, a copy or a link. The built-in world is drawn into it."""
    annotation: str
    """Annotation file, or a folder of them; data/nothing for the world and for a folder of images
    without captions. A dependency of the stage."""
    fingerprint: str
    """The raw folder's fingerprint.json, by `pedalign fingerprint`; data/nothing for the world. A
    dependency of the stage."""
    files: str = "*.json"
    """Which files, if `annotation` is a folder."""
    images: str = ""
    """Folder inside the root that the annotation's paths start from, such as imgs."""
    shard_rows: Positive
    """Largest number of rows in a shard. About 64 to 128 MB: 8192 at 10 kB a picture."""
    min_side: Positive
    """Shortest side of a usable picture, in pixels."""
    max_side: Positive
    """Longest side that is stored, in pixels; a larger picture is reduced."""
    split: SplitParams | None = None
    """How to split a dataset that has no splits; `folder` only."""
    world: WorldParams | None = None
    """What to draw; the built-in world only."""

    def __post_init__(self) -> None:
        """Check that what is given is used and what is used is given."""
        drawn = self.format in _WORLDS
        if drawn != (self.world is not None):
            raise ValueError("`world` is given for world-source and world-target, and only there")
        if drawn and not (self.annotation == self.fingerprint == NOTHING and not self.images):
            raise ValueError(f"a world has annotation and fingerprint {NOTHING}, and no `images`")
        if self.format == "world-source" and self.world and self.world.images_per_person != 1:
            raise ValueError("in world-source every image is of another person: 1 each")
        if not drawn and self.fingerprint == NOTHING:
            raise ValueError("a raw dataset has a fingerprint, by `pedalign fingerprint ROOT`")
        if self.annotation == NOTHING and not drawn and self.format != "folder":
            raise ValueError("only `folder` does without an annotation file")
        if self.split and self.format != "folder":
            raise ValueError("the other formats have splits of their own; leave `split` out")
        if self.min_side > self.max_side:
            raise ValueError("min_side is not above max_side")


@dataclass
class _Found:
    """What the pictures of the shards written so far amount to."""

    uids: list[str]
    splits: list[str]
    hashes: list[NDArray[np.uint64]]
    copied: Counter[str]


def ingest_dataset(
    section: IngestDatasetParams, out: Path, name: str | None = None, workers: int = 2
) -> IngestReport:
    """Ingest one dataset.

    Args:
        section: Its parameters.
        out: Folder to write; what an earlier run left there is replaced.
        name: The dataset's name, part of every uid; the last part of ``out`` by default.
        workers: Decoding threads; no result depends on it.

    Returns:
        What was found, which is also ``meta["report"]`` of the manifest.

    Raises:
        PedAlignError: A fault of the dataset as a whole; see `tasks.ingest.plan`.
    """
    name = name or out.name
    root = Path(section.root)
    reader: str = section.format
    place, images = _place(section), section.images
    if section.world:
        draw_world(cast("WorldFormat", section.format), root, section.world)
        reader, file, images = _WORLDS[section.format]
        place = Place(root / images, str(root / file), file)
    else:
        check_fingerprint(root, Path(section.fingerprint))
    plan = make_plan(
        tqdm(READERS[reader](place), desc=f"read {name}", unit="entry", disable=None),
        name,
        images,
        section.split,
        need_captions=section.format != "folder",
    )
    folder = RawFolder(root)
    _check_some_are_there(plan, folder, name)
    _clear(out)
    found = _Found([], [], [], Counter())
    records = []
    parts = partition(plan.rows["uid"].to_pylist(), section.shard_rows)
    with ThreadPoolExecutor(workers) as pool:
        for shard, numbers in tqdm(parts, desc=f"ingest {name}", unit="shard", disable=None):
            rows = plan.rows.take(pa.array(numbers))
            table = _shard(rows, folder, section, name, pool, found)
            data = shard_bytes(table, "images")
            atomic_write(out / shard, data)
            records.append(describe_shard(shard, table, data))
    hashes = np.concatenate(found.hashes) if found.hashes else np.empty((0, 3), np.uint64)
    write_hashes(out, found.uids, hashes)
    _carry_truth(root, out, plan)
    report = make_report(
        name,
        section.format,
        _known_as(section.format, place),
        plan,
        Manifest("images", tuple(records)).counts,
        found.copied,
        splits_shared(found.uids, hashes, found.splits),
    )
    meta = {
        "format": section.format,
        "drawn": section.world is not None,
        "report": report.to_json(),
    }
    if section.format == "sda":
        write_folder(
            out / ANNOTATED_FOLDER,
            (_annotated(plan, out, record) for record in records),
            "annotated",
            {"format": "sda"},
            names=[record.name for record in records],
        )
    write_manifest(out, Manifest("images", tuple(records), meta))
    log.info(report.summary())
    return report


def _place(section: IngestDatasetParams) -> Place:
    return Place(Path(section.root) / section.images, section.annotation, section.files)


_PREFIXES = {"cuhk": "cuhk-pedes", "icfg": "icfg-pedes", "rstp": "rstpreid"}


def _known_as(form: str, place: Place) -> str:
    """Name the published dataset to compare with: the format, or what its files are called."""
    if form != "finetune":
        return form
    found = {_PREFIXES.get(file.name[:4].lower(), "") for file in annotation_files(place)}
    return found.pop() if len(found) == 1 else ""


def _clear(out: Path) -> None:
    """Remove what an earlier run left; the manifest first, since its presence means complete."""
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    for path in out.glob("*.parquet"):
        path.unlink()
    if (out / ANNOTATED_FOLDER).is_dir():
        shutil.rmtree(out / ANNOTATED_FOLDER)


def _check_some_are_there(plan: Plan, folder: RawFolder, name: str) -> None:
    """Stop before reading half a million files that are somewhere else."""
    paths = plan.rows.filter(pc.is_null(plan.rows["error"]))["source_path"]
    probes = np.unique(np.linspace(0, len(paths) - 1, min(_PROBES, len(paths))).astype(int))
    missing = []
    for number in probes.tolist():
        path = paths[number].as_py()
        try:
            folder.find(path)
        except ImageError as error:
            missing += [path] if error.reason == "missing" else []
    if 2 * len(missing) > len(probes):
        raise PedAlignError(
            f"{name}: {len(missing)} of {len(probes)} images looked for are not there, such as "
            f"{missing[0]}",
            "an image lies at root/images/PATH, with the PATH of its entry",
            "correct `root` or `images` in params.yaml, or unpack the images",
        )


def _shard(
    rows: pa.Table,
    folder: RawFolder,
    section: IngestDatasetParams,
    name: str,
    pool: ThreadPoolExecutor,
    found: _Found,
) -> pa.Table:
    """Read the pictures of one shard's rows."""

    def look(path: str, error: str | None) -> Picture | str:
        if error:
            return error
        try:
            return prepare(folder.read(path), section.min_side, section.max_side)
        except ImageError as fault:
            return str(fault)

    # One string column of plain values a row, whatever Arrow's chunks.
    paths, errors = rows["source_path"].to_pylist(), rows["error"].to_pylist()
    looked = list(pool.map(look, paths, errors))
    pictures = [seen if isinstance(seen, Picture) else None for seen in looked]
    usable = [number for number, picture in enumerate(pictures) if picture]
    if usable:
        planes = np.stack([p.thumbnail for p in pictures if p])
        found.hashes.append(hash_thumbnails(planes))
        good = rows.take(pa.array(usable))
        found.uids += good["uid"].to_pylist()
        found.splits += good["split"].to_pylist()
    found.copied.update(p.copied for p in pictures if p and p.copied)
    count = rows.num_rows
    columns = {
        "uid": rows["uid"],
        "dataset": [name] * count,
        "split": rows["split"],
        "person_id": rows["person_id"],
        "camera": rows["camera"],
        "image": pa.array([p.data if p else None for p in pictures], pa.binary()),
        "width": pa.array([p.width if p else 0 for p in pictures], pa.int32()),
        "height": pa.array([p.height if p else 0 for p in pictures], pa.int32()),
        "captions": rows["captions"],
        "labels": rows["labels"],
        "source_path": rows["source_path"],
        "parent_uid": pa.nulls(count, pa.string()),
        "status": [OK if p else REJECTED for p in pictures],
        "error": pa.array([None if p else s for p, s in zip(pictures, looked, strict=True)]),
    }
    return conform(pa.table(columns), "images")


def _annotated(plan: Plan, out: Path, record: ShardRecord) -> pa.Table:
    """Put the regions of an SDA release beside one shard of its pictures."""
    # Imported here: looking up phrases loads spaCy, and only SDA has phrases.
    from tasks.sda import from_sda

    done = read_shard(out, record, ["uid", "status", "error"], verify=False)
    told = plan.rows.filter(pc.is_in(plan.rows["uid"], done["uid"].combine_chunks()))
    regions = dict(zip(told["uid"].to_pylist(), told["regions"].to_pylist(), strict=True))
    rows = []
    for row in done.to_pylist():
        parts: dict[str, Any] = {"caption": "", "phrases": [], "regions": [], "rejected": []}
        if row["status"] == OK:
            parts = from_sda(json.loads(regions[row["uid"]]))
            sound = [_sound(region["box"]) for region in parts["regions"]]
            both = list(zip(parts["regions"], sound, strict=True))
            parts["rejected"] = [r | {"reason": "degenerate"} for r, fine in both if not fine]
            parts["regions"] = [r for r, fine in both if fine]
        rows.append(row | parts)
    return pa.Table.from_pylist(rows, schema=ANNOTATED)


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
