"""Near-duplicate pictures by perceptual hash: one decision for the whole set.

A hash is a shard's business and is stored with it; which picture of a group stays is decided
once over all hashes, in uid order, so it depends neither on shards nor on workers nor on order.

Unusual: the hash sees colour. The usual 64-bit pHash looks at luminance only, and two people in
the same pose whose clothes are equally bright are then one; here the two chroma planes add 64
bits each. Pairs within a distance of d bits are found without comparing all with all: cut the
hash into d + 1 bands, and two hashes that differ in at most d bits agree in at least one band
whole (the pigeonhole principle), so only pictures that share a band are compared.

Shape legend: N pictures, W = 3 words of 64 bits (luminance, blue and red chroma).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WORDS = 3
"""64-bit words of a hash."""
BITS = 64 * WORDS
"""Bits of a hash."""

_SIDE = 32  # Pixels a side before the transform, and ...
_KEPT = 8  # ... low frequencies a side that are kept: imagehash's defaults.


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Shrink a picture to what the hash looks at: (3, 32, 32) uint8 of Y, Cb and Cr."""
    planes = (image.convert("L"), *image.convert("YCbCr").split()[1:])
    small = [plane.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS) for plane in planes]
    return np.stack([np.asarray(plane) for plane in small])


def hash_thumbnails(planes_N3SS: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash thumbnails: a bit says whether a low frequency is above its plane's median.

    The luminance word is `imagehash.phash`, bit for bit.

    Args:
        planes_N3SS: (N, 3, 32, 32), from `thumbnail`.

    Returns:
        (N, 3) uint64.
    """
    # The type II cosine transform as a matrix product: its first 8 rows are all that is kept.
    steps = np.arange(_SIDE) + 0.5
    basis_KS = 2 * np.cos(np.pi * np.arange(_KEPT)[:, None] * steps / _SIDE)
    low_N3KK = basis_KS @ planes_N3SS.astype(np.float64) @ basis_KS.T
    low_N3F = low_N3KK.reshape(*planes_N3SS.shape[:2], _KEPT * _KEPT)
    # A flat plane has no frequencies but rounding noise, which must not look like a pattern.
    low_N3F[np.abs(low_N3F) < 1e-6] = 0
    bits_N3F = low_N3F > np.median(low_N3F, axis=-1, keepdims=True)
    packed = np.packbits(bits_N3F, axis=-1)
    return packed.view(">u8")[..., 0].astype(np.uint64)


def hash_to_bytes(words_W: NDArray[np.uint64]) -> bytes:
    """Write one hash as 24 bytes, most significant bit first."""
    return words_W.astype(">u8").tobytes()


def hashes_from_bytes(rows: Sequence[bytes]) -> NDArray[np.uint64]:
    """Read hashes written by `hash_to_bytes`: (N, 3) uint64."""
    return np.frombuffer(b"".join(rows), dtype=">u8").astype(np.uint64).reshape(-1, WORDS)


def find_duplicates(
    hashes_NW: NDArray[np.uint64], uids: Sequence[str], max_distance: int
) -> list[str | None]:
    """Name, for every picture, the one that it nearly repeats.

    Pictures are visited in uid order; one is a duplicate if an earlier picture that stays lies
    within `max_distance` bits, and then it points at the first such. So the smallest uid of a
    group stays, whatever the order of the arguments, and a chain of small changes does not pull
    in pictures that differ from the one that stays.

    Args:
        hashes_NW: uint64, any number of words.
        uids: Unique, in any order.
        max_distance: Largest number of differing bits that still counts as the same picture.

    Returns:
        For each picture, in the order given, the uid that it repeats, or None if it stays.

    Raises:
        ValueError: Lengths differ, a uid repeats, or the distance is negative or so large that
            any two pictures are duplicates.
    """
    bits = 64 * hashes_NW.shape[1]
    if len(hashes_NW) != len(uids) or len(set(uids)) != len(uids):
        raise ValueError(
            f"{len(hashes_NW)} hashes for {len(uids)} uids, {len(set(uids))} of them different; "
            "one hash a uid, each uid once; join the shards before deciding"
        )
    if not 0 <= max_distance < bits // 4:
        raise ValueError(
            f"max_distance is {max_distance}; unrelated pictures differ in about {bits // 2} of "
            f"{bits} bits; take 0 to {bits // 4 - 1}"
        )
    order = np.argsort(np.asarray(uids, dtype=object), kind="stable")
    # Exact repeats first: `first` is each distinct hash's earliest position in uid order.
    distinct, first, group = np.unique(
        hashes_NW[order], axis=0, return_index=True, return_inverse=True
    )
    rank = np.argsort(first, kind="stable")  # distinct hashes in the order of their first uid
    left, right = _near_pairs(distinct[rank], max_distance)
    stands_for = np.arange(len(rank))
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        # Sorted by b, then a: by now it is settled whether a stays.
        if stands_for[a] == a and stands_for[b] == b:
            stands_for[b] = a
    position = np.empty(len(rank), dtype=np.int64)
    position[rank] = np.arange(len(rank))
    keeper = first[rank][stands_for[position[group.reshape(-1)]]]
    found: list[str | None] = [None] * len(uids)
    for place, index in enumerate(order.tolist()):
        if keeper[place] != place:
            found[index] = uids[order[keeper[place]]]
    return found


def _near_pairs(
    hashes_NW: NDArray[np.uint64], max_distance: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index pairs a < b of distinct hashes within the distance, sorted by b, then a."""
    count = len(hashes_NW)
    bits_NB = np.unpackbits(hashes_NW.astype(">u8").view(np.uint8).reshape(count, -1), axis=1)
    found: list[NDArray[np.int64]] = []
    bands = max_distance + 1 if max_distance else 0  # distance 0: repeats are gone already
    for band in np.array_split(np.arange(bits_NB.shape[1]), bands) if bands else []:
        keys = np.packbits(bits_NB[:, band], axis=1)
        keys = np.ascontiguousarray(keys).view(f"V{keys.shape[1]}")[:, 0]
        _, key = np.unique(keys, return_inverse=True)
        by_key = np.argsort(key, kind="stable")
        sorted_key = key[by_key]
        # Neighbours at distance 1, 2, ... in the sorted order, while any still share a key.
        here = np.arange(count)
        for gap in range(1, count):
            here = here[here + gap < count]
            here = here[sorted_key[here] == sorted_key[here + gap]]
            if not len(here):
                break
            a, b = by_key[here], by_key[here + gap]
            near = np.bitwise_count(hashes_NW[a] ^ hashes_NW[b]).sum(axis=1) <= max_distance
            found.append(np.stack([a[near], b[near]]))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    pairs = np.sort(np.concatenate(found, axis=1), axis=0)
    left, right = np.unique(pairs[::-1], axis=1)[::-1]
    return left, right
