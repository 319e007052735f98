"""Many pairs of texts and images through the fusion encoder: no gradient, no pad, no copy.

Re-ranking wants one number for each of millions of pairs: the matching logit of the fused [CLS].

- Done once instead of once a pair: an image's keys and values (`MRA.image_keys`), a text's first
  self-attention and the queries of its first cross-attention (`prepare_texts`).
- Texts lie one after the other in one table of tokens, so nothing computes a pad.
- Pairs are grouped by image, and all texts of an image stand along the query axis of one
  cross-attention, so no key or value is copied.
- The last layer computes [CLS] alone. With one query a text its keys and values need not be
  made: the query is taken through the key matrix instead, and the attended tokens through the
  value matrix afterwards.

`TextEncoder.fuse` computes the same for one padded batch, with gradients; the tests compare.

Shapes: T texts, G images, R pairs, N tokens of all texts one after the other, D text width,
A heads, E width of a head, L tokens of the longest text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.linear import linear
from models.mra.text import ImageKeys

if TYPE_CHECKING:
    from models.mra.model import MRA

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Where each text lies in a table of tokens."""

    length_R: Ints
    """Tokens of each text, in the table's order."""
    device: torch.device
    padded: bool
    """Whether self-attention takes all texts in one padded call, as a GPU likes it, instead of one
    call for each run of neighbours of one length."""

    @cached_property
    def starts(self) -> Ints:
        """First token of each text."""
        return np.cumsum(self.length_R) - self.length_R

    @cached_property
    def first_rows(self) -> Tensor:
        """`starts` as an index on the device."""
        return torch.from_numpy(self.starts).to(self.device)

    @cached_property
    def runs(self) -> list[tuple[int, int, int, int]]:
        """Texts [a, b) of one length with their tokens [start, stop)."""
        ends = np.append(self.starts, self.length_R.sum())
        return [(a, b, int(ends[a]), int(ends[b])) for a, b in neighbours(self.length_R)]

    @cached_property
    def _padding(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (R * L,) of the padded texts, mask (R, 1, 1, L), and the way back (N,)."""
        longest = int(self.length_R.max())
        place_L = np.arange(longest)
        inside_RL = place_L < self.length_R[:, None]
        token_RL = self.starts[:, None] + np.minimum(place_L, self.length_R[:, None] - 1)
        there = (token_RL.reshape(-1), inside_RL[:, None, None], np.flatnonzero(inside_RL))
        tokens, mask, back = (torch.from_numpy(each).to(self.device) for each in there)
        return tokens, mask, back

    def attend(self, heads: int, query_ND: Tensor, key_ND: Tensor, value_ND: Tensor) -> Tensor:
        """Self-attention inside each text: (N, D)."""
        if self.padded:
            tokens, mask, back = self._padding
            count = len(self.length_R)
            q, k, v = (
                _heads(rows.index_select(0, tokens), count, heads)
                for rows in (query_ND, key_ND, value_ND)
            )
            return _rows(F.scaled_dot_product_attention(q, k, v, mask)).index_select(0, back)
        parts = []
        for a, b, start, stop in self.runs:
            q, k, v = (
                _heads(rows[start:stop], b - a, heads) for rows in (query_ND, key_ND, value_ND)
            )
            parts.append(_rows(F.scaled_dot_product_attention(q, k, v)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def attend_first(self, query_RAD: Tensor, tokens_ND: Tensor) -> Tensor:
        """Mean of each text's tokens, weighted by how well a query a head fits them: (R, A, D).

        Args:
            query_RAD: Already scaled.
            tokens_ND: Both keys and values.
        """
        if self.padded:
            tokens, mask, _ = self._padding
            rows_RLD = tokens_ND.index_select(0, tokens).view(
                len(query_RAD), -1, query_RAD.shape[2]
            )
            score_RAL = (query_RAD @ rows_RLD.transpose(1, 2)).float()
            weight_RAL = score_RAL.masked_fill(~mask[:, 0], float("-inf")).softmax(-1)
            return weight_RAL.to(rows_RLD.dtype) @ rows_RLD
        parts = []
        for a, b, start, stop in self.runs:
            rows_RLD = tokens_ND[start:stop].view(b - a, -1, tokens_ND.shape[1])
            weight_RAL = (query_RAD[a:b] @ rows_RLD.transpose(1, 2)).float().softmax(-1)
            parts.append(weight_RAL.to(rows_RLD.dtype) @ rows_RLD)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class Texts:
    """Texts ready to meet images."""

    hidden_ND: Tensor
    """Tokens after the first fusion layer's self-attention."""
    query_ND: Tensor
    """Queries of its cross-attention."""
    layout: Layout


def prepare_texts(
    model: MRA, tokens_ND: Tensor, length_T: Ints, *, padded: bool | None = None
) -> Texts:
    """Do what a text needs once, however many images it meets.

    Args:
        model: In evaluation mode.
        tokens_ND: Tokens of `MRA.encode_text`, text after text, without pads.
        length_T: Tokens of each text; fastest when sorted.
        padded: See `Layout`; None chooses by the device.
    """
    on_gpu = tokens_ND.device.type != "cpu"
    layout = Layout(length_T, tokens_ND.device, on_gpu if padded is None else padded)
    layer = _fusion(model)[0]
    hidden_ND = _attend_texts(layer, tokens_ND, layout)
    return Texts(hidden_ND, linear(layer.crossattention.self.query, hidden_ND), layout)


def match_texts(
    model: MRA, texts: Texts, keys: list[ImageKeys], text_R: Ints, image_R: Ints
) -> Tensor:
    """Matching logits (R, 2) of pairs.

    Args:
        model: In evaluation mode.
        texts: What `prepare_texts` gave.
        keys: What `MRA.image_keys` gave for G images.
        text_R: The text of each pair.
        image_R: The image of each pair; fastest when pairs are grouped by image, and within an
            image sorted by length.
    """
    device, given = texts.hidden_ND.device, texts.layout
    layout = Layout(given.length_R[text_R], device, given.padded)
    shift_R = given.starts[text_R] - layout.starts
    tokens = np.arange(int(layout.length_R.sum())) + np.repeat(shift_R, layout.length_R)
    tokens_N = torch.from_numpy(tokens).to(device)
    groups = [(a, b, int(image_R[a])) for a, b in neighbours(image_R)]
    ends = np.append(layout.starts, len(tokens)).tolist()
    blocks = [(ends[a], ends[b], image) for a, b, image in groups]
    layers = _fusion(model)
    if len(layers) == 1:
        tokens_N, blocks = tokens_N.index_select(0, layout.first_rows), groups
    hidden = texts.hidden_ND.index_select(0, tokens_N)
    query = texts.query_ND.index_select(0, tokens_N)
    hidden = _attend_images(layers[0], hidden, query, keys[0], blocks)
    for layer, image in zip(layers[1:-1], keys[1:-1], strict=True):
        hidden = _attend_texts(layer, hidden, layout)
        query = linear(layer.crossattention.self.query, hidden)
        hidden = _attend_images(layer, hidden, query, image, blocks)
    if len(layers) > 1:
        hidden = _attend_first(layers[-1], hidden, layout)
        query = linear(layers[-1].crossattention.self.query, hidden)
        hidden = _attend_images(layers[-1], hidden, query, keys[-1], groups)
    logits: Tensor = model.itm_head(hidden)
    return logits


def neighbours(values_R: Ints) -> list[tuple[int, int]]:
    """Bounds [a, b) of runs of equal values."""
    edges = (np.flatnonzero(np.diff(values_R)) + 1).tolist()
    return list(zip([0, *edges], [*edges, len(values_R)], strict=True))


# ------------------------------------------------------------------ one layer


def _attend_texts(layer: Any, tokens_ND: Tensor, layout: Layout) -> Tensor:
    """Self-attention of all tokens, with its output layer."""
    inner = layer.attention.self
    query, key, value = (linear(each, tokens_ND) for each in (inner.query, inner.key, inner.value))
    attended = layout.attend(inner.num_attention_heads, query, key, value)
    return _output(layer.attention.output, attended, tokens_ND)


def _attend_first(layer: Any, tokens_ND: Tensor, layout: Layout) -> Tensor:
    """Self-attention of each text's first token alone, with its output layer: (R, D).

    q . (W x + b) = (W' q) . x + q . b, and the last term is the same for all tokens of a text, so
    that softmax does not see it. The weighted mean of W x + b is W (weighted mean of x) + b.
    """
    inner = layer.attention.self
    heads, width = inner.num_attention_heads, inner.attention_head_size
    first_RD = tokens_ND.index_select(0, layout.first_rows)
    query_ARE = linear(inner.query, first_RD).view(-1, heads, width).transpose(0, 1)
    key_AED = inner.key.weight.view(heads, width, -1).to(query_ARE.dtype)
    value_AED = inner.value.weight.view(heads, width, -1).to(query_ARE.dtype)
    query_RAD = (query_ARE @ key_AED * width**-0.5).transpose(0, 1)
    mean_ARD = layout.attend_first(query_RAD, tokens_ND.to(query_ARE.dtype)).transpose(0, 1)
    attended_RAE = (mean_ARD @ value_AED.transpose(1, 2)).transpose(0, 1)
    attended_RD = attended_RAE.reshape(len(first_RD), -1) + inner.value.bias
    return _output(layer.attention.output, attended_RD, first_RD)


def _attend_images(
    layer: Any,
    hidden_ND: Tensor,
    query_ND: Tensor,
    keys: ImageKeys,
    blocks: list[tuple[int, int, int]],
) -> Tensor:
    """Cross-attention to the image of each block of rows [start, stop), then the feed-forward."""
    cross = layer.crossattention
    heads = cross.self.num_attention_heads
    parts = [
        _rows(
            F.scaled_dot_product_attention(
                _heads(query_ND[start:stop], 1, heads),
                keys.key[image : image + 1],
                keys.value[image : image + 1],
            )
        )
        for start, stop, image in blocks
    ]
    attended = parts[0] if len(parts) == 1 else torch.cat(parts)
    hidden_ND = _output(cross.output, attended, hidden_ND)
    inner = linear(layer.intermediate.dense, hidden_ND, gelu=True)
    return _output(layer.output, inner, hidden_ND)


def _output(output: Any, rows_ND: Tensor, residual_ND: Tensor) -> Tensor:
    """BERT's output layer: linear, residual, LayerNorm."""
    normalised: Tensor = output.LayerNorm(linear(output.dense, rows_ND) + residual_ND)
    return normalised


def _heads(rows_ND: Tensor, count: int, heads: int) -> Tensor:
    """Rows of texts of one length, split into heads: (count, A, L, E)."""
    return rows_ND.view(count, -1, heads, rows_ND.shape[1] // heads).transpose(1, 2)


def _rows(out_RALE: Tensor) -> Tensor:
    """Heads side by side again, text after text: (R * L, D)."""
    return out_RALE.transpose(1, 2).flatten(2).flatten(0, 1)


def _fusion(model: MRA) -> list[Any]:
    """The layers that attend the image."""
    return list(model.text_encoder.bert.encoder.layer[model.config.text_layers :])
