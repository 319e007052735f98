"""The released model's own numbers, under the released reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.metrics import fill_candidates, fuse_scores, query_metrics
from models.mra.losses import contrastive_loss
from models.mra.masking import patch_mask
from models.mra.objectives import PretrainObjective
from models.mra.position_tables import resize_table
from models.mra.released import to_released

if TYPE_CHECKING:
    from conftest import Golden

TOLERANCE = 1e-5
"""Largest difference, relative to the largest reference value."""


def close(found: Tensor, reference: Tensor, tolerance: float = TOLERANCE) -> None:
    assert found.shape == reference.shape
    assert (found - reference).abs().max() <= tolerance * reference.abs().max()


@torch.no_grad()
def test_encoders_features_and_matching(golden: Golden) -> None:
    model, vectors = golden.model, golden.vectors
    mask = vectors["enc.mask"]
    image, image_feature = model.encode_image(vectors["enc.image"])
    text, text_feature = model.encode_text(vectors["enc.ids"], mask)
    close(image, vectors["enc.image_embeds"])
    close(text, vectors["enc.text_embeds"])
    close(model.image_feature(image), vectors["enc.image_feat"])
    close(model.text_feature(text, mask), vectors["enc.text_feat"])
    close(model.text_encoder.fuse(text, mask, model.image_keys(image)), vectors["enc.cross_embeds"])
    close(model.match(text, mask, image), vectors["enc.itm_logits"])
    loss = contrastive_loss(
        image_feature,
        text_feature,
        model.temp,
        vectors["enc.idx"],
        label_smoothing=golden.settings["label_smoothing"],
    )
    close(loss, vectors["enc.loss_itc"])


def objective_batch(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The golden objective's inputs under this project's batch keys."""
    ids, labels = vectors["obj.ids"], vectors["obj.mlm_labels"]
    placed = torch.full_like(ids, -100)
    for row, column in (labels != -100).nonzero().tolist():
        placed[row, vectors["obj.masked_pos"][row, column]] = labels[row, column]
    return {
        "image": vectors["obj.image"],
        "ids": ids,
        "mask": vectors["obj.mask"],
        "person": vectors["obj.idx"],
        "masked_ids": vectors["obj.masked_ids"],
        "masked_labels": placed,
        "region_ids": vectors["obj.region_ids"],
        "region_mask": vectors["obj.region_mask"],
        "phrase_id": vectors["obj.label"],
        "patch_mask": 1 - vectors["obj.box_atts"][:, 1:],
    }


def test_objective_and_gradients(golden: Golden) -> None:
    vectors, beta = golden.vectors, golden.settings["region_weight"]
    objective = PretrainObjective(
        golden.model, region_weight=beta, label_smoothing=golden.settings["label_smoothing"]
    )
    golden.model.zero_grad(set_to_none=True)
    losses = objective(objective_batch(vectors))
    for name in ("itc", "itm", "mlm"):
        close(losses[name], vectors[f"obj.loss_{name}"])
    close((losses["rpc"] + losses["rpm"]) / beta, vectors["obj.loss_region"])
    close(losses["loss"], vectors["obj.total"])

    losses["loss"].backward()
    norms = {
        name: float(gradient.norm())
        for name, gradient in to_released(
            {name: p.grad for name, p in golden.model.named_parameters() if p.grad is not None}
        ).items()
    }
    prefix = "grad_norm."
    wanted = {k.removeprefix(prefix): float(v) for k, v in vectors.items() if k.startswith(prefix)}
    assert norms.keys() == wanted.keys()
    negligible = 1e-6 * max(wanted.values())
    for name, norm in wanted.items():
        if norm < negligible:
            assert norms[name] < negligible, name
        else:
            assert norms[name] == pytest.approx(norm, rel=1e-3), name


@pytest.mark.parametrize("prefix", ["eval", "eval_flip"])
@torch.no_grad()
def test_evaluation(golden: Golden, prefix: str) -> None:
    model, vectors, k = golden.model, golden.vectors, golden.settings["k_test"]
    views = [vectors["eval.image"]]
    if prefix == "eval_flip":
        views.append(views[0].flip(-1))
    encoded = [model.encode_image(view) for view in views]
    feature = torch.stack([feature for _, feature in encoded]).mean(0)
    text, text_feature = model.encode_text(vectors["eval.ids"], vectors["eval.mask"])
    similarity = text_feature @ feature.t()
    close(similarity, vectors[f"{prefix}.sims"])

    top = similarity.topk(k, dim=1).indices
    queries = torch.arange(len(top)).repeat_interleave(k)
    matching = []
    for image, _ in encoded:
        logits = model.match_pairs(
            text,
            vectors["eval.mask"],
            model.image_keys(image),
            text_index_R=queries,
            image_index_R=top.flatten(),
        )[:, 1]
        matching.append(fill_candidates(logits.view_as(top), top, similarity.shape[1]))
    score = fuse_scores(similarity, matching)
    close(score, vectors[f"{prefix}.score"])

    people = vectors["eval.query_pids"], vectors["eval.gallery_pids"]
    for kind, scores in (("itc", similarity), ("rerank", score)):
        means = query_metrics(scores, *people).means()
        for name in ("R1", "R5", "R10", "mAP", "mINP"):
            reference = float(vectors[f"{prefix}.{kind}.{name}"])
            assert means[name] == pytest.approx(reference, abs=5e-5), (kind, name)


def test_names_are_written_back(golden: Golden) -> None:
    back = to_released(golden.model.state_dict())
    derived = ("relative_position_index", "attn_mask", "position_ids")
    tied = ("decoder.weight", "decoder.bias")
    wanted = {k: v for k, v in golden.weights.items() if not k.endswith(derived + tied)}
    assert back.keys() == wanted.keys()
    assert all(torch.equal(back[name], wanted[name]) for name in wanted)


def test_patch_masks(recipe: Path) -> None:
    cases = json.loads((recipe / "recipe.json").read_text())["patch_masks"]
    assert cases
    for case in cases:
        box = torch.tensor([case["box_xywh"]], dtype=torch.float64)
        found = patch_mask(box, (case["image"][0], case["image"][1]), stride=32)[0]
        # The released masks start with an entry for token 0, which is never inside.
        assert [0, *found.tolist()] == case["mask"], case


def test_position_tables(recipe: Path) -> None:
    tables = load_file(recipe / "position_tables.safetensors")
    for name, window in (("7to8", 8), ("7to4", 4)):
        found = resize_table(tables[f"{name}.in"], window)
        assert (found - tables[f"{name}.out"]).abs().max() < 1e-4
