"""The dual encoder's features: the pooling by hand, pads, precision, dropout, recomputing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.dual.granularity import GranularityConfig
from models.dual.model import max_pool
from models.dual.transformer import drop_path
from models.recomputing import recompute_layers
from tests.towers import Towers

PARTS = GranularityConfig(parts=2, part_dim=3, depth=1, heads=2, head_dim=4, inner_dim=6)


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Towers:
    """Tiny towers of every kind."""
    return Towers(tmp_path_factory.mktemp("towers"))


def texts(length: int, rows: int = 3) -> tuple[Tensor, Tensor]:
    """Unpadded texts with a start of their own and, last, an end."""
    ids = torch.randint(2, 39, (rows, length), generator=torch.Generator().manual_seed(2))
    return ids, torch.ones_like(ids)


def padded(ids: Tensor, mask: Tensor, pads: int, pad: int) -> tuple[Tensor, Tensor]:
    more = torch.full((len(ids), pads), pad)
    return torch.cat([ids, more], dim=1), torch.cat([mask, torch.zeros_like(more)], dim=1)


def test_the_largest_of_each_channel_by_hand() -> None:
    tokens = torch.tensor(
        [[[1.0, -5.0], [3.0, -7.0], [9.0, 9.0]], [[0.0, 1.0], [2.0, 0.0], [1.0, 3.0]]]
    )
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert max_pool(tokens, mask).tolist() == [[3.0, -5.0], [2.0, 3.0]]
    half = max_pool(tokens.half(), mask)
    assert half.dtype == torch.float16
    assert half.tolist() == [[3.0, -5.0], [2.0, 3.0]]


@torch.no_grad()
def test_the_feature_is_the_pooled_projection(towers: Towers) -> None:
    model = towers.model()
    image = torch.randn(2, 3, 32, 32)
    states = model.image_states(image)
    projected = states @ model.vision_proj.weight.T + model.vision_proj.bias
    tokens, feature = model.encode_image(image)
    torch.testing.assert_close(tokens, projected)
    pooled = projected.max(dim=1).values
    torch.testing.assert_close(feature, pooled / pooled.norm(dim=1, keepdim=True))
    assert not model.fuses
    assert not model.needs_pads


@torch.no_grad()
def test_swins_mean_token_never_counts(towers: Towers) -> None:
    model = towers.model("swin")
    tokens, _ = model.encode_image(torch.randn(3, 3, 48, 24))
    torch.testing.assert_close(model.image_feature(tokens), model.image_feature(tokens[:, 1:]))


@torch.no_grad()
@pytest.mark.parametrize("granularity", [None, PARTS])
@pytest.mark.parametrize(("text", "pad"), [("bert", 0), ("clip", 55)])
def test_pads_have_no_influence(
    text: str, pad: int, granularity: GranularityConfig | None, towers: Towers
) -> None:
    vision = "clip" if text == "clip" else "vit"
    model = towers.model(vision, text, granularity=granularity)
    ids, mask = texts(6)
    _, alone = model.encode_text(ids, mask)
    for pads in (1, 9):
        _, found = model.encode_text(*padded(ids, mask, pads, pad))
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_text_does_not_depend_on_its_batch(towers: Towers) -> None:
    model = towers.model()
    ids, mask = texts(9)
    mask[0, 4:] = 0
    ids = ids * mask
    _, together = model.encode_text(ids, mask)
    _, alone = model.encode_text(ids[:1, :4], mask[:1, :4])
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_clips_end_token_has_read_all_before_it(towers: Towers) -> None:
    model = towers.model("clip", "clip")
    ids, mask = texts(6, rows=1)
    tokens, feature = model.encode_text(*padded(ids, mask, 3, 55))
    torch.testing.assert_close(feature[0], tokens[0, 5] / tokens[0, 5].norm())
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % 40
    torch.testing.assert_close(model.encode_text(changed, mask)[0][0, :5], tokens[0, :5])


def test_masked_words_of_a_clip_are_refused(towers: Towers) -> None:
    model = towers.model("vit", "clip")
    assert not model.has_mlm
    assert model.mlm_parameters() == []
    with pytest.raises(ValueError, match=r"of a clip text encoder.*weight of MLM to 0"):
        model.mlm_logits(torch.zeros(2, 16))
    bert = towers.model()
    assert bert.has_mlm
    logits = bert.mlm_logits(torch.randn(2, 3, 16))
    assert logits.shape == (2, 3, 40)
    logits.sum().backward()
    words = bert.text_encoder.bert.embeddings.word_embeddings.weight
    own = {id(parameter) for parameter in bert.mlm_parameters()}
    used = {id(p) for p in bert.parameters() if p.grad is not None}
    assert used == own | {id(words)}


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("vision", "text"), [("vit", "bert"), ("clip", "clip"), ("swin", "bert")])
def test_half_precision_stays_near(
    vision: str, text: str, dtype: torch.dtype, towers: Towers
) -> None:
    model = towers.model(vision, text)
    image = torch.randn(2, 3, *model.config.image_size)
    ids, mask = padded(*texts(6), 3, 0)
    full = model.encode_image(image)[1], model.encode_text(ids, mask)[1]
    with torch.autocast("cpu", dtype):
        mixed = model.encode_image(image)[1], model.encode_text(ids, mask)[1]
    model = model.to(dtype)
    plain = model.encode_image(image)[1], model.encode_text(ids, mask)[1]
    for found in (*mixed, *plain):
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))
    for wanted, found in zip(full * 2, mixed + plain, strict=True):
        assert (wanted * found).sum(1).min() > 0.98


@pytest.mark.parametrize(("vision", "text"), [("deit", "bert"), ("clip", "clip"), ("swin", "bert")])
def test_recomputing_changes_nothing(vision: str, text: str, towers: Towers) -> None:
    """With dropout and stochastic depth: the second pass drops what the first one did."""
    model = towers.model(vision, text, vision_dropout=0.2, drop_path=0.4, text_dropout=0.2).train()
    image = torch.randn(4, 3, *model.config.image_size)
    ids, mask = texts(6, rows=4)
    found = []
    for again in (False, True):
        recompute_layers(model, again)
        assert sum(getattr(m, "recompute", False) for m in model.modules()) == again * (
            3 if vision == "swin" else 2
        )
        torch.manual_seed(3)
        loss = (model.encode_image(image)[1] * model.encode_text(ids, mask)[1]).sum()
        model.zero_grad()
        loss.backward()
        found.append((loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]))
    (first, gradients), (second, others) = found
    assert torch.equal(first, second)
    assert len(gradients) == len(others) > 50
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.95), st.integers(0, 100))
def test_a_dropped_path_is_dropped_whole_and_the_mean_kept(rate: float, seed: int) -> None:
    torch.manual_seed(seed)
    branch = torch.ones(50, 2, 3)
    found = drop_path(branch, rate)
    for row in found:
        assert (row == 0).all() or torch.allclose(row, torch.tensor(1 / (1 - rate)))
    assert drop_path(branch, 0.0) is branch


@torch.no_grad()
def test_parts_are_asked_of_patches_alone_and_widen_the_feature(towers: Towers) -> None:
    model = towers.model("deit", granularity=PARTS)
    assert model.granularity is not None
    image = torch.randn(2, 3, 32, 32)
    tokens, feature = model.encode_image(image)
    assert feature.shape == (2, model.feature_dim) == (2, 6)
    parts = model.granularity.image_parts(tokens[:, 2:])
    torch.testing.assert_close(
        feature, model.granularity.feature(model.image_feature(tokens), parts)
    )
    assert towers.model().feature_dim == 12
