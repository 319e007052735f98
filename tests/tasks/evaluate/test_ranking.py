"""Embedding and re-ranking with tensors alone: any budget, any subset, any order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mra import MRA, RELEASED, MRAConfig
from tasks.evaluate import ranking
from tasks.evaluate.ranking import (
    Embedded,
    TextTokens,
    by_length,
    embed_images,
    embed_texts,
    judge,
    rerank,
)
from tasks.evaluate.spill import Budget, Rows

CPU = torch.device("cpu")
LONGEST = 8


def tiny(**changes) -> MRA:
    torch.manual_seed(1)
    config = {
        "image_size": (16, 16), "vision_dim": 8, "depths": (1, 1), "vision_heads": (1, 2),
        "window_size": 2, "vocab_size": 50, "text_dim": 16, "text_layers": 1, "fusion_layers": 2,
        "text_heads": 2, "text_inner_dim": 24, "max_positions": 12, "max_tokens": LONGEST,
        "embed_dim": 8, **changes,
    }  # fmt: skip
    model = MRA(MRAConfig(**config))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


MODEL = tiny()


def texts(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = (np.arange(LONGEST) < rng.integers(2, LONGEST + 1, count)[:, None]).astype(np.int64)
    return rng.integers(5, 50, (count, LONGEST)) * mask, mask


@torch.inference_mode()
def pair_by_pair(model: MRA, ids, mask, image, candidates):
    """Matching logits of every candidate, one pair at a time, padded to the full length."""
    logits = torch.zeros(candidates.shape)
    for q, row in enumerate(candidates):
        tokens, _ = model.encode_text(*(torch.from_numpy(v[q : q + 1]) for v in (ids, mask)))
        for k, g in enumerate(row):
            pair = tokens, torch.from_numpy(mask[q : q + 1]), image[g : g + 1]
            logits[q, k] = model.match(*pair)[0, 1]
    return logits


@given(
    queries=st.integers(1, 7),
    gallery=st.integers(1, 6),
    k=st.integers(1, 6),
    batch=st.integers(1, 9),
    # Nothing, a text or an image at a time; some; everything.
    memory=st.sampled_from([1, 20_000, 1 << 30]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_any_candidates_within_any_memory(queries, gallery, k, batch, memory, seed):
    generator = torch.Generator().manual_seed(seed)
    k = min(k, gallery)
    pixels = torch.randn(gallery, 3, 16, 16, generator=generator)
    ids, mask = texts(queries, seed)
    candidates = torch.stack(
        [torch.randperm(gallery, generator=generator)[:k] for _ in range(queries)]
    )
    budget = Budget(memory // 2)
    with torch.inference_mode():
        packed, _ = embed_texts(MODEL, ids, mask, CPU, batch=batch, budget=budget)
        images, _ = embed_images(MODEL, pixels.split(2), gallery, CPU, flip=False, budget=budget)
    found = rerank(MODEL, packed, images[0], candidates, CPU, batch=batch, memory=memory)
    with torch.inference_mode():
        tokens, _ = MODEL.encode_image(pixels)
    expected = pair_by_pair(MODEL, ids, mask, tokens, candidates)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_some_queries_are_judged_as_among_all():
    ids, mask = texts(6, 0)
    with torch.inference_mode():
        packed, text = embed_texts(MODEL, ids, mask, CPU, batch=4)
        images, image = embed_images(MODEL, [torch.randn(5, 3, 16, 16)], 5, CPU, flip=True)
    embedded = Embedded(images, image, packed, text)
    everything = judge(MODEL, embedded, 3, CPU, batch=4)
    chosen = np.array([1, 4])
    some = judge(MODEL, embedded, 3, CPU, batch=4, queries=chosen)
    assert len(some.logit_VQK) == 2
    assert torch.equal(some.candidates.index_QK, everything.candidates.index_QK[chosen])
    for a, b in zip(some.logit_VQK, everything.logit_VQK, strict=True):
        torch.testing.assert_close(a, b[chosen], atol=1e-5, rtol=1e-4)


def test_texts_are_encoded_without_pads_unless_the_feature_averages_over_them():
    ids, mask = texts(5, 3)
    for model in (MODEL, tiny(reading=RELEASED)):
        with torch.inference_mode():
            _, found = embed_texts(model, ids, mask, CPU, batch=2, tokens=False)
            _, whole = model.encode_text(torch.from_numpy(ids), torch.from_numpy(mask))
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-4)


def test_texts_that_are_there_already():
    ids, mask = texts(4, 5)
    with torch.inference_mode():
        tokens, _ = MODEL.encode_text(torch.from_numpy(ids), torch.from_numpy(mask))
        packed = TextTokens.from_padded(tokens, torch.from_numpy(mask))
        image = torch.randn(3, 5, 16)
        candidates = torch.tensor([[0, 2]] * 4)
        found = rerank(MODEL, packed, Rows.of(image.flatten(1)), candidates, CPU, batch=8)
    assert packed.length_T.tolist() == sorted(mask.sum(1))
    assert packed.query_T.tolist() == by_length(mask.sum(1)).tolist()
    torch.testing.assert_close(
        found, pair_by_pair(MODEL, ids, mask, image, candidates), atol=2e-5, rtol=1e-4
    )


def test_only_images_that_are_candidates_are_looked_at(monkeypatch):
    ids, mask = texts(2, 7)
    seen = []
    keys = MRA.image_keys
    monkeypatch.setattr(MRA, "image_keys", lambda self, x: seen.append(len(x)) or keys(self, x))
    with torch.inference_mode():
        packed, _ = embed_texts(MODEL, ids, mask, CPU, batch=4)
    candidates = torch.tensor([[1, 98], [98, 50]])
    rerank(MODEL, packed, Rows.of(torch.randn(99, 80)), candidates, CPU, batch=4)
    assert seen == [3]


@pytest.mark.parametrize("most", [1, 5, 100])
def test_blocks_of_texts(most):
    lengths = np.array([2, 2, 3, 7])
    blocks = ranking._blocks(lengths, most)
    assert [b for (_, b), _ in blocks][-1] == 4
    assert all(stop - start <= max(most, 7) for _, (start, stop) in blocks)
    joined = [t for (a, b), _ in blocks for t in range(a, b)]
    assert joined == [0, 1, 2, 3]
    assert all(lengths[a:b].sum() == stop - start for (a, b), (start, stop) in blocks)
