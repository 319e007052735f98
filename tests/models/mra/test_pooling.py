from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from models.mra.pooling import masked_mean, stripe_pool


@given(st.integers(1, 40))
def test_all_tokens_pool_as_adaptive_average_pooling(length: int) -> None:
    tokens = torch.randn(2, length, 5, dtype=torch.float64)
    wanted = torch.nn.AdaptiveAvgPool1d(3)(tokens.transpose(1, 2)).transpose(1, 2).flatten(1)
    torch.testing.assert_close(stripe_pool(tokens), wanted)


@given(st.lists(st.booleans(), min_size=1, max_size=30).filter(any))
def test_a_mask_pools_as_if_the_other_tokens_were_not_there(mask: list[bool]) -> None:
    tokens = torch.randn(1, len(mask), 4, dtype=torch.float64)
    counted = torch.tensor([mask])
    torch.testing.assert_close(
        stripe_pool(tokens, counted.long()), stripe_pool(tokens[counted][None])
    )
    torch.testing.assert_close(masked_mean(tokens, counted), tokens[counted].mean(0)[None])


def test_stripes_of_an_image_are_horizontal() -> None:
    """A 6x2 grid in raster order: rows 0-1, 2-3 and 4-5."""
    rows = torch.arange(6.0).repeat_interleave(2)[None, :, None]
    assert stripe_pool(rows).tolist() == [[0.5, 2.5, 4.5]]


def test_no_token_gives_zeros() -> None:
    tokens = torch.ones(1, 4, 2)
    assert stripe_pool(tokens, torch.zeros(1, 4)).tolist() == [[0.0] * 6]
    assert masked_mean(tokens, torch.zeros(1, 4)).tolist() == [[0.0, 0.0]]
