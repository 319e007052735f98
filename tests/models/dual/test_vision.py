"""Positions of another grid, beside torch's own bicubic resize."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.dual.vision import resize_positions


@pytest.mark.parametrize("prefix", [1, 2])
@pytest.mark.parametrize(("old", "new"), [((4, 4), (24, 8)), ((6, 2), (3, 5)), ((14, 14), (24, 8))])
def test_the_grid_is_resized_bicubically_and_what_stands_in_front_kept(
    prefix: int, old: tuple[int, int], new: tuple[int, int]
) -> None:
    table = torch.randn(1, prefix + old[0] * old[1], 5)
    found = resize_positions(table, prefix, old, new)
    assert found.shape == (1, prefix + new[0] * new[1], 5)
    assert torch.equal(found[:, :prefix], table[:, :prefix])
    for channel in range(5):
        plane = table[0, prefix:, channel].view(1, 1, *old)
        expected = F.interpolate(plane, size=new, mode="bicubic", align_corners=False)
        torch.testing.assert_close(found[0, prefix:, channel].view(new), expected[0, 0])


def test_the_same_grid_is_the_same_table() -> None:
    table = torch.randn(1, 9, 3)
    assert resize_positions(table, 1, (4, 2), (4, 2)) is table


def test_a_constant_stays_constant_and_halves_stay_halves() -> None:
    table = torch.full((1, 1 + 16, 2), 0.25, dtype=torch.float16)
    found = resize_positions(table, 1, (4, 4), (6, 2))
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, torch.full((1, 13, 2), 0.25, dtype=torch.float16))


def test_a_table_of_another_grid_is_named() -> None:
    with pytest.raises(ValueError, match=r"17 positions for a grid of \(4, 2\) and 1 tokens"):
        resize_positions(torch.zeros(1, 17, 2), 1, (4, 2), (2, 2))
