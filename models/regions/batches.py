"""How pictures reach a detector: batches of one shape, pixels, arithmetic, work done ahead.

What a detector's image processor does is divided here. Sizes change on the CPU with the library's
own code, on bytes, for the next batch while the device computes this one; statistics are taken off
on the device. The processor alone takes nine times as long (56 ms a picture instead of 6, from
384x256 to 1200x800 on one core), and four times the transfer.

`to_square` is OWLv2's way to its input, which pads and then resizes unrounded numbers; the library
has it in SciPy, one picture at a time.

Shapes: B images, H x W pixels.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from torch import Tensor

_AHEAD = 3
"""Batches made at once: one core resizes about 150 pictures a second, a large GPU may see more."""
Batch = TypeVar("Batch")
Made = TypeVar("Made")
Precision = Literal["fp32", "bf16"]
"""Arithmetic of a detector's networks; weights are float32 in any case."""


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return autocast for a precision; no context at all for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def cut_batches(
    shapes: Sequence[tuple[int, ...]], lengths: Sequence[int], size: int
) -> list[list[int]]:
    """Cut items into batches of one shape, those of like length together.

    Padding pictures would leak through a backbone's windows and norms, and a box would depend on
    the pictures beside it; padding texts is masked and only costs time.

    Args:
        shapes: Of each item's picture.
        lengths: Of each item's text.
        size: Most items of a batch.

    Returns:
        Positions of the items of each batch.
    """
    of_shape: dict[tuple[int, ...], list[int]] = {}
    for at, shape in enumerate(shapes):
        of_shape.setdefault(shape, []).append(at)
    ordered = [sorted(items, key=lambda at: lengths[at]) for items in of_shape.values()]
    return [items[at : at + size] for items in ordered for at in range(0, len(items), size)]


def ahead(
    make: Callable[[Batch], Made], batches: Sequence[Batch], device: torch.device
) -> Iterator[tuple[Batch, Made]]:
    """Make each batch's input, those of the next ones while the caller's GPU computes this one.

    On a CPU there is nothing to overlap with.
    """
    if device.type == "cpu":
        for batch in batches:
            yield batch, make(batch)
        return
    with ThreadPoolExecutor(_AHEAD) as threads:
        coming = deque[Future[Made]]()
        for at, batch in enumerate(batches):
            for following in batches[at + len(coming) : at + _AHEAD]:
                coming.append(threads.submit(make, following))
            yield batch, coming.popleft().result()


# ------------------------------------------------------------------ pixels


def resized(processor: Any, images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Bring pictures of one shape to a detector's size, as its image processor does: bytes still.

    Returns:
        uint8 (B, 3, H', W').
    """
    found = processor(
        list(images),
        do_rescale=False,
        do_normalize=False,
        do_pad=False,
        # Without it a picture three pixels high is taken for one with its colours first.
        input_data_format="channels_last",
        return_tensors="pt",
    )
    pixels: Tensor = found["pixel_values"]
    return pixels


def normalised(processor: Any, pixels_B3HW: Tensor) -> Tensor:
    """Scale pixels and take off the statistics that a processor names, where the pixels are."""
    like: dict[str, Any] = {"dtype": torch.float32, "device": pixels_B3HW.device}
    pixels = pixels_B3HW.to(torch.float32)
    if processor.do_rescale:
        pixels = pixels * processor.rescale_factor
    if processor.do_normalize:
        mean = torch.tensor(processor.image_mean, **like)[:, None, None]
        std = torch.tensor(processor.image_std, **like)[:, None, None]
        pixels = (pixels - mean) / std
    return pixels


def to_square(pixels_B3HW: Tensor, height: int, width: int) -> Tensor:
    """Pad with zeros to a square, right and below, and resize: OWLv2's picture.

    The numbers are those of transformers' `Owlv2ImageProcessorPil`: linear interpolation between
    the centres of pixels, mirrored at the border; before shrinking by a factor f, a Gaussian of
    sigma (f - 1) / 2 along that axis.

    Args:
        pixels_B3HW: float32.
        height: Of the result.
        width: Of the result.

    Returns:
        float32 (B, 3, height, width).
    """
    rows, columns = pixels_B3HW.shape[2:]
    side = max(rows, columns)
    padded = F.pad(pixels_B3HW, (0, side - columns, 0, side - rows))
    tall = _resize_axis(padded, height)
    return _resize_axis(tall.transpose(2, 3), width).transpose(2, 3)


def _resize_axis(pixels_BCHW: Tensor, size: int) -> Tensor:
    """Resize the height; see `to_square`."""
    height = pixels_BCHW.shape[2]
    at = (np.arange(size) + 0.5) * (height / size) - 0.5
    low = np.floor(at).astype(np.int64)
    share = at - low
    sigma = max(0.0, (height / size - 1) / 2)
    reach = int(4 * sigma + 0.5)
    if not reach:
        one, other = (
            torch.from_numpy(_mirrored(index, height)).to(pixels_BCHW.device)
            for index in (low, low + 1)
        )
        return torch.lerp(
            pixels_BCHW.index_select(2, one),
            pixels_BCHW.index_select(2, other),
            torch.from_numpy(share).to(pixels_BCHW)[:, None],
        )
    # Both steps are sums over rows: one matrix does both.
    near = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (near / sigma) ** 2)
    kernel /= kernel.sum()
    weights = np.zeros((size, height))
    rows = np.arange(size)[:, None]
    for first, part in ((low, 1 - share), (low + 1, share)):
        np.add.at(weights, (rows, _mirrored(first[:, None] + near, height)), part[:, None] * kernel)
    return torch.from_numpy(weights).to(pixels_BCHW) @ pixels_BCHW


def _mirrored(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Bring positions beyond an axis back into it, mirrored about the middle of the last pixel."""
    period = max(2 * (size - 1), 1)
    inside = index % period
    return np.where(inside < size, inside, period - inside)
