"""Text encoders of a dual encoder: BERT from `models.mra.text`, CLIP's here.

Shapes: B texts, L tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BertConfig

from models.dual.config import DualConfig
from models.dual.towers import BertText, ClipText
from models.dual.transformer import Layers, initialise
from models.mra.text import TextEncoder


class ClipTextEncoder(nn.Module):
    """CLIP's text tower.

    It is causal: a token attends those before it, so that pads, which stand last, count for nothing
    and only the end token has read the whole text.
    """

    def __init__(self, config: DualConfig) -> None:
        super().__init__()
        sizes = config.text
        assert isinstance(sizes, ClipText)
        self.words = nn.Embedding(sizes.vocab_size, sizes.dim)
        self.positions = nn.Embedding(sizes.max_positions, sizes.dim)
        self.dropout = nn.Dropout(config.text_dropout)
        self.layers = Layers(
            sizes.dim,
            sizes.layers,
            sizes.heads,
            sizes.inner_dim,
            activation=sizes.activation,
            eps=sizes.eps,
            dropout=config.text_dropout,
        )
        self.layernorm = nn.LayerNorm(sizes.dim, eps=sizes.eps)
        self.apply(initialise)

    def encode(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Ids to tokens.

        Args:
            ids_BL: Ids of CLIP's tokenizer, start and end included.
            mask_BL: 1 for a token, 0 for padding, which has to stand last; it is not looked at.

        Returns:
            Tokens (B, L, D).
        """
        del mask_BL
        places_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        hidden_BLD = self.dropout(self.words(ids_BL) + self.positions(places_L))
        found: Tensor = self.layernorm(self.layers(hidden_BLD, causal=True))
        return found


def text_encoder(config: DualConfig) -> TextEncoder | ClipTextEncoder:
    """The text encoder that a config names, with random weights."""
    if isinstance(config.text, ClipText):
        return ClipTextEncoder(config)
    sizes = config.text
    assert isinstance(sizes, BertText)
    # MRA's BERT with all layers below the cut: no layer attends an image, whatever its width.
    return TextEncoder(
        BertConfig(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.dim,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            intermediate_size=sizes.inner_dim,
            max_position_embeddings=sizes.max_positions,
            hidden_dropout_prob=config.text_dropout,
            attention_probs_dropout_prob=config.text_dropout,
            hidden_act=sizes.activation,
            layer_norm_eps=sizes.eps,
        ),
        text_layers=sizes.layers,
        image_dim=1,
    )
