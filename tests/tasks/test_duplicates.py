"""Perceptual hashes against imagehash; the choice of duplicates against all pairs compared."""

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.duplicates import (
    BITS,
    WORDS,
    find_duplicates,
    hash_thumbnails,
    hash_to_bytes,
    hashes_from_bytes,
    thumbnail,
)


def scene(seed: int, size: tuple[int, int] = (48, 96)) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (8, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def hashes(*images: Image.Image) -> np.ndarray:
    return hash_thumbnails(np.stack([thumbnail(image) for image in images]))


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.bitwise_count(a ^ b).sum())


@pytest.mark.parametrize("seed", range(5))
def test_luminance_word_is_imagehash(seed: int) -> None:
    word = int(hashes(scene(seed))[0, 0])
    assert f"{word:016x}" == str(imagehash.phash(scene(seed)))


def test_the_same_picture_at_another_size_is_near_and_another_picture_is_far() -> None:
    one, smaller, other = scene(1), scene(1).resize((40, 80)), scene(2)
    h = hashes(one, smaller, other)
    assert distance(h[0], h[1]) <= 8
    assert distance(h[0], h[2]) > 48


def test_clothes_of_equal_brightness_are_told_apart_by_colour() -> None:
    red, green = np.zeros((96, 48, 3), np.uint8), np.zeros((96, 48, 3), np.uint8)
    red[20:60, 10:40] = (200, 0, 0)
    green[20:60, 10:40] = (0, 102, 0)  # the same luminance, 0.299 x 200 = 0.587 x 102
    h = hashes(Image.fromarray(red), Image.fromarray(green))
    assert distance(h[0, :1], h[1, :1]) <= 4
    assert distance(h[0], h[1]) > 30


def test_a_blank_picture_has_one_hash_whatever_its_grey() -> None:
    h = hashes(*(Image.new("RGB", (48, 96), (v, v, v)) for v in (30, 128, 255)))
    assert (h == h[0]).all()


def test_bytes_and_back() -> None:
    h = hashes(scene(1), scene(2), scene(3))
    rows = [hash_to_bytes(row) for row in h]
    assert {len(row) for row in rows} == {BITS // 8}
    assert (hashes_from_bytes(rows) == h).all()
    assert hashes_from_bytes([]).shape == (0, WORDS)


def slow(h: np.ndarray, uids: list[str], limit: int) -> list[str | None]:
    """All pairs, in uid order."""
    found: dict[str, str | None] = {}
    kept: list[int] = []
    for i in sorted(range(len(uids)), key=uids.__getitem__):
        near = [k for k in kept if distance(h[i], h[k]) <= limit]
        found[uids[i]] = uids[near[0]] if near else None
        if not near:
            kept.append(i)
    return [found[uid] for uid in uids]


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(0, 12))
def test_equals_comparing_all_pairs_in_any_order(seed: int, count: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**63, (3, WORDS), dtype=np.uint64)
    h = centres[rng.integers(0, 3, count)]
    for row in h:  # up to ten flipped bits each, so that chains and near misses occur
        for bit in rng.integers(0, BITS, rng.integers(0, 11)):
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    uids = [f"{v:04d}" for v in rng.permutation(10_000)[:count]]
    expected = slow(h, uids, limit)
    assert find_duplicates(h, uids, limit) == expected
    order = rng.permutation(count)
    shuffled = find_duplicates(h[order], [uids[i] for i in order], limit)
    assert shuffled == [expected[i] for i in order]


def test_a_chain_does_not_pull_in_what_differs_from_the_one_that_stays() -> None:
    h = np.array([[0], [0b11], [0b1111]], dtype=np.uint64)
    assert find_duplicates(h, ["a", "b", "c"], 2) == [None, "a", None]


def test_repeats_of_a_duplicate_point_at_the_one_that_stays() -> None:
    h = np.array([[7], [7], [3], [7]], dtype=np.uint64)
    assert find_duplicates(h, ["b", "c", "a", "d"], 0) == [None, "b", None, "b"]
    assert find_duplicates(h, ["b", "c", "a", "d"], 1) == ["a", "a", None, "a"]


@pytest.mark.parametrize(
    ("uids", "limit"), [(["a"], 0), (["a", "a"], 0), (["a", "b"], -1), (["a", "b"], 48)]
)
def test_bad_questions_are_refused(uids: list[str], limit: int) -> None:
    with pytest.raises(ValueError, match=";"):
        find_duplicates(np.zeros((2, WORDS), np.uint64), uids, limit)
