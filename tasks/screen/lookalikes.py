"""Near-duplicate pictures by embedding: one decision for the whole set, memory flat.

A vector is a shard's business (`models.embedder`) and is stored with it; which picture of a group
stays is decided once, in uid order, by the same rule as for hashes (`tasks.duplicates`): a picture
repeats the first earlier one that stays and whose cosine with it reaches the threshold.

Unusual: exact, without an index. Pictures come in blocks; a block is compared with the vectors of
those that stay so far, a block of them at a time, by one matrix product on the device, and then
within itself. So memory is two blocks and their product however many pictures there are: what
stays is appended to a scratch file and mapped. An approximate index (faiss's IVF or HNSW) would
be quicker beyond some millions, at the price of pairs that it misses and of a result that depends
on how it was trained; for the paper's 1.2 million pictures of 768 numbers this is 10^15
operations, less than a minute of a large GPU.

Shapes: N pictures, D width of a vector, A pictures that stay (of a block), B pictures of a block.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

BLOCK = 4096
"""Pictures compared at once: their product takes 64 MB."""


def find_lookalikes(
    parts: Iterable[tuple[Sequence[str], NDArray[np.floating]]],
    cosine: float,
    scratch: Path,
    device: str | torch.device = "cpu",
    block: int = BLOCK,
) -> dict[str, str]:
    """Name the pictures that nearly repeat another, and the one that each repeats.

    Args:
        parts: uids and (N, D) unit vectors, a part a shard, uids ascending over all parts.
        cosine: Least cosine of two pictures that count as one.
        scratch: An existing folder for one temporary file of the vectors that stay, float16.
        device: Where the products are computed.
        block: Pictures compared at once; no result depends on it but by rounding.

    Returns:
        uid of the duplicate to uid of the picture that stays.

    Raises:
        ValueError: uids are out of order, or the widths differ.
    """
    repeats: dict[str, str] = {}
    kept: list[str] = []
    file = scratch / "vectors-that-stay.f16"
    try:
        with file.open("wb") as sink:
            for uids, vectors_BD in _blocks(parts, block):
                block_BD = _unit(vectors_BD, device)
                match = _first_earlier(block_BD, file, len(kept), cosine, block)
                # What no earlier block explains is compared among itself, in uid order.
                rest = np.flatnonzero(match < 0)
                near_AA = (block_BD[rest] @ block_BD[rest].T >= cosine).triu(1).cpu().numpy()
                stays = np.ones(len(rest), dtype=bool)
                for place in np.flatnonzero(near_AA.any(axis=0)).tolist():
                    earlier = np.flatnonzero(near_AA[:place, place] & stays[:place])
                    if len(earlier):
                        stays[place] = False
                        repeats[uids[rest[place]]] = uids[rest[earlier[0]]]
                repeats |= {
                    uid: kept[first]
                    for uid, first in zip(uids, match.tolist(), strict=True)
                    if first >= 0
                }
                rows = rest[stays]
                kept += [uids[row] for row in rows]
                sink.write(np.ascontiguousarray(vectors_BD[rows], "<f2").tobytes())
                sink.flush()
    finally:
        file.unlink(missing_ok=True)
    return repeats


def _first_earlier(
    block_BD: torch.Tensor, file: Path, count: int, cosine: float, block: int
) -> NDArray[np.int64]:
    """Position of the first vector that stays and is near, -1 where there is none: (B,)."""
    match = torch.full((len(block_BD),), -1, dtype=torch.int64, device=block_BD.device)
    if count:
        earlier = np.memmap(file, dtype="<f2", mode="r", shape=(count, block_BD.shape[1]))
        for start in range(0, count, block):
            earlier_AD = _unit(earlier[start : start + block], block_BD.device)
            near_BA = block_BD @ earlier_AD.T >= cosine
            first_B = near_BA.to(torch.uint8).argmax(dim=1) + start
            match = torch.where((match < 0) & near_BA.any(dim=1), first_B, match)
            if bool((match >= 0).all()):
                break
    return match.cpu().numpy()


def _unit(vectors_ND: NDArray[np.floating], device: str | torch.device) -> torch.Tensor:
    """Vectors on the device as float32, their length one again after the rounding to float16."""
    values = torch.from_numpy(np.array(vectors_ND, dtype=np.float32)).to(device)
    return torch.nn.functional.normalize(values, dim=-1)


def _blocks(
    parts: Iterable[tuple[Sequence[str], NDArray[np.floating]]], block: int
) -> Iterator[tuple[list[str], NDArray[np.floating]]]:
    """Cut parts of any length into blocks of one length; check the order."""
    uids: list[str] = []
    vectors: list[NDArray[np.floating]] = []
    last = ""
    for names, rows_ND in parts:
        joined = [last, *names]
        if any(a >= b for a, b in itertools.pairwise(joined)) and names:
            raise ValueError(
                f"uids out of order around {names[0]!r}; rule: ascending over all shards, each "
                "once; remedy: give the shards in the manifest's order"
            )
        if vectors and rows_ND.shape[1] != vectors[0].shape[1]:
            raise ValueError(
                f"vectors of {rows_ND.shape[1]} and of {vectors[0].shape[1]} numbers; rule: one "
                "embedder for all; remedy: compute the shards anew"
            )
        last = joined[-1]
        for start in range(0, len(names), block):
            uids += names[start : start + block]
            vectors.append(rows_ND[start : start + block])
            while len(uids) >= block:
                whole = np.concatenate(vectors)
                yield uids[:block], whole[:block]
                uids, vectors = uids[block:], [whole[block:]]
    if uids:
        yield uids, np.concatenate(vectors)
