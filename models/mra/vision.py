"""Image encoder: transformers' Swin with the released model's tokens and a window a stage.

Shapes: B images, C channels, H x W tokens, N tokens a window, P tokens of the last stage, D width.

What differs from `transformers.SwinModel`:
- each stage has its own window, fitted to its grid. The stock class builds every stage with one
  window and shrinks it while running, after which its position table no longer matches;
- stochastic depth covers the MLP branch too, as in the original Swin (stock: attention only);
- the output is the normalised tokens with their mean PREPENDED as token 0;
- the mask of shifted windows is made once a grid, not once a call.

Parameter names are the stock ones; `starting.py` reads any Swin folder.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SwinConfig
from transformers.models.swin.modeling_swin import (
    SwinEmbeddings,
    SwinLayer,
    SwinPatchMerging,
    SwinPreTrainedModel,
    SwinStage,
)

from models.mra.config import MRAConfig
from models.recomputing import recomputed


def swin_config(config: MRAConfig) -> SwinConfig:
    """The transformers config of this model's image encoder."""
    return SwinConfig(
        image_size=list(config.image_size),
        patch_size=config.patch_size,
        embed_dim=config.vision_dim,
        depths=list(config.depths),
        num_heads=list(config.vision_heads),
        window_size=config.window_size,
        hidden_dropout_prob=config.vision_dropout,
        attention_probs_dropout_prob=config.vision_dropout,
        drop_path_rate=config.drop_path,
        stage_windows=list(config.windows),
    )


class WindowLayer(SwinLayer):
    """A Swin block whose window and shift are fixed by its stage's grid."""

    def __init__(self, config: SwinConfig, grid: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(config=config, input_resolution=grid, **kwargs)
        if min(grid) <= self.window_size:
            # One window spans the shorter side: shifting would only wrap it around itself.
            self.shift_size = 0
        self._masks: dict[tuple[int, int, torch.device, torch.dtype], Tensor | None] = {}

    def forward(self, hidden_BLD: Tensor, grid: tuple[int, int]) -> Tensor:
        """One block.

        Args:
            hidden_BLD: Tokens in raster order, L = rows * columns of `grid`.
            grid: Token rows and columns.

        Returns:
            The tokens.
        """
        height, width = grid
        batch, _, dim = hidden_BLD.shape
        normed = self.layernorm_before(hidden_BLD).view(batch, height, width, dim)
        normed, _pads = self.maybe_pad(normed, height, width)
        rows, columns = normed.shape[1:3]
        side = self.window_size
        tiles = self.cyclic_shift(normed).view(
            batch, rows // side, side, columns // side, side, dim
        )
        windows = tiles.transpose(2, 3).reshape(batch, -1, side * side, dim)
        attended = self.dropout(self._attend(windows, rows, columns))
        tiles = attended.view(batch, rows // side, columns // side, side, side, dim)
        image = self.cyclic_shift(
            tiles.transpose(2, 3).reshape(batch, rows, columns, dim), reverse=True
        )
        if (rows, columns) != grid:
            image = image[:, :height, :width]
        hidden = hidden_BLD + self.drop_path(image.reshape(batch, height * width, dim))
        inner = self.dropout(self.mlp(self.layernorm_after(hidden)))
        return hidden + self.drop_path(inner)

    def _attend(self, windows_BWND: Tensor, rows: int, columns: int) -> Tensor:
        """Self-attention inside each window.

        Where windows are shifted, each has its own mask; windows and heads then share SDPA's head
        axis, so that one bias of (windows * heads, N, N) serves the whole batch.
        """
        attention = self.attention
        batch, count, tokens, dim = windows_BWND.shape
        heads, head_dim = attention.num_attention_heads, attention.head_dim
        bias = attention.relative_position_bias()  # (1, heads, N, N)
        mask = self._mask(rows, columns, windows_BWND)
        if mask is None:
            lead, slots = batch * count, heads
        else:
            lead, slots = batch, count * heads
            bias = (bias + mask.unsqueeze(1)).view(1, slots, tokens, tokens)

        def split(x: Tensor) -> Tensor:
            x = x.view(batch, count, tokens, heads, head_dim).transpose(2, 3)
            return x.reshape(lead, slots, tokens, head_dim)

        out = F.scaled_dot_product_attention(
            split(attention.q_proj(windows_BWND)),
            split(attention.k_proj(windows_BWND)),
            split(attention.v_proj(windows_BWND)),
            attn_mask=bias.to(windows_BWND.dtype),
            dropout_p=attention.attention_dropout if self.training else 0.0,
            scale=attention.scaling,
        )
        out = out.view(batch, count, heads, tokens, head_dim).transpose(2, 3)
        return attention.o_proj(out.reshape(batch, count, tokens, dim))

    def _mask(self, rows: int, columns: int, like: Tensor) -> Tensor | None:
        """Mask (windows, N, N) of shifted windows for a grid, or None."""
        key = (rows, columns, like.device, like.dtype)
        if key not in self._masks:
            self._masks[key] = self.get_attn_mask(
                rows, columns, dtype=like.dtype, device=like.device
            )
        return self._masks[key]


class WindowStage(SwinStage):
    """A Swin stage with its own window."""

    def __init__(
        self,
        config: SwinConfig,
        *,
        stage: int,
        grid: tuple[int, int],
        window: int,
        drop_path: list[float],
    ) -> None:
        own = copy.copy(config)
        own.window_size = window
        last = stage == len(config.depths) - 1
        dim, heads = config.embed_dim * 2**stage, config.num_heads[stage]
        # The blocks are this class's own, so the stock constructor is asked for none.
        super().__init__(
            own, dim, grid, 0, heads, drop_path=[], downsample=None if last else SwinPatchMerging
        )
        self.recompute = False
        """Whether a block's activations are computed again in the backward pass."""
        self.blocks = nn.ModuleList(
            [
                WindowLayer(
                    own,
                    grid,
                    dim=dim,
                    num_heads=heads,
                    drop_path_rate=rate,
                    shift_size=0 if block % 2 == 0 else window // 2,
                )
                for block, rate in enumerate(drop_path)
            ]
        )

    def forward(self, hidden_BLD: Tensor, grid: tuple[int, int]) -> Tensor:
        """All blocks of the stage, then the halving of the grid (not in the last stage)."""
        for block in self.blocks:
            hidden_BLD = recomputed(block, hidden_BLD, grid, again=self.recompute)
        return hidden_BLD if self.downsample is None else self.downsample(hidden_BLD, grid)


class _Stages(nn.Module):
    """Holds the stages under the stock name `encoder.layers`."""

    def __init__(self, stages: list[WindowStage]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(stages)


class VisionEncoder(SwinPreTrainedModel):
    """Swin whose output starts with the mean of its normalised tokens.

    Its config is a SwinConfig with one more entry, `stage_windows`: the window of every stage.
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        self.embeddings = SwinEmbeddings(config)
        rows, columns = self.embeddings.patch_grid
        total = sum(config.depths)
        rates = [config.drop_path_rate * block / max(total - 1, 1) for block in range(total)]
        stages = []
        for stage, depth in enumerate(config.depths):
            first = sum(config.depths[:stage])
            stages.append(
                WindowStage(
                    config,
                    stage=stage,
                    grid=(rows, columns),
                    window=config.stage_windows[stage],
                    drop_path=rates[first : first + depth],
                )
            )
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        self.encoder = _Stages(stages)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Encode images.

        Args:
            image_BCHW: Normalised pixels of the size that the config names.

        Returns:
            Tokens (B, 1 + P, D): the mean of the P tokens, then the tokens in raster order.
        """
        tokens_BPD, (rows, columns) = self.embeddings(image_BCHW)
        for stage in self.encoder.layers:
            tokens_BPD = stage(tokens_BPD, (rows, columns))
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        tokens_BPD = self.layernorm(tokens_BPD)
        return torch.cat([tokens_BPD.mean(1, keepdim=True), tokens_BPD], dim=1)
