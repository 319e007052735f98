"""Boxes to patch masks.

Shapes: B boxes, h x w grid of image tokens, P = h * w.
"""

from __future__ import annotations

import torch
from torch import Tensor


def patch_mask(boxes_B4: Tensor, image_size: tuple[int, int], stride: int) -> Tensor:
    """Which image tokens a box touches: from floor(start / stride) to ceil(end / stride).

    At least one row and one column belong to every box, and nothing lies outside the grid
    (compared with the released masks in the tests).

    Args:
        boxes_B4: Boxes (x, y, width, height) in pixels of the encoded image, x and y top left.
        image_size: Height and width of that image in pixels.
        stride: Pixels a side of a token (`MRAConfig.stride`).

    Returns:
        Mask (B, P), int64, 1 inside, in raster order, token 0 not included.
    """
    boxes = boxes_B4.double()
    rows_Bh = _span(boxes[:, 1], boxes[:, 3], -(-image_size[0] // stride), stride)
    columns_Bw = _span(boxes[:, 0], boxes[:, 2], -(-image_size[1] // stride), stride)
    return (rows_Bh[:, :, None] & columns_Bw[:, None, :]).flatten(1).long()


def _span(start_B: Tensor, length_B: Tensor, cells: int, stride: int) -> Tensor:
    """Boolean (B, cells): the cells of one axis that an interval touches."""
    first = (start_B / stride).floor().clamp(0, cells - 1)
    last = ((start_B + length_B) / stride).ceil().clamp(max=cells)
    last = torch.maximum(last, first + 1)
    cell = torch.arange(cells, device=start_B.device)
    return (cell >= first[:, None]) & (cell < last[:, None])
