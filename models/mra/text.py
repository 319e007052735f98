"""Text and fusion encoder: BERT cut in two, the upper half attending the image.

Shapes: B texts, G images, R pairs, L word pieces, P image tokens, D text width, K queries kept,
A heads, E width of a head.

Layers below `text_layers` are transformers' own BertLayer. Those above insert a cross-attention
between self-attention and feed-forward layer (release: models/bert.py), with keys and values of
the image's width. Parameter names are those of BertForMaskedLM plus `crossattention`, which are
also the released names.

The work of a pair is shared where it can be: an image's keys and values are computed once
(`image_keys`) and a text's first self-attention once, however many pairs they are in; the last
layer computes only the positions that somebody reads.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import (
    BertLayer,
    BertModel,
    BertOnlyMLMHead,
    BertPreTrainedModel,
)

from models.mra.config import MRAConfig
from models.recomputing import recomputed


class ImageKeys(NamedTuple):
    """An image's keys and values for one fusion layer, each (G, A, P, E)."""

    key: Tensor
    value: Tensor

    def tokens(self, start: int, stop: int) -> ImageKeys:
        """The keys and values of image tokens [start, stop)."""
        return ImageKeys(self.key[:, :, start:stop], self.value[:, :, start:stop])


def bert_config(config: MRAConfig) -> BertConfig:
    """The transformers config of this model's text and fusion encoder."""
    return BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.text_dim,
        num_hidden_layers=config.text_layers + config.fusion_layers,
        num_attention_heads=config.text_heads,
        intermediate_size=config.text_inner_dim,
        max_position_embeddings=config.max_positions,
        hidden_dropout_prob=config.text_dropout,
        attention_probs_dropout_prob=config.text_dropout,
        layer_norm_eps=1e-12,
    )


def select(rows: Tensor, index: Tensor | None) -> Tensor:
    """Rows (of two dimensions or more) by index, or all of them."""
    if index is None:
        return rows
    # Flat rows: the gradient of more dimensions scatters single numbers, at five times the time.
    return rows.flatten(1).index_select(0, index).view(len(index), *rows.shape[1:])


def gather_positions(tokens_BLD: Tensor, positions_BK: Tensor) -> Tensor:
    """Tokens (B, K, D) at the given positions of each row."""
    batch, length, dim = tokens_BLD.shape
    first_B1 = torch.arange(batch, device=tokens_BLD.device)[:, None] * length
    # Whole rows by one index: the gradient of `gather` would scatter single numbers.
    rows = tokens_BLD.reshape(-1, dim).index_select(0, (first_B1 + positions_BK).flatten())
    return rows.view(batch, -1, dim)


class FusionLayer(BertLayer):
    """Self-attention, cross-attention to the image, feed-forward."""

    def __init__(self, config: BertConfig, layer_idx: int, image_dim: int) -> None:
        crossing = copy.copy(config)
        # The stock class gives cross-attention to decoders only; causality is undone below.
        crossing.is_decoder, crossing.add_cross_attention = True, True
        super().__init__(crossing, layer_idx=layer_idx)
        self.attention.self.is_causal = False
        cross = self.crossattention.self
        cross.key = nn.Linear(image_dim, cross.all_head_size)
        cross.value = nn.Linear(image_dim, cross.all_head_size)

    def image_keys(self, image_GPD: Tensor) -> ImageKeys:
        """Keys and values of images for this layer."""
        cross = self.crossattention.self
        return ImageKeys(_heads(cross, cross.key, image_GPD), _heads(cross, cross.value, image_GPD))

    def attend_text(self, query_BKD: Tensor, tokens_BLD: Tensor, mask_B11L: Tensor) -> Tensor:
        """Self-attention of some positions over all of them."""
        inner = self.attention.self
        key, value = _heads(inner, inner.key, tokens_BLD), _heads(inner, inner.value, tokens_BLD)
        return self.attention.output(_attend(inner, query_BKD, key, value, mask_B11L), query_BKD)

    def attend_image(self, hidden_RKD: Tensor, keys: ImageKeys, mask_R11P: Tensor | None) -> Tensor:
        """Cross-attention to the image, then the feed-forward layer."""
        cross = self.crossattention
        attended = _attend(cross.self, hidden_RKD, keys.key, keys.value, mask_R11P)
        return self.feed_forward_chunk(cross.output(attended, hidden_RKD))

    def fuse(
        self,
        hidden_BLD: Tensor,
        mask_B11L: Tensor,
        image: ImageKeys,
        image_mask_R11P: Tensor | None,
        text_index_R: Tensor | None,
        image_index_R: Tensor | None,
        positions_BK: Tensor | None,
    ) -> Tensor:
        """The whole layer.

        Args:
            hidden_BLD: Texts, or pairs.
            mask_B11L: Where to attend them.
            image: Keys and values of G images.
            image_mask_R11P: Where to attend each pair's image.
            text_index_R: The row of each pair, chosen after self-attention; None keeps all.
            image_index_R: The image of each pair; None keeps all.
            positions_BK: Positions to compute; None for all.

        Returns:
            (R, L, D), or (R, K, D) where positions are given.
        """
        query = hidden_BLD if positions_BK is None else gather_positions(hidden_BLD, positions_BK)
        hidden = select(self.attend_text(query, hidden_BLD, mask_B11L), text_index_R)
        pair = ImageKeys(select(image.key, image_index_R), select(image.value, image_index_R))
        return self.attend_image(hidden, pair, image_mask_R11P)


class TextEncoder(BertPreTrainedModel):
    """BERT's lower layers as text encoder, its upper ones as fusion encoder, and its MLM head."""

    def __init__(self, config: BertConfig, *, text_layers: int, image_dim: int) -> None:
        super().__init__(config)
        self.text_layers = text_layers
        self.recompute = False
        """Whether a layer's activations are computed again in the backward pass."""
        self.bert = BertModel(config, add_pooling_layer=False)
        layers = self.bert.encoder.layer
        for index in range(text_layers, config.num_hidden_layers):
            layers[index] = FusionLayer(config, index, image_dim)
        self.cls = BertOnlyMLMHead(config)
        self.post_init()
        self.tie_decoder()

    def tie_decoder(self) -> None:
        """Make the MLM head's decoder share the word table and its own bias, as in BERT."""
        head = self.cls.predictions
        head.decoder.weight = self.bert.embeddings.word_embeddings.weight
        head.decoder.bias = head.bias

    def encode(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Word pieces to tokens through the text layers.

        Args:
            ids_BL: Word-piece ids, int64.
            mask_BL: 1 for a word piece, 0 for padding.

        Returns:
            Tokens (B, L, D).
        """
        hidden = self.bert.embeddings(ids_BL)
        mask = attention_mask(mask_BL)
        for layer in self.bert.encoder.layer[: self.text_layers]:
            hidden = recomputed(layer, hidden, mask, again=self.recompute)
        return hidden

    def image_keys(self, image_GPD: Tensor) -> list[ImageKeys]:
        """Keys and values of images, one pair of tensors a fusion layer."""
        return [layer.image_keys(image_GPD) for layer in self._fusion()]

    def fuse(
        self,
        text_BLD: Tensor,
        mask_BL: Tensor,
        keys: list[ImageKeys],
        image_mask_GP: Tensor | None = None,
        *,
        text_index_R: Tensor | None = None,
        image_index_R: Tensor | None = None,
        positions_BK: Tensor | None = None,
    ) -> Tensor:
        """Fuse pairs of texts and images.

        Args:
            text_BLD: Tokens of `encode`.
            mask_BL: 1 for a word piece, 0 for padding.
            keys: What `image_keys` gave for G images.
            image_mask_GP: 1 for an image token to attend, None for all.
            text_index_R: The text of each pair; None pairs text b with image b.
            image_index_R: The image of each pair.
            positions_BK: Positions of each text that the caller reads; None for all.

        Returns:
            Fused tokens (R, L, D), or (R, K, D) where positions are given.
        """
        hidden, text_mask = text_BLD, attention_mask(mask_BL)
        image_mask = None
        if image_mask_GP is not None:
            image_mask = select(attention_mask(image_mask_GP), image_index_R)
        layers = self._fusion()
        for index, (layer, image) in enumerate(zip(layers, keys, strict=True)):
            read = positions_BK if index == len(layers) - 1 else None
            # In the first layer a text's self-attention does not depend on the image: only then
            # does it take a row a pair.
            hidden = recomputed(
                layer.fuse,
                hidden,
                text_mask,
                image,
                image_mask,
                text_index_R if index == 0 else None,
                image_index_R,
                read,
                again=self.recompute,
            )
            if index == 0 and text_index_R is not None:
                text_mask = select(text_mask, text_index_R)
                if positions_BK is not None:
                    positions_BK = select(positions_BK, text_index_R)
        return hidden

    def _fusion(self) -> list[FusionLayer]:
        """The layers that attend the image."""
        return list(self.bert.encoder.layer[self.text_layers :])


def attention_mask(mask_BL: Tensor) -> Tensor:
    """A mask of zeros and ones as SDPA takes it: boolean (B, 1, 1, L), True where to attend."""
    return mask_BL.bool()[:, None, None, :]


def _heads(attention: Any, linear: nn.Linear, x_BLD: Tensor) -> Tensor:
    """A projection split into heads: (B, A, L, E)."""
    batch, length = x_BLD.shape[:2]
    heads, dim = attention.num_attention_heads, attention.attention_head_size
    projected: Tensor = linear(x_BLD)
    return projected.view(batch, length, heads, dim).transpose(1, 2)


def _attend(
    attention: Any, query_BKD: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> Tensor:
    """Attention of `query_BKD` over ready keys and values: (B, K, D)."""
    dropout = attention.dropout.p if attention.training else 0.0
    out = F.scaled_dot_product_attention(
        _heads(attention, attention.query, query_BKD),
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
    )
    return torch.flatten(out.transpose(1, 2), 2)
