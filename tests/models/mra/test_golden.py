"""The released model's own numbers, far closer than `pedalign parity` asks for."""

from __future__ import annotations

import pytest
import torch

from tasks.parity import compare_model, compare_recipe, failed, load_golden
from tests import second_model
from tests.golden import GOLDEN
from tests.second_model import Size

VALUES, NORMS = 1e-5, 1e-3
"""Largest relative difference of values and of gradient norms."""

MODELS = sorted(path.parent for path in GOLDEN.glob("*/vectors.safetensors"))
REASON = f"no golden folders at {GOLDEN} (set PEDALIGN_GOLDEN)"


def folders() -> list[object]:
    """Every model's folder, or one entry that skips."""
    if not MODELS:
        return [pytest.param(None, marks=pytest.mark.skip(reason=REASON))]
    return [pytest.param(folder, id=folder.name) for folder in MODELS]


@pytest.mark.parametrize("folder", folders())
def test_every_quantity_is_the_released_models(folder) -> None:
    rows = compare_model(folder)
    assert not failed(rows), "\n".join(row.line(80) for row in failed(rows))
    values = [row for row in rows if row.rule.endswith("of largest")]
    norms = [row for row in rows if row.rule == "1%"]
    assert len(values) > 10
    assert len(norms) > 50
    assert max(row.relative for row in values) < VALUES
    assert max(row.relative for row in norms) < NORMS


@pytest.mark.skipif(not (GOLDEN / "recipe").is_dir(), reason=REASON)
def test_the_recipe_is_the_released_one() -> None:
    rows = compare_recipe(GOLDEN / "recipe")
    assert len(rows) >= 9
    assert not failed(rows), "\n".join(row.line(80) for row in failed(rows))


@pytest.mark.parametrize("folder", folders())
@torch.no_grad()
def test_the_second_implementation_is_the_released_model_too(folder) -> None:
    """So that the folders it writes at other sizes can be trusted (tests/tasks/test_parity.py)."""
    found = load_golden(folder)
    w, v, vision, text = (
        found.weights, found.vectors, found.settings["vision"], found.settings["text"],
    )  # fmt: skip
    size = Size(
        image=(vision["h"], vision["w"]),
        dim=vision["embed_dim"],
        depths=tuple(vision["depths"]),
        heads=tuple(vision["num_heads"]),
        window=vision["window_size"],
        text_heads=text["num_attention_heads"],
        layers=text["num_hidden_layers"],
        fusion_layer=text["fusion_layer"],
        token_head="vision_proj.weight" in w,
        smoothing=found.settings["label_smoothing"],
    )
    image = second_model.see(w, size, v["enc.image"])
    read = second_model.read(w, size, v["enc.ids"], v["enc.mask"])
    fused = second_model.fuse(w, size, read, v["enc.mask"], image)
    seen = {
        "image_embeds": image,
        "text_embeds": read,
        "image_feat": second_model.head(w, size, "vision_proj", image, first=False),
        "text_feat": second_model.head(w, size, "text_proj", read, first=True),
        "cross_embeds": fused,
        "itm_logits": second_model.match(w, fused),
    }
    for name, tensor in seen.items():
        wanted = v[f"enc.{name}"]
        assert (tensor - wanted).abs().max() < VALUES * wanted.abs().max(), name
    image = second_model.see(w, size, v["obj.image"])
    read = second_model.read(w, size, v["obj.ids"], v["obj.mask"])
    itm = second_model.itm(w, size, read, v["obj.mask"], image, None)
    torch.testing.assert_close(itm, v["obj.loss_itm"])
    torch.testing.assert_close(second_model.mlm(w, size, v, image), v["obj.loss_mlm"])
