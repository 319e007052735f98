"""Floating-point operations of an MRA's step and re-ranking, counted from its sizes.

What a measured ratio cannot say: which of the savings gives how much, whatever else the machine is
doing. Only products of matrices are counted, two operations a multiplication with addition;
a backward pass is twice its forward pass. tests/models/mra/test_plain.py holds these numbers
against what torch counts while both sides run.

Shapes in names: L word pieces a text, P image tokens, K positions read, D text and V image width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.mra import MRAConfig


@dataclass(frozen=True)
class Savings:
    """What is done once, or not at all, of the released order of work."""

    trimmed: bool = False
    """Texts are cut to the longest of their batch."""
    keys_once: bool = False
    """An image's keys and values are projected once, not in every pass that it takes part in."""
    texts_once: bool = False
    """A text's first self-attention of the fusion layers is computed once, not once a pair."""
    read_only: bool = False
    """The last layer computes the positions that are read, and MLM's head those with a label."""


PLAIN = Savings()
FAST = Savings(trimmed=True, keys_once=True, texts_once=True, read_only=True)
STEPS = (
    ("released order of work", PLAIN),
    ("+ texts cut to their batch's longest", Savings(trimmed=True)),
    ("+ image keys and values once", Savings(trimmed=True, keys_once=True)),
    ("+ first self-attention once a text", Savings(trimmed=True, keys_once=True, texts_once=True)),
    ("+ last layer only where it is read", FAST),
)


@dataclass(frozen=True)
class Texts:
    """What a batch's cost depends on besides its number of rows."""

    rows: int
    caption: int
    """Word pieces of the longest caption."""
    phrase: int
    """Word pieces of the longest phrase."""
    labelled: int
    """Places that MLM predicts, over all rows."""
    most: int
    """The most that one row has."""


def swin(config: MRAConfig) -> int:
    """Forward pass of the image encoder on one image."""
    grids, dims = config.stage_grids, config.stage_dims
    total = 2 * 3 * config.patch_size**2 * dims[0] * grids[0][0] * grids[0][1]
    for stage, (grid, dim, window) in enumerate(zip(grids, dims, config.windows, strict=True)):
        tokens = grid[0] * grid[1]
        tiled = (grid[0] + -grid[0] % window) * (grid[1] + -grid[1] % window)
        block = tiled * (2 * 4 * dim**2 + 4 * window**2 * dim) + tokens * 2 * 8 * dim**2
        total += config.depths[stage] * block
        if stage + 1 < len(grids):
            rows, columns = grids[stage + 1]
            total += rows * columns * 2 * 4 * dim * 2 * dim
    return total


def text(config: MRAConfig, length: int) -> int:
    """Forward pass of the text layers on one text of `length` positions."""
    return config.text_layers * (
        _self_attention(config, length, length) + length * _feed_forward(config)
    )


def keys(config: MRAConfig, tokens: int) -> int:
    """Keys and values of one image of `tokens` tokens for all fusion layers."""
    return config.fusion_layers * tokens * 2 * 2 * config.vision_width * config.text_dim


def fusion(
    config: MRAConfig,
    pairs: int,
    texts: int,
    length: int,
    tokens: int,
    read: int,
    how: Savings,
    *,
    reranking: bool = False,
) -> int:
    """Forward pass of the fusion layers, keys and values of the images not counted.

    Args:
        config: Sizes.
        pairs: How many.
        texts: Of how many texts.
        length: Positions a text.
        tokens: Tokens an image.
        read: Positions a pair that are read.
        how: `texts_once` and `read_only` count here.
        reranking: What re-ranking saves besides: the queries of the first cross-attention are made
            once a text, and the last layer makes no keys and values of the text, but takes its one
            query through the key matrix.
    """
    total, width = 0, config.text_dim
    for layer in range(config.fusion_layers):
        last = layer == config.fusion_layers - 1
        queries = read if last and how.read_only else length
        times = texts if layer == 0 and how.texts_once else pairs
        if last and how.read_only and reranking:
            total += times * (2 * 4 * width**2 + 4 * config.text_heads * length * width)
        else:
            total += times * _self_attention(config, queries, length)
        total += (times if reranking else pairs) * queries * 2 * width**2
        total += pairs * queries * (2 * width**2 + 4 * tokens * width + _feed_forward(config))
    return total


def pretraining_step(config: MRAConfig, batch: Texts, how: Savings) -> int:
    """Forward and backward pass of a pretraining step."""
    rows, tokens = batch.rows, config.grid[0] * config.grid[1] + 1
    caption = batch.caption if how.trimmed else config.max_tokens
    phrase = batch.phrase if how.trimmed else config.max_tokens
    total = rows * (swin(config) + 2 * text(config, caption) + text(config, phrase))
    # The region's mean is a token more where keys are shared; else it stands in token 0's place.
    mean = int(config.reading.region_token) if how.keys_once else 0
    passes = 1 if how.keys_once else 3 + 3 + 1
    total += rows * passes * keys(config, tokens + mean)
    total += fusion(config, 3 * rows, rows, caption, tokens, 1, how)
    total += fusion(config, 3 * rows, rows, phrase, tokens + mean, 1, how)
    total += fusion(config, rows, rows, caption, tokens, batch.most, how)
    predicted = batch.labelled if how.read_only else rows * batch.most
    total += predicted * 2 * (config.text_dim**2 + config.text_dim * config.vocab_size)
    total += 6 * rows * 2 * (2 * config.text_dim**2 + 2 * 2 * config.text_dim)
    total += 2 * rows * 2 * 3 * config.vision_width * config.embed_dim
    total += 2 * rows * 2 * 4 * config.text_dim * config.embed_dim
    return 3 * total


def reranking(
    config: MRAConfig, lengths: Sequence[int], candidates: int, gallery: int, how: Savings
) -> int:
    """Forward passes of re-ranking one view of a gallery.

    Args:
        config: Sizes.
        lengths: Word pieces of each query.
        candidates: Of each query.
        gallery: Images.
        how: Trimming is to the query's own length here: no pad is computed.
    """
    tokens = config.grid[0] * config.grid[1] + 1
    total = (gallery if how.keys_once else len(lengths) * candidates) * keys(config, tokens)
    for length in lengths:
        size = length if how.trimmed else config.max_tokens
        total += fusion(config, candidates, 1, size, tokens, 1, how, reranking=True)
    head = 2 * (2 * config.text_dim**2 + 2 * 2 * config.text_dim)
    return total + len(lengths) * candidates * head


def _self_attention(config: MRAConfig, queries: int, length: int) -> int:
    """Attention of some positions over all `length`, its four linear maps included."""
    maps = 2 * config.text_dim**2 * 2 * (queries + length)
    return maps + 4 * queries * length * config.text_dim


def _feed_forward(config: MRAConfig) -> int:
    """A feed-forward layer on one position."""
    return 2 * 2 * config.text_dim * config.text_inner_dim
