"""The shared order of work against the released one, plainly restated, on the same weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.flops import FAST, PLAIN, STEPS, pretraining_step, reranking
from benchmarks.measuring import blip2_lengths, cuhk_lengths, operations, phrase_lengths
from benchmarks.plain_mra import Attention, PlainMRA, padded
from benchmarks.pretraining_step import make_batch, small_config, texts_of
from benchmarks.reranking import make_inputs
from models.mra import MRA, PAPER, RELEASED, Reading
from models.mra.objectives import FinetuneObjective, PretrainObjective
from tasks.evaluate.ranking import TextTokens, rerank
from tasks.evaluate.spill import Rows

Make = Callable[..., MRA]
Batch = dict[str, Tensor]
OWN_HEADS = dataclasses.replace(PAPER, region_heads=True)
READINGS = pytest.mark.parametrize(
    "reading", [PAPER, RELEASED, OWN_HEADS], ids=["paper", "released", "own heads"]
)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def as_read(batch: Batch, model: MRA) -> Batch:
    """The batch with texts padded to the longest where the reading pools over pads."""
    if not model.config.reading.pool_pads:
        return batch
    length = model.config.max_tokens
    whole = ("image", "person", "phrase_id", "patch_mask")
    return {
        name: rows
        if name in whole
        else padded(rows, length, -100 if name == "masked_labels" else 0)
        for name, rows in batch.items()
    }


def state(module: nn.Module) -> Batch:
    """Gradients and buffers (BatchNorm's running statistics)."""
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return found | {name: b.clone() for name, b in module.named_buffers()}


def after(
    make: Make, reading: Reading, losses: Callable[[MRA], Batch], **changes: object
) -> tuple[Batch, Batch]:
    """Losses of a fresh copy of the model in training mode, and what they leave in it."""
    model = make(reading, **changes).train()
    found = losses(model)
    found["loss"].backward()
    return found, state(model)


def assert_same(found: tuple[Batch, Batch], wanted: tuple[Batch, Batch]) -> None:
    assert found[0].keys() == wanted[0].keys()
    for name, loss in wanted[0].items():
        torch.testing.assert_close(found[0][name], loss, rtol=1e-5, atol=1e-6, msg=name)
    assert found[1].keys() == wanted[1].keys()
    largest = max(
        float(rows.abs().max()) for rows in wanted[1].values() if rows.is_floating_point()
    )
    for name, rows in wanted[1].items():
        assert (found[1][name] - rows).abs().max() < 1e-5 * largest, name


@READINGS
@pytest.mark.parametrize("head", ["stripes", "token"])
@pytest.mark.parametrize("attention", ["sdpa", "softmax"])
def test_a_pretraining_step(
    make_model: Make, batch: Batch, reading: Reading, head: str, attention: Attention
) -> None:
    batch["patch_mask"][3] = 0  # a row without a region counts as the whole image
    wanted = after(
        make_model,
        reading,
        lambda model: PlainMRA(model, attention).pretraining(batch, seeded()),
        head=head,
    )
    found = after(
        make_model,
        reading,
        lambda model: PretrainObjective(model)(as_read(batch, model), seeded()),
        head=head,
    )
    assert set(wanted[0]) == {"itc", "itm", "mlm", "rpc", "rpm", "loss"}
    assert_same(found, wanted)


@READINGS
def test_a_finetuning_step(make_model: Make, batch: Batch, reading: Reading) -> None:
    wanted = after(make_model, reading, lambda model: PlainMRA(model).finetuning(batch, seeded()))
    found = after(
        make_model,
        reading,
        lambda model: FinetuneObjective(model)(as_read(batch, model), seeded()),
    )
    assert set(wanted[0]) == {"itc", "itm", "mlm", "itc_eda", "itm_eda", "loss"}
    assert_same(found, wanted)


def test_a_batch_of_one_person_has_no_negatives(make_model: Make, batch: Batch) -> None:
    batch["person"].zero_()
    batch["masked_labels"].fill_(-100)
    wanted = after(make_model, PAPER, lambda model: PlainMRA(model).finetuning(batch, seeded()))
    found = after(make_model, PAPER, lambda model: FinetuneObjective(model)(batch, seeded()))
    assert_same(found, wanted)


@READINGS
@torch.no_grad()
def test_reranking(make_model: Make, batch: Batch, reading: Reading) -> None:
    model = make_model(reading)
    plain = PlainMRA(model)
    length = model.config.max_tokens
    ids, mask = padded(batch["ids"], length), padded(batch["mask"], length)
    text, image = plain.encode_text(ids, mask), plain.encode_image(batch["image"])
    candidates = torch.stack([torch.randperm(6, generator=seeded())[:4] for _ in range(6)])
    device = torch.device("cpu")
    wanted = plain.rerank(text, mask, image, candidates)
    texts, images = TextTokens.from_padded(text, mask), Rows.of(image.flatten(1))
    found = rerank(model, texts, images, candidates, device, batch=5)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert wanted.std() > 1e-2


@torch.no_grad()
def test_windows_as_released_on_padded_and_shifted_grids(make_model: Make) -> None:
    for size in ((48, 24), (56, 40), (60, 60)):
        model = make_model(image_size=size)
        image = torch.randn(2, 3, *size, generator=seeded())
        found = PlainMRA(model, "softmax").encode_image(image)
        torch.testing.assert_close(found, model.vision_encoder(image), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ operations


def counted_step(run: Callable[[Batch, torch.Generator], Batch], batch: Batch) -> int:
    return operations(lambda: run(batch, seeded())["loss"].backward())


@pytest.mark.parametrize("reading", [PAPER, RELEASED], ids=["paper", "released"])
def test_operations_of_a_step_follow_from_the_sizes(reading: Reading) -> None:
    model = MRA(dataclasses.replace(small_config(), reading=reading, drop_path=0.0))
    batch = make_batch(model.config, 6, seed=1, without_region=0.2)
    texts = texts_of(batch)
    sides = (
        (PLAIN, counted_step(PlainMRA(model).pretraining, batch)),
        (FAST, counted_step(PretrainObjective(model), batch)),
    )
    for how, counted in sides:
        assert counted == pytest.approx(pretraining_step(model.config, texts, how), rel=0.01)
    shares = [pretraining_step(model.config, texts, how) for _, how in STEPS]
    assert shares == sorted(shares, reverse=True)


def test_operations_of_reranking_follow_from_the_sizes() -> None:
    model = MRA(small_config()).eval()
    lengths = np.array([9, 14, 14, 30])
    text, mask, image, candidates = make_inputs(model, lengths, 5, 3, torch.device("cpu"))
    used = len(candidates.unique())
    device = torch.device("cpu")
    texts, images = TextTokens.from_padded(text, mask), Rows.of(image.flatten(1))
    plain = PlainMRA(model)
    sides = (
        (PLAIN, operations(lambda: plain.rerank(text, mask, image, candidates))),
        (FAST, operations(lambda: rerank(model, texts, images, candidates, device, batch=5))),
    )
    for how, counted in sides:
        wanted = reranking(model.config, lengths.tolist(), 3, used, how)
        assert counted == pytest.approx(wanted, rel=0.03)


# ------------------------------------------------------------------ what the benchmarks draw


def test_lengths_are_those_of_the_data() -> None:
    rng = np.random.default_rng(0)
    assert blip2_lengths(20_000, rng, 56).mean() == pytest.approx(12 * 13 / 12 + 2, abs=0.1)
    assert phrase_lengths(20_000, rng, 56).mean() == pytest.approx(3 * 13 / 12 + 2, abs=0.1)
    cuhk = cuhk_lengths(20_000, rng, 56)
    assert cuhk.mean() == pytest.approx(30, abs=0.3)
    assert cuhk.max() == 56
    assert 7 < cuhk.std() < 10
