"""One picture in two datasets is found again after re-encoding, and look-alikes are not."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.errors import PedAlignError
from tasks.ingest import ingest_dataset, shared_images
from tasks.ingest.crossing import ALL, LUMINANCE, near_pairs, splits_shared


def reencoded(data, size, quality):
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(data)).resize(size, Image.Resampling.BICUBIC)
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def test_shared_images(tmp_path, raw):
    folders = []
    for name, copies in (("one", {}), ("two", {"x/b.jpg": ((48, 96), 75)})):
        root = tmp_path / f"raw-{name}"
        root.mkdir()
        for number, path in enumerate(["x/a.jpg", "x/b.jpg", "x/c.jpg"]):
            seed = number if path in copies or name == "one" else 100 + number
            # With detail, as photos have: a hash of a few soft blobs is mostly rounding.
            data = raw.picture(seed, size=(64, 128), detail=(16, 8))
            (root / "x").mkdir(exist_ok=True)
            (root / path).write_bytes(reencoded(data, *copies[path]) if path in copies else data)
        rule = {"val": 0.0, "test": 0.0, "seed": 0}
        told = raw.section(root, "folder", annotation="data/nothing", split=rule)
        ingest_dataset(told, tmp_path / name)
        folders.append(tmp_path / name)
    frame = shared_images(folders)
    assert len(frame) == 1
    pair = frame.iloc[0]
    assert (pair["dataset_a"], pair["path_a"]) == ("one", "x/b.jpg")
    assert (pair["dataset_b"], pair["path_b"]) == ("two", "x/b.jpg")
    assert 0 <= pair["distance"] <= ALL
    assert shared_images(folders[:1]).empty
    with pytest.raises(PedAlignError, match="phash"):
        shared_images([tmp_path])


WORDS = st.integers(0, 2**64 - 1)


@given(
    left=st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=5),
    flips=st.lists(st.sets(st.integers(0, 191), max_size=30), max_size=5),
)
def test_near_pairs_are_those_within_both_limits(left, flips):
    a = np.array(left, dtype=np.uint64).reshape(-1, 3)
    b = a[: len(flips)].copy()
    for row, bits in zip(b, flips, strict=False):
        for bit in bits:
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    expected = set()
    for i, x in enumerate(a.tolist()):
        for j, y in enumerate(b.tolist()):
            bits = [bin(p ^ q).count("1") for p, q in zip(x, y, strict=True)]
            if bits[0] <= LUMINANCE and sum(bits) <= ALL:
                expected.add((i, j, sum(bits)))
    assert set(zip(*(v.tolist() for v in near_pairs(a, b)), strict=True)) == expected


def test_pictures_in_two_splits_are_counted_once():
    hashes = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3], [4, 5, 6], [4, 5, 6]], np.uint64)
    splits = ["train", "test", "test", "val", "val"]
    assert splits_shared(list("abcde"), hashes, splits) == 1
    assert splits_shared([], np.empty((0, 3), np.uint64), []) == 0
