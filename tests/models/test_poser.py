"""The batched poser against transformers' own one-at-a-time processor, and against geometry."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation
from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

from models.poser import KEYPOINTS, VitPosePoser, decode_heatmaps, rival_peaks

SIZE = (64, 48)


def save_random_vitpose(
    folder: Path, *, keypoints: int = 17, experts: int = 1, **extra: object
) -> None:
    """A small ViTPose with random weights, in the layout of the hub."""
    torch.manual_seed(0)
    backbone = VitPoseBackboneConfig(
        image_size=list(SIZE),
        patch_size=[16, 16],
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_experts=experts,
        part_features=4,
        out_indices=[2],
    )
    config = VitPoseConfig(backbone_config=backbone, num_labels=keypoints, **extra)
    VitPoseForPoseEstimation(config).save_pretrained(folder)
    VitPoseImageProcessorPil(size={"height": SIZE[0], "width": SIZE[1]}).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vitpose")
    save_random_vitpose(path)
    return path


@pytest.fixture(scope="module")
def poser(folder: Path) -> VitPosePoser:
    return VitPosePoser.from_pretrained(folder)


def pictures(count: int, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    """Smooth colour pictures, so that a fraction of a pixel is a small difference."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = rng.uniform(0.05, 0.3, (count, 3, 2))
    values = [[127 + 120 * np.sin(x * b + y * a) for a, b in rows] for rows in waves]
    return [np.stack(v, axis=-1).astype(np.uint8) for v in values]


def gaussians(centres_BK2: np.ndarray, height: int, width: int, sigma: float = 2.0) -> torch.Tensor:
    y, x = np.mgrid[0:height, 0:width]
    squares = (x - centres_BK2[..., 0, None, None]) ** 2 + (
        y - centres_BK2[..., 1, None, None]
    ) ** 2
    return torch.from_numpy(np.exp(-squares / (2 * sigma**2)).astype(np.float32))


@pytest.mark.parametrize(("height", "width"), [(96, 48), (64, 48), (100, 100), (31, 77)])
def test_crop_equals_the_processor_of_transformers(
    poser: VitPosePoser, height: int, width: int
) -> None:
    images = pictures(2, height, width)
    theirs = VitPoseImageProcessorPil(size={"height": SIZE[0], "width": SIZE[1]})(
        images,
        boxes=[[[0, 0, width, height]]] * 2,
        input_data_format="channels_last",
        return_tensors="pt",
    )["pixel_values"]
    ours = poser.crop(torch.from_numpy(np.stack(images)))
    assert ours.shape == theirs.shape
    # Theirs is rounded to whole 8-bit levels after the warp; deviations are about 0.225.
    assert (ours - theirs).abs().max() < 1.01 / 255 / 0.224


BOXES = [[0.5, 0.5, 1.0, 1.0], [0.3, 0.6, 0.4, 0.7], [0.7, 0.2, 0.6, 0.3], [0.9, 0.9, 0.3, 0.4]]


@pytest.mark.parametrize(("height", "width"), [(96, 48), (100, 160)])
def test_boxes_are_cut_as_transformers_cuts_them(
    poser: VitPosePoser, height: int, width: int
) -> None:
    images = pictures(len(BOXES), height, width)
    corners = [
        [[(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]]
        for cx, cy, w, h in BOXES
    ]
    theirs = VitPoseImageProcessorPil(size={"height": SIZE[0], "width": SIZE[1]})(
        images, boxes=corners, input_data_format="channels_last", return_tensors="pt"
    )["pixel_values"]
    ours = poser.crop(torch.from_numpy(np.stack(images)), torch.tensor(BOXES))
    apart = (ours - theirs).abs()
    # What lies outside is black in both; their warp fades over the last pixel at the border.
    assert (apart < 1.01 / 255 / 0.224).float().mean() > 0.97
    assert apart[0].max() < 1.01 / 255 / 0.224


def test_joints_of_boxes_are_placed_in_the_picture(
    poser: VitPosePoser, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(len(BOXES), 96, 48)
    corners = [[[(cx - w / 2) * 48, (cy - h / 2) * 96, w * 48, h * 96]] for cx, cy, w, h in BOXES]
    processor = VitPoseImageProcessorPil.from_pretrained(folder)
    centres = np.random.default_rng(0).uniform([3, 3], [8, 12], (len(BOXES), 17, 2))
    maps = gaussians(centres, 16, 12, sigma=1.5)
    theirs = processor.post_process_pose_estimation(SimpleNamespace(heatmaps=maps), boxes=corners)
    monkeypatch.setattr(poser, "heatmaps", lambda crops: maps)
    ours = poser.pose(images, BOXES)
    expected = np.stack([result[0]["keypoints"].numpy() for result in theirs]) / [48, 96]
    assert np.allclose(ours.points_BK2, expected, atol=2e-3)
    with pytest.raises(ValueError, match="one box an image"):
        poser.pose(images, BOXES[:2])


def test_a_box_equals_its_own_crop_where_no_margin_is_needed(tmp_path: Path) -> None:
    """A box of the input's proportions, without padding, shows what its cut-out pixels show."""
    save_random_vitpose(tmp_path, box_padding=1.0)
    close = VitPosePoser.from_pretrained(tmp_path)
    (image,) = pictures(1, 128, 96)
    part = image[32:96, 24:72]  # 64 x 48, the input's size
    boxed = close.crop(torch.from_numpy(image[None]), torch.tensor([[0.5, 0.5, 0.5, 0.5]]))
    alone = close.crop(torch.from_numpy(part[None]))
    # The two grids differ by half a pixel's width at most: pixel centres against edges.
    assert (boxed - alone)[..., 4:-4, 4:-4].abs().mean() < 0.1


def test_rivals_are_the_heights_of_far_places() -> None:
    maps = torch.zeros(1, 2, 16, 12)
    maps[0, 0, 4, 5] = 0.9
    maps[0, 0, 8, 5] = 0.6  # four cells below the peak: a quarter of 16, so near
    maps[0, 0, 9, 5] = 0.5  # five cells: far
    maps[0, 1, 4, 5] = 0.7
    maps[0, 1, 0, 0] = -0.2
    peaks, _ = decode_heatmaps(maps)
    assert rival_peaks(maps, peaks.round())[0].tolist() == pytest.approx([0.5, 0.0])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_decoding_equals_transformers_on_peaks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.uniform([3, 3], [12, 18], (2, 17, 2))
    maps = gaussians(centres, 22, 16) + 0.002
    peaks, scores = decode_heatmaps(maps)
    processor = VitPoseImageProcessorPil(size={"height": 22, "width": 16})
    # A unit box in their arithmetic: the result is in cells.
    scale = np.tile(np.array([[15 / 200, 21 / 200]], np.float32), (2, 1))
    centre = np.tile(np.array([[7.5, 10.5]], np.float32), (2, 1))
    theirs, their_scores = processor.keypoints_from_heatmaps(maps.numpy(), centre, scale)
    assert np.allclose(peaks.numpy(), theirs, atol=2e-3)
    assert np.allclose(scores.numpy(), their_scores[..., 0], atol=1e-6)


def test_decoding_finds_a_gaussian_between_cells() -> None:
    centre = np.array([[[5.3, 8.75]]])
    peaks, scores = decode_heatmaps(gaussians(centre, 20, 14))
    assert np.allclose(peaks[0, 0].numpy(), [5.3, 8.75], atol=0.02)
    assert 0.9 < float(scores[0, 0]) <= 1


@settings(max_examples=25, deadline=None)
@given(st.floats(-5, 5), st.integers(0, 10**6), st.booleans())
def test_decoding_stays_near_the_map_whatever_is_in_it(
    level: float, seed: int, noisy: bool
) -> None:
    maps = torch.full((1, 17, 8, 6), level)
    if noisy:
        maps += torch.randn(maps.shape, generator=torch.Generator().manual_seed(seed))
    peaks, scores = decode_heatmaps(maps)
    assert torch.isfinite(peaks).all()
    assert torch.isfinite(scores).all()
    assert (peaks[..., 0] >= -1).all()
    assert (peaks[..., 0] <= 6).all()
    assert (peaks[..., 1] <= 8).all()


def test_whole_way_equals_transformers(
    poser: VitPosePoser, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(3, 96, 48)
    boxes = [[[0.0, 0.0, 48.0, 96.0]]] * 3
    processor = VitPoseImageProcessorPil.from_pretrained(folder)
    centres = np.random.default_rng(0).uniform([3, 3], [8, 12], (3, 17, 2))
    maps = gaussians(centres, 16, 12, sigma=1.5)
    theirs = processor.post_process_pose_estimation(SimpleNamespace(heatmaps=maps), boxes=boxes)
    monkeypatch.setattr(poser, "heatmaps", lambda crops: maps)  # peaks, not noise
    ours = poser.pose(images)
    expected = np.stack([result[0]["keypoints"].numpy() for result in theirs]) / [48, 96]
    assert np.allclose(ours.points_BK2, expected, atol=2e-3)
    assert np.allclose(
        ours.scores_BK, np.stack([r[0]["scores"].numpy() for r in theirs]), atol=1e-5
    )


def test_a_picture_does_not_depend_on_its_neighbours(poser: VitPosePoser) -> None:
    images = pictures(3, 96, 48) + pictures(2, 50, 40, seed=1) + pictures(1, 96, 48, seed=2)
    together = poser.pose(images)
    for index, image in enumerate(images):
        alone = poser.pose([image])
        assert np.allclose(together.points_BK2[index], alone.points_BK2[0], atol=1e-4)
        assert np.allclose(together.scores_BK[index], alone.scores_BK[0], atol=1e-5)


def test_no_pictures_give_no_poses(poser: VitPosePoser) -> None:
    pose = poser.pose([])
    assert pose.points_BK2.shape == (0, len(KEYPOINTS), 2)
    assert pose.scores_BK.shape == pose.rivals_BK.shape == (0, len(KEYPOINTS))


def test_padding_is_the_published_one_unless_the_model_says_otherwise(
    poser: VitPosePoser, tmp_path: Path
) -> None:
    assert poser.box_padding == 1.25
    save_random_vitpose(tmp_path, box_padding=1.0)
    assert VitPosePoser.from_pretrained(tmp_path).box_padding == 1.0


def test_mixture_of_experts_models_run(tmp_path: Path) -> None:
    save_random_vitpose(tmp_path, experts=3)
    pose = VitPosePoser.from_pretrained(tmp_path).pose(pictures(2, 96, 48))
    assert np.isfinite(pose.points_BK2).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(poser: VitPosePoser, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="remedy"):
        poser.pose([image])


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load .*remedy"):
        VitPosePoser.from_pretrained(tmp_path)
    save_random_vitpose(tmp_path, keypoints=5)
    with pytest.raises(ValueError, match="5 keypoints"):
        VitPosePoser.from_pretrained(tmp_path)
    save_random_vitpose(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[next(name for name in tensors if name.startswith("head."))]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 missing"):
        VitPosePoser.from_pretrained(tmp_path)
