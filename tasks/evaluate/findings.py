"""What an evaluation reports: metrics.json, cmc.csv, queries.parquet, queries.csv, protocol.json.

Shapes: Q queries, G gallery images.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.metrics import QueryMetrics, chance_recall
from models.ranking import Ranked
from tasks.batches import Pairs
from tasks.evaluate.protocol import PROTOCOL
from tasks.shards import atomic_file, atomic_write

CMC_RANKS = 50
FIRST = 10
"""Pictures of a query that queries.csv names."""
_COLUMNS = {"reranked": "recall", "itc": "recall_itc", "matching": "recall_matching"}
"""Column of cmc.csv by ranking."""

QUERIES = pa.schema(
    [
        pa.field(name, kind, metadata={"meaning": meaning})
        for name, kind, meaning in (
            ("uid", pa.string(), "uid of the picture that the query describes"),
            ("caption", pa.string(), "the query"),
            ("person_id", pa.string(), "who is looked for"),
            ("matches", pa.int32(), "pictures of this person in the gallery"),
            ("first_rank", pa.int32(), "rank of the first match from 1; 0 without any"),
            ("ap", pa.float32(), "average precision, 0 to 1"),
            ("inp", pa.float32(), "matches divided by the last one's rank, 0 to 1"),
            ("itc_first_rank", pa.int32(), "first_rank before re-ranking"),
            ("itc_ap", pa.float32(), "ap before re-ranking"),
            ("matching_first_rank", pa.int32(), "first_rank by the matching logits alone"),
            ("matching_ap", pa.float32(), "ap by the matching logits alone"),
            ("top10", pa.list_(pa.string()), "uids of the first pictures, best first"),
            ("correct", pa.list_(pa.bool_()), "whether each of them is a match"),
            ("scores", pa.list_(pa.float32()), "the score of each of them"),
        )
    ]
)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    metrics: dict[str, Any]
    """Re-ranked R1, R5, R10, mAP, mINP in percent; the same under ``itc`` (features alone) and
    ``matching`` (logits alone); ``chance``; counts; how scores were mixed, in what precision.
    Without re-ranking the whole is ``itc``'s, ``reranked`` is false and nothing is said of
    logits."""
    cmc: dict[str, list[float]]
    """R@k for k from 1, in percent, by ranking; ``matching`` only where pairs were judged."""
    queries: pa.Table
    """Schema `QUERIES`; what logits alone would give is null where there are none."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """How the figures came about (`tasks.evaluate.protocol`); empty of a model without a folder."""

    def save(self, folder: Path) -> None:
        """Write metrics.json, cmc.csv, queries.parquet, queries.csv and protocol.json."""
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.queries, folder / "queries.parquet", row_group_size=1024)
        write_queries(folder / "queries.csv", self.queries)
        told = json.dumps(self.protocol, indent=1, ensure_ascii=False) + "\n"
        atomic_write(folder / PROTOCOL, told.encode())
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        names = [name for name in _COLUMNS if name in self.cmc]
        writer.writerow(["rank", *(_COLUMNS[name] for name in names)])
        curves = zip(*(self.cmc[name] for name in names), strict=True)
        for place, values in enumerate(curves, start=1):
            writer.writerow([place, *(round(value, 4) for value in values)])
        atomic_write(folder / "cmc.csv", sink.getvalue().encode())
        text = json.dumps(self.metrics, indent=1) + "\n"
        atomic_write(folder / "metrics.json", text.encode())


def write_queries(path: Path, queries: pa.Table) -> None:
    """Write the queries for a spreadsheet or another program: CSV as RFC 4180, UTF-8.

    Columns: ``uid,caption,person_id,first_rank,ap,inp,top1..top10``, the first ten as uids, best
    first. Texts are in double quotes and quotes doubled, so a caption may hold commas, quotes and
    line ends; what there is not (the tenth of a gallery of nine) is empty. Written batch by batch.

    Args:
        path: The file.
        queries: Schema `QUERIES`.
    """
    plain = ["uid", "caption", "person_id", "first_rank", "ap", "inp"]
    tops = [f"top{place}" for place in range(1, FIRST + 1)]
    fields = [QUERIES.field(name).remove_metadata() for name in plain]
    schema = pa.schema([*fields, *(pa.field(name, pa.string()) for name in tops)])
    with atomic_file(path) as sink, pa_csv.CSVWriter(sink, schema) as writer:
        for batch in queries.select([*plain, "top10"]).to_batches(max_chunksize=1024):
            first = pc.list_slice(batch["top10"], 0, FIRST, return_fixed_size_list=True)
            flat = first.flatten()
            columns = [flat.take(pa.array(np.arange(n, len(flat), FIRST))) for n in range(FIRST)]
            arrays = [*(batch[name] for name in plain), *columns]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def summed_up(
    pairs: Pairs, found: Ranked, gallery_ids: Tensor, notes: dict[str, Any]
) -> Evaluation:
    """Turn a ranking into what is written.

    Args:
        pairs: The queries.
        found: Their ranking.
        gallery_ids: Person of each gallery image, (G,).
        notes: What metrics.json holds besides: how scores were mixed, in what precision.
    """
    gallery = len(gallery_ids)
    rankings = {"reranked": found.reranked, "itc": found.itc}
    if found.matching is not None:
        rankings["matching"] = found.matching
    length = min(CMC_RANKS, gallery)
    return Evaluation(
        metrics=_metrics(found, gallery) | notes,
        cmc={name: metrics.cmc(length).tolist() for name, metrics in rankings.items()},
        queries=_query_rows(pairs, found, gallery_ids),
    )


def _metrics(found: Ranked, gallery: int) -> dict[str, Any]:
    counts = ("queries", "without_match")

    def means(metrics: QueryMetrics) -> dict[str, float]:
        return {k: round(v, 4) for k, v in metrics.means().items() if k not in counts}

    matches_Q = found.itc.matches_Q
    random = {
        name: round(v, 4)
        for name, v in chance_recall(matches_Q, torch.full_like(matches_Q, gallery)).items()
    }
    counted = found.reranked.means()
    return {
        **means(found.reranked),
        **{name: int(counted[name]) for name in counts},
        "gallery": gallery,
        "itc": means(found.itc),
        **({} if found.matching is None else {"matching": means(found.matching)}),
        "chance": random,
    }


def _query_rows(pairs: Pairs, found: Ranked, gallery_ids: Tensor) -> pa.Table:
    order, metrics, matching = found.top_QT, found.reranked, found.matching
    correct = gallery_ids[order] == torch.from_numpy(pairs.person)[:, None]
    nothing = pa.nulls(len(order))
    offsets = pa.array(np.arange(len(order) + 1) * order.shape[1], pa.int32())

    def lists(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, values)

    columns = {
        "uid": pairs.uids.take(pa.array(pairs.image)),
        "caption": pairs.caption,
        "person_id": pairs.names.take(pa.array(pairs.image)),
        "matches": metrics.matches_Q.numpy(),
        "first_rank": metrics.first_rank_Q.numpy(),
        "ap": metrics.average_precision_Q.numpy(),
        "inp": metrics.inverse_negative_penalty_Q.numpy(),
        "itc_first_rank": found.itc.first_rank_Q.numpy(),
        "itc_ap": found.itc.average_precision_Q.numpy(),
        "matching_first_rank": nothing if matching is None else matching.first_rank_Q.numpy(),
        "matching_ap": nothing if matching is None else matching.average_precision_Q.numpy(),
        "top10": lists(pairs.uids.take(pa.array(order.flatten().numpy()))),
        "correct": lists(pa.array(correct.flatten().numpy())),
        "scores": lists(pa.array(found.top_score_QT.flatten().float().numpy())),
    }
    arrays = [
        columns[field.name].cast(field.type)
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name]).cast(field.type)
        for field in QUERIES
    ]
    return pa.table(arrays, schema=QUERIES)
