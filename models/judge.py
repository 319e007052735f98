"""The judge: what a picture shows, read off frozen features, and the features themselves.

Features of a picture (N, D) serve two ends: distances between sets of pictures (`models.gap`), and
one linear head an attribute that reads its value. They come from a small network trained on the
target alone (`models.features.AttributeNet`), or from a vision model of the hub that nobody
here has trained (`models.features.HubFeatures`: CLIP, DINOv2, ViT).

What is unusual: a head sees the features of its own attribute's pool only (a hub model's all), so
that the colour of a hat is not guessed from the trousers that happened to go with it in training.

    judge = load_judge(folder, "cpu")
    features = judge.encode_images(pixels)        # uint8 (N, H, W, 3) of judge.size
    judge.read(features)["upper colour"]          # probabilities (N, K) over judge.attributes[...]

Shape legend: N pictures (B of a batch), H W pixels, A attributes, D width of a feature, K values of
one attribute.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.features import AttributeNet, HubFeatures, Pool
from models.loading import ALONE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

TRAINED = "trained"
"""Stands for features of a network that is trained on the target, where a hub name could be."""

CONFIG, WEIGHTS = "judge.json", "judge.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class JudgeConfig:
    """What `judge.json` holds beside the weights' digest."""

    features: str
    """`TRAINED`, or the name or folder of a vision model of transformers."""
    size: tuple[int, int]
    """Height and width of the pictures, pixels."""
    attributes: Mapping[str, tuple[str, ...]]
    """Attribute -> its values, in the order of the readings' columns."""
    pools: tuple[Pool, ...]
    """Of the trained network; with a hub model everything is read off all features."""
    channels: int
    """Of the trained network's first layer."""
    width: int
    """Features of each pool, or of the hub model."""


# ------------------------------------------------------------------ the judge


class Heads(nn.Module):
    """One linear layer an attribute, over its own part of the features.

    Args:
        config: Attributes and pools.
        width: Of all features.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: JudgeConfig, width: int) -> None:
        super().__init__()
        own = config.features == TRAINED
        self.parts: dict[str, slice] = {}
        for i, pool in enumerate(config.pools):
            part = slice(i * config.width, (i + 1) * config.width) if own else slice(0, width)
            self.parts |= dict.fromkeys(pool.attributes, part)
        self.names = list(config.attributes)
        self.layers = nn.ModuleList(
            nn.Linear(self.parts[name].stop - self.parts[name].start, len(values))
            for name, values in config.attributes.items()
        )
        # Of a hub model's features over the target's train pictures; the trained ones are even.
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def standardise(self, mean_D: Tensor, scale_D: Tensor) -> None:
        """Subtract and divide by these before anything is read."""
        self.mean.copy_(mean_D)
        self.scale.copy_(scale_D)

    def forward(self, features_BD: Tensor, kept_BD: Tensor | None = None) -> dict[str, Tensor]:
        """Logits (B, K) of every attribute; ``kept_BD`` multiplies the features (dropout)."""
        even = (features_BD - self.mean) / self.scale
        if kept_BD is not None:
            even = even * kept_BD
        return {
            name: layer(even[:, self.parts[name]])
            for name, layer in zip(self.names, self.layers, strict=True)
        }


class Judge:
    """Frozen features and heads.

    Args:
        config: What it reads.
        extractor: `AttributeNet` or `HubFeatures`; built from the config where none is given.
        heads: Built from the config where none are given.
        device: Where to compute.
    """

    def __init__(
        self,
        config: JudgeConfig,
        extractor: AttributeNet | HubFeatures | None = None,
        heads: Heads | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        extractor = extractor or new_extractor(config)
        self.config = config
        self.extractor = extractor.to(device)
        self.width = extractor.width
        self.heads = (heads or Heads(config, self.width)).to(device)
        self.device = torch.device(device)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures that it takes, pixels."""
        return self.config.size

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        """Attribute -> its values, in the order of the readings' columns."""
        return self.config.attributes

    @property
    def features(self) -> str:
        """`TRAINED`, or the hub name or folder."""
        return self.config.features

    @property
    def is_clip(self) -> bool:
        """Whether the features are CLIP's, on which CMMD is defined."""
        return bool(getattr(self.extractor, "clip", False))

    @torch.inference_mode()
    def encode_images(self, pixels_NHW3: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float32]:
        """Features (N, D) of pictures.

        Args:
            pixels_NHW3: Pictures (N, H, W, 3) of the judge's size.
            batch: Pictures at a time; changes floating-point noise at most.

        Raises:
            ValueError: Pictures of another size or type.
        """
        if pixels_NHW3.shape[1:] != (*self.size, 3) or pixels_NHW3.dtype != np.uint8:
            raise ValueError(
                f"pictures of shape {pixels_NHW3.shape} and type {pixels_NHW3.dtype}; rule: the "
                f"judge takes uint8 (N, {self.size[0]}, {self.size[1]}, 3); remedy: "
                "tasks.images.to_array_batch to its size"
            )
        self.extractor.eval()
        parts = [np.empty((0, self.width), np.float32)]
        for start in range(0, len(pixels_NHW3), batch):
            chunk = torch.from_numpy(np.ascontiguousarray(pixels_NHW3[start : start + batch]))
            # A permuted view of (B, H, W, 3) is channels-last already.
            images = chunk.to(self.device).permute(0, 3, 1, 2).float()
            parts.append(self.extractor(images).float().cpu().numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def read(self, features_ND: NDArray[np.floating]) -> dict[str, NDArray[np.float32]]:
        """Read every attribute off features.

        Returns:
            Attribute -> probabilities (N, K) over `attributes`.

        Raises:
            ValueError: Features of another width.
        """
        if features_ND.ndim != 2 or features_ND.shape[1] != self.width:
            raise ValueError(
                f"features of shape {features_ND.shape}; rule: (N, {self.width}), as encode_images "
                "of the same judge gives them; remedy: encode the pictures with this judge"
            )
        self.heads.eval()
        given = torch.from_numpy(np.ascontiguousarray(features_ND, np.float32)).to(self.device)
        return {name: logits.softmax(1).cpu().numpy() for name, logits in self.heads(given).items()}

    def save_pretrained(self, folder: Path) -> None:
        """Write `judge.json` and `judge.safetensors`; a hub model's weights are not copied."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {f"heads.{key}": value for key, value in self.heads.state_dict().items()}
        if self.features == TRAINED:
            own = self.extractor.state_dict()
            state |= {f"extractor.{key}": value for key, value in own.items()}
        save_file(
            {key: v.detach().cpu().contiguous() for key, v in state.items()}, folder / WEIGHTS
        )
        body = {
            "format": FORMAT,
            "weights": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
            **asdict(self.config),
        }
        text = json.dumps(body, indent=1, ensure_ascii=False) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: str | torch.device = "cpu") -> Self:
        """Load what `save_pretrained` wrote. See `load_judge`."""
        folder = Path(folder)
        try:
            body = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            if body.pop("format") != FORMAT:
                raise ValueError(f"not format {FORMAT}")
            data = (folder / WEIGHTS).read_bytes()
            if hashlib.sha256(data).hexdigest() != body.pop("weights"):
                raise ValueError("the weights are not those that judge.json was written with")
            config = JudgeConfig(
                features=body["features"],
                size=(body["size"][0], body["size"][1]),
                attributes={name: tuple(values) for name, values in body["attributes"].items()},
                pools=tuple(
                    Pool(p["name"], p["place"], tuple(p["attributes"])) for p in body["pools"]
                ),
                channels=body["channels"],
                width=body["width"],
            )
            state = load_file(folder / WEIGHTS)
            with ALONE:
                judge = cls(config)
            judge.heads.load_state_dict(_below(state, "heads."))
            if config.features == TRAINED:
                judge.extractor.load_state_dict(_below(state, "extractor."))
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            RuntimeError,
            SafetensorError,
        ) as error:
            raise ValueError(
                f"cannot load a judge from {str(folder)!r}: {' '.join(str(error).split())[:300]}; "
                f"rule: a folder with {CONFIG} and {WEIGHTS} as its training wrote them; remedy: "
                "train it again (the stage gap does), or point to the folder that holds them"
            ) from error
        judge.extractor.to(device)
        judge.heads.to(device)
        judge.device = torch.device(device)
        return judge


def load_judge(folder: Path | str, device: str | torch.device = "cpu") -> Judge:
    """Load a trained judge.

    Args:
        folder: Holds `judge.json` and `judge.safetensors`.
        device: Where to compute.

    Raises:
        ValueError: There is none, it is damaged, or its hub model cannot be loaded.
    """
    return Judge.from_pretrained(folder, device)


def new_extractor(config: JudgeConfig) -> AttributeNet | HubFeatures:
    """The network that the config names: untrained, or the hub's.

    Raises:
        ValueError: See `AttributeNet` and `HubFeatures`.
    """
    if config.features == TRAINED:
        return AttributeNet(config.size, config.pools, config.channels, config.width)
    return HubFeatures(config.features)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def reading_loss(logits: Mapping[str, Tensor], labels_BA: Tensor, smoothing: float = 0.0) -> Tensor:
    """Sum over attributes of the cross-entropy over the pictures that name them.

    Args:
        logits: Attribute -> (B, K), in the order of the labels' columns.
        labels_BA: Index of the named value; -1 where there is none. Such a picture has no share
            in that attribute's loss.
        smoothing: Label smoothing.

    Returns:
        A scalar; 0 (with a gradient of 0) where nothing is named.
    """
    total = labels_BA.new_zeros((), dtype=torch.float32)
    for a, own in enumerate(logits.values()):
        labels = labels_BA[:, a]
        each = F.cross_entropy(
            own.float(), labels, ignore_index=-1, label_smoothing=smoothing, reduction="sum"
        )
        total = total + each / (labels >= 0).sum().clamp(min=1)
    return total
