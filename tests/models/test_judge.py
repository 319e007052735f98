"""The judge's networks, its files, and hub models of the real classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from models.features import AttributeNet, Pool
from models.judge import TRAINED, Heads, Judge, JudgeConfig, load_judge, reading_loss
from tests.encoders import save_clip

POOLS = (Pool("upper", 0.3, ("upper colour", "upper kind")), Pool("shoes", 0.9, ("shoe colour",)))
ATTRIBUTES = {
    "upper colour": ("black", "red", "white"),
    "upper kind": ("coat", "shirt"),
    "shoe colour": ("black", "red"),
}
CONFIG = JudgeConfig(TRAINED, (32, 16), ATTRIBUTES, POOLS, channels=4, width=8)


def pictures(count: int, size: tuple[int, int] = (32, 16)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)


@pytest.fixture
def judge() -> Judge:
    torch.manual_seed(0)
    return Judge(CONFIG)


def test_features_and_readings_have_their_shapes_and_ranges(judge):
    features = judge.encode_images(pictures(5))
    assert features.shape == (5, 16)
    assert features.dtype == np.float32
    assert np.abs(features).max() <= 1
    read = judge.read(features)
    assert {name: own.shape for name, own in read.items()} == {
        "upper colour": (5, 3), "upper kind": (5, 2), "shoe colour": (5, 2),
    }  # fmt: skip
    for own in read.values():
        np.testing.assert_allclose(own.sum(1), 1, rtol=1e-5)
    assert judge.encode_images(pictures(0)).shape == (0, 16)


def test_a_batch_changes_nothing_but_noise(judge):
    whole = judge.encode_images(pictures(7))
    np.testing.assert_allclose(judge.encode_images(pictures(7), batch=2), whole, atol=1e-5)


def test_an_attribute_is_read_off_its_own_pool(judge):
    features = judge.encode_images(pictures(3))
    other = features.copy()
    other[:, 8:] = 0.5
    before, after = judge.read(features), judge.read(other)
    np.testing.assert_array_equal(before["upper colour"], after["upper colour"])
    assert not np.allclose(before["shoe colour"], after["shoe colour"])


def test_pools_start_where_the_thing_is(judge):
    net = judge.extractor
    assert isinstance(net, AttributeNet)
    rows = net.position.flatten(1).argmax(1) // net.position.shape[2]
    assert rows.tolist() == [2, 7]  # of 8: a third down, and the feet


@pytest.mark.parametrize(("height", "stride"), [(24, 4), (96, 8), (192, 16), (224, 16), (384, 32)])
def test_a_picture_of_any_size_has_about_twelve_rows(height, stride):
    assert AttributeNet.stride(height) == stride


def test_networks_that_cannot_be_built_say_why():
    with pytest.raises(ValueError, match="multiples of 8"):
        AttributeNet((96, 50), POOLS, 4, 8)
    with pytest.raises(ValueError, match="width 7"):
        AttributeNet((32, 16), POOLS, 4, 7)


def test_wrong_pictures_and_features_are_refused(judge):
    with pytest.raises(ValueError, match="32, 16"):
        judge.encode_images(pictures(2, (16, 32)))
    with pytest.raises(ValueError, match="uint8"):
        judge.encode_images(pictures(2).astype(np.float32))
    with pytest.raises(ValueError, match=r"\(N, 16\)"):
        judge.read(np.zeros((2, 5), np.float32))


def test_saved_and_loaded_it_is_the_same(judge, tmp_path):
    judge.save_pretrained(tmp_path / "judge")
    loaded = load_judge(tmp_path / "judge")
    assert loaded.attributes == ATTRIBUTES
    assert loaded.config == CONFIG
    assert not loaded.is_clip
    features = judge.encode_images(pictures(3))
    np.testing.assert_array_equal(loaded.encode_images(pictures(3)), features)
    np.testing.assert_array_equal(
        loaded.read(features)["upper kind"], judge.read(features)["upper kind"]
    )
    judge.save_pretrained(tmp_path / "again")
    for name in ("judge.json", "judge.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "judge" / name).read_bytes()


def test_a_damaged_folder_is_no_judge(judge, tmp_path):
    with pytest.raises(ValueError, match="cannot load a judge"):
        load_judge(tmp_path / "nowhere")
    folder = tmp_path / "judge"
    judge.save_pretrained(folder)
    state = load_file(folder / "judge.safetensors")
    save_file({name: value + 1 for name, value in state.items()}, folder / "judge.safetensors")
    with pytest.raises(ValueError, match="not those that judge"):
        load_judge(folder)
    judge.save_pretrained(folder)
    body = json.loads((folder / "judge.json").read_text())
    (folder / "judge.json").write_text(json.dumps(body | {"width": 12}))
    with pytest.raises(ValueError, match="cannot load a judge"):
        load_judge(folder)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-1, 1), min_size=1, max_size=12), st.floats(0, 0.3))
def test_pictures_that_name_nothing_have_no_share_in_the_loss(labels, smoothing):
    rng = torch.Generator().manual_seed(len(labels))
    logits = torch.randn(len(labels), 2, generator=rng, requires_grad=True)
    all_labels = torch.tensor(labels)[:, None]
    loss = reading_loss({"a": logits}, all_labels, smoothing)
    (gradient,) = torch.autograd.grad(loss, logits)
    named = all_labels[:, 0] >= 0
    assert not gradient[~named].any()
    if named.any():
        alone = reading_loss({"a": logits[named]}, all_labels[named], smoothing)
        assert loss.item() == pytest.approx(alone.item(), rel=1e-5)
        assert gradient[named].any()
    else:
        assert loss.item() == 0


def test_the_loss_by_hand():
    logits = {"a": torch.tensor([[0.0, 0.0], [9.0, 0.0]]), "b": torch.zeros(2, 4)}
    loss = reading_loss(logits, torch.tensor([[1, -1], [-1, 2]]))
    assert float(loss) == pytest.approx(np.log(2) + np.log(4))


# ------------------------------------------------------------------ the hub's classes


def write_clip(folder: Path) -> None:
    torch.manual_seed(0)
    save_clip(folder)


def hub(folder, **changes) -> JudgeConfig:
    return JudgeConfig(str(folder), changes.pop("size", (16, 16)), ATTRIBUTES, POOLS, 4, 6)


def test_clip_gives_its_image_embedding(tmp_path):
    write_clip(tmp_path)
    judge = Judge(hub(tmp_path, size=(28, 28)))
    assert judge.is_clip
    assert judge.width == 8
    given_pixels = pictures(3, (28, 28))
    inputs = CLIPImageProcessor.from_pretrained(tmp_path)(list(given_pixels), return_tensors="pt")
    with torch.inference_mode():
        model = CLIPModel.from_pretrained(tmp_path).eval()
        seen = model.vision_model(inputs["pixel_values"]).pooler_output
        wanted = model.visual_projection(seen).numpy()
    np.testing.assert_allclose(judge.encode_images(given_pixels), wanted, atol=1e-4)


def test_a_tall_picture_is_stretched_and_nothing_is_cut_off(tmp_path):
    write_clip(tmp_path)
    judge = Judge(hub(tmp_path, size=(32, 16)))
    tall = pictures(1, (32, 16))
    feet = tall.copy()
    feet[:, 28:] = 255
    assert not np.allclose(judge.encode_images(tall), judge.encode_images(feet), atol=1e-3)


@pytest.mark.parametrize("kind", ["dinov2", "vit"])
def test_other_vision_models_give_what_they_pool(tmp_path, kind):
    torch.manual_seed(0)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
             "image_size": 16, "patch_size": 8, "intermediate_size": 8}  # fmt: skip
    if kind == "vit":  # published ViTs are classifiers, without a pooler
        model = ViTForImageClassification(ViTConfig(**small))
        inner = model.vit
    else:
        model = inner = Dinov2Model(Dinov2Config(**small))
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    judge = Judge(hub(tmp_path))
    assert judge.width == 8
    assert not judge.is_clip
    given_pixels = pictures(2, (16, 16))
    inputs = ViTImageProcessor.from_pretrained(tmp_path)(list(given_pixels), return_tensors="pt")
    with torch.inference_mode():
        wanted = inner.eval()(inputs["pixel_values"]).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(judge.encode_images(given_pixels), wanted, atol=1e-4)


def test_a_hub_judge_keeps_its_heads_only(tmp_path):
    write_clip(tmp_path / "clip")
    judge = Judge(hub(tmp_path / "clip"))
    judge.heads.standardise(torch.full((8,), 0.5), torch.full((8,), 2.0))
    judge.save_pretrained(tmp_path / "judge")
    assert all(k.startswith("heads.") for k in load_file(tmp_path / "judge" / "judge.safetensors"))
    loaded = load_judge(tmp_path / "judge")
    features = judge.encode_images(pictures(2, (16, 16)))
    for name, read in judge.read(features).items():
        np.testing.assert_array_equal(loaded.read(features)[name], read)
    # Every head sees every feature, evened out.
    weight = judge.heads.layers[0]
    wanted = weight((torch.from_numpy(features) - 0.5) / 2).softmax(1)
    np.testing.assert_allclose(judge.read(features)["upper colour"], wanted.detach(), atol=1e-6)


def test_a_hub_model_with_a_hole_or_without_a_processor_is_refused(tmp_path):
    write_clip(tmp_path / "bare")
    for file in (tmp_path / "bare").glob("*processor*.json"):
        file.unlink()
    with pytest.raises(ValueError, match="vision model"):
        Judge(hub(tmp_path / "bare"))
    write_clip(tmp_path / "clip")
    state = load_file(tmp_path / "clip" / "model.safetensors")
    state.pop("visual_projection.weight")
    save_file(state, tmp_path / "clip" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"visual_projection\.weight"):
        Judge(hub(tmp_path / "clip"))


def test_heads_without_attributes_read_nothing():
    heads = Heads(JudgeConfig("some/model", (16, 16), {}, (), 4, 6), 6)
    assert heads(torch.zeros(2, 6)) == {}
