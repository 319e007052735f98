"""One picture in two datasets: found by perceptual hash, without decoding anything twice.

ICFG-PEDES and RSTPReid are both cut from MSMT17 and number its people differently, so a model
fine-tuned on one has seen test people of the other. Ingestion leaves every picture's hash in
``phash.parquet`` (`tasks.duplicates`: 192 bits, luminance and two chroma planes); `shared_images`
compares the sets.

    shared_images([Path("data/ingested/icfg-pedes"), Path("data/ingested/rstpreid")])

Shape legend: N, M pictures of two sets, W = 3 words of 64 bits.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.duplicates import hash_to_bytes, hashes_from_bytes
from tasks.errors import PedAlignError
from tasks.shards import iter_tables

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PHASH = "phash.parquet"
LUMINANCE = 6
"""Most differing bits of the 64 of luminance. Measured on 100 street photos reduced to 48x128 at
JPEG quality 60: the same photo differs in at most 4, two photos in at least 16."""
ALL = 24
"""Most differing bits of all 192; in a nearly grey picture the chroma bits are noise. Measured as
above: at most 22 and at least 52."""

_BLOCK = 2048  # rows compared at once: with 20,000 columns of 8 bytes, a third of a gigabyte

_SCHEMA = pa.schema(
    [
        pa.field("uid", pa.string(), False, {"meaning": "name of the row"}),
        pa.field(
            "phash",
            pa.binary(24),
            False,
            {"meaning": "perceptual hash: luminance, blue and red chroma", "unit": "bits"},
        ),
    ]
)


def write_hashes(folder: Path, uids: Sequence[str], hashes: NDArray[np.uint64]) -> None:
    """Write the hashes of a dataset's usable pictures beside its shards."""
    order = np.argsort(np.asarray(uids, dtype=object), kind="stable")
    columns = [[uids[i] for i in order], [hash_to_bytes(hashes[i]) for i in order]]
    table = pa.table(dict(zip(_SCHEMA.names, columns, strict=True)), schema=_SCHEMA)
    pq.write_table(table, folder / PHASH, compression="zstd")


def read_hashes(folder: Path) -> tuple[list[str], NDArray[np.uint64]]:
    """Read the hashes of a dataset: uids and (N, W) words.

    Raises:
        PedAlignError: The folder has none.
    """
    try:
        table = pq.read_table(folder / PHASH)
    except (OSError, pa.ArrowInvalid) as error:
        raise PedAlignError(
            f"{folder / PHASH}: {type(error).__name__}",
            "ingestion writes the hashes of a dataset's pictures",
            "run dvc repro for the dataset's ingest stage",
        ) from error
    return table["uid"].to_pylist(), hashes_from_bytes(table["phash"].to_pylist())


def near_pairs(
    left: NDArray[np.uint64],
    right: NDArray[np.uint64],
    luminance: int = LUMINANCE,
    whole: int = ALL,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Find the pairs of two sets of hashes that are near.

    Args:
        left: (N, W) uint64.
        right: (M, W) uint64.
        luminance: Most differing bits of the first word.
        whole: Most differing bits of all words.

    Returns:
        Indices into the left set, into the right set, and the bits that differ; by left, then
        right index.
    """
    lefts, rights, distances = [], [], []
    for at in range(0, len(left), _BLOCK):
        block = left[at : at + _BLOCK]
        # Luminance alone first: it leaves almost nothing for the other two words.
        apart = np.bitwise_count(block[:, None, 0] ^ right[None, :, 0])
        a, b = np.nonzero(apart <= luminance)
        bits = np.bitwise_count(block[a] ^ right[b]).sum(axis=1, dtype=np.int64)
        near = bits <= whole
        lefts.append(a[near] + at)
        rights.append(b[near])
        distances.append(bits[near])
    if not lefts:
        nothing = np.empty(0, np.int64)
        return nothing, nothing, nothing
    return np.concatenate(lefts), np.concatenate(rights), np.concatenate(distances)


def shared_images(
    folders: Sequence[Path], luminance: int = LUMINANCE, whole: int = ALL
) -> pd.DataFrame:
    """Find pictures that stand in two datasets.

    Args:
        folders: Ingested datasets.
        luminance: See `near_pairs`.
        whole: See `near_pairs`.

    Returns:
        One row a pair: ``dataset_a, split_a, person_a, path_a, uid_a``, the same for ``b``, and
        ``distance`` in bits; nearest first.

    Raises:
        PedAlignError: A folder is no ingested dataset.
    """
    sets = [(folder, *read_hashes(folder)) for folder in folders]
    rows: list[dict[str, Any]] = []
    for (folder_a, uids_a, left), (folder_b, uids_b, right) in itertools.combinations(sets, 2):
        pairs = list(zip(*near_pairs(left, right, luminance, whole), strict=True))
        told_a = _describe(folder_a, {uids_a[a] for a, _, _ in pairs})
        told_b = _describe(folder_b, {uids_b[b] for _, b, _ in pairs})
        rows += [
            {f"{key}_a": value for key, value in told_a[uids_a[a]].items()}
            | {f"{key}_b": value for key, value in told_b[uids_b[b]].items()}
            | {"distance": int(distance)}
            for a, b, distance in pairs
        ]
    names = ("dataset", "split", "person", "path", "uid")
    columns = [f"{name}_{side}" for side in "ab" for name in names] + ["distance"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(["distance", "path_a", "path_b"], ignore_index=True)


def splits_shared(uids: Sequence[str], hashes: NDArray[np.uint64], splits: Sequence[str]) -> int:
    """Count the pictures (distinct hashes) that stand in more than one split of one dataset."""
    if not len(uids):
        return 0
    _, group = np.unique(hashes, axis=0, return_inverse=True)
    stands = pd.DataFrame({"group": group.reshape(-1), "split": list(splits)}).drop_duplicates()
    return int((stands["group"].value_counts() > 1).sum())


def _describe(folder: Path, wanted: set[str]) -> dict[str, dict[str, str | None]]:
    found = {}
    if wanted:
        columns = ["uid", "dataset", "split", "person_id", "source_path"]
        for table in iter_tables(folder, columns, verify=False):
            for uid, dataset, split, person, path in zip(
                *(table[name].to_pylist() for name in columns), strict=True
            ):
                if uid in wanted:
                    found[uid] = {
                        "dataset": dataset,
                        "split": split,
                        "person": person,
                        "path": path,
                        "uid": uid,
                    }
    return found
