"""Search a gallery with a sentence, exactly and at once.

    encoder = RetrievalEncoder.load(model_folder)
    build_index(encoder, images, out)          # a folder of images, or of this project's shards
    index = SearchIndex.open(out)
    hits = search(index, encoder, "a woman in a red coat with a white bag", k=10, rerank=True)
    hits_sheet(index, text, hits).save("answers.png")

What is unusual: no approximate index. Inner products of unit vectors over a memory-mapped array
(faiss) answer within hundredths of a second at 100,000 images, opening costs nothing, and nobody
has to wonder whether a person was missed by the index. Reranking then lets the fusion encoder,
where the model has one, look at the sentence and each of the first images together.

Shapes: N images, Q queries, E width of a feature, K answers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
import pyarrow as pa

from tasks.errors import PedAlignError
from tasks.gallery import FORMAT, INDEX_FILE, prepare, read_file
from tasks.images import ImageError, decode
from tasks.lookup import fetch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from tasks.encoder import Encoder

HITS = pa.schema(
    [
        pa.field("rank", pa.int32(), metadata={"meaning": "place in the answer, from 1"}),
        pa.field("uid", pa.string(), metadata={"meaning": "the image's stable name"}),
        pa.field("path", pa.string(), metadata={"meaning": "path inside the searched folder"}),
        pa.field("score", pa.float32(), metadata={"meaning": "cosine of sentence and image"}),
        pa.field(
            "match",
            pa.float32(),
            metadata={"meaning": "matching logit of the fusion encoder; null without reranking"},
        ),
    ]
)


@dataclass(frozen=True)
class SearchIndex:
    """An opened index. Nothing of it is in memory until it is compared with a query."""

    folder: Path
    images: Path
    model: str
    shards: bool
    vectors: NDArray[np.float32]
    rows: pa.Table

    @classmethod
    def open(cls, folder: Path, images: Path | None = None) -> SearchIndex:
        """Open what `build_index` wrote.

        Args:
            folder: The index.
            images: Where the images are now, if they were moved since.

        Raises:
            PedAlignError: There is no finished index, or one of another format.
        """
        try:
            body = json.loads((folder / INDEX_FILE).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            body = {}
        if body.get("format") != FORMAT:
            raise PedAlignError(
                f"{folder}: no finished index of format {FORMAT}",
                f"an index is complete when its {INDEX_FILE} is there",
                "build it: pedalign index",
            )
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        with pa.memory_map(str(folder / "rows.arrow")) as source:
            rows = pa.ipc.open_file(source).read_all()
        return cls(
            folder, images or Path(body["images"]), body["model"], body["shards"], vectors, rows
        )

    def nearest(
        self,
        query_QE: NDArray[np.float32],
        k: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The images most like each query, exactly.

        Args:
            query_QE: Unit vectors.
            k: Answers wanted; fewer come where the index is smaller.

        Returns:
            Cosines (Q, K), best first, and row numbers (Q, K).
        """
        k = min(k, len(self.vectors))
        query = np.ascontiguousarray(query_QE, dtype=np.float32)
        scores, rows = faiss.knn(query, self.vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
        return scores, rows

    def read(self, uids: Sequence[str], paths: Sequence[str]) -> list[bytes | None]:
        """The encoded images of some rows; None for one that is no longer there."""
        if self.shards:
            rows = fetch(self.images, uids, ["image"])
            return [rows[uid]["image"] if uid in rows else None for uid in uids]
        return [read_file(self.images / path) for path in paths]


def search(
    index: SearchIndex,
    encoder: Encoder,
    text: str,
    k: int = 10,
    *,
    rerank: bool = False,
    candidates: int = 64,
) -> pa.Table:
    """Find the images that a sentence describes best.

    Args:
        index: An opened index.
        encoder: The model that built it.
        text: The sentence.
        k: Answers wanted.
        rerank: Let the fusion encoder judge the first ``candidates`` and order them by its logit,
            as the paper does; slower and more accurate.
        candidates: Images to judge.

    Returns:
        A table of `HITS`, best first.

    Raises:
        PedAlignError: The sentence is empty, ``k`` is below 1, the index belongs to another
            model, or this one has no fusion encoder and should rerank.
    """
    if not text.strip():
        raise PedAlignError(
            f"the query is {text!r}", "a query is a sentence", "describe the person's clothes"
        )
    if k < 1:
        raise PedAlignError(f"k is {k}", "at least one answer is asked for", "raise it")
    if encoder.revision != index.model:
        raise PedAlignError(
            f"{index.folder}: made by model {index.model[:12]}, asked by {encoder.revision[:12]}",
            "sentences and images are compared in the space of one model",
            "build the index again with this model, or search with the other one",
        )
    if rerank and not encoder.fuses:
        raise PedAlignError(
            f"{index.folder}: its model is a dual encoder, which was asked to rerank",
            "only a model with a fusion encoder, such as MRA, looks at the first images again",
            "search without --rerank: the images are ranked by the cosine",
        )
    wanted = max(k, candidates) if rerank else k
    scores, places = index.nearest(encoder.encode_texts([text]), wanted)
    found = index.rows.take(pa.array(places[0]))
    uids, paths = found["uid"].to_pylist(), found["path"].to_pylist()
    order = np.arange(len(uids))
    match: NDArray[np.float32] | None = None
    if rerank:
        match = _judge(index, encoder, text, uids, paths)
        # A stable sort: images that cannot be judged any more (-inf) keep their cosine's order.
        order = np.argsort(-match, kind="stable")
    order = order[:k]
    return pa.table(
        [
            pa.array(range(1, len(order) + 1), pa.int32()),
            [uids[i] for i in order],
            [paths[i] for i in order],
            pa.array(scores[0][order], pa.float32()),
            pa.nulls(len(order), pa.float32())
            if match is None
            else pa.array(
                [float(m) if np.isfinite(m) else None for m in match[order]], pa.float32()
            ),
        ],
        schema=HITS,
    )


def _judge(
    index: SearchIndex, encoder: Encoder, text: str, uids: Sequence[str], paths: Sequence[str]
) -> NDArray[np.float32]:
    prepared = [prepare(data, encoder.size) for data in index.read(uids, paths)]
    good = [n for n, pixels in enumerate(prepared) if not isinstance(pixels, str)]
    logits = np.full(len(uids), -np.inf, dtype=np.float32)
    if good:
        logits[good] = encoder.match(text, np.stack([np.asarray(prepared[n]) for n in good]))
    return logits


def hits_sheet(index: SearchIndex, text: str, hits: pa.Table) -> Image.Image:
    """Draw the answers side by side under their ranks and scores."""
    from tasks.report.sheets import RankedImage, RankList, rank_sheet

    rows = hits.to_pylist()
    datas = index.read([r["uid"] for r in rows], [r["path"] for r in rows])
    found = []
    for row, data in zip(rows, datas, strict=True):
        try:
            image = decode(data) if data is not None else None
        except ImageError:
            image = None
        judged = row["match"] is not None
        note = f"{row['match']:+.2f}" if judged else f"{row['score']:.3f}"
        found.append(RankedImage(image, None, note))
    detail = f"{len(index.rows):,} images searched"
    return rank_sheet([RankList(text, detail, found)], with_truth=False)
