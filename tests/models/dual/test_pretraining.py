from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.dual.config import ClipText
from models.dual.granularity import GranularityConfig
from models.dual.losses import info_nce
from models.dual.model import DualEncoder
from models.dual.pretraining import UniptObjective

Batch = dict[str, Tensor]
Make = Callable[..., DualEncoder]
CLIP_TEXT = ClipText(vocab_size=40, dim=12, layers=1, heads=2, inner_dim=24, max_positions=24)


def step(objective: UniptObjective, batch: Batch, half: bool = False) -> tuple[Batch, Batch]:
    """Losses and gradients."""
    objective.train().zero_grad()
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses = objective(batch, torch.Generator())
    losses["loss"].backward()
    gradients = {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def test_losses_are_what_the_model_s_parts_give(make_model: Make, batch: Batch) -> None:
    """Contrast of the features that search compares; MLM of the masked text alone."""
    model = make_model()
    losses, _ = step(UniptObjective(model, temperature=0.5, mlm_weight=0.3), batch)
    with torch.no_grad():
        _, image = model.encode_image(batch["image"])
        _, text = model.encode_text(batch["ids"], batch["mask"])
        logits = model.mlm_logits(model.word_states(batch["masked_ids"], batch["mask"]))
    itc = info_nce(image, text, batch["person"], temperature=0.5)
    mlm = F.cross_entropy(logits.flatten(0, 1), batch["masked_labels"].flatten())
    torch.testing.assert_close(losses["itc"], itc)
    torch.testing.assert_close(losses["mlm"], 0.3 * mlm)
    torch.testing.assert_close(losses["loss"], itc + 0.3 * mlm)


def test_images_take_no_part_in_the_prediction_of_words(make_model: Make, batch: Batch) -> None:
    objective = UniptObjective(make_model())
    losses, _ = step(objective, batch)
    others, _ = step(objective, batch | {"image": -batch["image"]})
    assert others["itc"] != losses["itc"]
    assert others["mlm"] == losses["mlm"]


def test_chunks_are_batches_of_their_own(make_model: Make, batch: Batch) -> None:
    """The contrast is the mean of the parts'; words are averaged over the whole batch."""
    model = make_model()
    losses, _ = step(UniptObjective(model, chunks=3), batch)
    parts = [{name: rows[at : at + 2] for name, rows in batch.items()} for at in (0, 2, 4)]
    apart = [step(UniptObjective(model, mlm_weight=0), part)[0]["itc"] for part in parts]
    torch.testing.assert_close(losses["itc"], torch.stack(apart).mean())
    torch.testing.assert_close(losses["mlm"], step(UniptObjective(model), batch)[0]["mlm"])
    with pytest.raises(ValueError, match="6 rows in 4 chunks"):
        step(UniptObjective(model, chunks=4), batch)


@pytest.mark.parametrize("size", [1, 4])
def test_parts_give_the_whole_step_s_losses_and_gradients(
    make_model: Make, batch: Batch, size: int
) -> None:
    model = make_model()
    whole, wanted = step(UniptObjective(model, chunks=2), batch)
    losses, gradients = step(UniptObjective(model, chunks=2, micro_batch=size), batch)
    torch.testing.assert_close(losses, whole)
    torch.testing.assert_close(gradients, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mlm_weight", [0.0, 1.0])
def test_only_what_the_losses_use_is_trained(
    make_model: Make, batch: Batch, mlm_weight: float
) -> None:
    """Every parameter that takes a gradient gets one: several processes need that (DDP)."""
    model = make_model(granularity=GranularityConfig(parts=2, part_dim=4, heads=2, head_dim=4))
    if not mlm_weight:
        del batch["masked_ids"], batch["masked_labels"]
    losses, gradients = step(UniptObjective(model, mlm_weight=mlm_weight), batch)
    trained = {f"model.{name}" for name, each in model.named_parameters() if each.requires_grad}
    assert set(gradients) == trained
    assert any("cls" in name for name in trained) == bool(mlm_weight)
    assert not any("granularity" in name for name in trained)
    assert set(losses) == {"itc", "loss"} | ({"mlm"} if mlm_weight else set())


def test_nothing_to_predict_is_no_loss(make_model: Make, batch: Batch) -> None:
    batch["masked_labels"].fill_(-100)
    losses, gradients = step(UniptObjective(make_model()), batch)
    assert losses["mlm"] == 0
    assert all(torch.isfinite(each).all() for each in gradients.values())


def test_pads_make_no_difference(make_model: Make, batch: Batch) -> None:
    objective = UniptObjective(make_model())
    longer = {
        name: F.pad(rows, (0, 3), value=-100 if name == "masked_labels" else 0)
        for name, rows in batch.items()
        if rows.ndim == 2
    }
    torch.testing.assert_close(step(objective, batch | longer), step(objective, batch))


def test_half_precision_stays_near(make_model: Make, batch: Batch) -> None:
    objective = UniptObjective(make_model(), chunks=2)
    whole, _ = step(objective, batch)
    losses, gradients = step(objective, batch, half=True)
    torch.testing.assert_close(losses, whole, rtol=0.05, atol=0.05)
    assert all(torch.isfinite(each).all() for each in gradients.values())
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def test_a_few_steps_bring_pairs_together(make_model: Make, batch: Batch) -> None:
    torch.manual_seed(0)
    objective = UniptObjective(make_model(), temperature=0.1)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.003)
    first, _ = step(objective, batch)
    for _ in range(15):
        step(objective, batch)
        optimizer.step()
    last, _ = step(objective, batch)
    assert last["itc"] < 0.5 * first["itc"]
    assert last["mlm"] < first["mlm"]


def test_clips_text_tower_without_words_to_predict(make_model: Make, batch: Batch) -> None:
    model = make_model(text=CLIP_TEXT)
    losses, _ = step(UniptObjective(model, mlm_weight=0), batch)
    assert set(losses) == {"itc", "loss"}
    with pytest.raises(ValueError, match="predicts no words"):
        UniptObjective(model, mlm_weight=1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"temperature": 0.0}, "temperature 0.0"), ({"mlm_weight": -1.0}, "mlm_weight -1.0")],
)
def test_values_out_of_range(make_model: Make, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        UniptObjective(make_model(), **change)


def test_a_batch_without_masked_texts(make_model: Make, batch: Batch) -> None:
    del batch["masked_ids"]
    with pytest.raises(ValueError, match="masked_ids"):
        step(UniptObjective(make_model()), batch)
