"""One vector a picture from a frozen vision model: two pictures of the same scene point alike.

`Embedder.embed` takes pixels and gives unit vectors, so that a product of two is their cosine.
`VisionEmbedder` loads CLIP, SigLIP, DINOv2, ViT, Swin and their kin by hub name or folder, with the
image processor that lies beside the weights; the shipped Swin has none and says its size itself.

Unusual: pictures are stretched to the model's size, never cropped to its square. A person crop is
two or three times as high as wide, and a centre crop would leave the belt.

    embedder = VisionEmbedder.from_pretrained("facebook/dinov2-base", device="cuda")
    vectors_ND = embedder.embed([pixels_HW3])

Shapes: N pictures, D width of a vector, H x W pixels.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from models.loading import load_model, load_processor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

# The retrieval encoders' own normalisation (CLIP's), for folders without an image processor.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_PROCESSOR = "preprocessor_config.json"
_WORDS: Any = {"what": "embedder", "remedy": "name facebook/dinov2-base or models/tiny/swin"}


class Embedder(Protocol):
    """Anything that turns pictures into vectors."""

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed pictures.

        Args:
            images: (H, W, 3) uint8 RGB, of one size or of several.

        Returns:
            (N, D), each row of length one.
        """
        ...


class VisionEmbedder:
    """A vision model of transformers, frozen.

    Args:
        model: A vision encoder, or a model of two towers with `get_image_features`.
        size: Height and width of its input, pixels.
        mean: Normalisation, per channel, of values in [0, 1].
        std: Normalisation, per channel, of values in [0, 1].
        batch_size: Pictures a forward pass.
    """

    def __init__(
        self,
        model: Any,
        size: tuple[int, int],
        mean: Sequence[float] = _MEAN,
        std: Sequence[float] = _STD,
        batch_size: int = 64,
    ) -> None:
        parameter = next(model.parameters())
        self.model = model.eval().requires_grad_(False)
        self.device, self.dtype = parameter.device, parameter.dtype
        self.size, self.batch_size = size, batch_size
        self._mean_3 = torch.tensor(mean, device=self.device)
        self._std_3 = torch.tensor(std, device=self.device)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: str | torch.device = "cpu", batch_size: int = 64
    ) -> Self:
        """Load a vision model by hub name or folder; safetensors only.

        Raises:
            ValueError: The name holds no whole model that takes pictures.
        """
        from transformers import AutoImageProcessor, AutoModel

        model = load_model(AutoModel, name, dtype=torch.float32, **_WORDS).to(device)
        config = getattr(model.config, "vision_config", model.config)
        size = getattr(config, "image_size", None)
        if size is None:
            raise ValueError(
                f"the embedder {str(name)!r} is a {type(model).__name__} without an image size; "
                "rule: a vision model; remedy: name facebook/dinov2-base or models/tiny/swin"
            )
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        if Path(name).is_dir() and not (Path(name) / _PROCESSOR).exists():
            return cls(model, (height, width), batch_size=batch_size)
        processor = load_processor(AutoImageProcessor, name, **_WORDS)
        # What its pictures are cropped or scaled to: DINOv2 is used at 224, not at its 518.
        asked = getattr(processor, "crop_size", None) or processor.size
        if "height" in asked and "width" in asked:
            height, width = asked["height"], asked["width"]
        return cls(
            model, (height, width), processor.image_mean, processor.image_std, batch_size=batch_size
        )

    @torch.inference_mode()
    def embed(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed pictures; see `Embedder`."""
        parts = [
            self._forward(images[start : start + self.batch_size])
            for start in range(0, len(images), self.batch_size)
        ]
        return torch.cat(parts).cpu().numpy() if parts else np.zeros((0, 1), np.float32)

    def _forward(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        size = (self.size[1], self.size[0])
        # By Pillow, whose bicubic filter widens where it shrinks: tensors' own does not.
        scaled = [Image.fromarray(image).resize(size, Image.Resampling.BICUBIC) for image in images]
        pixels_NHW3 = torch.from_numpy(np.stack([np.asarray(image) for image in scaled]))
        values = (pixels_NHW3.to(self.device).float() / 255 - self._mean_3) / self._std_3
        pixels_N3HW = values.permute(0, 3, 1, 2).contiguous().to(self.dtype)
        autocast = (
            torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        )
        with autocast:
            return F.normalize(self._pooled(pixels_N3HW).float(), dim=-1)

    def _pooled(self, pixels_N3HW: Tensor) -> Tensor:
        if hasattr(self.model, "get_image_features"):
            found = self.model.get_image_features(pixel_values=pixels_N3HW)
        else:
            found = self.model(pixel_values=pixels_N3HW)
        if isinstance(found, torch.Tensor):
            return found
        pooled = getattr(found, "pooler_output", None)
        return found.last_hidden_state.mean(dim=1) if pooled is None else pooled.flatten(1)
