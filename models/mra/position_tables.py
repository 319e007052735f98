"""Relative-position tables of Swin for another window size.

Shapes: T = (2 * window - 1) ** 2 rows of a table, A heads.

The released model widens tables as BEiT does: the source offsets are spread on a geometric
progression, so that near offsets stay near and far ones are stretched, and a bicubic spline is read
at the whole offsets of the new window (release: models/swin_transformer.py).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import RectBivariateSpline
from torch import Tensor


def resize_table(table_TA: Tensor, window: int) -> Tensor:
    """A table for another window.

    Args:
        table_TA: The table of a square window.
        window: The side wanted, in tokens.

    Returns:
        The table ((2 * window - 1) ** 2, A), in the dtype it came in.

    Raises:
        ValueError: The table is not that of a square window.
    """
    rows, heads = table_TA.shape
    source = round(rows**0.5)
    if source * source != rows or source % 2 == 0:
        raise ValueError(
            f"position table of {rows} rows: a square window of side w has (2 w - 1) ** 2 rows; "
            "rectangular windows cannot be resized"
        )
    target = 2 * window - 1
    if source == target:
        return table_TA.clone()
    if source < 4:
        raise ValueError(
            f"position table of window {(source + 1) // 2}: a cubic spline needs a window of at "
            "least 3; train at the new size from fresh tables"
        )
    offsets = _spread(source, target)
    wanted = np.arange(-(target // 2), target // 2 + 1, dtype=np.float64)
    tables = table_TA.double().cpu().numpy().reshape(source, source, heads)
    resized = [
        RectBivariateSpline(offsets, offsets, tables[:, :, head])(wanted, wanted).reshape(-1)
        for head in range(heads)
    ]
    return torch.from_numpy(np.stack(resized, axis=1)).to(table_TA)


def _spread(source: int, target: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Where the source's offsets lie: 0 and +-(1 + q + q^2 + ...).

    The ratio q is found by bisection in [1.01, 1.5] so that the outermost lies at the target's
    outermost offset; a smaller target than source ends at the lower bound, which crops.
    """
    half, goal = source // 2, target // 2
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**half) / (1 - ratio) > goal:
            high = ratio
        else:
            low = ratio
    positive = np.cumsum(((low + high) / 2) ** np.arange(half, dtype=np.float64))
    return np.concatenate([-positive[::-1], [0.0], positive])
