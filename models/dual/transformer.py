"""Transformer layers that normalise first, as ViT, DeiT and both towers of CLIP have them.

One class stands for the three that transformers has, because none of those drops paths, and CLIP's
drops nothing at all: it was never meant to be fine-tuned. Parameter names are ViT's.

Shapes: B rows, L tokens, D width, H heads, d width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from models.recomputing import recomputed


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, heads: int, *, bias: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_proj = nn.Linear(dim, dim, bias=bias)
        self.k_proj = nn.Linear(dim, dim, bias=bias)
        self.v_proj = nn.Linear(dim, dim, bias=bias)
        self.o_proj = nn.Linear(dim, dim)

    def forward(self, hidden_BLD: Tensor, causal: bool) -> Tensor:
        """Attend all tokens, or where `causal` those up to and with the own one."""
        batch, length, dim = hidden_BLD.shape

        def heads(linear: nn.Linear) -> Tensor:
            split: Tensor = linear(hidden_BLD).view(batch, length, self.heads, -1)
            return split.transpose(1, 2)

        out_BHLd = F.scaled_dot_product_attention(
            heads(self.q_proj),
            heads(self.k_proj),
            heads(self.v_proj),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
        )
        found: Tensor = self.o_proj(out_BHLd.transpose(1, 2).reshape(batch, length, dim))
        return found


class FeedForward(nn.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, dim: int, inner_dim: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner_dim)
        self.activation = ACT2FN[activation]
        self.fc2 = nn.Linear(inner_dim, dim)

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        """Each token by itself."""
        found: Tensor = self.fc2(self.activation(self.fc1(hidden_BLD)))
        return found


class Layer(nn.Module):
    """Attention and feed-forward part, each on normalised tokens and added to them."""

    def __init__(
        self,
        dim: int,
        heads: int,
        inner_dim: int,
        *,
        activation: str,
        eps: float,
        bias: bool,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(dim, eps=eps)
        self.attention = Attention(dim, heads, bias=bias, dropout=dropout)
        self.layernorm_after = nn.LayerNorm(dim, eps=eps)
        self.mlp = FeedForward(dim, inner_dim, activation)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = drop_path

    def forward(self, hidden_BLD: Tensor, causal: bool) -> Tensor:
        """One layer."""
        attended = self.attention(self.layernorm_before(hidden_BLD), causal)
        hidden_BLD = hidden_BLD + self._added(attended)
        return hidden_BLD + self._added(self.mlp(self.layernorm_after(hidden_BLD)))

    def _added(self, branch_BLD: Tensor) -> Tensor:
        """A branch with dropout and, of some rows, nothing (stochastic depth)."""
        branch_BLD = self.dropout(branch_BLD)
        return drop_path(branch_BLD, self.drop_path) if self.training else branch_BLD


class Layers(nn.ModuleList):
    """Layers one after another.

    Attributes:
        recompute: Whether a layer's activations are computed again in the backward pass.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        inner_dim: int,
        *,
        activation: str,
        eps: float,
        bias: bool = True,
        dropout: float,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(
            Layer(
                dim,
                heads,
                inner_dim,
                activation=activation,
                eps=eps,
                bias=bias,
                dropout=dropout,
                drop_path=drop_path * at / max(layers - 1, 1),
            )
            for at in range(layers)
        )
        self.recompute = False

    def forward(self, hidden_BLD: Tensor, causal: bool = False) -> Tensor:
        """All layers."""
        for layer in self:
            hidden_BLD = recomputed(layer, hidden_BLD, causal, again=self.recompute)
        return hidden_BLD


def drop_path(branch_BLD: Tensor, rate: float) -> Tensor:
    """Stochastic depth: a branch of zeros for some rows, the others scaled to keep the mean."""
    if rate == 0:
        return branch_BLD
    kept_B11 = torch.rand(len(branch_BLD), 1, 1, device=branch_BLD.device) >= rate
    return branch_BLD * kept_B11.to(branch_BLD.dtype) / (1 - rate)


def initialise(module: nn.Module, std: float = 0.02) -> None:
    """Linear maps and convolutions of a small normal distribution, biases zero."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=std)
