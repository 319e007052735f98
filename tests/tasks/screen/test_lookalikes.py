"""Blocks against comparing all pairs one by one, in uid order."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.screen.lookalikes import find_lookalikes


def slow(vectors: np.ndarray, uids: list[str], cosine: float) -> dict[str, str]:
    kept: list[int] = []
    found: dict[str, str] = {}
    for i in range(len(uids)):
        near = [k for k in kept if float(vectors[k] @ vectors[i]) >= cosine]
        if near:
            found[uids[i]] = uids[near[0]]
        else:
            kept.append(i)
    return found


def clusters(seed: int, count: int) -> np.ndarray:
    """Vectors on a ring around three centres, so that chains and near misses occur; float16."""
    rng = np.random.default_rng(seed)
    angles = rng.choice([0.0, 1.0, 2.5], count) + rng.normal(0, 0.2, count)
    vectors = np.stack([np.cos(angles), np.sin(angles), 0.1 * rng.normal(size=count)], axis=1)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def exact(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(0, 10**6),
    st.integers(1, 60),
    st.integers(1, 20),
    st.integers(1, 9),
    st.sampled_from([0.9, 0.97, 0.999]),
)
def test_equals_comparing_all_pairs_whatever_the_blocks(
    tmp_path: Path, seed: int, count: int, part: int, block: int, cosine: float
) -> None:
    vectors, uids = clusters(seed, count), [f"{i:04d}" for i in range(count)]
    products = exact(vectors) @ exact(vectors).T
    if (np.abs(products - cosine) < 1e-6).any():
        return  # rounding may decide these
    parts = [(uids[i : i + part], vectors[i : i + part]) for i in range(0, count, part)]
    assert find_lookalikes(parts, cosine, tmp_path, block=block) == slow(
        exact(vectors), uids, cosine
    )
    assert list(tmp_path.iterdir()) == []


def test_a_chain_does_not_pull_in_what_differs_from_the_one_that_stays(tmp_path: Path) -> None:
    angles = np.radians([0, 10, 20])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float16)
    parts = [(["a", "b", "c"], vectors)]
    assert find_lookalikes(parts, np.cos(np.radians(12)), tmp_path) == {"b": "a"}
    assert find_lookalikes(parts, np.cos(np.radians(21)), tmp_path) == {"b": "a", "c": "a"}


def test_one_block_is_in_memory_at_a_time(tmp_path: Path) -> None:
    """Shards are asked for one after the other, and only what stays is kept, on disk."""
    asked: list[int] = []

    def parts() -> Iterator[tuple[list[str], np.ndarray]]:
        for shard in range(5):
            asked.append(shard)
            # Every shard holds the same four directions: only the first shard's stay.
            yield [f"{shard}{i}" for i in range(4)], np.eye(4, dtype=np.float16)
            file = tmp_path / "vectors-that-stay.f16"
            assert file.stat().st_size == 4 * 4 * 2

    found = find_lookalikes(parts(), 0.99, tmp_path, block=4)
    assert asked == list(range(5))
    assert found == {f"{shard}{i}": f"0{i}" for shard in range(1, 5) for i in range(4)}


def test_bad_questions_are_refused(tmp_path: Path) -> None:
    one = np.ones((1, 2), np.float16)
    with pytest.raises(ValueError, match="out of order"):
        find_lookalikes([(["b"], one), (["a"], one)], 0.9, tmp_path)
    with pytest.raises(ValueError, match="out of order"):
        find_lookalikes([(["a"], one), (["a"], one)], 0.9, tmp_path)
    with pytest.raises(ValueError, match="one embedder"):
        find_lookalikes([(["a"], one), (["b"], np.ones((1, 3), np.float16))], 0.9, tmp_path)
    assert find_lookalikes([], 0.9, tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
