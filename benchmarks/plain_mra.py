"""An MRA's losses and re-ranking in the order of work of its release: slow, plain, on its weights.

What the project's own code is timed against (`pretraining_step`, `reranking`) and tested against
(tests/models/mra/test_plain.py): the same weights, hard negatives and results, nothing shared.

- Every text is padded to `max_tokens`; caption, phrase, edited and masked text are encoded each in
  a pass of its own, the masked one through all twelve layers together with the image.
- Every fusion pass projects the image's keys and values anew, in every layer, and computes every
  position of every layer, also where only [CLS] is read.
- ITM and RPM fuse the N pairs that match first, then 2 N that do not.
- Re-ranking goes query by query: its text is repeated for its k candidates, whose tokens are
  gathered and fused at once.

Attention is torch's `scaled_dot_product_attention`, the kernel that the project's code uses too,
with its image encoder; or, with ``attention="softmax"``, scores, mask, softmax and sum written out
as in the release, image encoder included. The order of work is that of the release's
models/model_retrieval.py, but for one thing: regions come after the whole image, so that one
generator gives both sides the same negatives. The release's four processes are not imitated here.

Shapes: B rows, L = max_tokens positions, P image tokens (token 0 is their mean), D width, E width
of a feature, Q queries, K candidates, H heads, W windows, N tokens a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mra import MRA
from models.mra.losses import hard_negatives
from models.mra.objectives import INNER_BETA
from models.mra.pooling import STRIPES, stripe_pool
from models.mra.vision import WindowLayer

Attention = Literal["sdpa", "softmax"]
Batch = dict[str, Tensor]

MASKED = -10000.0
"""What the release adds to the score of a position that is not to be attended."""


def padded(tokens_BL: Tensor, length: int, value: int = 0) -> Tensor:
    """Ids, a mask or labels, padded behind to a length."""
    return F.pad(tokens_BL, (0, length - tokens_BL.shape[1]), value=value)


@dataclass(frozen=True)
class PlainMRA:
    """An MRA's weights, used plainly.

    Attributes:
        model: Whose weights; its mode (training or not) and its reading are followed.
        attention: Whose kernel.
    """

    model: MRA
    attention: Attention = "sdpa"

    # --- layers ---------------------------------------------------------------------------------

    def attend(
        self, inner: Any, hidden_BLD: Tensor, source_BSD: Tensor, mask_BS: Tensor | None
    ) -> Tensor:
        """BERT attention of every position over a source that is projected here and now."""
        heads, width = inner.num_attention_heads, inner.attention_head_size

        def split(linear: nn.Linear, tokens: Tensor) -> Tensor:
            projected: Tensor = linear(tokens)
            return projected.view(len(tokens), -1, heads, width).transpose(1, 2)

        query = split(inner.query, hidden_BLD)
        key, value = split(inner.key, source_BSD), split(inner.value, source_BSD)
        dropout = inner.dropout.p if inner.training else 0.0
        bias = None if mask_BS is None else (1.0 - mask_BS.to(query.dtype)) * MASKED
        if self.attention == "sdpa":
            seen = None if mask_BS is None else mask_BS.bool()[:, None, None]
            out = F.scaled_dot_product_attention(query, key, value, seen, dropout_p=dropout)
        else:
            out = softmax_attention(
                query, key, value, None if bias is None else bias[:, None, None], dropout
            )
        return out.transpose(1, 2).flatten(2)

    def block(
        self, block: Any, hidden_BLD: Tensor, source_BSD: Tensor, mask_BS: Tensor | None
    ) -> Tensor:
        """Attention with its output layer, residual and LayerNorm."""
        attended = self.attend(block.self, hidden_BLD, source_BSD, mask_BS)
        out = block.output.dropout(block.output.dense(attended))
        return block.output.LayerNorm(out + hidden_BLD)

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Text layers on ids padded to L: (B, L, D)."""
        bert = self.model.text_encoder.bert
        table: Any = bert.embeddings
        place = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        hidden = table.word_embeddings(ids_BL) + table.position_embeddings(place)
        hidden = hidden + table.token_type_embeddings(torch.zeros_like(ids_BL))
        hidden = table.dropout(table.LayerNorm(hidden))
        for layer in bert.encoder.layer[: self.model.config.text_layers]:
            hidden = self.block(layer.attention, hidden, hidden, mask_BL)
            hidden = feed_forward(layer, hidden)
        return hidden

    def fuse(
        self, text_BLD: Tensor, mask_BL: Tensor, image_BPD: Tensor, image_mask_BP: Tensor | None
    ) -> Tensor:
        """Fusion layers on text b with image b, every position: (B, L, D)."""
        hidden = text_BLD
        for layer in self.model.text_encoder.bert.encoder.layer[self.model.config.text_layers :]:
            hidden = self.block(layer.attention, hidden, hidden, mask_BL)
            hidden = self.block(layer.crossattention, hidden, image_BPD, image_mask_BP)
            hidden = feed_forward(layer, hidden)
        return hidden

    def match(
        self, text_BLD: Tensor, mask_BL: Tensor, image_BPD: Tensor, image_mask_BP: Tensor | None
    ) -> Tensor:
        """Matching logits (B, 2) of text b with image b."""
        fused: Tensor = self.fuse(text_BLD, mask_BL, image_BPD, image_mask_BP)
        return self.model.itm_head(fused[:, 0])

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Image tokens (B, P, D): by the project's encoder, or by windows as released."""
        encoder = self.model.vision_encoder
        if self.attention == "sdpa":
            return encoder(image_BCHW)
        hidden, (rows, columns) = encoder.embeddings(image_BCHW)
        stages: Any = encoder.encoder.layers
        for stage in stages:
            for layer in stage.blocks:
                hidden = window_block(layer, hidden, (rows, columns))
            if stage.downsample is not None:
                hidden = stage.downsample(hidden, (rows, columns))
                rows, columns = (rows + 1) // 2, (columns + 1) // 2
        hidden = encoder.layernorm(hidden)
        return torch.cat([hidden.mean(1, keepdim=True), hidden], dim=1)

    # --- features -------------------------------------------------------------------------------

    def image_feature(self, image_BPD: Tensor) -> Tensor:
        """Normalised feature of images: (B, E)."""
        whole = self.model.config.head == "stripes"
        chosen = stripes(image_BPD[:, 1:]) if whole else image_BPD[:, 0]
        return F.normalize(self.model.vision_proj(chosen).float(), dim=-1)

    def region_feature(self, image_BPD: Tensor, inside_BP: Tensor) -> Tensor:
        """Normalised feature of the patches inside a region: (B, E)."""
        model, patches = self.model, image_BPD[:, 1:]
        if model.config.head == "token":
            chosen = inside_mean(patches, inside_BP)
        elif model.config.reading.region_pooling:
            chosen = stripe_pool(patches, inside_BP)
        else:
            chosen = stripes(patches)
        head = model.region_proj or model.vision_proj
        return F.normalize(head(chosen).float(), dim=-1)

    def text_feature(self, text_BLD: Tensor, mask_BL: Tensor, *, phrase: bool = False) -> Tensor:
        """Normalised feature of captions, or of a region's phrases: (B, E)."""
        model, chosen = self.model, text_BLD[:, 0]
        if model.config.head == "stripes":
            rest = text_BLD[:, 1:]
            whole = model.config.reading.pool_pads
            pooled = stripes(rest) if whole else stripe_pool(rest, mask_BL[:, 1:])
            chosen = torch.cat([chosen, pooled], dim=1)
        head = (model.phrase_proj if phrase else None) or model.text_proj
        return F.normalize(head(chosen).float(), dim=-1)

    # --- losses ---------------------------------------------------------------------------------

    def contrast(
        self, image_BE: Tensor, text_BE: Tensor, ids_B: Tensor, smoothing: float
    ) -> Tensor:
        """ITC or RPC: soft targets, both directions, averaged."""
        logits = image_BE @ text_BE.t() / self.model.temp
        same = (ids_B[:, None] == ids_B).float()
        targets = (1 - smoothing) * same / same.sum(1, keepdim=True) + smoothing / len(ids_B)
        losses = [
            -(F.log_softmax(each, dim=1) * targets).sum(1).mean() for each in (logits, logits.t())
        ]
        return (losses[0] + losses[1]) / 2

    def discriminate(
        self,
        image_BPD: Tensor,
        image_mask_BP: Tensor | None,
        image_BE: Tensor,
        text_BLD: Tensor,
        mask_BL: Tensor,
        text_BE: Tensor,
        ids_B: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """ITM or RPM: a pass over the pairs that match, then one over two hard negatives a row."""
        drawn = hard_negatives(image_BE, text_BE, self.model.temp, ids_B, generator)
        positive = self.match(text_BLD, mask_BL, image_BPD, image_mask_BP)
        picture_mask = None
        if image_mask_BP is not None:
            picture_mask = torch.cat([image_mask_BP[drawn.image_B], image_mask_BP])
        negative = self.match(
            torch.cat([text_BLD, text_BLD[drawn.text_B]]),
            torch.cat([mask_BL, mask_BL[drawn.text_B]]),
            torch.cat([image_BPD[drawn.image_B], image_BPD]),
            picture_mask,
        )
        none = torch.where(drawn.valid_B, 0, -100)  # nobody else in the batch: does not count
        labels = torch.cat([torch.ones_like(ids_B), none, none])
        return F.cross_entropy(torch.cat([positive, negative]).float(), labels)

    def predict_masked(self, batch: Batch, mask_BL: Tensor, image_BPD: Tensor) -> Tensor:
        """MLM: the masked ids through all layers, then the head on the masked places."""
        length = self.model.config.max_tokens
        ids, labels = (
            padded(batch["masked_ids"], length),
            padded(batch["masked_labels"], length, -100),
        )
        hidden = self.fuse(self.encode_text(ids, mask_BL), mask_BL, image_BPD, None)
        # Places of the labels first; rows with fewer than the most have places without one behind.
        most = max(1, int((labels != -100).sum(1).max()))
        places = (labels == -100).int().argsort(dim=1, stable=True)[:, :most]
        chosen = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))
        logits = self.model.text_encoder.cls(chosen).float().flatten(0, 1)
        wanted = labels.gather(1, places).flatten()
        loss = F.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum")
        return loss / (wanted != -100).sum().clamp(min=1)

    def pretraining(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        *,
        region_weight: float = 0.8,
        label_smoothing: float = 0.0,
    ) -> Batch:
        """Losses of `PretrainObjective`: the same names, weights applied, and their sum."""
        length, reading = self.model.config.max_tokens, self.model.config.reading
        image_BPD, _image_BE, losses = self._image_text(batch, generator, label_smoothing)
        mask = padded(batch["region_mask"], length)
        phrase_BLD = self.encode_text(padded(batch["region_ids"], length), mask)
        phrase_BE = self.text_feature(phrase_BLD, mask, phrase=True)
        inside = batch["patch_mask"]
        inside = torch.where(inside.any(1, keepdim=True), inside, 1)  # no box: the whole image
        mean = inside_mean(image_BPD[:, 1:], inside)
        region_BPD = torch.cat([mean[:, None], image_BPD[:, 1:]], dim=1)
        token = torch.full_like(inside[:, :1], int(reading.region_token))
        region_BE = self.region_feature(image_BPD, inside)
        ids = batch["phrase_id"]
        rpc = self.contrast(region_BE, phrase_BE, ids, label_smoothing)
        rpm = self.discriminate(
            region_BPD,
            torch.cat([token, inside], dim=1),
            region_BE,
            phrase_BLD,
            mask,
            phrase_BE,
            ids,
            generator,
        )
        beta = region_weight * (INNER_BETA if reading.beta_twice else 1.0)
        return _summed({**losses, "rpc": beta * rpc, "rpm": beta * rpm})

    def finetuning(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        *,
        eda_weight: float = 0.8,
        label_smoothing: float = 0.2,
    ) -> Batch:
        """Losses of `FinetuneObjective`: the same names, weights applied, and their sum."""
        length, ids = self.model.config.max_tokens, batch["person"]
        image_BPD, image_BE, losses = self._image_text(batch, generator, label_smoothing)
        mask = padded(batch["eda_mask"], length)
        text_BLD = self.encode_text(padded(batch["eda_ids"], length), mask)
        text_BE = self.text_feature(text_BLD, mask)
        itc = self.contrast(image_BE, text_BE, ids, label_smoothing)
        itm = self.discriminate(image_BPD, None, image_BE, text_BLD, mask, text_BE, ids, generator)
        return _summed({**losses, "itc_eda": eda_weight * itc, "itm_eda": eda_weight * itm})

    def _image_text(
        self, batch: Batch, generator: torch.Generator | None, smoothing: float
    ) -> tuple[Tensor, Tensor, Batch]:
        """Tokens and features of the whole images, and ITC, ITM and MLM with their captions."""
        length, ids = self.model.config.max_tokens, batch["person"]
        image_BPD = self.encode_image(batch["image"])
        mask = padded(batch["mask"], length)
        text_BLD = self.encode_text(padded(batch["ids"], length), mask)
        image_BE, text_BE = self.image_feature(image_BPD), self.text_feature(text_BLD, mask)
        return (
            image_BPD,
            image_BE,
            {
                "itc": self.contrast(image_BE, text_BE, ids, smoothing),
                "itm": self.discriminate(
                    image_BPD, None, image_BE, text_BLD, mask, text_BE, ids, generator
                ),
                "mlm": self.predict_masked(batch, mask, image_BPD),
            },
        )

    # --- re-ranking -----------------------------------------------------------------------------

    @torch.inference_mode()
    def rerank(
        self, text_QLD: Tensor, mask_QL: Tensor, image_GPD: Tensor, candidates_QK: Tensor
    ) -> Tensor:
        """Matching scores (Q, K) of each query's candidates, a query at a time, on the CPU.

        Args:
            text_QLD: Tokens of `encode_text`, padded to L; this and the following on the device.
            mask_QL: 1 for a word piece.
            image_GPD: Tokens of the gallery.
            candidates_QK: Gallery index of each candidate.
        """
        scores = []
        for text_LD, mask_L, chosen_K in zip(text_QLD, mask_QL, candidates_QK, strict=True):
            text = text_LD.expand(len(chosen_K), -1, -1)
            mask = mask_L.expand(len(chosen_K), -1)
            scores.append(self.match(text, mask, image_GPD[chosen_K], None)[:, 1].float())
        return torch.stack(scores).cpu()


# ------------------------------------------------------------------ pieces


def softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float
) -> Tensor:
    """Attention written out: scores, bias, softmax, dropout, sum."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias
    return F.dropout(scores.softmax(-1), dropout) @ value


def feed_forward(layer: Any, hidden_BLD: Tensor) -> Tensor:
    """A BERT layer's two linear maps, residual and LayerNorm."""
    inner = F.gelu(layer.intermediate.dense(hidden_BLD))
    out = layer.output.dropout(layer.output.dense(inner))
    return layer.output.LayerNorm(out + hidden_BLD)


def stripes(tokens_BLD: Tensor) -> Tensor:
    """Three stripes of all tokens, side by side: (B, 3 D)."""
    return F.adaptive_avg_pool1d(tokens_BLD.transpose(1, 2), STRIPES).transpose(1, 2).flatten(1)


def inside_mean(tokens_BPD: Tensor, inside_BP: Tensor) -> Tensor:
    """Mean of the tokens inside: (B, D)."""
    weights = inside_BP.to(tokens_BPD.dtype)[..., None]
    return (tokens_BPD * weights).sum(1) / weights.sum(1)


def window_block(layer: WindowLayer, hidden_BLD: Tensor, grid: tuple[int, int]) -> Tensor:
    """A Swin block as released: roll, cut into windows, attend by softmax, put together again."""
    (rows, columns), side, shift = grid, layer.window_size, layer.shift_size
    batch, _, width = hidden_BLD.shape
    image = layer.layernorm_before(hidden_BLD).view(batch, rows, columns, width)
    image = F.pad(image, (0, 0, 0, -columns % side, 0, -rows % side))
    high, wide = image.shape[1:3]
    if shift:
        image = image.roll((-shift, -shift), (1, 2))
    tiles = image.view(batch, high // side, side, wide // side, side, width)
    windows = tiles.transpose(2, 3).reshape(-1, side * side, width)
    inner = layer.attention
    heads = inner.num_attention_heads
    query, key, value = (
        linear(windows).view(len(windows), -1, heads, width // heads).transpose(1, 2)
        for linear in (inner.q_proj, inner.k_proj, inner.v_proj)
    )
    bias = inner.relative_position_bias()
    mask = layer._mask(high, wide, windows)
    if mask is not None:  # (W, N, N) for every image of the batch
        bias = bias + mask[:, None].repeat(batch, 1, 1, 1)
    dropout = inner.attention_dropout if layer.training else 0.0
    out = softmax_attention(query, key, value, bias.to(query.dtype), dropout)
    windows = layer.dropout(inner.o_proj(out.transpose(1, 2).flatten(2)))
    tiles = windows.view(batch, high // side, wide // side, side, side, width).transpose(2, 3)
    image = tiles.reshape(batch, high, wide, width)
    if shift:
        image = image.roll((shift, shift), (1, 2))
    image = image[:, :rows, :columns].reshape(batch, rows * columns, width)
    hidden = hidden_BLD + layer.drop_path(image)
    return hidden + layer.drop_path(layer.dropout(layer.mlp(layer.layernorm_after(hidden))))


def _summed(losses: Batch) -> Batch:
    """The losses and their sum."""
    return {**losses, "loss": torch.stack(list(losses.values())).sum()}
