"""Image encoders of a dual encoder: ViT, DeiT and CLIP's here, Swin from `models.mra.vision`.

All take images of one size, any size, and give tokens with the same few in front (`config.prefix`)
and the patches after them in raster order. A ViT's position table belongs to its grid:
`resize_positions` makes it for another.

Shapes: B images, C channels, H x W pixels, P tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SwinConfig

from models.dual.config import DualConfig
from models.dual.towers import PatchVision, SwinVision
from models.dual.transformer import Layers, initialise
from models.mra.vision import VisionEncoder


class PatchEncoder(nn.Module):
    """ViT, DeiT or CLIP's vision tower.

    CLIP's differs in this: no bias of the patches, a LayerNorm before the layers, and one after
    them that CLIP itself asks of the class token alone. Here it is applied to all, as everybody
    does who fine-tunes CLIP's patches.

    Attributes:
        prefix_1KD: The tokens in front: class, and distillation.
        positions_1PD: Of the tokens in front and of the patches.
    """

    def __init__(self, config: DualConfig) -> None:
        super().__init__()
        sizes = config.vision
        assert isinstance(sizes, PatchVision)
        clip, (rows, columns) = sizes.kind == "clip", config.grid
        self.patches = nn.Conv2d(
            3, sizes.dim, kernel_size=sizes.patch_size, stride=sizes.patch_size, bias=not clip
        )
        self.prefix_1KD = nn.Parameter(torch.zeros(1, sizes.prefix, sizes.dim))
        self.positions_1PD = nn.Parameter(torch.zeros(1, sizes.prefix + rows * columns, sizes.dim))
        self.dropout = nn.Dropout(config.vision_dropout)
        self.layernorm_before = nn.LayerNorm(sizes.dim, eps=sizes.eps) if clip else nn.Identity()
        self.layers = Layers(
            sizes.dim,
            sizes.layers,
            sizes.heads,
            sizes.inner_dim,
            activation=sizes.activation,
            eps=sizes.eps,
            bias=sizes.qkv_bias,
            dropout=config.vision_dropout,
            drop_path=config.drop_path,
        )
        self.layernorm = nn.LayerNorm(sizes.dim, eps=sizes.eps)
        self.apply(initialise)
        for table in (self.prefix_1KD, self.positions_1PD):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Encode images.

        Args:
            image_BCHW: Pixels as this tower wants them, of the config's size.

        Returns:
            Tokens (B, P, D): those in front, then the patches in raster order.
        """
        patches_BPD = self.patches(image_BCHW).flatten(2).transpose(1, 2)
        front_BKD = self.prefix_1KD.expand(len(patches_BPD), -1, -1)
        tokens_BPD = torch.cat([front_BKD, patches_BPD], dim=1) + self.positions_1PD
        tokens_BPD = self.layers(self.layernorm_before(self.dropout(tokens_BPD)))
        found: Tensor = self.layernorm(tokens_BPD)
        return found


def vision_encoder(config: DualConfig) -> PatchEncoder | VisionEncoder:
    """The image encoder that a config names, with random weights."""
    if isinstance(config.vision, SwinVision):
        return VisionEncoder(swin_config(config))
    return PatchEncoder(config)


def swin_config(config: DualConfig) -> SwinConfig:
    """The transformers config of a Swin at this model's image size."""
    sizes = config.vision
    assert isinstance(sizes, SwinVision)
    return SwinConfig(
        image_size=list(config.image_size),
        patch_size=sizes.patch_size,
        embed_dim=sizes.dim,
        depths=list(sizes.depths),
        num_heads=list(sizes.heads),
        window_size=sizes.window_size,
        hidden_dropout_prob=config.vision_dropout,
        attention_probs_dropout_prob=config.vision_dropout,
        drop_path_rate=config.drop_path,
        stage_windows=sizes.windows(config.image_size),
    )


def resize_positions(
    table_1PD: Tensor, prefix: int, old: tuple[int, int], new: tuple[int, int]
) -> Tensor:
    """A ViT's position table for another grid.

    Bicubic, as timm and transformers do it; UniPT's code does it bilinearly.

    Args:
        table_1PD: Positions of the tokens in front, then of the patches in raster order.
        prefix: Tokens in front, which stay as they are.
        old: Rows and columns that the table is of.
        new: Rows and columns wanted.

    Returns:
        The table (1, prefix + rows * columns, D).

    Raises:
        ValueError: The table is not of the grid that it is said to be of.
    """
    if table_1PD.shape[1] != prefix + old[0] * old[1]:
        raise ValueError(
            f"a table of {table_1PD.shape[1]} positions for a grid of {old} and {prefix} tokens in "
            "front: one position each; correct the image size that the weights are said to be of"
        )
    if old == new:
        return table_1PD
    front_1KD, grid_1PD = table_1PD[:, :prefix], table_1PD[:, prefix:]
    grid_1Dhw = grid_1PD.float().unflatten(1, old).permute(0, 3, 1, 2)
    resized_1Dhw = F.interpolate(grid_1Dhw, size=new, mode="bicubic", align_corners=False)
    resized_1PD = resized_1Dhw.permute(0, 2, 3, 1).flatten(1, 2).to(table_1PD.dtype)
    return torch.cat([front_1KD, resized_1PD], dim=1)
