"""What both retrieval models promise."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from models.dual import DualConfig, DualEncoder
from models.dual.config import BertText, PatchVision
from models.mra import MRA, PAPER, RELEASED, MRAConfig
from models.retrieval import RetrievalModel

SIZES = MRAConfig(
    image_size=(32, 32), vision_dim=8, depths=(1, 1), vision_heads=(1, 2), window_size=4,
    vocab_size=40, text_dim=16, text_layers=1, fusion_layers=1, text_heads=2, text_inner_dim=32,
    max_positions=24, max_tokens=20, embed_dim=12,
)  # fmt: skip


def new_mra(pool_pads: bool) -> MRA:
    reading = RELEASED if pool_pads else PAPER
    return MRA(dataclasses.replace(SIZES, reading=reading)).eval()


def new_dual() -> DualEncoder:
    vision = PatchVision(kind="vit", patch_size=8, dim=16, layers=1, heads=2, inner_dim=32)
    text = BertText(vocab_size=40, dim=16, layers=1, heads=2, inner_dim=32, max_positions=24)
    return DualEncoder(
        DualConfig(vision=vision, text=text, image_size=(32, 32), embed_dim=12, max_tokens=20)
    ).eval()


@torch.no_grad()
@pytest.mark.parametrize("road", ["mra", "released", "dual"])
def test_features_are_unit_vectors_of_the_width_that_is_said(road: str) -> None:
    model: RetrievalModel = new_dual() if road == "dual" else new_mra(road == "released")
    assert isinstance(model, RetrievalModel)
    config = model.config
    image = torch.randn(2, 3, *config.image_size)
    ids = torch.randint(5, config.vocab_size, (2, config.max_tokens))
    found = (model.encode_image(image)[1], model.encode_text(ids, torch.ones_like(ids))[1])
    for feature in found:
        assert feature.shape == (2, model.feature_dim)
        torch.testing.assert_close(feature.norm(dim=1), torch.ones(2))
    assert model.fuses == (road != "dual")
    assert model.needs_pads == (road == "released")
    assert config.stride == 8


def test_a_model_without_encoders_is_none() -> None:
    with pytest.raises(TypeError, match="abstract"):
        RetrievalModel()  # type: ignore[abstract]  # that is the point
