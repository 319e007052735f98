from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.mra import MRA, PAPER, RELEASED, Reading
from models.mra.losses import contrastive_loss, hard_negatives
from models.mra.objectives import FinetuneObjective, PretrainObjective, whole_if_empty

Make = Callable[..., MRA]
Batch = dict[str, Tensor]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def released_order(model: MRA, batch: Batch, beta: float) -> dict[str, Tensor]:
    """Pretraining in the released order of work: nothing shared, every pair fused by itself."""
    reading, generator = model.config.reading, seeded()
    inside = whole_if_empty(batch["patch_mask"])
    image, image_feature = model.encode_image(batch["image"])
    text, text_feature = model.encode_text(batch["ids"], batch["mask"])
    phrase, phrase_feature = model.encode_text(batch["region_ids"], batch["region_mask"])

    def match(
        pictures: Tensor,
        picture_mask: Tensor | None,
        picture_feature: Tensor,
        texts: Tensor,
        mask: Tensor,
        feature: Tensor,
        ids: Tensor,
    ) -> Tensor:
        drawn = hard_negatives(picture_feature, feature, model.temp, ids, generator)
        pairs = [(b, b, 1) for b in range(6)]
        pairs += [(b, int(drawn.image_B[b]), 0) for b in range(6)]
        pairs += [(int(drawn.text_B[b]), b, 0) for b in range(6)]
        losses = []
        for t, i, label in pairs:
            seen = None if picture_mask is None else picture_mask[i : i + 1]
            logits = model.match(texts[t : t + 1], mask[t : t + 1], pictures[i : i + 1], seen)
            losses.append(F.cross_entropy(logits, torch.tensor([label])))
        return torch.stack(losses).mean()

    itc = contrastive_loss(image_feature, text_feature, model.temp, batch["person"])
    itm = match(image, None, image_feature, text, batch["mask"], text_feature, batch["person"])
    masked = model.text_encoder.encode(batch["masked_ids"], batch["mask"])
    fused = model.text_encoder.fuse(masked, batch["mask"], model.image_keys(image))
    mlm = F.cross_entropy(
        model.text_encoder.cls(fused).flatten(0, 1), batch["masked_labels"].flatten()
    )
    mean = torch.stack(
        [tokens[1:][rows.bool()].mean(0) for tokens, rows in zip(image, inside, strict=True)]
    )
    region = torch.cat([mean[:, None], image[:, 1:]], dim=1)
    first = torch.full((6, 1), int(reading.region_token))
    region_mask = torch.cat([first, inside], dim=1)
    region_feature = F.normalize(model.region_feature(image, inside), dim=-1)
    rpc = contrastive_loss(region_feature, phrase_feature, model.temp, batch["phrase_id"])
    rpm = match(
        region,
        region_mask,
        region_feature,
        phrase,
        batch["region_mask"],
        phrase_feature,
        batch["phrase_id"],
    )
    return {"itc": itc, "itm": itm, "mlm": mlm, "rpc": beta * rpc, "rpm": beta * rpm}


@pytest.mark.parametrize(("reading", "beta"), [(PAPER, 0.8), (RELEASED, 0.64)])
@pytest.mark.parametrize("head", ["stripes", "token"])
def test_one_shared_step_is_the_released_order_of_work(
    make_model: Make, batch: Batch, reading: Reading, beta: float, head: str
) -> None:
    model = make_model(reading, head=head)
    batch["patch_mask"][3] = 0  # a row without a region counts as the whole image
    slow = released_order(model, batch, beta)
    torch.stack(list(slow.values())).sum().backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    fast = PretrainObjective(model)(batch, seeded())
    fast["loss"].backward()
    assert fast.keys() == {*slow, "loss"}
    for name, loss in slow.items():
        torch.testing.assert_close(fast[name], loss, rtol=1e-4, atol=1e-5)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys() == dict(model.named_parameters()).keys()
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert (found[name] - gradient).abs().max() < 1e-4 * largest, name


def test_the_loss_is_the_sum_of_its_named_parts(make_model: Make, batch: Batch) -> None:
    for objective in (PretrainObjective(make_model()), FinetuneObjective(make_model())):
        losses = objective(batch, seeded())
        total = losses.pop("loss")
        torch.testing.assert_close(total, torch.stack(list(losses.values())).sum())


def test_a_region_that_is_the_whole_image_has_the_images_feature(
    make_model: Make, batch: Batch
) -> None:
    model = make_model()
    tokens, feature = model.encode_image(batch["image"])
    whole = F.normalize(model.region_feature(tokens, torch.ones(6, 18)), dim=-1)
    torch.testing.assert_close(whole, feature)
    part = F.normalize(model.region_feature(tokens, batch["patch_mask"]), dim=-1)
    assert (part - feature).abs().max() > 1e-3


def test_the_released_region_feature_does_not_see_the_region(
    make_model: Make, batch: Batch
) -> None:
    other = {**batch, "patch_mask": 1 - batch["patch_mask"]}
    for reading, sees in ((RELEASED, False), (PAPER, True)):
        objective = PretrainObjective(make_model(reading))
        first, second = objective(batch, seeded()), objective(other, seeded())
        assert bool((first["rpc"] - second["rpc"]).abs() > 1e-5) is sees
        assert (first["rpm"] - second["rpm"]).abs() > 1e-6


def test_each_deviation_is_set_alone(make_model: Make, batch: Batch) -> None:
    base = PretrainObjective(make_model())(batch, seeded())
    changed = {
        "region_pooling": {"rpc", "rpm"},  # rpm through its negatives
        "region_token": {"rpm"},
        "beta_twice": {"rpc", "rpm"},
    }
    for field, moved in changed.items():
        reading = dataclasses.replace(PAPER, **{field: not getattr(PAPER, field)})
        losses = PretrainObjective(make_model(reading))(batch, seeded())
        different = {
            name for name in base if name != "loss" and (losses[name] - base[name]).abs() > 1e-6
        }
        assert different <= moved
        assert different, field


def test_weights_of_zero_need_no_batch_keys(make_model: Make, batch: Batch) -> None:
    branches = ("region", "phrase", "patch", "eda")
    plain = {key: value for key, value in batch.items() if not key.startswith(branches)}
    pretraining = PretrainObjective(make_model(), region_weight=0.0)(plain, seeded())
    finetuning = FinetuneObjective(make_model(), eda_weight=0.0, label_smoothing=0.0)(
        plain, seeded()
    )
    assert pretraining.keys() == finetuning.keys() == {"itc", "itm", "mlm", "loss"}
    torch.testing.assert_close(pretraining, finetuning)
    with pytest.raises(ValueError, match=r"phrase_id.*weight of a branch to 0"):
        PretrainObjective(make_model())(plain)
    with pytest.raises(ValueError, match="eda_ids"):
        FinetuneObjective(make_model())(plain)


def test_an_edited_text_equal_to_the_caption_costs_the_same(make_model: Make, batch: Batch) -> None:
    batch |= {"eda_ids": batch["ids"], "eda_mask": batch["mask"]}
    losses = FinetuneObjective(make_model(), eda_weight=0.5)(batch, seeded())
    torch.testing.assert_close(losses["itc_eda"], 0.5 * losses["itc"])


def test_a_step_repeats_from_its_generator(make_model: Make, batch: Batch) -> None:
    objective = PretrainObjective(make_model())
    torch.testing.assert_close(objective(batch, seeded()), objective(batch, seeded()))


def test_no_masked_word_and_one_person_still_give_finite_losses(
    make_model: Make, batch: Batch
) -> None:
    batch["masked_labels"].fill_(-100)
    batch["person"].zero_()
    batch["phrase_id"].zero_()
    batch["patch_mask"].zero_()
    model = make_model()
    losses = PretrainObjective(model)(batch, seeded())
    losses["loss"].backward()
    assert losses["mlm"].item() == 0.0
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_training_lowers_the_loss(make_model: Make, batch: Batch) -> None:
    model = make_model().train()
    objective = PretrainObjective(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(25):
        loss = objective(batch, seeded())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.7 * history[0]
