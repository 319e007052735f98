"""How far the source and the restyled pictures are from the target's, in numbers.

The same pictures are measured before and after restyling, against the same target pictures, and
against those the *floor*: other pictures of the target itself, which differ as well and more so
the fewer they are. What the numbers are made of is in `models.gap`.

What is unusual: features come from a frozen extractor that has trained on neither set (the plain
Swin that retrieval starts from), never from the model that is being judged. Without one, the
pictures' own statistics of light, colour and sharpness stand in.

Shapes: N pictures, H x W pixels, D width of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from models.gap import fid, image_statistics, kid, normalised_gap, two_sample
from models.mra.starting import plain_swin
from tasks.augment import MEAN, STD
from tasks.errors import PedAlignError
from tasks.images import to_array_batch
from tasks.lookup import fetch, fetch_any, sample

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import SwinModel

    from tasks.report.gather import Sources

_BATCH = 64
_LEAST = 8
"""Fewest pictures of a domain; below, every distance is noise."""


class Extractor(Protocol):
    """A frozen model that turns pictures into features."""

    size: tuple[int, int]
    """Height and width of the pictures that it takes, pixels."""

    def encode_images(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.floating]:
        """Features (N, D)."""
        ...


@dataclass(frozen=True)
class DomainGap:
    """Distances to the target, by measure, and what the domains look like on average."""

    before: Mapping[str, float]
    """Source to target."""
    after: Mapping[str, float]
    """Restyled to target."""
    floor: Mapping[str, float]
    """Target to other pictures of the target."""
    statistics: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    """Mean over source, restyled and target pictures; see `models.gap.image_statistics`."""
    pictures: int = 0
    """Pictures of each domain."""

    def left(self, name: str) -> float:
        """Share of the gap that is left: 1 is nothing gained, 0 the floor; NaN without a gap."""
        return normalised_gap(self.before[name], self.after[name], self.floor[name])


class SwinExtractor:
    """Pooled features of a plain Swin."""

    def __init__(self, model: SwinModel, device: torch.device) -> None:
        """Wrap a loaded model."""
        # Shipped weights are stored in 16 bits and computed in 32.
        self.model, self.device = model.float().to(device).eval(), device
        size = model.config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        self.size = (int(height), int(width))

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> SwinExtractor:
        """Load weights that training can start from, such as ``inputs.vision`` of params.yaml.

        Raises:
            PedAlignError: There is no Swin in it.
        """
        try:
            return cls(plain_swin(folder), device)
        except (OSError, ValueError) as error:
            raise PedAlignError(
                f"{folder}: no Swin model could be loaded ({str(error).splitlines()[0]})",
                "distances between domains need a frozen extractor",
                "name a folder in transformers' layout, or the original .pth, under inputs.vision",
            ) from error

    @torch.inference_mode()
    def encode_images(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.floating]:
        """See `Extractor`."""
        batch = torch.from_numpy(pixels_NHWC).to(self.device).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (MEAN, STD))
        return np.asarray(self.model((batch - mean) / std).pooler_output.float().cpu())


def distances(
    first_ND: NDArray[np.floating], second_ND: NDArray[np.floating], seed: int
) -> dict[str, float]:
    """All distances of two sets of features, by the name under which they are shown."""
    return {
        "KID": max(0.0, kid(first_ND, second_ND, subsets=20, seed=seed).mean),
        "FID": fid(first_ND, second_ND),
        "told apart (%)": 100 * two_sample(first_ND, second_ND, seed=seed).accuracy,
    }


def measure_gap(
    sources: Sources, count: int, seed: int, extractor: Extractor | None = None
) -> DomainGap | None:
    """Measure how far source and restyled pictures are from the target's.

    Args:
        sources: The folders.
        count: Pictures of each domain.
        seed: Seed of the choice.
        extractor: Gives the features; without it the picture statistics are the features.

    Returns:
        The distances; None where a domain is missing or too small.
    """
    target = sources.target_folder
    if sources.restyled is None or target is None:
        return None
    children = fetch(
        sources.restyled,
        sample(sources.restyled, count, seed, "gap"),
        ["image", "parent_uid", "width", "height"],
    )
    wanted = {row["parent_uid"] for row in children.values() if row["parent_uid"]}
    parents = fetch_any(sources.ingested, wanted, ["image", "dataset"])
    # A generated picture's parent is the target's own: it has no "before".
    before = [r["image"] for r in parents.values() if r["image"] and r["dataset"] != target.name]
    drawn = sample(target, 2 * count, seed, "gap")
    shown = fetch(target, drawn, ["image"])
    real = [shown[uid]["image"] for uid in drawn]
    half = len(real) // 2
    sets = [before, [row["image"] for row in children.values()], real[:half], real[half:]]
    if min(map(len, sets)) < _LEAST:
        return None
    # Sharpness depends on the size, so all are compared at the size of the restyled ones.
    sizes = [(row["height"], row["width"]) for row in children.values()]
    common = (int(np.median([h for h, _ in sizes])), int(np.median([w for _, w in sizes])))
    light = [_statistics(datas, common) for datas in sets]
    statistics = {
        name: (float(light[0][name].mean()), float(light[1][name].mean()), float(here.mean()))
        for name, here in light[2].items()
    }
    if extractor is None:
        raw = [np.stack(list(each.values()), axis=1) for each in light]
        mean, scale = raw[2].mean(axis=0), raw[2].std(axis=0) + 1e-6
        features: list[NDArray[np.floating]] = [(each - mean) / scale for each in raw]
    else:
        features = [_batched(extractor.encode_images, datas, extractor.size) for datas in sets]
    source, restyled, first, second = features
    return DomainGap(
        distances(source, first, seed),
        distances(restyled, first, seed),
        distances(second, first, seed),
        statistics,
        min(map(len, sets)),
    )


def _batched(
    function: Callable[[NDArray[np.uint8]], NDArray[np.floating]],
    datas: Sequence[bytes],
    size: tuple[int, int],
) -> NDArray[np.floating]:
    starts = range(0, len(datas), _BATCH)
    return np.concatenate([function(to_array_batch(datas[n : n + _BATCH], size)) for n in starts])


def _statistics(datas: Sequence[bytes], size: tuple[int, int]) -> dict[str, NDArray[np.float64]]:
    starts = range(0, len(datas), _BATCH)
    chunks = [image_statistics(to_array_batch(datas[n : n + _BATCH], size)) for n in starts]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
