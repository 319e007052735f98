"""Augmentation: against Pillow, against boxes worked out by hand, and its invariants."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.augment import (
    DRAWS,
    MEAN,
    STD,
    Recipe,
    augment,
    crop_and_resize,
    draw_crops,
    erase,
    normalise,
    plain,
    region_pixels,
)

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "recipe" / "recipe.json"


def pictures(seed: int, *shapes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    coarse = [
        rng.integers(0, 256, (max(2, h // 3), max(2, w // 3), 3), np.uint8) for h, w in shapes
    ]
    return [
        np.asarray(Image.fromarray(c).resize((w, h), Image.Resampling.BILINEAR))
        for c, (h, w) in zip(coarse, shapes, strict=True)
    ]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 999), st.integers(8, 70), st.integers(8, 50), st.integers(6, 60), st.booleans()
)
def test_crop_padding_flip_and_resize_equal_pillows(seed, height, width, target, flip):
    images = pictures(seed, (height, width), (31, 17))
    rng = np.random.default_rng(seed)
    pad = 5
    crops = []
    for image in images:
        x, y = rng.integers(0, 4, 2)
        w, h = image.shape[1] + 2 * pad - rng.integers(4, 9), image.shape[0] + 2 * pad - 6
        crops.append([x - pad, y - pad, w - x, h - y])
    out = crop_and_resize(
        images, np.array(crops, np.float64), np.array([flip, not flip]), (target, target // 2 + 2)
    )
    for image, crop, flipped, made in zip(images, crops, (flip, not flip), out, strict=True):
        canvas = Image.fromarray(np.pad(image, ((pad, pad), (pad, pad), (0, 0))))
        x, y, w, h = crop[0] + pad, crop[1] + pad, crop[2], crop[3]
        part = canvas.crop((x, y, x + w, y + h))
        if flipped:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        wanted = part.resize((target // 2 + 2, target), Image.Resampling.BICUBIC)
        difference = np.abs(made.permute(1, 2, 0).numpy() - np.asarray(wanted, np.float64))
        assert (difference > 2).mean() < 0.03
        assert difference.mean() < 0.4


def test_a_picture_of_the_right_size_is_left_alone():
    (image,) = pictures(3, (24, 12))
    out = plain([image], (24, 12))
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    back = (out[0] * std + mean) * 255
    assert torch.allclose(back, torch.from_numpy(image.copy()).permute(2, 0, 1).float(), atol=1e-3)


def test_boxes_become_whole_pixels_inside_the_picture():
    boxes = np.array([[0.5, 0.5, 1, 1], [0.5, 0.25, 0.5, 0.5], [0.99, 0.0, 0.1, 0.001]])
    found = region_pixels(boxes, np.full(3, 40.0), np.full(3, 20.0))
    assert found.tolist() == [[0, 0, 20, 40], [5, 0, 10, 20], [18, 0, 2, 1]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_the_crop_keeps_the_region_and_stays_on_the_padded_picture(seed):
    rng = np.random.default_rng(seed)
    heights, widths = rng.integers(10, 90, 4).astype(float), rng.integers(10, 60, 4).astype(float)
    regions = region_pixels(rng.random((4, 4)), heights, widths)
    recipe = Recipe(size=(32, 16), stride=8, crop=True, padding=10, flip=0.5)
    draws = rng.random((4, DRAWS))
    crops, scaled, flips = draw_crops(regions, heights, widths, draws, recipe)
    assert (crops[:, :2] >= -10).all()
    assert (crops[:, 0] + crops[:, 2] <= widths + 10).all()
    assert (crops[:, 1] + crops[:, 3] <= heights + 10).all()
    assert (crops[:, :2] <= regions[:, :2]).all()
    assert (crops[:, :2] + crops[:, 2:] >= regions[:, :2] + regions[:, 2:]).all()
    assert (scaled >= -1e-9).all()
    assert (scaled[:, 0] + scaled[:, 2] <= 16 + 1e-9).all()
    # Unflipped, the region lies in the result where it lies in the crop.
    straight = ~flips
    share = (regions[:, 0] - crops[:, 0]) / crops[:, 2]
    assert np.allclose(scaled[straight, 0] / 16, share[straight])
    mirrored = (crops[:, 0] + crops[:, 2] - regions[:, 0] - regions[:, 2]) / crops[:, 2]
    assert np.allclose(scaled[flips, 0] / 16, mirrored[flips])


def test_crop_borders_are_uniform_over_their_ranges():
    count = 4000
    draws = np.random.default_rng(0).random((count, DRAWS))
    regions = np.tile([1.0, 2, 3, 4], (count, 1))
    recipe = Recipe(size=(8, 8), stride=8, crop=True, padding=2)
    crops, _, _ = draw_crops(regions, np.full(count, 8.0), np.full(count, 6.0), draws, recipe)
    # x0 in {0..3} of the padded picture, so -2..1 here; x1 in {6..10}, so 4..8 here.
    starts, counts = np.unique(crops[:, 0], return_counts=True)
    assert starts.tolist() == [-2, -1, 0, 1]
    assert counts.min() > 850
    ends, counts = np.unique(crops[:, 0] + crops[:, 2], return_counts=True)
    assert ends.tolist() == [4, 5, 6, 7, 8]
    assert counts.min() > 650


def test_the_mask_marks_where_the_region_went():
    image = np.zeros((32, 16, 3), np.uint8)
    image[8:16, 4:12] = 255
    recipe = Recipe(size=(64, 32), stride=8, flip=0.5)
    box = np.array([[0.5, 0.375, 0.5, 0.25]])
    for seed in range(6):
        draws = np.random.default_rng(seed).random((1, DRAWS))
        pixels, mask = augment([image], box, draws, recipe)
        lit = torch.nn.functional.avg_pool2d(pixels[0].mean(0)[None, None], 8)[0, 0] > 0
        assert torch.equal(mask.view(8, 4).bool(), lit)


def test_erasing_clears_one_rectangle_of_the_stated_area():
    images = torch.ones(500, 3, 40, 20)
    draws = np.random.default_rng(0).random((500, DRAWS))
    out = erase(images, draws, 0.6)
    cleared = (out == 0).all(1)
    share = cleared.float().mean((1, 2))
    hit = share > 0
    assert 0.53 < hit.float().mean() < 0.67
    assert share.max() < 0.45
    assert share[hit].min() > 0.01
    for each in cleared[hit]:
        rows, columns = each.any(1), each.any(0)
        assert each.sum() == rows.sum() * columns.sum()
        assert rows.nonzero().diff(dim=0).eq(1).all()
    assert torch.equal(images, torch.ones_like(images))
    assert torch.equal(erase(images, draws, 0.0), images)


def test_normalisation_is_clips():
    white = normalise(torch.full((1, 3, 1, 1), 255.0)).flatten()
    assert white.tolist() == pytest.approx([1.93033625, 2.07488384, 2.14589699], abs=1e-5)


@pytest.mark.skipif(not GOLDEN.exists(), reason="the released numbers are not on this machine")
def test_patch_masks_equal_the_released_ones():
    from models.mra.masking import patch_mask

    for entry in json.loads(GOLDEN.read_text())["patch_masks"]:
        box = torch.tensor([entry["box_xywh"]], dtype=torch.float64)
        # The released mask has token 0 in front.
        assert patch_mask(box, tuple(entry["image"]), 32)[0].tolist() == entry["mask"][1:]
