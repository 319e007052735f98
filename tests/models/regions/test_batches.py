"""Pixels as the library's processors make them; batches of one shape."""

import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
    GroundingDinoImageProcessorPil,
)
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

from models.regions.batches import ahead, cut_batches, normalised, resized, to_square

# Higher, wider, square, larger than what the detector sees, with three rows, with one.
SIZES = [(48, 24), (20, 50), (64, 64), (150, 90), (3, 9), (1, 5)]


def processed(processor, pictures):
    return processor(pictures, return_tensors="pt", input_data_format="channels_last")[
        "pixel_values"
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "processor",
    [
        GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128}),
        OwlViTImageProcessorPil(size={"height": 48, "width": 48}),
    ],
)
def test_pixels_are_the_processors(picture, processor, size):
    pictures = [picture(seed, size) for seed in range(2)]
    made = resized(processor, pictures)
    assert made.dtype == torch.uint8
    torch.testing.assert_close(
        normalised(processor, made), processed(processor, pictures), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wanted", [(64, 64), (40, 56)])
def test_the_square_is_the_processors(picture, size, wanted):
    processor = Owlv2ImageProcessorPil(size={"height": wanted[0], "width": wanted[1]})
    pictures = [picture(seed, size) for seed in range(2)]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(
        normalised(processor, to_square(pixels, *wanted)),
        processed(processor, pictures),
        atol=1e-5,
        rtol=0,
    )


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), max_size=20),
    st.integers(1, 4),
)
def test_batches_hold_everything_once_and_one_shape_each(items, size):
    shapes = [(shape,) for shape, _ in items]
    lengths = [length for _, length in items]
    batches = cut_batches(shapes, lengths, size)
    assert sorted(at for batch in batches for at in batch) == list(range(len(items)))
    for batch in batches:
        assert 0 < len(batch) <= size
        assert len({shapes[at] for at in batch}) == 1
        assert [lengths[at] for at in batch] == sorted(lengths[at] for at in batch)
    # No more batches than the shapes need.
    counts = [sum(shape == other for other in shapes) for shape in set(shapes)]
    assert len(batches) == sum(-(-count // size) for count in counts)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_inputs_come_in_order_and_for_a_gpu_from_another_thread(device):
    made_by = []

    def make(batch):
        made_by.append(threading.current_thread())
        return batch * 10

    batches = list(range(8))
    assert list(ahead(make, batches, torch.device(device))) == [(n, n * 10) for n in batches]
    assert len(made_by) == 8
    assert (threading.current_thread() in made_by) == (device == "cpu")
    assert list(ahead(make, [], torch.device(device))) == []


def test_few_batches_are_made_ahead():
    made = []
    found = ahead(made.append, list(range(9)), torch.device("cuda"))
    next(found)
    next(found)
    time.sleep(0.05)
    assert set(range(2)) <= set(made) <= set(range(4))


def test_what_goes_wrong_ahead_is_heard():
    def make(batch):
        raise OSError(batch)

    with pytest.raises(OSError, match="first"):
        next(ahead(make, ["first"], torch.device("cuda")))
