from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from models.mra.masking import patch_mask


def test_a_box_marks_the_patches_it_touches() -> None:
    """A 4x3 grid of 8-pixel patches; x 9..15 lies in column 1, y 7..17 in rows 0 to 2."""
    mask = patch_mask(torch.tensor([[9.0, 7.0, 6.0, 10.0]]), (32, 24), 8)[0].view(4, 3)
    assert mask.tolist() == [[0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_the_whole_image() -> None:
    assert patch_mask(torch.tensor([[0.0, 0.0, 16.0, 32.0]]), (32, 16), 8).tolist() == [[1] * 8]


@given(
    st.tuples(*[st.floats(-50, 90)] * 2),
    st.tuples(*[st.floats(0, 90)] * 2),
)
def test_every_box_has_a_patch(start: tuple[float, float], size: tuple[float, float]) -> None:
    assert patch_mask(torch.tensor([[*start, *size]]), (40, 24), 8).sum() >= 1
