"""Chunks of a batch against the devices that they stand for, imitated one by one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mra import MRA, PAPER, RELEASED, Reading
from models.mra.heads import apply_head, contrastive_head
from models.mra.losses import contrastive_loss, hard_negatives
from models.mra.model import MRAConfig
from models.mra.objectives import FinetuneObjective, PretrainObjective, whole_if_empty

Make = Callable[..., MRA]
Batch = dict[str, Tensor]
ONLY = {"local_negatives", "local_statistics", "shared_contrast"}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def devices(model: MRA, batch: Batch, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The released run: every device has its rows, gathered features carry its own gradient only.

    Returns:
        Losses and gradients, averaged over devices as DDP does; `model` takes the first device's
        buffers.
    """
    replicas = [copy.deepcopy(model) for _ in range(count)]
    inside = whole_if_empty(batch["patch_mask"]).chunk(count)
    own = [
        {name: rows.chunk(count)[device] for name, rows in batch.items()} for device in range(count)
    ]
    encoded = []
    for device, (replica, rows) in enumerate(zip(replicas, own, strict=True)):
        image, image_feature = replica.encode_image(rows["image"])
        region = F.normalize(replica.region_feature(image, inside[device]), dim=-1)
        text, text_feature = replica.encode_text(rows["ids"], rows["mask"])
        phrase, phrase_feature = replica.encode_text(rows["region_ids"], rows["region_mask"])
        encoded.append((image, text, phrase, image_feature, text_feature, region, phrase_feature))
    for name, buffer in replicas[0].named_buffers():
        model.get_buffer(name).copy_(buffer)
    all_features = [torch.cat([each[k] for each in encoded]).detach() for k in range(3, 7)]
    generator = seeded()
    # The losses draw in this order: RPM's after ITM's.
    draws = [
        hard_negatives(*all_features[k : k + 2], model.temp, batch[ids], generator, chunks=count)
        for k, ids in ((0, "person"), (2, "phrase_id"))
    ]
    each_loss: list[dict[str, Tensor]] = []
    size = len(batch["person"]) // count
    for device, (replica, rows) in enumerate(zip(replicas, own, strict=True)):
        first = device * size
        image, text, phrase, *features = encoded[device]
        gathered = []
        for mine, everybody in zip(features, all_features, strict=True):
            mixed = list(everybody.chunk(count))
            mixed[device] = mine
            gathered.append(torch.cat(mixed))

        def match(
            drawn, texts, mask, seen, device=device, replica=replica, image=image, first=first
        ):
            losses = []
            for b in range(size):
                i, t = int(drawn.image_B[first + b]), int(drawn.text_B[first + b])
                assert {i // size, t // size} == {device}  # negatives never cross chunk borders
                pairs = [(b, b, 1), (b, i - first, 0), (t - first, b, 0)]
                for text_at, image_at, label in pairs:
                    shown = None if seen is None else seen[image_at : image_at + 1]
                    logits = replica.match(
                        texts[text_at : text_at + 1],
                        mask[text_at : text_at + 1],
                        image[image_at : image_at + 1],
                        shown,
                    )
                    losses.append(F.cross_entropy(logits, torch.tensor([label])))
            return torch.stack(losses).mean()

        masked = replica.text_encoder.encode(rows["masked_ids"], rows["mask"])
        fused = replica.text_encoder.fuse(masked, rows["mask"], replica.image_keys(image))
        logits = replica.text_encoder.cls(fused).flatten(0, 1)
        region_mask = torch.cat([torch.zeros(size, 1, dtype=torch.int64), inside[device]], dim=1)
        each_loss.append(
            {
                "itc": contrastive_loss(*gathered[:2], replica.temp, batch["person"]),
                "itm": match(draws[0], text, rows["mask"], None),
                "mlm": F.cross_entropy(logits, rows["masked_labels"].flatten()),
                "rpc": 0.64 * contrastive_loss(*gathered[2:], replica.temp, batch["phrase_id"]),
                "rpm": 0.64 * match(draws[1], phrase, rows["region_mask"], region_mask),
            }
        )
    mean = {name: torch.stack([each[name] for each in each_loss]).mean(0) for name in each_loss[0]}
    torch.stack(list(mean.values())).sum().backward()
    parts = [gradients(replica) for replica in replicas]
    return mean, {name: sum(part[name] for part in parts) for name in parts[0]}


@pytest.mark.parametrize("chunks", [2, 3])
@pytest.mark.parametrize("head", ["stripes", "token"])
def test_chunks_are_the_released_runs_devices(
    make_model: Make, batch: Batch, chunks: int, head: str
) -> None:
    batch["person"], batch["phrase_id"] = torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2])
    batch["masked_labels"][2, 2] = -100  # as many words to predict on every device
    model = make_model(RELEASED, head=head).train()
    imitated = copy.deepcopy(model)
    wanted, wanted_gradients = devices(imitated, batch, chunks)
    losses = PretrainObjective(model, chunks=chunks)(batch, seeded())
    losses["loss"].backward()
    for name, loss in wanted.items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-5, atol=1e-6)
    found = gradients(model)
    assert found.keys() == wanted_gradients.keys() == dict(model.named_parameters()).keys()
    largest = max(float(gradient.abs().max()) for gradient in wanted_gradients.values())
    for name, gradient in wanted_gradients.items():
        assert (found[name] - gradient).abs().max() < 2e-6 * largest, name
    for name, buffer in imitated.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer)


def test_each_local_field_is_set_alone(make_model: Make, batch: Batch) -> None:
    batch["person"] = torch.arange(6)

    def step(reading: Reading, chunks: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        model = make_model(reading).train()
        losses = FinetuneObjective(model, eda_weight=0.0, chunks=chunks)(batch, seeded())
        losses["loss"].backward()
        return losses, gradients(model)

    base, base_gradients = step(PAPER, 1)
    assert all(torch.equal(a, base[n]) for n, a in step(PAPER, 3)[0].items())
    moved = {
        "local_negatives": {"itm"},
        "local_statistics": {"itc", "itm"},  # itm through its negatives
        "shared_contrast": set(),
    }
    for field, allowed in moved.items():
        losses, found = step(dataclasses.replace(PAPER, **{field: True}), 3)
        different = {
            name for name in base if name != "loss" and (losses[name] - base[name]).abs() > 1e-6
        }
        assert different <= allowed, field
        assert bool(different) is bool(allowed), field
        assert any((found[n] - g).abs().max() > 1e-6 for n, g in base_gradients.items()), field


def test_the_contrastive_gradient_is_shared_and_the_temperatures_is_not(
    make_model: Make, batch: Batch
) -> None:
    """By finite numbers: a loss of ITC alone, one model with the field and one without."""

    def step(reading: Reading) -> tuple[Tensor, dict[str, Tensor]]:
        model = make_model(reading).train()
        loss = FinetuneObjective(model, eda_weight=0.0, chunks=3)(batch, seeded())["itc"]
        loss.backward()
        return loss.detach(), gradients(model)

    whole, shared = step(PAPER), step(dataclasses.replace(PAPER, shared_contrast=True))
    assert torch.equal(whole[0], shared[0])
    assert {"vision_proj.2.weight", "vision_encoder.layernorm.weight"} <= shared[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in whole[1].values())
    for name, gradient in shared[1].items():
        share = 1 if name == "temp" else 3
        assert (gradient * share - whole[1][name]).abs().max() < 1e-5 * largest, name


def test_divided_gradient_by_hand() -> None:
    """Two opposite pairs: d loss / d cos of a positive is -p / (2 tau), p the softmax's rest."""
    image = torch.eye(2, requires_grad=True)
    temperature = torch.tensor(0.5, requires_grad=True)
    rest = 1 / (1 + torch.e**2)
    for share in (1, 4):
        image.grad = temperature.grad = None
        contrastive_loss(
            image, torch.eye(2), temperature, torch.tensor([0, 1]), share=share
        ).backward()
        assert image.grad is not None
        assert temperature.grad is not None
        assert float(image.grad[0, 0]) == pytest.approx(-rest / 0.5 / 2 / share, rel=1e-5)
        # d loss / d tau = rest * (gap of logits) / tau, whatever the share.
        assert float(temperature.grad) == pytest.approx(rest * 2 / 0.5, rel=1e-5)


@pytest.mark.parametrize("share", [1, 4])
def test_divided_gradient_against_finite_differences(share: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    temperature = torch.tensor(0.4, dtype=torch.float64)
    ids = torch.tensor([0, 1, 1, 2, 3])

    def loss(image: Tensor, text: Tensor, temperature: Tensor) -> Tensor:
        return contrastive_loss(
            image, text, temperature, ids, label_smoothing=0.2, share=share
        ).double()

    given = [value.clone().requires_grad_() for value in (image, text, temperature)]
    loss(*given).backward()
    for at, (value, divided) in enumerate(zip(given, (share, share, 1), strict=True)):
        assert value.grad is not None
        for place in range(value.numel()):
            ends = []
            for step in (1e-4, -1e-4):
                moved = [each.detach().clone() for each in given]
                moved[at].view(-1)[place] += step
                ends.append(float(loss(*moved)))
            slope = (ends[0] - ends[1]) / 2e-4
            assert float(value.grad.view(-1)[place]) * divided == pytest.approx(slope, abs=1e-5)


def test_local_statistics_by_hand() -> None:
    """Rows 0, 2 | 10, 14 in one column: each half becomes -1, 1; the running mean follows 1."""
    head = contrastive_head(MRAConfig(embed_dim=1, head_dropout=0.0), 1, 1)
    assert isinstance(head, nn.Sequential)
    with torch.no_grad():
        head[2].weight.fill_(1.0)
    rows = torch.tensor([[0.0], [2.0], [10.0], [14.0]], requires_grad=True)
    found = apply_head(head, rows, chunks=2)
    torch.testing.assert_close(found, torch.tensor([[-1.0], [1], [-1], [1]]), rtol=1e-4, atol=1e-4)
    assert float(head[0].running_mean) == pytest.approx(0.1 * 1.0)  # momentum 0.1, first half
    assert float(head[0].running_var) == pytest.approx(0.9 + 0.1 * 2.0)  # unbiased: 2
    assert int(head[0].num_batches_tracked) == 1
    # Two rows always become -1 and 1, so no gradient gets through; with three chunks it would.
    (found * torch.tensor([[1.0], [2], [3], [5]])).sum().backward()
    assert rows.grad is not None
    assert rows.grad.abs().max() < 1e-4
    # Statistics of all four rows do let it through.
    whole = apply_head(head, rows)
    assert (whole - found).abs().max() > 0.1
    head.eval()
    assert torch.equal(apply_head(head, rows, chunks=2), apply_head(head, rows))


def test_the_gradient_of_local_statistics_by_hand() -> None:
    """Four rows a chunk; BatchNorm's gradient is (g - mean g - x mean(g x)) / std, in each."""
    head = contrastive_head(MRAConfig(embed_dim=1, head_dropout=0.0), 1, 1)
    assert isinstance(head, nn.Sequential)
    head = head.double()
    with torch.no_grad():
        head[2].weight.fill_(1.0)
    values = torch.tensor([1.0, 2, 4, 9, -3, 0, 1, 6], dtype=torch.float64)
    weight = torch.tensor([1.0, 0, 2, -1, 3, 1, 0, 2], dtype=torch.float64)
    rows = values[:, None].clone().requires_grad_()
    (apply_head(head, rows, chunks=2)[:, 0] * weight).sum().backward()
    wanted = []
    for x, g in zip(values.chunk(2), weight.chunk(2), strict=True):
        std = (x.var(unbiased=False) + 1e-5).sqrt()
        normed = (x - x.mean()) / std
        wanted.append((g - g.mean() - normed * (g * normed).mean()) / std)
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad[:, 0], torch.cat(wanted))


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_negatives_never_cross_chunk_borders(chunks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = F.normalize(torch.randn(2, 8, 4, generator=generator), dim=-1)
    ids = torch.tensor([0, 1, 2, 2, 3, 3, 0, 1])
    size = 8 // chunks
    seen = set()
    for _ in range(200):
        drawn = hard_negatives(image, text, torch.tensor(0.3), ids, generator, chunks=chunks)
        for b in range(8):
            mine = range(b // size * size, b // size * size + size)
            assert bool(drawn.valid_B[b]) is any(ids[j] != ids[b] for j in mine)
            if drawn.valid_B[b]:
                for other in (int(drawn.image_B[b]), int(drawn.text_B[b])):
                    assert other in mine
                    assert ids[other] != ids[b]
                    seen.add((b, other))
    wanted = {
        (b, j)
        for b in range(8)
        for j in range(8)
        if ids[j] != ids[b] and (chunks == 1 or b // size == j // size)
    }
    assert seen == wanted


def test_a_batch_that_chunks_do_not_divide(make_model: Make, batch: Batch) -> None:
    for chunks, message in ((4, "6 rows in 4 chunks"), (6, "two rows at least")):
        with pytest.raises(ValueError, match=message):
            PretrainObjective(make_model(RELEASED).train(), chunks=chunks)(batch, seeded())
    PretrainObjective(make_model(), chunks=4)(batch, seeded())  # the paper's reading has no chunks
    assert PretrainObjective(make_model(), chunks=4).chunks == 1
    assert PretrainObjective(make_model(RELEASED), chunks=3).chunks == 3


def test_which_heads_learn_twice_as_fast(make_model: Make) -> None:
    assert PretrainObjective(make_model(RELEASED)).doubled == ()
    assert PretrainObjective(make_model()).doubled == (r"\bvision_proj\.", r"\btext_proj\.")


def test_regions_and_phrases_with_heads_of_their_own(make_model: Make, batch: Batch) -> None:
    reading = dataclasses.replace(PAPER, region_heads=True)
    plain, own = make_model(), make_model(reading)
    extra = {n.split(".")[0] for n, _ in own.named_parameters()}
    assert extra - {n.split(".")[0] for n, _ in plain.named_parameters()} == {
        "region_proj",
        "phrase_proj",
    }
    objective = PretrainObjective(own)
    assert r"\bphrase_proj\." in objective.doubled
    objective(batch, seeded())["rpc"].backward()
    reached = gradients(own)
    assert "region_proj.2.weight" in reached
    assert "phrase_proj.2.weight" in reached
    assert not any(name.startswith(("vision_proj", "text_proj")) for name in reached)
    for without in (FinetuneObjective(own), PretrainObjective(own, region_weight=0.0)):
        without(batch, seeded())["loss"].backward()
        assert not any(name.startswith(("region_", "phrase_")) for name in gradients(own))
        assert own.region_proj is not None
        assert not any(p.requires_grad for p in own.region_proj.parameters())
