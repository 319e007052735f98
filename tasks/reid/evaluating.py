"""Image-to-image retrieval on a test split: every picture described once, then ranked.

Out: ``metrics.json``, ``cmc.csv`` and ``queries.parquet``, as the stage `evaluate` writes them, for
queries that are pictures. docs/reid.md is the protocol in words.

Shapes: N pictures of a split, Q queries, G gallery pictures, D width of a feature, T first ones.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from models.metrics import chance_recall
from models.reid import PersonEncoder
from models.reid.ranking import PeopleFound, Seen, rank_people
from tasks.augment import plain
from tasks.errors import PedAlignError
from tasks.pictures import Pictures
from tasks.reid.people import People, Roles, check_findable, read_people, roles
from tasks.shards import atomic_write, location, read_manifest

CMC_RANKS = 50
TOP = 10
MEMORY = 512 << 20
"""Bytes for the scores of a chunk of queries where nobody says how many."""

QUERIES = pa.schema(
    [
        pa.field(name, kind, metadata={"meaning": meaning})
        for name, kind, meaning in (
            ("uid", pa.string(), "the picture that is the query"),
            ("caption", pa.string(), "the query in words: who is looked for, seen by which camera"),
            ("person_id", pa.string(), "who is looked for"),
            ("camera", pa.string(), "by which camera the query was taken; null where unknown"),
            ("matches", pa.int32(), "pictures of this person by other cameras in the gallery"),
            ("left_out", pa.int32(), "those by the query's own camera, itself included"),
            ("first_rank", pa.int32(), "rank of the first match from 1; 0 without any"),
            ("ap", pa.float32(), "average precision, 0 to 1"),
            ("inp", pa.float32(), "matches divided by the last one's rank, 0 to 1"),
            ("top10", pa.list_(pa.string()), "uids of the first pictures, best first"),
            ("correct", pa.list_(pa.bool_()), "whether each of them is a match"),
            ("scores", pa.list_(pa.float32()), "the cosine of each of them"),
        )
    ]
)


@dataclass(frozen=True)
class Identification:
    """What an evaluation found."""

    metrics: dict[str, Any]
    """R1, R5, R10, mAP, mINP and ``chance`` in percent; counts; the protocol."""
    cmc: list[float]
    """R@k for k from 1, in percent."""
    queries: pa.Table
    """Schema `QUERIES`."""

    def save(self, folder: Path) -> None:
        """Write metrics.json, cmc.csv and queries.parquet."""
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.queries, folder / "queries.parquet", row_group_size=1024)
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(["rank", "recall"])
        writer.writerows([at, round(value, 4)] for at, value in enumerate(self.cmc, start=1))
        atomic_write(folder / "cmc.csv", sink.getvalue().encode())
        text = json.dumps(self.metrics, indent=1) + "\n"
        atomic_write(folder / "metrics.json", text.encode())


def evaluate_reid(
    images: str,
    checkpoint: Path,
    device: torch.device,
    *,
    mirror: bool,
    split: str = "test",
    batch: int = 64,
    memory: int = MEMORY,
) -> Identification:
    """Evaluate a person encoder on a dataset.

    Args:
        images: Ingested shards.
        checkpoint: What the stage `reid` wrote.
        device: Where to compute.
        mirror: Whether a feature is that of a picture and its mirror image together.
        split: Which part of the dataset.
        batch: Pictures a pass; changes results by float noise only.
        memory: Bytes for the scores of a chunk of queries.

    Raises:
        PedAlignError: Nobody to look for, or no such checkpoint.
    """
    try:
        model = PersonEncoder.from_pretrained(checkpoint).to(device)
    except ValueError as error:
        raise PedAlignError(
            f"{checkpoint}: no person encoder could be loaded ({error})",
            "the stage reid writes config.json and model.safetensors",
            "run dvc repro reid",
        ) from error
    folder = location(images)
    people, pictures = read_people(folder, split)
    form = str(read_manifest(folder).meta.get("format"))
    check_findable(people, roles(people, form), split)
    return identify(
        model, people, pictures, form, device, mirror=mirror, batch=batch, memory=memory
    )


@torch.inference_mode()
def identify(
    model: PersonEncoder,
    people: People,
    pictures: Pictures,
    form: str,
    device: torch.device,
    *,
    mirror: bool,
    batch: int = 64,
    memory: int = MEMORY,
    progress: Callable[[float], None] | None = None,
) -> Identification:
    """Evaluate a loaded model, in evaluation mode; see `evaluate_reid`.

    Args:
        model: A person encoder.
        people: A test split.
        pictures: Its pictures.
        form: The dataset's format.
        device: Where the model is.
        mirror: See `evaluate_reid`, as for the next two.
        batch: Pictures a pass.
        memory: Bytes for scores.
        progress: Called with the finished share.
    """
    part = roles(people, form)
    needed = np.union1d(part.query, part.gallery)
    feature_ND = torch.zeros(len(people), model.config.width, device=device)
    for start in range(0, len(needed), batch):
        rows = needed[start : start + batch]
        image = plain(pictures.read(rows), model.config.image_size).to(device)
        feature = model.describe(image)
        if mirror:
            feature = F.normalize(feature + model.describe(image.flip(-1)), dim=-1)
        feature_ND[torch.from_numpy(rows).to(device)] = feature
        if progress is not None:
            progress(min(1.0, (start + batch) / len(needed)))
    query, gallery = (_seen(people, feature_ND, rows) for rows in (part.query, part.gallery))
    top = min(TOP, len(gallery))
    found = rank_people(query, gallery, top=top, memory=memory)
    return Identification(
        metrics=_metrics(found, people, part, mirror=mirror),
        cmc=found.metrics.cmc(min(CMC_RANKS, len(gallery))).tolist(),
        queries=_rows(found, people, part),
    )


def _seen(people: People, feature_ND: Tensor, rows: np.ndarray[Any, Any]) -> Seen:
    device = feature_ND.device
    return Seen(
        feature_ND[torch.from_numpy(rows).to(device)],
        torch.from_numpy(people.person[rows]).to(device),
        torch.from_numpy(people.camera[rows]).to(device),
    )


def _metrics(found: PeopleFound, people: People, part: Roles, *, mirror: bool) -> dict[str, Any]:
    means = found.metrics.means()
    counts = {name: int(means.pop(name)) for name in ("queries", "without_match")}
    kept_Q = len(part.gallery) - found.junk_Q
    random = chance_recall(found.metrics.matches_Q, kept_Q)
    known = people.places.drop_null()
    return {
        **{name: round(value, 4) for name, value in means.items()},
        **counts,
        "gallery": len(part.gallery),
        "people": len(np.unique(people.person[part.query])),
        "cameras": len(known.unique()),
        "camera_unknown": people.places.null_count,
        **part.counts,
        "left_out_a_query": round(float(found.junk_Q.double().mean()), 4),
        "chance": {name: round(value, 4) for name, value in random.items()},
        "reranked": False,
        "protocol": part.protocol,
        "mirror": mirror,
    }


def _rows(found: PeopleFound, people: People, part: Roles) -> pa.Table:
    rows = pa.array(part.query)
    there_QT = found.top_QT >= 0
    flat = found.top_QT[there_QT].numpy()
    lengths = there_QT.sum(1).numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    asked = np.repeat(people.person[part.query], lengths)
    top = part.gallery[flat]

    def lists(values: Any) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, values)

    metrics, names, cameras = found.metrics, people.names.take(rows), people.places.take(rows)
    columns = (
        people.uids.take(rows),
        pa.array(map(_said, names.to_pylist(), cameras.to_pylist()), pa.string()),
        names,
        cameras,
        metrics.matches_Q.numpy(),
        found.junk_Q.numpy(),
        metrics.first_rank_Q.numpy(),
        metrics.average_precision_Q.numpy(),
        metrics.inverse_negative_penalty_Q.numpy(),
        lists(people.uids.take(pa.array(top))),
        lists(pa.array(people.person[top] == asked)),
        lists(pa.array(found.top_score_QT[there_QT].float().numpy())),
    )
    arrays = [
        (column if isinstance(column, pa.Array) else pa.array(column)).cast(field.type)
        for column, field in zip(columns, QUERIES, strict=True)
    ]
    return pa.table(arrays, schema=QUERIES)


def _said(name: str, camera: str | None) -> str:
    """A query in words, for rank lists."""
    return f"{name}, seen by {f'camera {camera}' if camera else 'a camera that is not known'}"
