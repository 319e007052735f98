from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.dual.finetuning import IdentityObjective
from models.dual.granularity import GranularityConfig
from models.dual.losses import Negatives, bidirectional_ranking, cosines, info_nce
from models.dual.model import DualEncoder

Batch = dict[str, Tensor]
Make = Callable[..., DualEncoder]
PGU = GranularityConfig(
    parts=3, part_dim=4, depth=1, heads=2, head_dim=4, inner_dim=8, dictionary=5, ranks="parts"
)


def make_objective(model: DualEncoder, **changes: Any) -> IdentityObjective:
    torch.manual_seed(1)
    objective = IdentityObjective(model, **({"people": 5} | changes))
    with torch.no_grad():
        for name, parameter in objective.named_parameters():
            if "identity" in name:
                parameter.normal_()
    return objective


def step(
    objective: IdentityObjective, batch: Batch, half: bool = False, seed: int = 11
) -> tuple[Batch, Batch]:
    """Losses and gradients."""
    objective.train().zero_grad()
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses = objective(batch, torch.Generator().manual_seed(seed))
    losses["loss"].backward()
    gradients = {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


@pytest.mark.parametrize("negatives", ["semi-hard", "hardest"])
def test_losses_of_the_global_feature(make_model: Make, batch: Batch, negatives: Negatives) -> None:
    """Ranking compares what search compares; the classifier sees it before it is normalised."""
    model = make_model()
    objective = make_objective(model, margin=0.5, negatives=negatives)
    losses, _ = step(objective, batch)
    with torch.no_grad():
        _, image = model.encode_image(batch["image"])
        _, text = model.encode_text(batch["ids"], batch["mask"])
        wanted = bidirectional_ranking(
            image @ text.t(),
            batch["person"],
            margin=0.5,
            negatives=negatives,
            generator=torch.Generator().manual_seed(11),
        )
        plain = (
            model.image_feature(model.image_tokens(batch["image"])),
            model.text_feature(model.text_tokens(batch["ids"], batch["mask"]), batch["mask"]),
        )
        identity = [
            F.cross_entropy(
                rows @ objective.identity.weight[0] + objective.identity.bias[0], batch["person"]
            )
            for rows in plain
        ]
    assert wanted > 0
    assert set(losses) == {"id", "rank", "loss"}
    torch.testing.assert_close(losses["rank"], wanted)
    torch.testing.assert_close(losses["id"], identity[0] + identity[1])
    torch.testing.assert_close(losses["loss"], wanted + identity[0] + identity[1])


def test_the_mean_over_anchors_and_a_contrast_beside(make_model: Make, batch: Batch) -> None:
    summed, _ = step(make_objective(make_model(), negatives="hardest"), batch)
    losses, gradients = step(
        make_objective(make_model(), negatives="hardest", anchors="mean", contrast_temperature=0.1),
        batch,
    )
    model = make_model()
    with torch.no_grad():
        _, image = model.encode_image(batch["image"])
        _, text = model.encode_text(batch["ids"], batch["mask"])
        wanted = info_nce(image, text, batch["person"], temperature=0.1)
    assert set(losses) == {"id", "rank", "contrast", "loss"}
    torch.testing.assert_close(losses["rank"], summed["rank"] / (2 * len(batch["person"])))
    torch.testing.assert_close(losses["contrast"], wanted)
    torch.testing.assert_close(losses["loss"], losses["id"] + losses["rank"] + wanted)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())


def test_losses_of_the_parts(make_model: Make, batch: Batch) -> None:
    """gamma times both losses, on what ranking by parts compares."""
    model = make_model(granularity=PGU)
    changes: dict[str, Any] = {"negatives": "hardest", "margin": 0.5}
    losses, _ = step(make_objective(model, **changes), batch)
    weighted, _ = step(make_objective(model, granularity_weight=0.25, **changes), batch)
    with torch.no_grad():
        _, image = model.encode_image(batch["image"])
        _, text = model.encode_text(batch["ids"], batch["mask"])
        wanted = bidirectional_ranking(
            cosines(image, text), batch["person"], margin=0.5, negatives="hardest"
        )
    assert image.shape[1] == model.feature_dim == 12
    torch.testing.assert_close(losses["pgu_rank"], wanted)
    for name in ("pgu_rank", "pgu_id"):
        torch.testing.assert_close(weighted[name], losses[name] / 4)
    for name in ("rank", "id"):
        torch.testing.assert_close(weighted[name], losses[name])
    torch.testing.assert_close(losses["loss"], sum(v for k, v in losses.items() if k != "loss"))


def test_negatives_follow_from_the_generator_alone(make_model: Make, batch: Batch) -> None:
    objective = make_objective(make_model(granularity=PGU), margin=1.5)
    batch["person"][:] = torch.tensor([0, 1, 2, 1, 3, 4])
    found = [float(step(objective, batch, seed=seed)[0]["rank"]) for seed in (1, 1, 2, 3, 4)]
    assert found[0] == found[1]
    assert len(set(found)) > 1


@pytest.mark.parametrize("size", [1, 4])
def test_parts_give_the_whole_step_s_losses_and_gradients(
    make_model: Make, batch: Batch, size: int
) -> None:
    model = make_model(granularity=PGU)
    whole, wanted = step(make_objective(model), batch)
    losses, gradients = step(make_objective(model, micro_batch=size), batch)
    torch.testing.assert_close(losses, whole)
    largest = max(float(each.abs().max()) for each in wanted.values())
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (gradients[name] - gradient).abs().max() < 2e-6 * largest, name


@pytest.mark.parametrize("granularity", [None, PGU])
def test_only_what_the_losses_use_is_trained(
    make_model: Make, batch: Batch, granularity: GranularityConfig | None
) -> None:
    """Every parameter that takes a gradient gets one: several processes need that (DDP)."""
    objective = make_objective(make_model(granularity=granularity))
    del batch["masked_ids"], batch["masked_labels"]
    _, gradients = step(objective, batch)
    trained = {name for name, each in objective.named_parameters() if each.requires_grad}
    assert set(gradients) == trained
    assert not any(".cls." in name for name in trained)
    assert any("granularity" in name for name in trained) == (granularity is not None)
    assert "model.text_encoder.bert.embeddings.word_embeddings.weight" in trained


def test_one_person_alone_has_nothing_to_rank(make_model: Make, batch: Batch) -> None:
    batch["person"][:] = 3
    losses, gradients = step(make_objective(make_model(granularity=PGU)), batch)
    assert losses["rank"] == losses["pgu_rank"] == 0
    assert losses["id"] > 0
    assert all(torch.isfinite(each).all() for each in gradients.values())


def test_duplicated_pairs(make_model: Make, batch: Batch) -> None:
    """Every pair twice, under two names: as hard as the positive, so no semi-hard negative."""
    twice = {name: torch.cat([rows[:3], rows[:3]]) for name, rows in batch.items()}
    twice["person"] = torch.tensor([0, 1, 2, 3, 4, 5])
    losses, gradients = step(make_objective(make_model(granularity=PGU), people=6), twice)
    assert all(torch.isfinite(each).all() for each in [*losses.values(), *gradients.values()])


def test_half_precision_stays_near(make_model: Make, batch: Batch) -> None:
    objective = make_objective(make_model(granularity=PGU), negatives="hardest")
    whole, _ = step(objective, batch)
    losses, gradients = step(objective, batch, half=True)
    torch.testing.assert_close(losses, whole, rtol=0.1, atol=0.1)
    assert all(torch.isfinite(each).all() for each in gradients.values())
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


@pytest.mark.parametrize("ranks", ["parts", "both"])
def test_a_few_steps_tell_people_apart(make_model: Make, batch: Batch, ranks: Any) -> None:
    """Afterwards each text's image is the most similar one, by the feature that search uses."""
    granularity = GranularityConfig(**(vars(PGU) | {"ranks": ranks}))
    batch["person"] = torch.arange(6)
    model = make_model(granularity=granularity)
    torch.manual_seed(0)
    objective = IdentityObjective(model, people=6)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.003)
    first, _ = step(objective, batch)
    for at in range(40):
        step(objective, batch, seed=at)
        optimizer.step()
    last, _ = step(objective, batch)
    assert last["id"] < 0.5 * first["id"]
    with torch.no_grad():
        _, image = model.encode_image(batch["image"])
        _, text = model.encode_text(batch["ids"], batch["mask"])
    assert (text @ image.t()).argmax(1).tolist() == list(range(6))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"people": 0}, "0 people"),
        ({"margin": 0.0}, "margin 0.0"),
        ({"negatives": "easy"}, "negatives 'easy'"),
        ({"granularity_weight": -1.0}, "granularity_weight -1.0"),
        ({"anchors": "median"}, "anchors 'median'"),
        ({"contrast_temperature": 0.0}, "contrast_temperature 0.0"),
        ({"granularity_weight": 0.0}, "granularity_weight 0 with granularity.ranks parts"),
    ],
)
def test_values_out_of_range(make_model: Make, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_objective(make_model(granularity=PGU), **change)


def test_parts_without_weight_may_be_left_alone(make_model: Make, batch: Batch) -> None:
    granularity = GranularityConfig(**(vars(PGU) | {"ranks": "global"}))
    objective = make_objective(make_model(granularity=granularity), granularity_weight=0.0)
    losses, gradients = step(objective, batch)
    assert set(losses) == {"id", "rank", "loss"}
    assert not any("granularity" in name for name in gradients)


def test_persons_beyond_the_classes(make_model: Make, batch: Batch) -> None:
    with pytest.raises(ValueError, match="persons from 0 to 4: this objective tells 4 apart"):
        step(make_objective(make_model(), people=4), batch)
    del batch["person"]
    with pytest.raises(ValueError, match="person"):
        step(make_objective(make_model()), batch)
