"""Disk use: every inode once, whatever it is called."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.disk import Inodes, cache_use, files_of


def test_names_of_one_file_count_once(tmp_path: Path) -> None:
    cache, data = tmp_path / ".cache", tmp_path / "data"
    for folder in (cache / "shards", cache / "trainings" / "t", cache / "runs", data):
        folder.mkdir(parents=True)
    (cache / "shards" / "a").write_bytes(b"x" * 10)
    os.link(cache / "shards" / "a", data / "a")
    (cache / "trainings" / "t" / "w").write_bytes(b"x" * 100)
    (cache / "runs" / "c").write_bytes(b"x" * 1000)
    os.link(cache / "runs" / "c", cache / "trainings" / "t" / "c")
    assert cache_use(cache) == {
        "shards": 10, "trainings": 1100, "runs": 1000, "together": 1110, "own": 1100,
    }  # fmt: skip
    assert Inodes([cache, data]).own == 1110
    assert Inodes([tmp_path / "absent"]).size == 0
    assert list(files_of([tmp_path / "absent"])) == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3), st.integers(0, 3)), max_size=8))
def test_own_and_foreign_names(files: list[tuple[int, int, int]]) -> None:
    """Files of some size with some names inside and some outside."""
    with TemporaryDirectory() as folder:
        inside, outside = Path(folder, "in"), Path(folder, "out")
        inside.mkdir()
        outside.mkdir()
        for n, (size, here, there) in enumerate(files):
            source = Path(folder, f"{n}")
            source.write_bytes(b"x" * size)
            for place, names in ((inside, here), (outside, there)):
                for name in range(names):
                    os.link(source, place / f"{n}-{name}")
            source.unlink()
        found = Inodes([inside])
        assert found.size == sum(size for size, here, _ in files if here)
        assert found.own == sum(size for size, here, there in files if here and not there)
