"""Stage ``evaluate``: text-to-image retrieval on a dataset's test split, any checkpoint on any.

Every caption of the split is a query, every picture of it a gallery image (also one without a
caption), and a picture of the same person is a match. The gallery is ranked by the cosine of
features (ITC); the first ``top_k`` are ranked again by the fusion encoder, and both rankings are
reported. Out: ``metrics.json``, ``cmc.csv`` and ``queries.parquet`` (a row a query, which the
report's rank lists are made of).

What is unusual: a gallery image's keys and values for the fusion layers are computed once, not
once a query; a text's self-attention likewise. Re-ranking goes through the gallery in slices, so
that memory is bounded by ``SLICE`` images whatever the gallery's size.

Shapes: Q queries, G gallery images, K candidates a query, R pairs, L word pieces, E feature width.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm import tqdm

from models.metrics import QueryMetrics, fill_candidates, fuse_scores, query_metrics
from models.mra import MRA
from tasks.augment import plain
from tasks.batches import Pairs, read_pairs
from tasks.checkpoints import load_model
from tasks.params import Positive, params
from tasks.pictures import Pictures
from tasks.shards import atomic_write
from tasks.tokens import Cleaning, Words, load_tokenizer
from tasks.training import NonNegativeFloat

TOP = 10
CMC_RANKS = 50
SLICE = 256
"""Gallery images whose keys and values are held at once while re-ranking."""

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
            ("top10", pa.list_(pa.string()), "uids of the first pictures, best first"),
            ("correct", pa.list_(pa.bool_()), "whether each of them is a match"),
            ("scores", pa.list_(pa.float32()), "the score of each of them"),
        )
    ]
)


@params
class EvaluateParams:
    """Section ``evaluate`` of params.yaml."""

    top_k: Positive
    """Images a query that the fusion encoder looks at again; no more than the gallery has."""
    flip: bool
    """Whether to average over the picture and its mirror image."""
    similarity_weight: NonNegativeFloat
    """Weight of the scaled cosine beside the scaled matching score; 0.002 as released."""
    processes: Positive
    """How many processes of the released evaluation to imitate: their filler rows raise the
    cosine's weight (four very likely gave the published numbers). 1 mixes as written."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    metrics: dict[str, Any]
    """Re-ranked R1, R5, R10, mAP, mINP in percent; the same under ``itc``; ``chance``; counts."""
    cmc: dict[str, list[float]]
    """R@k for k from 1, in percent, by ranking."""
    queries: pa.Table
    """Schema `QUERIES`."""

    def save(self, folder: Path) -> None:
        """Write metrics.json, cmc.csv and queries.parquet."""
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.queries, folder / "queries.parquet", row_group_size=1024)
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(["rank", "recall", "recall_itc"])
        for rank, pair in enumerate(zip(self.cmc["reranked"], self.cmc["itc"], strict=True), 1):
            writer.writerow([rank, *(round(value, 4) for value in pair)])
        atomic_write(folder / "cmc.csv", sink.getvalue().encode())
        text = json.dumps(self.metrics, indent=1) + "\n"
        atomic_write(folder / "metrics.json", text.encode())


@dataclass(frozen=True)
class Embedded:
    """A split's pictures and captions as the model sees them, on the CPU."""

    image_GPD: list[Tensor]
    """Tokens of the pictures, one tensor for each of (plain, flipped)."""
    image_GE: Tensor
    """Features, averaged over plain and flipped; not normalised again, as released."""
    text_QLD: Tensor
    text_mask_QL: Tensor
    text_QE: Tensor


def evaluate(
    images: Path,
    checkpoint: Path,
    section: EvaluateParams,
    device: torch.device,
    *,
    split: str = "test",
    cleaning: Cleaning = "raw",
    batch: int = 64,
    progress: Callable[[float, str], None] | None = None,
) -> Evaluation:
    """Evaluate a checkpoint on a dataset.

    Args:
        images: Ingested shards.
        checkpoint: A retrieval checkpoint with its tokenizer.
        section: How.
        device: Where to compute.
        split: Which part of the dataset.
        cleaning: Clean-up of this dataset's captions.
        batch: Pictures or captions a pass; changes results by float noise only.
        progress: Called with the finished share and what was just done.

    Raises:
        PedAlignError: No pictures with captions in that split, or no such checkpoint.
    """
    model = load_model(checkpoint).to(device).eval()
    words = Words(load_tokenizer(checkpoint), model.config.max_tokens, cleaning)
    pairs, pictures = read_pairs(images, split=split, identity="person", bare=True)
    return evaluate_model(
        model, words, pairs, pictures, section, device, batch=batch, progress=progress
    )


@torch.inference_mode()
def evaluate_model(
    model: MRA,
    words: Words,
    pairs: Pairs,
    pictures: Pictures,
    section: EvaluateParams,
    device: torch.device,
    *,
    batch: int = 64,
    progress: Callable[[float, str], None] | None = None,
) -> Evaluation:
    """Evaluate a loaded model; see `evaluate`."""
    say = progress or _silent
    embedded = embed(model, words, pairs, pictures, device, flip=section.flip, batch=batch)
    say(0.3, "embedded")
    similarity_QG = embedded.text_QE @ embedded.image_GE.T
    candidates_QK = similarity_QG.topk(min(section.top_k, len(pictures)), dim=1).indices
    matching = []
    for number, image_GPD in enumerate(embedded.image_GPD, start=1):
        logits_QK = rerank(model, embedded, image_GPD, candidates_QK, device, batch=batch)
        matching.append(fill_candidates(logits_QK, candidates_QK, len(pictures)))
        say(0.3 + 0.6 * number / len(embedded.image_GPD), "re-ranked")
    score_QG = fuse_scores(
        similarity_QG,
        matching,
        similarity_weight=section.similarity_weight,
        processes=section.processes,
    )
    gallery_ids = gallery_people(pairs)
    query_ids = torch.from_numpy(pairs.person)
    rankings = {
        "reranked": query_metrics(score_QG, query_ids, gallery_ids),
        "itc": query_metrics(similarity_QG, query_ids, gallery_ids),
    }
    say(1.0, "ranked")
    return Evaluation(
        metrics=_metrics(rankings, len(pictures)),
        cmc={name: m.cmc(min(CMC_RANKS, len(pictures))).tolist() for name, m in rankings.items()},
        queries=_query_rows(pairs, rankings, score_QG, gallery_ids),
    )


@torch.inference_mode()
def itc_rank1(
    model: MRA,
    words: Words,
    pairs: Pairs,
    pictures: Pictures,
    device: torch.device,
    *,
    batch: int = 64,
) -> float:
    """R@1 in percent by features alone: the quick score that model selection uses."""
    embedded = embed(model, words, pairs, pictures, device, flip=False, batch=batch, tokens=False)
    found = query_metrics(
        embedded.text_QE @ embedded.image_GE.T,
        torch.from_numpy(pairs.person),
        gallery_people(pairs),
    )
    return found.means()["R1"]


def embed(
    model: MRA,
    words: Words,
    pairs: Pairs,
    pictures: Pictures,
    device: torch.device,
    *,
    flip: bool,
    batch: int,
    tokens: bool = True,
) -> Embedded:
    """Encode every picture and every caption once.

    Args:
        model: In evaluation mode, on ``device``.
        words: Its tokenizer.
        pairs: Whose captions are the queries.
        pictures: The gallery.
        device: Where to compute.
        flip: Whether to encode mirror images too.
        batch: Pictures or captions a pass.
        tokens: Whether to keep tokens, which re-ranking needs, or features only.
    """
    size = model.config.image_size
    views: list[list[Tensor]] = [[], []] if flip else [[]]
    features: list[Tensor] = []
    for start in range(0, len(pictures), batch):
        rows = np.arange(start, min(start + batch, len(pictures)))
        image = plain(pictures.read(rows), size).to(device)
        each = []
        for view, kept in enumerate(views):
            tokens_BPD, feature_BE = model.encode_image(image.flip(-1) if view else image)
            each.append(feature_BE)
            if tokens:
                kept.append(tokens_BPD.cpu())
        features.append(torch.stack(each).mean(0).cpu())
    ids, mask = words.encode(pairs.caption.to_pylist())
    # Texts of similar length share a pass, so that hardly a pad is computed.
    lengths = mask.sum(1)
    order = np.argsort(lengths, kind="stable")
    width = model.config.text_dim
    longest = words.length if model.config.reading.pool_pads else int(lengths.max())
    text_QLD = torch.zeros(len(ids) if tokens else 0, longest, width)
    text_QE = torch.zeros(len(ids), model.config.embed_dim)
    for start in range(0, len(ids), batch):
        rows = order[start : start + batch]
        cut = longest if model.config.reading.pool_pads else int(lengths[rows].max())
        at = torch.from_numpy(rows)
        ids_BL, mask_BL = (torch.from_numpy(v[rows, :cut]).to(device) for v in (ids, mask))
        tokens_BLD, feature_BE = model.encode_text(ids_BL, mask_BL)
        text_QE[at] = feature_BE.cpu()
        if tokens:
            text_QLD[at, :cut] = tokens_BLD.float().cpu()
    return Embedded(
        image_GPD=[torch.cat(kept) for kept in views] if tokens else [],
        image_GE=torch.cat(features).float(),
        text_QLD=text_QLD,
        text_mask_QL=torch.from_numpy(mask[:, :longest]),
        text_QE=text_QE,
    )


def rerank(
    model: MRA,
    embedded: Embedded,
    image_GPD: Tensor,
    candidates_QK: Tensor,
    device: torch.device,
    *,
    batch: int,
) -> Tensor:
    """Let the fusion encoder judge every query's candidates.

    Args:
        model: In evaluation mode, on ``device``.
        embedded: The split.
        image_GPD: Tokens of the gallery, plain or flipped.
        candidates_QK: Gallery index of each candidate.
        device: Where to compute.
        batch: About how many pairs a pass.

    Returns:
        (Q, K) logit of "they match".
    """
    logits_QK = torch.zeros(candidates_QK.shape)
    lengths = embedded.text_mask_QL.sum(1)
    starts = range(0, len(image_GPD), SLICE)
    for start in tqdm(starts, desc="re-rank", unit="slice", disable=len(starts) == 1):
        keys = model.image_keys(image_GPD[start : start + SLICE].to(device))
        inside = (candidates_QK >= start) & (candidates_QK < start + SLICE)
        counts = inside.sum(1)
        # Queries by length, so that a pass is padded to texts of nearly its own length.
        order = lengths.argsort(stable=True)
        order = order[counts[order] > 0]
        per_pass = max(1, batch // max(1, int(counts.max())))
        for chunk in order.split(per_pass):
            cut = int(lengths[chunk].max())
            places = inside[chunk].nonzero()
            chosen = candidates_QK[chunk][places[:, 0], places[:, 1]] - start
            logits_R2 = model.match_pairs(
                embedded.text_QLD[chunk, :cut].to(device),
                embedded.text_mask_QL[chunk, :cut].to(device),
                keys,
                text_index_R=places[:, 0].to(device),
                image_index_R=chosen.to(device),
            )
            logits_QK[chunk[places[:, 0]], places[:, 1]] = logits_R2[:, 1].float().cpu()
    return logits_QK


# ------------------------------------------------------------------ what is reported


def gallery_people(pairs: Pairs) -> Tensor:
    """Identity of each picture, (G,)."""
    return torch.from_numpy(pairs.people)


def chance(
    matches_Q: Tensor, gallery: int, ranks: tuple[int, ...] = (1, 5, 10)
) -> dict[str, float]:
    """R@k in percent of a random ranking: 1 - C(G - n, k) / C(G, k), averaged over the queries."""
    counts = [int(n) for n in matches_Q if n > 0]
    return {
        f"R{k}": 100
        * sum(1 - math.comb(gallery - n, k) / math.comb(gallery, k) for n in counts)
        / max(1, len(counts))
        for k in (min(rank, gallery) for rank in ranks)
    }


def _metrics(rankings: Mapping[str, QueryMetrics], gallery: int) -> dict[str, Any]:
    found = rankings["reranked"]
    means = {name: round(value, 4) for name, value in found.means().items()}
    itc = {name: round(value, 4) for name, value in rankings["itc"].means().items()}
    random = {name: round(v, 4) for name, v in chance(found.matches_Q, gallery).items()}
    counts = {name: int(means.pop(name)) for name in ("queries", "without_match")}
    return {
        **means,
        **counts,
        "gallery": gallery,
        "itc": {name: v for name, v in itc.items() if name not in counts},
        "chance": random,
    }


def _query_rows(
    pairs: Pairs, rankings: Mapping[str, QueryMetrics], score_QG: Tensor, gallery_ids: Tensor
) -> pa.Table:
    found, itc = rankings["reranked"], rankings["itc"]
    top = min(TOP, score_QG.shape[1])
    order = score_QG.argsort(dim=1, descending=True, stable=True)[:, :top]
    correct = gallery_ids[order] == torch.from_numpy(pairs.person)[:, None]
    offsets = pa.array(np.arange(len(order) + 1) * top, pa.int32())

    def lists(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, values)

    columns = {
        "uid": pairs.uids.take(pa.array(pairs.image)),
        "caption": pairs.caption,
        "person_id": pairs.names.take(pa.array(pairs.image)),
        "matches": found.matches_Q.numpy(),
        "first_rank": found.first_rank_Q.numpy(),
        "ap": found.average_precision_Q.numpy(),
        "inp": found.inverse_negative_penalty_Q.numpy(),
        "itc_first_rank": itc.first_rank_Q.numpy(),
        "itc_ap": itc.average_precision_Q.numpy(),
        "top10": lists(pairs.uids.take(pa.array(order.flatten().numpy()))),
        "correct": lists(pa.array(correct.flatten().numpy())),
        "scores": lists(pa.array(score_QG.gather(1, order).flatten().float().numpy())),
    }
    arrays = [
        columns[field.name].cast(field.type)
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name]).cast(field.type)
        for field in QUERIES
    ]
    return pa.table(arrays, schema=QUERIES)


def _silent(_share: float, _what: str) -> None:
    pass


@params
class EvaluationRun:
    """One entry of ``evaluate.runs`` in params.yaml."""

    checkpoint: str
    """The model's folder: a pretraining's for direct transfer, or a fine-tuning's."""
    images: str
    """The dataset's shards; their test split is the gallery and the queries."""
    cleaning: Cleaning
    """Clean-up of its captions: ``raw`` or ``alphanumeric``."""
    protocol: EvaluateParams
    """How to rank."""
