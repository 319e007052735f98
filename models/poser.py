"""Body keypoints of a person crop: ViTPose behind a Protocol of one method.

`Poser.pose` takes pixels and gives the 17 COCO keypoints with a confidence each; the screening
stage reads from them whether a generated person is whole. `VitPosePoser` loads any
`VitPoseForPoseEstimation` of transformers by hub name or folder; the shipped tiny one is the same
class with a small backbone.

Unusual: the affine crop and the sub-pixel decoding (DARK: Zhang et al., CVPR 2020; unbiased
coordinates: Huang et al., CVPR 2020) are written for whole batches on the model's device;
transformers' processor does both one image and one keypoint at a time with scipy on the CPU, and a
test holds the two equal. And a joint comes with its *rival*: how strongly the heatmap also points
at a place far from its peak, which is where a second person or a joint in the wrong place shows.

    poser = VitPosePoser.from_pretrained("usyd-community/vitpose-base-simple", device="cuda")
    pose = poser.pose([pixels_HW3], boxes=[(0.5, 0.5, 0.4, 0.9)])

Without boxes (`models.people` finds them) a picture is its own person box, as a pedestrian crop is.

Shapes: B images, K keypoints, H x W pixels of an image, h x w cells of a heatmap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.loading import load_model, load_processor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KEYPOINTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""COCO's order, which ViTPose's heatmaps follow."""

BOX_PADDING = 1.25
"""Margin around the person box that the published ViTPose models were trained with. A model made
for tight crops writes its own `box_padding` into its config.json."""

RIVAL_DISTANCE = 0.25
"""How far from a joint's place another place is a rival, as a share of the padded box's height.
Left and right of one person lie closer, an ankle and the other mid-stride included; a second
person beside, above or below lies further, and so does a joint of a body put together wrongly."""

_BLUR_SIGMA, _BLUR_RADIUS = 0.8, 5
_WHOLE = (0.5, 0.5, 1.0, 1.0)


@dataclass(frozen=True)
class Pose:
    """Keypoints of a batch of person crops.

    Attributes:
        points_BK2: float32, x and y as fractions of the image's width and height; slightly
            outside [0, 1] where the model puts a joint in the margin.
        scores_BK: float32, peak of the heatmap: about 1 where the joint is plain, about 0 where
            there is none.
        rivals_BK: float32, greatest value of the heatmap further than `RIVAL_DISTANCE` from the
            peak.
    """

    points_BK2: np.ndarray
    scores_BK: np.ndarray
    rivals_BK: np.ndarray


class Poser(Protocol):
    """Anything that finds the keypoints of person crops."""

    def pose(
        self, images: Sequence[np.ndarray], boxes: Sequence[Sequence[float]] | None = None
    ) -> Pose:
        """Find the keypoints of one person of each image.

        Args:
            images: (H, W, 3) uint8 RGB, of one size or of several.
            boxes: That person's (cx, cy, w, h) as fractions of the image; None where every image
                is a person crop.
        """
        ...


class VitPosePoser:
    """ViTPose over whole crops.

    Args:
        model: A `VitPoseForPoseEstimation`, or any module whose output has `heatmaps` (B, K, h, w).
        input_size: Height and width of the network's input, pixels.
        mean: Normalisation, per channel, of values in [0, 1].
        std: Normalisation, per channel, of values in [0, 1].
        box_padding: Margin around the crop, as a factor of its size.
        experts: Number of mixture-of-experts heads; above 1 (ViTPose++) the first, COCO, is used.
    """

    def __init__(
        self,
        model: nn.Module,
        input_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        box_padding: float = BOX_PADDING,
        experts: int = 1,
    ) -> None:
        parameter = next(model.parameters())
        self.model = model.eval().requires_grad_(False)
        self.device, self.dtype = parameter.device, parameter.dtype
        self.input_size = input_size
        self.box_padding = box_padding
        self.experts = experts
        self._mean_3 = torch.tensor(mean, device=self.device)
        self._std_3 = torch.tensor(std, device=self.device)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load a ViTPose model by hub name or local folder.

        Raises:
            ValueError: The name holds no whole ViTPose model with COCO's 17 keypoints.
        """
        from transformers import AutoImageProcessor, VitPoseForPoseEstimation

        words: Any = {
            "what": "pose model",
            "remedy": "name usyd-community/vitpose-base-simple, or the shipped models/tiny/poser",
        }
        model = load_model(VitPoseForPoseEstimation, name, dtype=dtype, **words)
        processor = load_processor(AutoImageProcessor, name, **words)
        config = model.config
        if config.num_labels != len(KEYPOINTS):
            raise ValueError(
                f"the pose model {str(name)!r} has {config.num_labels} keypoints; rule: COCO's "
                f"{len(KEYPOINTS)}; remedy: a model trained on COCO"
            )
        backbone = config.backbone_config
        height, width = backbone.image_size
        return cls(
            model.to(device),
            input_size=(int(height), int(width)),
            mean=processor.image_mean,
            std=processor.image_std,
            box_padding=float(getattr(config, "box_padding", BOX_PADDING)),
            experts=int(backbone.num_experts),
        )

    @torch.inference_mode()
    def pose(
        self, images: Sequence[np.ndarray], boxes: Sequence[Sequence[float]] | None = None
    ) -> Pose:
        """Find the keypoints of each image. See `Poser.pose`."""
        if boxes is not None and len(boxes) != len(images):
            raise ValueError(
                f"{len(boxes)} boxes for {len(images)} images; rule: one box an image; remedy: "
                "leave out the images without a person"
            )
        if not images:
            none = np.zeros((0, len(KEYPOINTS)), np.float32)
            return Pose(np.zeros((0, len(KEYPOINTS), 2), np.float32), none, none)
        table_B4 = [_WHOLE] * len(images) if boxes is None else [tuple(box) for box in boxes]
        boxes_B4 = torch.tensor(table_B4, dtype=torch.float32, device=self.device)
        # One warp for all images of a size: restyled shards have a single one.
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(_checked_shape(image), []).append(index)
        crops_B3HW = torch.empty(len(images), 3, *self.input_size, device=self.device)
        spans_B2 = torch.empty(len(images), 2, device=self.device)
        for (height, width, _), rows in groups.items():
            pixels = torch.from_numpy(np.stack([images[row] for row in rows])).to(self.device)
            crops_B3HW[rows] = self.crop(pixels, boxes_B4[rows])
            spans = self._spans(boxes_B4[rows], height, width)
            spans_B2[rows] = spans / spans.new_tensor([width, height])
        heatmaps_BKhw = self.heatmaps(crops_B3HW)
        cells_BK2, scores_BK = decode_heatmaps(heatmaps_BKhw)
        rivals_BK = rival_peaks(heatmaps_BKhw, cells_BK2)
        height, width = heatmaps_BKhw.shape[-2:]
        # Fractions of the padded box: cell 0 and the last cell are its two edges.
        parts_BK2 = cells_BK2 / cells_BK2.new_tensor([width - 1, height - 1])
        points_BK2 = boxes_B4[:, None, :2] + (parts_BK2 - 0.5) * spans_B2[:, None]
        found = (points_BK2, scores_BK, rivals_BK)
        return Pose(*(values.float().cpu().numpy() for values in found))

    def heatmaps(self, crops_B3HW: Tensor) -> Tensor:
        """Run the network on normalised crops: (B, 3, *input_size) to (B, K, h, w) float32."""
        extra = {}
        if self.experts > 1:
            extra["dataset_index"] = torch.zeros(
                len(crops_B3HW), dtype=torch.long, device=self.device
            )
        heatmaps: Tensor = self.model(crops_B3HW.to(self.dtype), **extra).heatmaps
        return heatmaps.float()

    def crop(self, pixels_BHW3: Tensor, boxes_B4: Tensor | None = None) -> Tensor:
        """Cut a padded box out of each image and normalise it.

        Args:
            pixels_BHW3: uint8, images of one size.
            boxes_B4: (cx, cy, w, h) as fractions of the image; the whole image if None.

        Returns:
            (B, 3, *input_size) float32. What lies outside the image is black, as in training.
        """
        height, width = pixels_BHW3.shape[1:3]
        if boxes_B4 is None:
            boxes_B4 = torch.tensor([_WHOLE], device=self.device).expand(len(pixels_BHW3), 4)
        size_2 = boxes_B4.new_tensor([width, height])
        centres_B2, spans_B2 = boxes_B4[:, :2] * size_2, self._spans(boxes_B4, height, width)
        out_h, out_w = self.input_size
        # Pixels of the image that the input's columns and rows show.
        x_W = torch.linspace(-0.5, 0.5, out_w, device=self.device)
        y_H = torch.linspace(-0.5, 0.5, out_h, device=self.device)
        x_BW = centres_B2[:, :1] + spans_B2[:, :1] * x_W
        y_BH = centres_B2[:, 1:] + spans_B2[:, 1:] * y_H
        grid_BHW2 = torch.stack(
            [
                (2 * x_BW / max(width - 1, 1) - 1)[:, None].expand(-1, out_h, -1),
                (2 * y_BH / max(height - 1, 1) - 1)[:, :, None].expand(-1, -1, out_w),
            ],
            dim=-1,
        )
        crops_B3HW = F.grid_sample(
            pixels_BHW3.permute(0, 3, 1, 2).float(),
            grid_BHW2,
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )
        inside_BHW = (grid_BHW2.abs() <= 1 + 1e-6).all(dim=-1)
        crops_B3HW = crops_B3HW * inside_BHW[:, None] / 255
        return (crops_B3HW - self._mean_3[:, None, None]) / self._std_3[:, None, None]

    def _spans(self, boxes_B4: Tensor, height: int, width: int) -> Tensor:
        """Width and height of the padded boxes in the input's proportions, pixels: (B, 2)."""
        aspect = self.input_size[1] / self.input_size[0]
        span_x, span_y = boxes_B4[:, 2] * width, boxes_B4[:, 3] * height
        spans_B2 = torch.stack(
            [torch.maximum(span_x, aspect * span_y), torch.maximum(span_y, span_x / aspect)], dim=1
        )
        return spans_B2 * self.box_padding


def rival_peaks(heatmaps_BKhw: Tensor, cells_BK2: Tensor) -> Tensor:
    """Find how strongly each heatmap points away from its peak: (B, K).

    Args:
        heatmaps_BKhw: Network output; its cells are square.
        cells_BK2: The peaks, x then y.

    Returns:
        The greatest value further than `RIVAL_DISTANCE` of the height from the peak.
    """
    height, width = heatmaps_BKhw.shape[-2:]
    x_w = torch.arange(width, device=cells_BK2.device)
    y_h = torch.arange(height, device=cells_BK2.device)
    x_BKw = (x_w - cells_BK2[..., 0, None]) ** 2
    y_BKh = (y_h - cells_BK2[..., 1, None]) ** 2
    near_BKhw = y_BKh[..., :, None] + x_BKw[..., None, :] <= (RIVAL_DISTANCE * height) ** 2
    return heatmaps_BKhw.masked_fill(near_BKhw, 0).amax(dim=(-2, -1))


def decode_heatmaps(heatmaps_BKhw: Tensor) -> tuple[Tensor, Tensor]:
    """Find each heatmap's peak to a fraction of a cell.

    The maximum is refined by one Newton step on the logarithm of the smoothed map, which is exact
    for a Gaussian (DARK, eq. 9).

    Args:
        heatmaps_BKhw: Network output.

    Returns:
        Peaks (B, K, 2) in cells, x then y, and their heights (B, K) before smoothing.
    """
    batch, count, _, width = heatmaps_BKhw.shape
    scores_BK, flat_BK = heatmaps_BKhw.flatten(2).max(dim=-1)
    x_BK, y_BK = flat_BK % width, flat_BK // width
    logs = _blur(heatmaps_BKhw).clamp(0.001, 50).log()
    padded = F.pad(logs, (1, 1, 1, 1), mode="replicate")
    rows = torch.arange(batch, device=logs.device)[:, None]
    columns = torch.arange(count, device=logs.device)[None]

    def near(dx: int, dy: int) -> Tensor:
        return padded[rows, columns, y_BK + 1 + dy, x_BK + 1 + dx]

    centre = near(0, 0)
    slope_x = (near(1, 0) - near(-1, 0)) / 2
    slope_y = (near(0, 1) - near(0, -1)) / 2
    eps = torch.finfo(torch.float32).eps
    bend_xx = near(1, 0) - 2 * centre + near(-1, 0) + eps
    bend_yy = near(0, 1) - 2 * centre + near(0, -1) + eps
    # The mixed second difference over the two diagonal neighbours.
    bend_xy = (
        near(1, 1) - near(1, 0) - near(0, 1) + 2 * centre - near(-1, 0) - near(0, -1) + near(-1, -1)
    ) / 2
    determinant = bend_xx * bend_yy - bend_xy**2
    # A flat map has no curvature to divide by: its maximum stays where it is.
    usable = determinant.abs() > 1e-12
    determinant = torch.where(usable, determinant, torch.ones_like(determinant))
    step_x = (bend_yy * slope_x - bend_xy * slope_y) / determinant
    step_y = (bend_xx * slope_y - bend_xy * slope_x) / determinant
    step_BK2 = torch.stack([step_x, step_y], dim=-1) * usable[..., None]
    # Beyond one cell the parabola no longer describes the map, which happens on noise only.
    peaks_BK2 = torch.stack([x_BK, y_BK], dim=-1) - step_BK2.clamp(-1, 1)
    return peaks_BK2, scores_BK


def _blur(maps_BKhw: Tensor) -> Tensor:
    """Smooth by a separable Gaussian with mirrored borders."""
    offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=maps_BKhw.device)
    kernel = torch.exp(-0.5 * (offsets / _BLUR_SIGMA) ** 2)
    kernel = kernel / kernel.sum()
    batch, count, height, width = maps_BKhw.shape
    flat = maps_BKhw.reshape(batch * count, 1, height, width)
    flat = flat[:, :, _mirror(height, flat.device)][..., _mirror(width, flat.device)]
    flat = F.conv2d(flat, kernel[None, None, :, None])
    flat = F.conv2d(flat, kernel[None, None, None, :])
    return flat.reshape(maps_BKhw.shape)


def _mirror(size: int, device: torch.device) -> Tensor:
    """Indices of an axis extended by the blur's radius, its border cells repeated."""
    index = torch.arange(-_BLUR_RADIUS, size + _BLUR_RADIUS, device=device) % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)


def _checked_shape(image: np.ndarray) -> tuple[int, ...]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"a pose image of shape {image.shape} and type {image.dtype}; rule: (H, W, 3) uint8 "
            "RGB; remedy: decode it by tasks.images"
        )
    return tuple(image.shape)
