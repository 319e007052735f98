"""Pictures of the world for the shipped captioner and poser, drawn once in two kinds of look.

The looks are the source's and random others, by `tasks.world.batches`, which has no way to ask for
the target's cameras. People are drawn afresh from the seed; none is a person of a written dataset.

Shape legend: N pictures, H x W pixels (96 x 48 unless asked), K = 17 keypoints.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from tasks.world.batches import sample_batch
from tasks.world.captions import describe

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIZE = (96, 48)
CAPTIONS_EACH = 4
PEOPLE = "drawn from the pool's seed; no person of a written dataset is among them"
_BATCH = 100


@dataclass(frozen=True)
class Pool:
    """Pictures and what is true of them, in step."""

    pixels: NDArray[np.uint8]
    """(N, H, W, 3)."""
    keypoints: NDArray[np.float32]
    """(N, K, 3): x and y in [0, 1], visible 0 or 1."""
    captions: list[list[str]]
    """`CAPTIONS_EACH` sentences in the source's style a picture."""
    labels: list[dict[str, str]]
    """The person's attributes."""
    seen: list[list[str]]
    """The parts that can be seen."""
    actions: list[str]
    """walking or standing."""
    views: list[str]
    """From where the person is seen: front, back left, ..."""


def draw_pool(
    images: int,
    source_share: float,
    seed: int,
    folder: Path | None = None,
    size: tuple[int, int] = SIZE,
) -> Pool:
    """Draw a pool, or read the one that the folder holds.

    Args:
        images: How many.
        source_share: Share in the source look; the others have random looks. The looks alternate
            by hundreds, so any stretch of the pool has both.
        seed: Source of all randomness.
        folder: Where it is kept; None keeps nothing.
        size: Height and width of the pictures, pixels.
    """
    name = f"pool-{images}-{source_share:g}-{seed}-{size[0]}x{size[1]}"
    if folder is not None and (folder / f"{name}.json").exists():
        facts = json.loads((folder / f"{name}.json").read_text())
        pixels = np.load(folder / f"{name}.npy", mmap_mode="r")
        return Pool(pixels, np.array(facts.pop("keypoints"), np.float32), **facts)
    rng = np.random.default_rng(seed)
    pixels = np.empty((images, *size, 3), np.uint8)
    keypoints = np.empty((images, 17, 3), np.float32)
    captions, labels, seen, actions, views = [], [], [], [], []
    for start in tqdm(range(0, images, _BATCH), desc="pool", mininterval=10):
        count = min(_BATCH, images - start)
        number = start // _BATCH
        plain = int((number + 1) * source_share) > int(number * source_share)
        part, _, people, drawings = sample_batch(rng, count, "source" if plain else "random", size)
        pixels[start : start + count] = part
        for index, (person, drawing) in enumerate(zip(people, drawings, strict=True)):
            keypoints[start + index] = drawing.keypoints
            captions.append(
                [describe(person, "source", rng, drawing) for _ in range(CAPTIONS_EACH)]
            )
            labels.append(person.labels())
            seen.append(sorted(drawing.boxes))
            actions.append(drawing.action)
            views.append(drawing.view)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", pixels)
        facts = {"captions": captions, "labels": labels, "seen": seen}
        facts |= {"keypoints": keypoints.tolist(), "actions": actions, "views": views}
        (folder / f"{name}.json").write_text(json.dumps(facts))
    return Pool(pixels, keypoints, captions, labels, seen, actions, views)


def soften(values_B3HW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Make some pictures soft or noisy, as a small diffusion model's are.

    Args:
        values_B3HW: float, 0 to 255.
        generator: Source of randomness.
    """
    count = len(values_B3HW)
    chance_B111 = torch.rand(count, 1, 1, 1, generator=generator)
    half = F.avg_pool2d(values_B3HW, 2)
    soft = F.interpolate(half, values_B3HW.shape[-2:], mode="bilinear", align_corners=False)
    mix_B111 = torch.rand(count, 1, 1, 1, generator=generator)
    values = torch.where(chance_B111 < 0.35, torch.lerp(values_B3HW, soft, mix_B111), values_B3HW)
    noise = torch.randn(values.shape, generator=generator)
    level_B111 = 8 * torch.rand(count, 1, 1, 1, generator=generator)
    noisy = torch.where(chance_B111 > 0.7, values + level_B111 * noise, values)
    return noisy.clamp(0, 255)
