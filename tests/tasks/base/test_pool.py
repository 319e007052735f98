"""The pool of training pictures: both looks, the same from disk as drawn."""

from pathlib import Path

import numpy as np
import torch

from tasks.base.pool import CAPTIONS_EACH, draw_pool, soften


def test_a_pool_reads_back_as_it_was_drawn(tmp_path: Path) -> None:
    drawn = draw_pool(5, 1.0, 3, tmp_path)
    read = draw_pool(5, 1.0, 3, tmp_path)
    assert (drawn.pixels == read.pixels).all()
    assert np.allclose(drawn.keypoints, read.keypoints)
    assert (drawn.captions, drawn.labels, drawn.seen) == (read.captions, read.labels, read.seen)
    assert drawn.pixels.shape == (5, 96, 48, 3)
    assert {len(texts) for texts in drawn.captions} == {CAPTIONS_EACH}
    assert not (draw_pool(5, 1.0, 4).pixels == drawn.pixels).all()


def test_captions_speak_of_what_is_drawn() -> None:
    pool = draw_pool(8, 0.0, 1)
    for texts, labels in zip(pool.captions, pool.labels, strict=True):
        assert all(labels["gender"] in text and labels["upper_colour"] in text for text in texts)


def test_softening_keeps_the_range_and_leaves_some_alone() -> None:
    values = torch.randint(
        0, 256, (64, 3, 16, 8), generator=torch.Generator().manual_seed(0)
    ).float()
    soft = soften(values, torch.Generator().manual_seed(1))
    assert soft.min() >= 0
    assert soft.max() <= 255
    same = (soft == values).flatten(1).all(dim=1)
    assert 0 < int(same.sum()) < 64
