from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.models.bert.modeling_bert import BertLayer

from models.mra import MRA

Make = Callable[..., MRA]


def plain_fuse(
    model: MRA, text: Tensor, mask: Tensor, image: Tensor, image_mask: Tensor | None = None
) -> Tensor:
    """The fusion encoder as BERT's own layers compute it, one row a pair, nothing shared."""
    encoder = model.text_encoder
    visible = mask.bool()[:, None, None, :]
    seen = None if image_mask is None else image_mask.bool()[:, None, None, :]
    for layer in encoder.bert.encoder.layer[encoder.text_layers :]:
        text = BertLayer.forward(layer, text, visible, image, encoder_attention_mask=seen)
    return text


@torch.no_grad()
def test_sharing_work_between_pairs_changes_nothing(
    make_model: Make, batch: dict[str, Tensor]
) -> None:
    model = make_model()
    image, _ = model.encode_image(batch["image"])
    text, _ = model.encode_text(batch["ids"], batch["mask"])
    image_mask = torch.cat([torch.zeros(6, 1), batch["patch_mask"]], dim=1)
    image_mask[:, 3] = 1
    texts, images = torch.tensor([0, 5, 5, 2, 1]), torch.tensor([3, 3, 0, 0, 4])
    positions = torch.tensor([[0, 3]]).repeat(6, 1)
    for mask in (None, image_mask):
        wanted = plain_fuse(
            model,
            text[texts],
            batch["mask"][texts],
            image[images],
            None if mask is None else mask[images],
        )
        keys = model.image_keys(image)
        indices = {"text_index_R": texts, "image_index_R": images}
        found = model.text_encoder.fuse(text, batch["mask"], keys, mask, **indices)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        kept = model.text_encoder.fuse(
            text, batch["mask"], keys, mask, **indices, positions_BK=positions
        )
        torch.testing.assert_close(kept, wanted[:, [0, 3]], rtol=1e-4, atol=1e-5)
        logits = model.match_pairs(text, batch["mask"], keys, mask, **indices)
        torch.testing.assert_close(logits, model.itm_head(wanted[:, 0]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_single_fusion_layer_keeps_the_right_positions(
    make_model: Make, batch: dict[str, Tensor]
) -> None:
    """The first layer is then also the last: positions are a text's, before pairs are made."""
    model = make_model(fusion_layers=1)
    image, _ = model.encode_image(batch["image"])
    text, _ = model.encode_text(batch["ids"], batch["mask"])
    texts, images = torch.tensor([1, 4]), torch.tensor([0, 2])
    positions = torch.arange(6)[:, None] % 3
    found = model.text_encoder.fuse(
        text,
        batch["mask"],
        model.image_keys(image),
        text_index_R=texts,
        image_index_R=images,
        positions_BK=positions,
    )
    wanted = plain_fuse(model, text[texts], batch["mask"][texts], image[images])
    torch.testing.assert_close(found[:, 0], wanted[[0, 1], [1, 1]], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing_under_the_paper_reading(
    make_model: Make, batch: dict[str, Tensor]
) -> None:
    model = make_model()
    image, _ = model.encode_image(batch["image"])
    short, feature = model.encode_text(batch["ids"], batch["mask"])
    wide = [torch.nn.functional.pad(batch[key], (0, 7)) for key in ("ids", "mask")]
    long, wide_feature = model.encode_text(*wide)
    torch.testing.assert_close(wide_feature, feature, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        model.match(long, wide[1], image),
        model.match(short, batch["mask"], image),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_decoder_is_tied_to_the_words(make_model: Make) -> None:
    encoder = make_model().text_encoder
    words = encoder.bert.embeddings.word_embeddings.weight
    assert encoder.cls.predictions.decoder.weight is words
    names = [name for name, _ in encoder.named_parameters()]
    assert not any("decoder" in name for name in names)
