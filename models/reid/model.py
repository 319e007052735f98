"""The person encoder: one feature an image, compared by the cosine.

A strong baseline's head (Luo et al. 2019, "Bag of Tricks and A Strong Baseline for Deep Person
Re-identification") on the token that stands for the whole image: Swin's mean, a ViT's class token.
The feature before the neck, a BatchNorm without bias, is for distances (the triplet loss); behind
the neck it is for angles (the classifier, and retrieval).

Shapes: B images, H x W pixels, D width of the feature.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.dual.vision import vision_encoder
from models.reid.config import ReidConfig
from models.retrieval import MEAN, STD

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
MODEL_TYPE = "reid"


class PersonEncoder(nn.Module):
    """An image encoder and its neck.

    Attributes:
        config: Sizes.
        vision_encoder: Images to tokens; the first stands for the whole image.
        neck_norm: BatchNorm; its bias stays 0.
    """

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, config: ReidConfig) -> None:
        """Make a model with random weights (from torch's current seed)."""
        super().__init__()
        self.config = config
        self.vision_encoder = vision_encoder(config.towers)
        self.neck_norm = nn.BatchNorm1d(config.width)
        self.neck_norm.bias.requires_grad_(False)
        given, own = (MEAN, STD), (config.image_mean, config.image_std)
        mean, std, own_mean, own_std = (torch.tensor(v).view(3, 1, 1) for v in (*given, *own))
        self.register_buffer("pixel_scale", std / own_std, persistent=False)
        self.register_buffer("pixel_shift", (mean - own_mean) / own_std, persistent=False)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """The feature before the neck: (B, D), float32.

        Args:
            image_BCHW: Pixels of `config.image_size`, normalised as `models.retrieval` says.
        """
        tokens_BPD: Tensor = self.vision_encoder(image_BCHW * self.pixel_scale + self.pixel_shift)
        return tokens_BPD[:, 0].float()

    def neck(self, feature_BD: Tensor) -> Tensor:
        """The feature behind the neck: (B, D), float32, not normalised."""
        with torch.autocast(feature_BD.device.type, enabled=False):
            found: Tensor = self.neck_norm(feature_BD.float())
            return found

    def describe(self, image_BCHW: Tensor) -> Tensor:
        """What retrieval compares: normalised features (B, D), float32."""
        return F.normalize(self.neck(self(image_BCHW)), dim=-1)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; the weights first."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        state = {name: t.detach().contiguous().cpu() for name, t in self.state_dict().items()}
        save_file(state, path / WEIGHTS_FILE, metadata={"format": "pt"})
        config = {"model_type": MODEL_TYPE, **self.config.to_dict()}
        (path / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> PersonEncoder:
        """Read what `save_pretrained` wrote, in evaluation mode.

        Raises:
            ValueError: No such model there.
        """
        path = Path(folder)
        try:
            config = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
            kind = config.pop("model_type", None)
            state = load_file(path / WEIGHTS_FILE)
        except (OSError, json.JSONDecodeError, AttributeError, SafetensorError) as error:
            raise ValueError(
                f"{path}: no person encoder ({error}); it has {CONFIG_FILE} and {WEIGHTS_FILE}; "
                "give a folder that the stage reid wrote"
            ) from error
        if kind != MODEL_TYPE:
            raise ValueError(
                f"{path}: its model_type is {kind!r}, a person encoder's is {MODEL_TYPE!r}; give "
                "a folder that the stage reid wrote"
            )
        model = cls(ReidConfig.from_dict(config))
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"{path}: {' '.join(str(error).split())[:300]}; weights and config belong "
                "together; take both from one folder"
            ) from error
        return model.eval()
