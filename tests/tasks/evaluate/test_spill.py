"""Tables of tokens: the same rows from memory and from a file, and no file left behind."""

import gc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import PedAlignError
from tasks.evaluate import spill
from tasks.evaluate.spill import Budget, Rows


@given(
    st.integers(1, 20),
    st.integers(1, 5),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.booleans(),
    st.data(),
)
def test_what_was_written_is_read(count, width, dtype, in_file, data):
    rows = torch.randn(count, width).to(dtype)
    table = Rows(count, width, dtype, Budget(0 if in_file else 1 << 20))
    cut = data.draw(st.integers(0, count))
    table.write(cut, rows[cut:])
    table.write(0, rows[:cut])
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    assert table.in_file == in_file
    assert torch.equal(table.read(start, stop), rows[start:stop])
    some = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))))
    assert torch.equal(table.take(some), rows[some])


def test_tables_share_a_budget():
    budget = Budget(100)
    tables = [Rows(10, 2, torch.float32, budget) for _ in range(2)]
    assert [table.in_file for table in tables] == [False, True]
    assert budget.free == 20


def test_the_file_has_no_name(tmp_path):
    table = Rows(1000, 10, torch.float32, Budget(0, tmp_path))
    table.write(0, torch.ones(1000, 10))
    assert table.in_file
    assert list(tmp_path.iterdir()) == []
    del table
    gc.collect()


def test_a_full_disk_is_told_before(tmp_path, monkeypatch):
    usage = spill.shutil.disk_usage(tmp_path)._replace(free=3 << 20)
    monkeypatch.setattr(spill.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PedAlignError, match="3 MB are free, 4 MB needed") as told:
        Rows(1 << 20, 1, torch.float32, Budget(0, tmp_path))
    assert "TMPDIR" in str(told.value)


def test_rows_that_were_never_written_are_an_error():
    with pytest.raises(EOFError, match="rows 0 to 2"):
        Rows(2, 1, torch.float32, Budget(0)).read(0, 2)


def test_a_tensor_that_is_there_already_is_not_copied():
    rows = torch.arange(6.0).view(3, 2)
    table = Rows.of(rows)
    assert len(table) == 3
    assert table.read(1, 3).data_ptr() == rows[1:].data_ptr()
