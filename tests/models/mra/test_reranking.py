"""Re-ranking's pass over packed pairs, against the padded fusion of one pair at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mra import MRA, MRAConfig
from models.mra.reranking import match_texts, neighbours, prepare_texts

LONGEST = 7


def tiny(layers: int) -> MRA:
    torch.manual_seed(layers)
    model = MRA(
        MRAConfig(
            image_size=(16, 16), vision_dim=8, depths=(1, 1), vision_heads=(1, 2), window_size=2,
            vocab_size=50, text_dim=16, text_layers=1, fusion_layers=layers, text_heads=2,
            text_inner_dim=24, max_positions=12, max_tokens=LONGEST, embed_dim=8,
        )
    )  # fmt: skip
    for parameter in model.parameters():  # biases too, that start from zero
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


MODELS = {layers: tiny(layers) for layers in (1, 2, 3)}


@given(
    st.lists(st.integers(2, LONGEST), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=12),
    st.sampled_from([1, 2, 3]),
    st.booleans(),
    st.integers(0, 99),
)
@settings(deadline=None)
def test_any_pairs_of_texts_of_any_length(lengths, pairs, layers, padded, seed):
    model, generator = MODELS[layers], torch.Generator().manual_seed(seed)
    count = len(lengths)
    text = torch.randn(count, LONGEST, 16, generator=generator)
    mask = (torch.arange(LONGEST) < torch.tensor(lengths)[:, None]).long()
    image = torch.randn(3, 5, 16, generator=generator)
    text_R = np.array([t % count for t, _ in pairs])
    image_R = np.array([g for _, g in pairs])
    with torch.inference_mode():
        keys = model.image_keys(image)
        expected = model.match(text[text_R], mask[text_R], image[image_R])
        texts = prepare_texts(model, text[mask.bool()], np.array(lengths), padded=padded)
        found = match_texts(model, texts, keys, text_R, image_R)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
def test_reduced_precision_stays_near(padded):
    model = MODELS[3]
    text, image = torch.randn(6, 16), torch.randn(2, 5, 16)
    pairs = np.array([0, 1, 1]), np.array([0, 0, 1])
    lengths = np.array([2, 4])
    with torch.inference_mode():
        logits = []
        for reduced in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
                texts = prepare_texts(model, text, lengths, padded=padded)
                logits.append(match_texts(model, texts, model.image_keys(image), *pairs))
    assert logits[1].dtype == torch.bfloat16
    difference = (logits[0] - logits[1].float()).abs().max()
    assert 0 < difference < 0.05 * logits[0].abs().max() + 0.05


def test_runs_of_equal_values():
    assert neighbours(np.array([3, 3, 5, 3])) == [(0, 2), (2, 3), (3, 4)]
    assert neighbours(np.array([1])) == [(0, 1)]
