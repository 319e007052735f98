"""Train the tiny pose model that the repository ships: ``models/tiny/poser/``.

It stands where ViTPose stands in the full profile, by the same class: a plain vision transformer
and a light decoder that gives one heatmap a joint. It was shown drawings in the source look and in
random looks (``training.json`` beside the weights).

Unusual: the drawings always show whole people, and a screen must notice the others; a network that
sees nothing else learns where joints usually are and finds them in noise. So training pictures
lose parts under their own background, from a band to the whole, stand on their head, or have their
thirds exchanged, and the truth follows; some are texture without any joint.

    python -m tasks.base.poser --work /tmp/base --out models/tiny/poser

Shape legend: B pictures, K = 17 joints, H x W pixels, h x w = 24 x 12 cells.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation
from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

from models.poser import KEYPOINTS, VitPosePoser
from tasks.base.fitting import Plan, command_line, fit, held_out, write_record
from tasks.base.pool import SIZE, Pool, draw_pool, soften

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CELLS = (24, 12)
SIGMA = 0.9
"""Width of a joint's Gaussian, cells (of four pixels)."""
PCK = 0.1
"""Share of the body's height within which a joint counts as found."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def new_poser() -> VitPoseForPoseEstimation:
    """Build the network: 96 x 48 pixels, 12 x 6 tokens, 24 x 12 cells."""
    backbone = VitPoseBackboneConfig(
        image_size=list(SIZE),
        patch_size=[8, 8],
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        out_indices=[4],
    )
    return VitPoseForPoseEstimation(
        VitPoseConfig(
            backbone_config=backbone,
            num_labels=len(KEYPOINTS),
            scale_factor=2,
            # Restyled pictures are cut as tightly as the drawings: no margin around them.
            box_padding=1.0,
            id2label=dict(enumerate(KEYPOINTS)),
            label2id={name: index for index, name in enumerate(KEYPOINTS)},
        )
    )


def heatmap_targets(points_BK3: Tensor) -> Tensor:
    """Draw a Gaussian where a joint is visible: (B, K, h, w), in unbiased coordinates."""
    height, width = CELLS
    x_BK = points_BK3[..., 0] * (width - 1)
    y_BK = points_BK3[..., 1] * (height - 1)
    across = (torch.arange(width) - x_BK[..., None]).square()
    down = (torch.arange(height) - y_BK[..., None]).square()
    maps = torch.exp(-(down[..., :, None] + across[..., None, :]) / (2 * SIGMA**2))
    return maps * points_BK3[..., 2, None, None]


def cover(
    values_B3HW: Tensor, points_BK3: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Paint the background over a band of some pictures and mark the joints in it as not visible.

    A third of the pictures lose their upper end, their lower end, a band in between, or all.
    """
    count, height = len(values_B3HW), values_B3HW.shape[2]
    draw = torch.rand(count, 4, generator=generator)
    low = torch.where(draw[:, 1] < 0.4, 0.0, 0.15 + 0.7 * draw[:, 2])
    high = torch.where(
        draw[:, 1] < 0.4, 0.1 + 0.5 * draw[:, 2], torch.where(draw[:, 1] < 0.75, 1.0, low + 0.25)
    )
    low, high = torch.where(draw[:, 3] < 0.12, 0.0, low), torch.where(draw[:, 3] < 0.12, 1.0, high)
    chosen = draw[:, 0] < 0.33
    rows_H = (torch.arange(height) + 0.5) / height
    band_BH = (rows_H >= low[:, None]) & (rows_H < high[:, None]) & chosen[:, None]
    width = values_B3HW.shape[3]
    # Each row goes from its left border's colour to its right border's.
    ramp_W = torch.linspace(0, 1, width)
    ground = torch.lerp(values_B3HW[..., :1], values_B3HW[..., -1:], ramp_W)
    ground = ground + 3 * torch.randn(ground.shape, generator=generator)
    values = torch.where(band_BH[:, None, :, None], ground, values_B3HW)
    y_BK = points_BK3[..., 1]
    hidden_BK = (y_BK >= low[:, None]) & (y_BK < high[:, None]) & chosen[:, None]
    points = points_BK3.clone()
    points[..., 2] *= ~hidden_BK
    return values, points


def disturb(
    values_B3HW: Tensor, points_BK3: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Turn some pictures upside down, exchange the thirds of some, make texture of some.

    Joints stay with their pixels; texture (noise in blocks of 1 to 16 pixels) has none.
    """
    count, _, height, width = values_B3HW.shape
    draw_B = torch.rand(count, generator=generator)
    values, points = values_B3HW.clone(), points_BK3.clone()
    turned = draw_B < 0.06
    values[turned] = values[turned].flip(-2)
    points[turned, :, 1] = 1 - points[turned, :, 1]
    order_B3 = torch.rand(count, 3, generator=generator).argsort(dim=1)
    for row in torch.nonzero((draw_B > 0.06) & (draw_B < 0.14))[:, 0].tolist():
        thirds = torch.stack(values[row].chunk(3, dim=1))
        values[row] = torch.cat(list(thirds[order_B3[row]]), dim=1)
        third_K = (points[row, :, 1] * 3).long().clamp(0, 2)
        now_at = order_B3[row].argsort()
        points[row, :, 1] += (now_at[third_K] - third_K) / 3
    for row in torch.nonzero(draw_B > 0.93)[:, 0].tolist():
        block = 2 ** int(torch.randint(0, 5, (1,), generator=generator))
        size = (-(-height // block), -(-width // block))
        level, spread = torch.rand(2, 3, 1, 1, generator=generator) * 128 + 32
        texture = level + spread * torch.randn(3, *size, generator=generator)
        smooth = "bilinear" if draw_B[row] > 0.965 else "nearest"
        values[row] = F.interpolate(texture[None], (height, width), mode=smooth)[0].clamp(0, 255)
        points[row, :, 2] = 0
    return values, points


def flip(
    values_B3HW: Tensor, points_BK3: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mirror half of the pictures; left joints become right ones."""
    swap = [
        KEYPOINTS.index(
            name.replace("left", "right") if "left" in name else name.replace("right", "left")
        )
        for name in KEYPOINTS
    ]
    chosen = torch.rand(len(values_B3HW), generator=generator) < 0.5
    mirrored = points_BK3[:, swap].clone()
    mirrored[..., 0] = 1 - mirrored[..., 0]
    values = torch.where(chosen[:, None, None, None], values_B3HW.flip(-1), values_B3HW)
    return values, torch.where(chosen[:, None, None], mirrored, points_BK3)


def train(pool: Pool, plan: Plan) -> tuple[VitPoseForPoseEstimation, float]:
    """Train by the mean squared error of heatmaps; returns averaged weights and the last loss."""
    torch.manual_seed(plan.seed)
    model = new_poser().train()
    # Fused attention has a slow backward pass in bfloat16 on a CPU: plain attention halves a step.
    model.set_attn_implementation("eager")
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]

    def loss_of(
        model: VitPoseForPoseEstimation, rows: NDArray[np.int64], generator: torch.Generator
    ) -> Tensor:
        values = torch.from_numpy(np.ascontiguousarray(pool.pixels[rows])).permute(0, 3, 1, 2)
        points = torch.from_numpy(pool.keypoints[rows])
        values, points = flip(values.float(), points, generator)
        values, points = cover(*disturb(values, points, generator), generator)
        values = soften(values, generator)
        with torch.autocast("cpu", torch.bfloat16):
            maps = model((values / 255 - mean) / std).heatmaps.float()
        target = heatmap_targets(points)
        # Joints fill a hundredth of their maps: without the weight, empty maps are good enough.
        error = (maps - target).square() * (1 + 9 * (target > 0.1))
        return error.mean()

    return fit(model, len(pool.pixels), plan, loss_of, "poser")


def correct_share(poser: VitPosePoser, pool: Pool, limit: float = PCK) -> dict[str, float]:
    """PCK: visible joints found within a share of the body's height (head to ankle joints).

    Returns:
        ``pck`` at the limit, and the mean confidence of visible and of hidden joints.
    """
    pose = poser.pose(list(pool.pixels))
    truth: NDArray[np.float32] = pool.keypoints
    shape = np.array([SIZE[1], SIZE[0]])
    offset = np.linalg.norm((pose.points_BK2 - truth[..., :2]) * shape, axis=-1)
    seen = truth[..., 2] > 0
    height = (truth[..., 1].max(axis=1) - truth[..., 1].min(axis=1)) * SIZE[0]
    hits = offset <= limit * height[:, None]
    return {
        "pck": round(float(hits[seen].mean()), 4),
        "confidence_visible": round(float(pose.scores_BK[seen].mean()), 4),
        "confidence_hidden": round(float(pose.scores_BK[~seen].mean()), 4),
    }


def save(out: Path, model: VitPoseForPoseEstimation) -> None:
    """Write the hub's folder layout, weights in half precision."""
    model.half().save_pretrained(out)
    VitPoseImageProcessorPil(size={"height": SIZE[0], "width": SIZE[1]}).save_pretrained(out)


def main(arguments: list[str] | None = None) -> None:
    """Draw, train, save and measure on held-out people."""
    args, plan = command_line("poser", "pose model", 4_000, arguments)
    pool = draw_pool(plan.images, plan.source_share, plan.seed, args.work)
    model, loss = train(pool, plan)
    save(args.out, model)
    poser = VitPosePoser.from_pretrained(args.out)
    measured = {"pck_at": PCK, **held_out(partial(correct_share, poser), args.work)}
    write_record(args.out, "poser", plan, {"heatmap_weighted_mse": loss}, measured)


if __name__ == "__main__":
    main()
