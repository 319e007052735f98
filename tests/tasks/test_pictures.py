from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tasks.pictures import Pictures
from tasks.schemas import IMAGES
from tasks.shards import ROW_GROUP, write_folder

COUNT = 150
SHAPE = (9, 7)


def encoded(seed: int, shape: tuple[int, int] = SHAPE) -> bytes:
    sink = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(sink, format="PNG")
    return sink.getvalue()


def flat(seed: int) -> bytes:
    """Far fewer bytes than `encoded`."""
    sink = io.BytesIO()
    Image.fromarray(np.full((*SHAPE, 3), seed % 256, dtype=np.uint8)).save(sink, format="PNG")
    return sink.getvalue()


def write(folder: Path, images: list[bytes], shape: tuple[int, int] = SHAPE) -> Pictures:
    """Write pictures as shards of up to 100 rows; their numbers are their places in uid order."""
    rows = []
    for number, data in enumerate(images):
        row = dict.fromkeys(IMAGES.names)
        row |= {
            "uid": f"{number:016x}", "dataset": "d", "split": "train", "image": data,
            "width": shape[1], "height": shape[0], "captions": [], "source_path": str(number),
            "status": "ok",
        }  # fmt: skip
        rows.append(row)
    tables = [pa.Table.from_pylist(rows[at : at + 100], IMAGES) for at in range(0, len(rows), 100)]
    names = [f"s{number}.parquet" for number in range(len(tables))]
    write_folder(folder, tables, "images", names=names)
    return open_pictures(folder, len(images), shape)


def open_pictures(folder: Path, count: int, shape: tuple[int, int] = SHAPE) -> Pictures:
    places = np.array([divmod(number, 100) for number in range(count)])
    sides = (np.full(count, side) for side in shape)
    return Pictures(folder, places, *sides, cache_bytes=0)


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)))


def assert_reads(pictures: Pictures, images: list[bytes], numbers: NDArray[np.int64]) -> None:
    found = pictures.read(numbers)
    assert len(found) == len(numbers)
    for picture, number in zip(found, numbers, strict=True):
        np.testing.assert_array_equal(picture, pixels(images[number]))


@pytest.fixture
def images() -> list[bytes]:
    """One of them comes three times."""
    made = [encoded(number) for number in range(COUNT)]
    made[1] = made[70] = made[0]
    return made


def forget_parquet(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(shard: int) -> None:
        raise AssertionError(f"shard {shard} was opened")

    monkeypatch.setattr(pictures, "_open", refuse)


def test_any_order_gives_the_pictures_asked_for(tmp_path: Path, images: list[bytes]) -> None:
    pictures = write(tmp_path, images)
    rng = np.random.default_rng(0)
    for _ in range(3):
        assert_reads(pictures, images, rng.integers(0, COUNT, 40))
    assert not pictures.cached


def test_a_row_group_is_read_once_for_all_its_pictures(
    tmp_path: Path, images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = write(tmp_path, images)
    pictures.read(np.array([5, ROW_GROUP + 1, 100]))  # one of each row group of both shards
    forget_parquet(pictures, monkeypatch)
    assert_reads(pictures, images, np.random.default_rng(0).permutation(COUNT))


def test_pictures_that_fill_many_pages_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = [encoded(number, (150, 160)) for number in range(40)]  # about 70 kB each
    assert sum(map(len, large)) > 2 << 20
    pictures = write(tmp_path, large, (150, 160))
    pictures.read(np.array([39]))
    forget_parquet(pictures, monkeypatch)
    assert_reads(pictures, large, np.arange(40))


def test_rows_that_are_left_out_shift_nothing(tmp_path: Path, images: list[bytes]) -> None:
    write(tmp_path, images)
    kept = np.arange(3, COUNT, 7)
    places = np.array([divmod(int(number), 100) for number in kept])
    sides = (np.full(len(kept), side) for side in SHAPE)
    pictures = Pictures(tmp_path, places, *sides, cache_bytes=0)
    chosen = [images[number] for number in kept]
    for _ in range(2):
        assert_reads(pictures, chosen, np.arange(len(kept))[::-1])


def test_a_shard_that_was_written_anew_is_read_anew(tmp_path: Path, images: list[bytes]) -> None:
    pictures = write(tmp_path, images)
    pictures.read(np.arange(COUNT))
    changed = [flat(number) if number % 3 else data for number, data in enumerate(images)]
    write(tmp_path, changed)
    pictures._files.clear()  # a file that is open goes on being the old one
    assert_reads(pictures, changed, np.arange(COUNT))


def test_compressed_pictures_are_read_through_parquet(tmp_path: Path, images: list[bytes]) -> None:
    pictures = write(tmp_path, images)
    for path in tmp_path.glob("*.parquet"):
        pq.write_table(pq.read_table(path), path, row_group_size=ROW_GROUP, compression="zstd")
    for _ in range(2):
        assert_reads(pictures, images, np.arange(COUNT))
    assert not pictures._notes.any()


class _Loaded(Dataset[list[NDArray[np.uint8]]]):
    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __getitems__(self, numbers: list[int]) -> list[NDArray[np.uint8]]:
        return self.pictures.read(np.array(numbers))


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_workers_read_the_same(tmp_path: Path, images: list[bytes], how: str) -> None:
    pictures = write(tmp_path, images)
    pictures.read(np.array([0]))  # a file is open
    loader = DataLoader(
        _Loaded(pictures),
        batch_sampler=[[3, 120], [64, 3], [149]],
        num_workers=2,
        collate_fn=list,
        multiprocessing_context=how,
    )
    found = [picture for batch in loader for picture in batch]
    for picture, number in zip(found, (3, 120, 64, 3, 149), strict=True):
        np.testing.assert_array_equal(picture, pixels(images[number]))
    if how == "fork":  # what a worker noted, this process knows
        assert pictures._notes[[120, 149]].all()
