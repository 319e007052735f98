from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.dual.granularity import Granularity, GranularityConfig, Layer, unit_parts

SMALL = GranularityConfig(
    parts=3, part_dim=5, depth=2, heads=2, head_dim=4, inner_dim=6, dictionary=0, ranks="both"
)
WIDTH = 8


def module(**changes: Any) -> Granularity:
    torch.manual_seed(0)
    return Granularity(WIDTH, dataclasses.replace(SMALL, **changes))


def tokens(rows: int = 4, count: int = 7, seed: int = 1) -> Tensor:
    return torch.randn(rows, count, WIDTH, generator=torch.Generator().manual_seed(seed))


def attended(layer: Layer, asking_E: Tensor, asked: list[Tensor]) -> Tensor:
    """What one query becomes, written out one head and one token at a time."""
    query = layer.query(layer.norm(asking_E))
    pairs = [layer.key_value(layer.norm(each)) for each in asked]
    found = []
    size = len(query) // layer.heads
    for head in range(layer.heads):
        part = slice(head * size, (head + 1) * size)
        keys = [pair[: len(query)][part] for pair in pairs]
        values = [pair[len(query) :][part] for pair in pairs]
        logits = torch.stack([(query[part] * key).sum() / size**0.5 for key in keys])
        weights = logits.softmax(0)
        found.append(sum(w * v for w, v in zip(weights, values, strict=True)))
    asking_E = asking_E + layer.out(torch.cat(found))
    return asking_E + layer.inner(layer.inner_norm(asking_E))


def test_parts_against_the_definition_written_out() -> None:
    """A text's parts, one query, token and part at a time; the pad is not looked at."""
    pgu = module(dictionary=4)
    tokens_BLE = tokens(2, 3)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    found = pgu.text_parts(tokens_BLE, mask)
    assert pgu.rebuild is not None
    assert pgu.dictionary_ME is not None
    for b, length in enumerate((3, 2)):
        rebuilt = [
            attended(pgu.rebuild, tokens_BLE[b, at], list(pgu.dictionary_ME))
            for at in range(length)
        ]
        for k in range(3):
            part = pgu.queries_KE[k]
            for layer in pgu.decoder:
                part = attended(layer, part, rebuilt)  # type: ignore[arg-type]
            torch.testing.assert_close(found[b, k], part @ pgu.part_KEF[k], rtol=1e-4, atol=1e-4)


def test_one_token_by_hand() -> None:
    """Attention over one token gives its value; with all else the identity, parts are sums."""
    pgu = module(parts=2, depth=1, heads=1, head_dim=WIDTH, part_dim=WIDTH)
    layer = pgu.decoder[0]
    assert isinstance(layer, Layer)
    with torch.no_grad():
        eye = torch.eye(WIDTH)
        layer.key_value.weight.copy_(torch.cat([eye, eye]))
        layer.out.weight.copy_(eye)
        layer.out.bias.zero_()
        for each in layer.inner.parameters():
            each.zero_()
        pgu.part_KEF.copy_(torch.stack([eye, 2 * eye]))
    token = tokens(1, 1)
    normed = F.layer_norm(token[0, 0], (WIDTH,))
    found = pgu.image_parts(token)[0]
    torch.testing.assert_close(found[0], pgu.queries_KE[0] + normed)
    torch.testing.assert_close(found[1], 2 * (pgu.queries_KE[1] + normed))


@pytest.mark.parametrize("dictionary", [0, 4])
def test_both_modalities_go_through_the_same_queries_and_entries(dictionary: int) -> None:
    """The same tokens give the same parts, but for the foreground that only an image has."""
    pgu = module(dictionary=dictionary)
    if pgu.foreground is not None:
        with torch.no_grad():
            pgu.foreground.weight.zero_()
            pgu.foreground.bias.fill_(40.0)  # all of it is foreground
    seen = pgu.image_parts(tokens())
    torch.testing.assert_close(pgu.text_parts(tokens(), torch.ones(4, 7)), seen)
    seen.sum().backward()
    used = [name for name, each in pgu.named_parameters() if each.grad is not None]
    assert {"queries_KE", "part_KEF"} <= set(used)
    assert ("dictionary_ME" in used) == bool(dictionary)


def test_background_tokens_of_an_image_are_turned_down() -> None:
    """Where nothing is foreground, what the image shows makes no difference."""
    pgu = module(dictionary=4)
    assert pgu.foreground is not None
    with torch.no_grad():
        pgu.foreground.weight.zero_()
        pgu.foreground.bias.fill_(-200.0)
    torch.testing.assert_close(pgu.image_parts(tokens(seed=1)), pgu.image_parts(tokens(seed=2)))


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 4), st.integers(0, 99))
def test_pads_and_the_order_of_tokens_make_no_difference(
    rows: int, length: int, pads: int, seed: int
) -> None:
    pgu = module(dictionary=seed % 2 * 3).eval()
    words, mask = tokens(rows, length, seed), torch.ones(rows, length, dtype=torch.int64)
    found = pgu.text_parts(words, mask)
    longer = torch.cat([words, 50 * tokens(rows, pads, seed + 1)], dim=1)
    padded = pgu.text_parts(longer, F.pad(mask, (0, pads)))
    torch.testing.assert_close(padded, found, rtol=1e-4, atol=1e-5)
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed))
    mixed = pgu.text_parts(words[:, order], mask)
    torch.testing.assert_close(mixed, found, rtol=1e-4, atol=1e-5)


def test_rows_do_not_see_each_other() -> None:
    pgu = module(dictionary=4)
    alone = torch.cat([pgu.image_parts(row[None]) for row in tokens()])
    torch.testing.assert_close(pgu.image_parts(tokens()), alone)


@pytest.mark.parametrize(("ranks", "width"), [("parts", 15), ("global", 8), ("both", 23)])
def test_what_ranking_compares(ranks: str, width: int) -> None:
    """Unit vectors; `both` has the mean of the two cosines."""
    pgu = module(ranks=ranks)
    torch.manual_seed(3)
    whole, other = torch.randn(2, 4, WIDTH)
    parts, other_parts = 3 * torch.randn(2, 4, 3, 5)
    one, two = pgu.feature(whole, parts), pgu.feature(other, other_parts)
    assert one.shape == (4, width)
    assert pgu.feature_dim == width
    torch.testing.assert_close(one.norm(dim=1), torch.ones(4))
    by_whole = F.cosine_similarity(whole, other)
    by_parts = F.cosine_similarity(parts.flatten(1), other_parts.flatten(1))
    wanted = {"parts": by_parts, "global": by_whole, "both": (by_whole + by_parts) / 2}[ranks]
    torch.testing.assert_close((one * two).sum(1), wanted)
    torch.testing.assert_close(unit_parts(parts).norm(dim=1), torch.ones(4))


def test_defaults_are_the_published_sizes() -> None:
    """LGUR's code, for tokens 384 wide: 400 entries, and heads of 64 at the dictionary."""
    with torch.device("meta"):
        pgu = Granularity(384, GranularityConfig(dictionary=400))
    assert pgu.queries_KE.shape == (6, 384)
    assert pgu.part_KEF.shape == (6, 384, 512)
    assert pgu.dictionary_ME is not None
    assert pgu.dictionary_ME.shape == (400, 384)
    layers = [*pgu.decoder, pgu.rebuild]
    assert [layer.query.out_features for layer in layers if isinstance(layer, Layer)] == [
        6 * 512,
        6 * 512,
        6 * 64,
    ]
    assert [layer.inner[0].out_features for layer in layers if isinstance(layer, Layer)] == [
        512,
        512,
        768,
    ]
    assert pgu.feature_dim == 6 * 512


def test_half_precision_stays_near() -> None:
    pgu = module(dictionary=4)
    with torch.autocast("cpu", torch.bfloat16):
        half = pgu.image_parts(tokens())
    torch.testing.assert_close(half.float(), pgu.image_parts(tokens()), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parts": 0}, "granularity.parts is 0"),
        ({"head_dim": -1}, "granularity.head_dim is -1"),
        ({"dictionary": -4}, "granularity.dictionary is -4"),
        ({"ranks": "local"}, "granularity.ranks is 'local'"),
    ],
)
def test_sizes_that_no_module_can_have(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(SMALL, **change)
    assert GranularityConfig(**dataclasses.asdict(SMALL)) == SMALL
