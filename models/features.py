"""Features of a person crop: a small network trained on one domain, or a vision model of the hub.

What is unusual: `AttributeNet` does not pool the whole picture. A person crop is upright, so each
of its pools looks where it has learned to look, and a feature says "the shoes are white" rather
than "there is white". And `HubFeatures` never crops a picture to the model's square, as the image
processors do: feet and heads would go; it is stretched.

    net = AttributeNet((96, 48), [Pool("shoe colour", 0.88, ("shoe colour",))], 16, 8)
    features = net(images)                        # (B, 8) of (B, 3, 96, 48), levels 0..255

Shape legend: B batch, H W pixels, C channels, h w cells, n cells in a row, P pools, c features of a
pool, D features of all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.loading import load_model, load_processor

if TYPE_CHECKING:
    from collections.abc import Sequence

_GRID = 12
"""About how many rows of cells a picture is cut into, whatever its size."""
_SPREAD = 0.15
"""Of the height that a pool looks at before training, as a share of the picture's."""
_MIDDLE, _LEVELS = 127.5, 64.0
_HUB_REMEDY = "facebook/dinov2-small, openai/clip-vit-large-patch14, or features: trained"


@dataclass(frozen=True)
class Pool:
    """A place of the picture and what is read there: one or several attributes."""

    name: str
    place: float
    """Height at which it looks before training, 0 the top and 1 the bottom."""
    attributes: tuple[str, ...]


# ------------------------------------------------------------------ features trained here


class AttributeNet(nn.Module):
    """A small convolutional network with an attention pool for each attribute.

    A cell of the fine map is 4 pixels wide in a picture of 96 rows, of the deep map 8. Each pool
    weighs fine cells by what they and the deep ones show and by where they are: the kind of a coat
    is seen at sleeves and hem, its colour in its middle. Half of its features come from both maps,
    half from single pixels, since a colour needs no shape. All are squashed to (-1, 1): a look
    that the network has never seen would otherwise drive them to values at which a cubic kernel
    sees nothing but the farthest pictures.

    Args:
        size: Height and width of the pictures; multiples of `AttributeNet.stride(height)`.
        pools: Name, place and attributes of each.
        channels: Of the first layer; two and three times as many follow.
        width: Features of each pool.

    Raises:
        ValueError: The size is no multiple of the stride, or the width is odd.
    """

    def __init__(
        self, size: tuple[int, int], pools: Sequence[Pool], channels: int, width: int
    ) -> None:
        super().__init__()
        stride = self.stride(size[0])
        if size[0] % stride or size[1] % stride:
            raise ValueError(
                f"judge: size {size[0]}x{size[1]}; rule: both sides are multiples of {stride}, the "
                "pixels of a cell at that height; remedy: round them"
            )
        if width % 2:
            raise ValueError(
                f"judge: width {width}; rule: a pool has as many features of colours as of shapes; "
                "remedy: an even number"
            )
        self.fold = stride // 4
        h, w = size[0] // stride, size[1] // stride
        count, c = len(pools), channels
        folded = 3 * self.fold**2
        self.pixels = nn.Sequential(
            nn.Conv2d(folded, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
            nn.Conv2d(32, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.middle = nn.Sequential(
            _layer(folded, c), _layer(c, 2 * c, 2), _layer(2 * c, 2 * c)
        )  # fmt: skip
        self.deep = nn.Sequential(_layer(2 * c, 3 * c, 2), _layer(3 * c, 3 * c))
        self.look = nn.Conv2d(3 * c, count, 1)
        self.look_closely = nn.Conv2d(2 * c, count, 1)
        self.shape_values = nn.Conv2d(5 * c, count * width // 2, 1)
        self.colour_values = nn.Conv2d(24, count * width // 2, 1)
        self.norm = nn.BatchNorm1d(count * width)
        rows = (torch.arange(h) + 0.5) / h
        places = torch.tensor([pool.place for pool in pools])
        near = -((rows - places[:, None]) ** 2) / (2 * _SPREAD**2)
        self.position = nn.Parameter(near[:, :, None].expand(-1, -1, w).clone())
        self.width = count * width
        # Channels last: a processor convolves it as it lies, in half the time.
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    @staticmethod
    def stride(height: int) -> int:
        """Pixels of a cell's side: 8 at 96 rows, 16 at 224, 32 at 384."""
        return int(4 * 2 ** max(0, round(math.log2(max(height, 1) / (4 * _GRID)))))

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Features (B, D) of pictures with levels 0..255."""
        folded = F.pixel_unshuffle((images_B3HW - _MIDDLE) / _LEVELS, self.fold)
        middle = self.middle(folded)
        deep = self.deep(middle)
        coarse_BPhw = self.look(deep) + self.position
        fine_BPhw = F.interpolate(coarse_BPhw, scale_factor=2) + self.look_closely(middle)
        shapes = self.shape_values(torch.cat([middle, F.interpolate(deep, scale_factor=2)], 1))
        colours = self.colour_values(F.avg_pool2d(self.pixels(folded), 2))
        parts = [_pooled(fine_BPhw, shapes), _pooled(fine_BPhw, colours)]
        return torch.tanh(self.norm(torch.cat(parts, 2).flatten(1)))


def _layer(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def _pooled(logits_BPhw: Tensor, values_BChw: Tensor) -> Tensor:
    weights_BPn = logits_BPhw.flatten(2).softmax(2)
    batch, pools, cells = weights_BPn.shape
    values_BPcn = values_BChw.reshape(batch, pools, -1, cells)
    return torch.einsum("bpn,bpcn->bpc", weights_BPn, values_BPcn)


# ------------------------------------------------------------------ features from the hub


class HubFeatures(nn.Module):
    """A vision model of transformers, frozen, with its image processor's arithmetic on the device.

    CLIP gives its projected image embedding (what CMMD is defined on), others their pooled output,
    or the first token where they pool nothing.

    Raises:
        ValueError: The name holds no such model and image processor.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoImageProcessor, CLIPVisionModelWithProjection

        what = "judge's vision model"
        processor = load_processor(AutoImageProcessor, name, what=what, remedy=_HUB_REMEDY)
        config = AutoConfig.from_pretrained(name)
        self.clip = config.model_type in {"clip", "clip_vision_model"}
        kind: Any = CLIPVisionModelWithProjection if self.clip else _Unpooled(config.model_type)
        options = {}
        if config.model_type == "clip":  # the width of both towers' features stands beside them
            tower = config.vision_config
            tower.projection_dim = config.projection_dim
            options["config"] = tower
        self.model = load_model(
            kind, name, what=what, remedy=_HUB_REMEDY, dtype=torch.float32, options=options
        ).requires_grad_(False)  # fmt: skip
        self.input = _input_size(processor)
        channels = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(processor.image_mean).view(channels))
        self.register_buffer("std", torch.tensor(processor.image_std).view(channels))
        own = self.model.config
        self.width = int(own.projection_dim if self.clip else own.hidden_size)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Features (B, D) of pictures with levels 0..255."""
        images = images_B3HW / 255
        if images.shape[2:] != self.input:
            images = F.interpolate(images, self.input, mode="bicubic", antialias=True).clamp(0, 1)
        found = self.model((images - self.mean) / self.std)
        if self.clip:
            return found.image_embeds
        pooled = getattr(found, "pooler_output", None)
        return found.last_hidden_state[:, 0] if pooled is None else pooled


class _Unpooled:
    """`AutoModel` without the pooling layer that published ViT weights do not hold."""

    def __init__(self, model_type: str) -> None:
        self.extra = {"add_pooling_layer": False} if model_type in {"vit", "deit"} else {}

    def from_pretrained(self, *args: Any, **options: Any) -> Any:
        from transformers import AutoModel

        return AutoModel.from_pretrained(*args, **options, **self.extra)


def _input_size(processor: Any) -> tuple[int, int]:
    size = dict(getattr(processor, "crop_size", None) or processor.size)
    short = size.get("shortest_edge")
    height, width = size.get("height", short), size.get("width", short)
    if height is None or width is None:
        raise ValueError(
            f"judge: an image processor of size {size}; rule: it states height and width or the "
            f"shortest edge; remedy: {_HUB_REMEDY}"
        )
    return int(height), int(width)
