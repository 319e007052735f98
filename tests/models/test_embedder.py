"""Real vision models, small and random, loaded from folders; the shipped one on pictures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from models.embedder import VisionEmbedder

SHIPPED = Path(__file__).parents[2] / "models" / "tiny" / "swin"
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "patch_size": 8,
}


def save_clip(folder: Path) -> None:
    text = {"vocab_size": 10, "max_position_embeddings": 8} | SMALL
    vision = {"image_size": 32} | SMALL
    del text["patch_size"]
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(
        folder
    )
    CLIPImageProcessorPil(crop_size=32, size={"shortest_edge": 32}).save_pretrained(folder)


def save_dinov2(folder: Path) -> None:
    """Trained at one size, used at another, as the published ones are."""
    config = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
    Dinov2Model(Dinov2Config(image_size=64, **config)).save_pretrained(folder)
    BitImageProcessorPil(crop_size=32, size={"shortest_edge": 40}).save_pretrained(folder)


def save_vit(folder: Path) -> None:
    ViTModel(ViTConfig(image_size=32, **SMALL)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


MAKERS: dict[str, tuple[Callable[[Path], None], int]] = {
    "clip": (save_clip, 8),
    "dinov2": (save_dinov2, 16),
    "vit": (save_vit, 16),
}


def pictures(count: int, height: int = 96, width: int = 48) -> list[np.ndarray]:
    rng = np.random.default_rng(height)
    small = rng.integers(0, 256, (count, 8, 4, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(one).resize((width, height))) for one in small]


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_hub_models_give_unit_vectors_of_the_picture_alone(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, width = MAKERS[name]
    make(tmp_path)
    embedder = VisionEmbedder.from_pretrained(tmp_path, batch_size=2)
    assert embedder.size == (32, 32)
    mixed = [*pictures(3), *pictures(2, 40, 60)]
    vectors = embedder.embed(mixed)
    assert vectors.shape == (5, width)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for vector, image in zip(vectors, mixed, strict=True):
        assert np.allclose(embedder.embed([image])[0], vector, atol=1e-5)
    assert len(embedder.embed([])) == 0


def test_the_shipped_swin_says_its_own_size_and_tells_pictures_apart() -> None:
    embedder = VisionEmbedder.from_pretrained(SHIPPED)
    assert embedder.size == (96, 48)
    shown = pictures(4)
    smaller = [np.asarray(Image.fromarray(image).resize((36, 72))) for image in shown]
    cosine = embedder.embed(shown) @ embedder.embed(smaller).T
    others = cosine[~np.eye(4, dtype=bool)]
    assert np.diag(cosine).min() > 0.95
    assert np.diag(cosine).min() > others.max()


def test_what_takes_no_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load the embedder.*remedy"):
        VisionEmbedder.from_pretrained(tmp_path)
    BertModel(
        BertConfig(
            vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
            intermediate_size=8,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(ValueError, match="without an image size"):
        VisionEmbedder.from_pretrained(tmp_path)
