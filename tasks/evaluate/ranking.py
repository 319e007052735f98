"""From pictures and captions to matching logits: encode a gallery once, then judge candidates.

What is unusual: memory is bounded whatever the size of the gallery. Tokens that do not fit into the
budget wait in an unnamed temporary file (`tasks.evaluate.spill`); keys and values exist for a slice
of the gallery at a time, prepared texts for a block; candidates are (Q, K), never (Q, G). Every
image and every text is encoded once, an image's keys and values are made once a view, and pairs are
judged image after image, texts in order of their length (`models.mra.reranking`).

Encoding takes any retrieval model, judging an MRA. Everything here takes a model and tensors;
`embed` alone knows of shards.

Shapes: Q queries, G gallery images, K candidates a query, R pairs, L word pieces, P image tokens,
D width of a token, E width of a feature, N tokens of all texts one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from models.mra import MRA
from models.mra.reranking import match_texts, prepare_texts
from models.ranking import Candidates, choose_candidates
from models.retrieval import RetrievalModel
from tasks.augment import plain
from tasks.batches import Pairs
from tasks.evaluate.spill import Budget, Rows
from tasks.pictures import Pictures
from tasks.tokens import Words

Ints = NDArray[np.int64]

MEMORY = 2048 << 20
"""Bytes for tokens, keys and scores where nobody says how many."""

GPU_PASSES = 16
"""How many times more pairs a pass a GPU gets than a processor, which likes its cache."""


@dataclass(frozen=True)
class TextTokens:
    """Tokens of captions without pads, in order of length."""

    rows: Rows
    """(N, D)."""
    query_T: Ints
    """Which query each text is."""
    length_T: Ints
    """Its tokens."""

    @classmethod
    def packed(
        cls, batches: Iterable[tuple[Ints, Tensor, Tensor]], length_Q: Ints, rows: Rows
    ) -> TextTokens:
        """Write padded tokens into a table.

        Args:
            batches: Queries (B,), their tokens (B, L, D) and mask (B, L), in `by_length` order.
            length_Q: Word pieces of every query.
            rows: Where to.
        """
        order = by_length(length_Q)
        start = 0
        for _, tokens_BLD, mask_BL in batches:
            tokens_ND = tokens_BLD[mask_BL.bool()]
            rows.write(start, tokens_ND)
            start += len(tokens_ND)
        return cls(rows, order, length_Q[order])

    @classmethod
    def from_padded(cls, tokens_QLD: Tensor, mask_QL: Tensor) -> TextTokens:
        """Tokens of `MRA.encode_text` of a few texts, in memory."""
        length_Q = mask_QL.sum(1).cpu().numpy().astype(np.int64)
        order = torch.from_numpy(by_length(length_Q)).to(tokens_QLD.device)
        table = Rows(int(length_Q.sum()), tokens_QLD.shape[2], tokens_QLD.dtype, Budget(2**63))
        batch = (order.cpu().numpy(), tokens_QLD[order], mask_QL[order])
        return cls.packed([batch], length_Q, table)


@dataclass(frozen=True)
class Embedded:
    """A split's pictures and captions as the model sees them."""

    images: list[Rows]
    """Tokens of the pictures (G, P * D), one table for each of (plain, flipped); none where only
    features were asked for."""
    image_GE: Tensor
    """Features, averaged over plain and flipped; not normalised again, as released."""
    texts: TextTokens | None
    """Tokens of the captions; None where only features were asked for."""
    text_QE: Tensor


def embed(
    model: RetrievalModel,
    words: Words,
    pairs: Pairs,
    pictures: Pictures,
    device: torch.device,
    *,
    flip: bool,
    batch: int,
    tokens: bool = True,
    memory: int = MEMORY,
    queries: Ints | None = None,
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
        memory: Bytes; half of them may hold tokens.
        queries: Which captions; None takes all.
    """
    budget = Budget(memory // 2)
    chosen = np.arange(len(pairs)) if queries is None else queries
    captions = pairs.caption.take(chosen).to_pylist()
    ids, mask = words.encode(captions)
    texts, text_QE = embed_texts(
        model, ids, mask, device, batch=batch, tokens=tokens, budget=budget
    )
    images, image_GE = embed_images(
        model,
        _batches(pictures, model.config.image_size, batch),
        len(pictures),
        device,
        flip=flip,
        tokens=tokens,
        budget=budget,
    )
    return Embedded(images, image_GE, texts, text_QE)


def embed_images(
    model: RetrievalModel,
    batches: Iterable[Tensor],
    count: int,
    device: torch.device,
    *,
    flip: bool,
    tokens: bool = True,
    budget: Budget | None = None,
) -> tuple[list[Rows], Tensor]:
    """Encode images, plain and mirrored.

    Args:
        model: In evaluation mode, on ``device``.
        batches: Normalised pixels (B, 3, H, W), ``count`` images in all.
        count: G.
        device: Where to compute.
        flip: Whether to encode mirror images too.
        tokens: Whether to keep tokens.
        budget: What memory they may take.

    Returns:
        A table of tokens for each view (none without ``tokens``), and features (G, E).
    """
    budget = Budget(MEMORY // 2) if budget is None else budget
    views: list[Rows] = []
    features: list[Tensor] = []
    start = 0
    for image_BCHW in batches:
        image = image_BCHW.to(device)
        each = []
        for view in range(2 if flip else 1):
            tokens_BPD, feature_BE = model.encode_image(image.flip(-1) if view else image)
            each.append(feature_BE)
            if tokens:
                if view == len(views):
                    # Keys and values are made of them in the same precision.
                    low = torch.is_autocast_enabled(device.type)
                    dtype = torch.bfloat16 if low else tokens_BPD.dtype
                    views.append(Rows(count, tokens_BPD[0].numel(), dtype, budget))
                views[view].write(start, tokens_BPD.flatten(1))
        features.append(torch.stack(each).mean(0).float().cpu())
        start += len(image)
    return views, torch.cat(features)


def embed_texts(
    model: RetrievalModel,
    ids_QL: Ints,
    mask_QL: Ints,
    device: torch.device,
    *,
    batch: int,
    tokens: bool = True,
    budget: Budget | None = None,
) -> tuple[TextTokens | None, Tensor]:
    """Encode texts, those of similar length together, so that hardly a pad is computed.

    Args:
        model: In evaluation mode, on ``device``.
        ids_QL: Word-piece ids, padded.
        mask_QL: 1 for a word piece.
        device: Where to compute.
        batch: Texts a pass.
        tokens: Whether to keep tokens.
        budget: What memory they may take.

    Returns:
        The tokens (None without ``tokens``), and features (Q, E).
    """
    budget = Budget(MEMORY // 2) if budget is None else budget
    length_Q = mask_QL.sum(1)
    text_QE = torch.zeros(len(ids_QL), model.feature_dim)

    def encoded() -> Iterator[tuple[Ints, Tensor, Tensor]]:
        order = by_length(length_Q)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            # Where the feature depends on pads, all of them have to be there.
            cut = ids_QL.shape[1] if model.needs_pads else int(length_Q[rows].max())
            ids_BL, mask_BL = (
                torch.from_numpy(each[rows, :cut]).to(device) for each in (ids_QL, mask_QL)
            )
            tokens_BLD, feature_BE = model.encode_text(ids_BL, mask_BL)
            text_QE[torch.from_numpy(rows)] = feature_BE.float().cpu()
            yield rows, tokens_BLD, mask_BL

    if tokens:
        table = Rows(int(length_Q.sum()), model.config.text_dim, torch.float32, budget)
        return TextTokens.packed(encoded(), length_Q, table), text_QE
    for _ in encoded():
        pass
    return None, text_QE


def by_length(length_Q: Ints) -> Ints:
    """The order in which texts are encoded and kept."""
    return np.argsort(length_Q, kind="stable")


def _batches(pictures: Pictures, size: tuple[int, int], batch: int) -> Iterator[Tensor]:
    for start in range(0, len(pictures), batch):
        yield plain(pictures.read(np.arange(start, min(start + batch, len(pictures)))), size)


# ------------------------------------------------------------------ re-ranking


@dataclass(frozen=True)
class Judged:
    """What the fusion encoder said of some queries."""

    candidates: Candidates
    logit_VQK: list[Tensor]
    """Matching logits, one tensor a view."""


def judge(
    model: MRA,
    embedded: Embedded,
    top_k: int,
    device: torch.device,
    *,
    batch: int,
    memory: int = MEMORY,
    queries: Ints | None = None,
) -> Judged:
    """Choose candidates by the features, and judge them in every view.

    Args:
        model: In evaluation mode, on ``device``.
        embedded: The split, with tokens.
        top_k: Candidates a query; all images where the gallery has no more.
        device: Where to compute.
        batch: About how many pairs a pass; changes results by float noise only.
        memory: Bytes for keys, texts and scores.
        queries: Which queries, by their number in ``embedded``; None takes all.
    """
    assert embedded.texts is not None, "embed with tokens=True"
    chosen = np.arange(len(embedded.text_QE)) if queries is None else queries
    text_QE = embedded.text_QE[torch.from_numpy(chosen)]
    k = min(top_k, len(embedded.image_GE))
    found = choose_candidates(text_QE.to(device), embedded.image_GE.to(device), k, memory // 4)
    logits = [
        rerank(
            model,
            embedded.texts,
            image,
            found.index_QK,
            device,
            batch=batch,
            memory=memory,
            queries=chosen,
        )
        for image in embedded.images
    ]
    return Judged(found, logits)


def rerank(
    model: MRA,
    texts: TextTokens,
    images: Rows,
    candidates_QK: Tensor,
    device: torch.device,
    *,
    batch: int,
    memory: int = MEMORY,
    queries: Ints | None = None,
) -> Tensor:
    """Let the fusion encoder judge every query's candidates.

    Args:
        model: In evaluation mode, on ``device``.
        texts: Tokens of the queries.
        images: Tokens of the gallery (G, P * D), plain or flipped; `Rows.of` wraps a tensor.
        candidates_QK: Gallery index of each candidate.
        device: Where to compute.
        batch: Pairs a pass; a GPU gets `GPU_PASSES` times as many, a narrow model more, too.
        memory: Bytes; a quarter may hold keys and values, an eighth texts.
        queries: The query of each row of ``candidates_QK``; None: rows are the queries in order.

    Returns:
        (Q, K) logit of "they match".
    """
    count, k = candidates_QK.shape
    chosen = np.arange(count) if queries is None else queries
    place_T = np.empty_like(texts.query_T)
    place_T[texts.query_T] = np.arange(len(place_T))
    # Rows in order of length, then pairs by image: within an image texts stay in that order.
    row_Q = np.argsort(place_T[chosen], kind="stable")
    stored_Q = place_T[chosen][row_Q]
    image_R = candidates_QK.cpu().numpy()[row_Q].reshape(-1)
    pair_R = np.argsort(image_R, kind="stable")
    bound_G = np.searchsorted(image_R[pair_R], np.arange(len(images) + 1))
    del image_R
    wanted = np.flatnonzero(np.diff(bound_G))
    width = model.config.text_dim
    tokens = images.width // model.config.vision_width
    image_bytes = 2 * tokens * width * model.config.fusion_layers * 4
    slice_size = max(1, memory // 4 // image_bytes)
    blocks = _blocks(texts.length_T, max(1, memory // 8 // (3 * 4 * width)))
    # A processor wants a pass that its cache holds: more pairs of a narrow model.
    per_pass = batch * (max(1, 512 // width) if device.type == "cpu" else GPU_PASSES)
    logit_R = torch.zeros(count * k, device=device)
    with torch.inference_mode():
        starts = range(0, len(wanted), slice_size)
        for start in tqdm(starts, desc="re-rank", unit="slice", disable=len(starts) == 1 or None):
            used = wanted[start : start + slice_size]
            tokens_BPD = images.take(used).view(len(used), tokens, -1)
            keys = model.image_keys(tokens_BPD.to(device))
            pairs = pair_R[bound_G[used[0]] : bound_G[used[-1] + 1]]
            image = np.repeat(np.arange(len(used)), np.diff(bound_G)[used])
            text, target = stored_Q[pairs // k], row_Q[pairs // k] * k + pairs % k
            for (first, last), (begin, end) in blocks:
                inside = np.flatnonzero((text >= first) & (text < last))
                if not len(inside):
                    continue
                rows = texts.rows.read(begin, end).to(device)
                ready = prepare_texts(model, rows, texts.length_T[first:last])
                for at in range(0, len(inside), per_pass):
                    part = inside[at : at + per_pass]
                    found_R2 = match_texts(model, ready, keys, text[part] - first, image[part])
                    to = torch.from_numpy(target[part]).to(device)
                    logit_R[to] = found_R2[:, 1].float()
            del keys, tokens_BPD  # before the next slice's are made
    return logit_R.view(count, k).cpu()


def _blocks(length_T: Ints, most: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Runs of texts with at most so many tokens (or of one text), and where their tokens lie."""
    ends = np.concatenate([[0], np.cumsum(length_T)])
    blocks = []
    first = 0
    while first < len(length_T):
        last = int(np.searchsorted(ends, ends[first] + most, side="right")) - 1
        last = max(first + 1, last)
        blocks.append(((first, last), (int(ends[first]), int(ends[last]))))
        first = last
    return blocks
