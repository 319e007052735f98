"""A second implementation of the released model, to check the first one by.

It is written down from the paper's and the release's description with plain tensor operations on
a dict of weights under the released names, and shares nothing with `models.mra`. It is slow and
follows the released order of work: every text padded, positives and negatives apart.

Shapes: B rows, L word pieces, P image tokens, D width, H x W grid, N tokens a window, A heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "woman", "in", "red", "blue"]
VOCAB += ["black", "shirt", "jacket", "bag", "with", "##s", "and", "hat", "shoes", "long", "hair"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """A size of the released model."""

    image: tuple[int, int] = (64, 32)
    dim: int = 4
    depths: tuple[int, ...] = (1, 2, 1)
    heads: tuple[int, ...] = (1, 2, 4)
    window: int = 4
    text_dim: int = 12
    text_heads: int = 3
    text_inner: int = 20
    layers: int = 3
    fusion_layer: int = 1
    positions: int = 40
    length: int = 24
    """Of every padded text."""
    token_head: bool = False
    embed_dim: int = 10
    smoothing: float = 0.0
    region_weight: float = 0.8
    temp: float = 0.07
    gallery: int = 7
    queries: int = 9
    k_test: int = 3

    @property
    def grids(self) -> list[tuple[int, int]]:
        return [
            (self.image[0] // 4 // 2**s, self.image[1] // 4 // 2**s)
            for s in range(len(self.depths))
        ]

    @property
    def windows(self) -> list[int]:
        """No larger than the grid; 4 where 8 does not divide it."""
        small = [min(self.window, *grid) for grid in self.grids]
        return [
            4 if any(side % w for side in grid) else w
            for w, grid in zip(small, self.grids, strict=True)
        ]

    def shift(self, stage: int, block: int) -> int:
        window = self.windows[stage]
        return window // 2 if block % 2 and min(self.grids[stage]) > window else 0

    @property
    def width(self) -> int:
        return self.dim * 2 ** (len(self.depths) - 1)


# ------------------------------------------------------------------ weights


def new_weights(size: Size, seed: int = 0) -> State:
    """Random weights and the stored buffers, under the released names."""
    g = torch.Generator().manual_seed(seed)
    state: State = {"temp": torch.tensor(size.temp)}

    def linear(name: str, out: int, into: int, bias: bool = True, scale: float = 1.0) -> None:
        state[f"{name}.weight"] = torch.randn(out, into, generator=g) * scale / math.sqrt(into)
        if bias:
            state[f"{name}.bias"] = torch.randn(out, generator=g) * 0.1

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"] = 1 + torch.randn(width, generator=g) * 0.1
        state[f"{name}.bias"] = torch.randn(width, generator=g) * 0.1

    v = "vision_encoder."
    state[f"{v}patch_embed.proj.weight"] = torch.randn(size.dim, 3, 4, 4, generator=g) * 0.2
    state[f"{v}patch_embed.proj.bias"] = torch.randn(size.dim, generator=g) * 0.1
    norm(f"{v}patch_embed.norm", size.dim)
    for s, depth in enumerate(size.depths):
        dim, window, (rows, columns) = size.dim * 2**s, size.windows[s], size.grids[s]
        for b in range(depth):
            n = f"{v}layers.{s}.blocks.{b}."
            norm(f"{n}norm1", dim)
            norm(f"{n}norm2", dim)
            linear(f"{n}attn.qkv", 3 * dim, dim, scale=1.5)
            linear(f"{n}attn.proj", dim, dim)
            linear(f"{n}mlp.fc1", 4 * dim, dim)
            linear(f"{n}mlp.fc2", dim, 4 * dim)
            side = 2 * window - 1
            state[f"{n}attn.relative_position_bias_table"] = (
                torch.randn(side * side, size.heads[s], generator=g) * 0.5
            )
            state[f"{n}attn.relative_position_index"] = window_index(window)
            if size.shift(s, b):
                state[f"{n}attn_mask"] = window_mask(rows, columns, window, size.shift(s, b))
        if s < len(size.depths) - 1:
            norm(f"{v}layers.{s}.downsample.norm", 4 * dim)
            linear(f"{v}layers.{s}.downsample.reduction", 2 * dim, 4 * dim, bias=False)
    norm(f"{v}norm", size.width)

    t, d = "text_encoder.bert.", size.text_dim
    for table, rows in (
        ("word", len(VOCAB)), ("position", size.positions), ("token_type", 2),
    ):  # fmt: skip
        state[f"{t}embeddings.{table}_embeddings.weight"] = torch.randn(rows, d, generator=g) * 0.5
    norm(f"{t}embeddings.LayerNorm", d)
    state[f"{t}embeddings.position_ids"] = torch.arange(size.positions)[None]
    for layer in range(size.layers):
        n = f"{t}encoder.layer.{layer}."
        for kind in ["attention"] + ["crossattention"] * (layer >= size.fusion_layer):
            other = size.width if kind == "crossattention" else d
            linear(f"{n}{kind}.self.query", d, d, scale=1.5)
            linear(f"{n}{kind}.self.key", d, other, scale=1.5)
            linear(f"{n}{kind}.self.value", d, other)
            linear(f"{n}{kind}.output.dense", d, d)
            norm(f"{n}{kind}.output.LayerNorm", d)
        linear(f"{n}intermediate.dense", size.text_inner, d)
        linear(f"{n}output.dense", d, size.text_inner)
        norm(f"{n}output.LayerNorm", d)
    c = "text_encoder.cls.predictions."
    linear(f"{c}transform.dense", d, d)
    norm(f"{c}transform.LayerNorm", d)
    state[f"{c}bias"] = torch.randn(len(VOCAB), generator=g) * 0.1

    for name, width, parts in (("vision_proj", size.width, 3), ("text_proj", d, 4)):
        if size.token_head:
            linear(name, size.embed_dim, width)
            continue
        norm(f"{name}.0", parts * width)
        state[f"{name}.0.running_mean"] = torch.randn(parts * width, generator=g) * 0.1
        state[f"{name}.0.running_var"] = 1 + torch.rand(parts * width, generator=g)
        state[f"{name}.0.num_batches_tracked"] = torch.tensor(3)
        linear(f"{name}.2", size.embed_dim, parts * width)
    linear("itm_head.0", 2 * d, d)
    norm("itm_head.1", 2 * d)
    linear("itm_head.3", 2, 2 * d)
    return state


def window_index(window: int) -> Tensor:
    """Row of the position table for each pair of tokens of a window: (N, N)."""
    cells = [(y, x) for y in range(window) for x in range(window)]
    side = 2 * window - 1
    rows = [
        [(ay - by + window - 1) * side + ax - bx + window - 1 for by, bx in cells]
        for ay, ax in cells
    ]
    return torch.tensor(rows)


def window_mask(rows: int, columns: int, window: int, shift: int) -> Tensor:
    """0 where two tokens of a shifted window were neighbours before, else -100: (windows, N, N)."""

    def band(at: int, length: int) -> int:
        return 0 if at < length - window else 1 if at < length - shift else 2

    masks = []
    for top in range(0, rows, window):
        for left in range(0, columns, window):
            areas = [
                (band(top + y, rows), band(left + x, columns))
                for y in range(window)
                for x in range(window)
            ]
            masks.append([[0.0 if a == b else -100.0 for b in areas] for a in areas])
    return torch.tensor(masks)


# ------------------------------------------------------------------ the model


def lin(w: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def norm_(w: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Softmax attention of (B, L, D) over (B, M, D), a head at a time."""
    mixed = []
    parts = zip(*(x.chunk(heads, -1) for x in (q, k, v)), strict=True)
    for number, (q_, k_, v_) in enumerate(parts):
        scores = q_ @ k_.transpose(-1, -2) / math.sqrt(q_.shape[-1])
        if bias is not None:
            scores = scores + bias[:, number if bias.shape[1] > 1 else 0]
        mixed.append(scores.softmax(-1) @ v_)
    return torch.cat(mixed, -1)


def see(w: State, size: Size, image: Tensor) -> Tensor:
    """Image tokens (B, 1 + P, D), their mean first."""
    v = "vision_encoder."
    x = F.conv2d(image, w[f"{v}patch_embed.proj.weight"], w[f"{v}patch_embed.proj.bias"], stride=4)
    x = norm_(w, f"{v}patch_embed.norm", x.permute(0, 2, 3, 1), 1e-5)
    for s, depth in enumerate(size.depths):
        window, (rows, columns) = size.windows[s], size.grids[s]
        for b in range(depth):
            n, shift = f"{v}layers.{s}.blocks.{b}.", size.shift(s, b)
            y = norm_(w, f"{n}norm1", x, 1e-5).roll((-shift, -shift), (1, 2))
            table = w[f"{n}attn.relative_position_bias_table"]
            bias = table[window_index(window).flatten()].view(window**2, window**2, -1)
            bias = bias.permute(2, 0, 1)[None]
            mask = window_mask(rows, columns, window, shift) if shift else None
            done = torch.zeros_like(y)
            count = 0
            for top in range(0, rows, window):
                for left in range(0, columns, window):
                    tile = y[:, top : top + window, left : left + window].flatten(1, 2)
                    q, k, value = lin(w, f"{n}attn.qkv", tile).chunk(3, -1)
                    extra = bias if mask is None else bias + mask[count]
                    heads = size.heads[s]
                    tile = lin(w, f"{n}attn.proj", attend(q, k, value, heads, extra))
                    done[:, top : top + window, left : left + window] = tile.view(
                        -1, window, window, tile.shape[-1]
                    )
                    count += 1
            x = x + done.roll((shift, shift), (1, 2))
            y = F.gelu(lin(w, f"{n}mlp.fc1", norm_(w, f"{n}norm2", x, 1e-5)))
            x = x + lin(w, f"{n}mlp.fc2", y)
        if s < len(size.depths) - 1:
            n = f"{v}layers.{s}.downsample."
            four = [x[:, r::2, c::2] for r, c in ((0, 0), (1, 0), (0, 1), (1, 1))]
            x = lin(w, f"{n}reduction", norm_(w, f"{n}norm", torch.cat(four, -1), 1e-5))
    x = norm_(w, f"{v}norm", x.flatten(1, 2), 1e-5)
    return torch.cat([x.mean(1, keepdim=True), x], 1)


def layer_(w: State, size: Size, n: str, x: Tensor, mask: Tensor, image: Any = None) -> Tensor:
    """One BERT layer; `image` is (tokens, mask) where it has cross-attention."""
    heads = size.text_heads

    def attention(kind: str, x: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        q = lin(w, f"{n}{kind}.self.query", x)
        k, v = lin(w, f"{n}{kind}.self.key", other), lin(w, f"{n}{kind}.self.value", other)
        bias = (1.0 - mask.float())[:, None, None, :] * -10000.0
        y = lin(w, f"{n}{kind}.output.dense", attend(q, k, v, heads, bias))
        return norm_(w, f"{n}{kind}.output.LayerNorm", y + x, 1e-12)

    x = attention("attention", x, x, mask)
    if image is not None:
        x = attention("crossattention", x, *image)
    y = lin(w, f"{n}output.dense", F.gelu(lin(w, f"{n}intermediate.dense", x)))
    return norm_(w, f"{n}output.LayerNorm", y + x, 1e-12)


def read(w: State, size: Size, ids: Tensor, mask: Tensor) -> Tensor:
    """Text tokens (B, L, D)."""
    e = "text_encoder.bert.embeddings."
    table = w[f"{e}word_embeddings.weight"]
    x = F.embedding(ids, table, padding_idx=0) + w[f"{e}token_type_embeddings.weight"][0]
    x = x + w[f"{e}position_embeddings.weight"][: ids.shape[1]]
    x = norm_(w, f"{e}LayerNorm", x, 1e-12)
    for layer in range(size.fusion_layer):
        x = layer_(w, size, f"text_encoder.bert.encoder.layer.{layer}.", x, mask)
    return x


def fuse(
    w: State, size: Size, text: Tensor, mask: Tensor, image: Tensor, seen: Tensor | None = None
) -> Tensor:
    """Fused tokens (B, L, D)."""
    seen = torch.ones(image.shape[:2]) if seen is None else seen
    for layer in range(size.fusion_layer, size.layers):
        name = f"text_encoder.bert.encoder.layer.{layer}."
        text = layer_(w, size, name, text, mask, (image, seen))
    return text


def head(w: State, size: Size, name: str, tokens: Tensor, first: bool) -> Tensor:
    """Contrastive feature before normalisation."""
    if size.token_head:
        return lin(w, name, tokens[:, 0])
    stripes = F.adaptive_avg_pool1d(tokens[:, 1:].transpose(1, 2), 3).transpose(1, 2).flatten(1)
    x = torch.cat([tokens[:, 0], stripes], 1) if first else stripes
    x = F.batch_norm(
        x, w[f"{name}.0.running_mean"], w[f"{name}.0.running_var"],
        w[f"{name}.0.weight"], w[f"{name}.0.bias"],
    )  # fmt: skip
    return lin(w, f"{name}.2", x)


def match(w: State, fused: Tensor) -> Tensor:
    x = F.gelu(norm_(w, "itm_head.1", lin(w, "itm_head.0", fused[:, 0]), 1e-5))
    return lin(w, "itm_head.3", x)


def itc(w: State, size: Size, image: Tensor, text: Tensor, ids: Tensor) -> Tensor:
    logits = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).t() / w["temp"]
    same = (ids[:, None] == ids[None]).float()
    target = same / same.sum(1, keepdim=True)
    target = (1 - size.smoothing) * target + size.smoothing / len(ids)
    return -sum((x.log_softmax(1) * target).sum(1).mean() for x in (logits, logits.t())) / 2


def itm(
    w: State, size: Size, text: Tensor, mask: Tensor, image: Tensor, seen: Tensor | None
) -> Tensor:
    """Of two pairs, each the other's only negative."""
    seen = torch.ones(image.shape[:2]) if seen is None else seen
    swap = [1, 0]
    positive = match(w, fuse(w, size, text, mask, image, seen))
    texts, masks = torch.cat([text, text[swap]]), torch.cat([mask, mask[swap]])
    images, sights = torch.cat([image[swap], image]), torch.cat([seen[swap], seen])
    negative = match(w, fuse(w, size, texts, masks, images, sights))
    return F.cross_entropy(torch.cat([positive, negative]), torch.tensor([1, 1, 0, 0, 0, 0]))


def mlm(w: State, size: Size, v: State, image: Tensor) -> Tensor:
    x = fuse(w, size, read(w, size, v["obj.masked_ids"], v["obj.mask"]), v["obj.mask"], image)
    x = torch.stack([row[at] for row, at in zip(x, v["obj.masked_pos"], strict=True)])
    c = "text_encoder.cls.predictions."
    x = F.gelu(lin(w, f"{c}transform.dense", x))
    x = norm_(w, f"{c}transform.LayerNorm", x, 1e-12)
    logits = x @ w["text_encoder.bert.embeddings.word_embeddings.weight"].t() + w[f"{c}bias"]
    return F.cross_entropy(logits.flatten(0, 1), v["obj.mlm_labels"].flatten(), ignore_index=-100)
