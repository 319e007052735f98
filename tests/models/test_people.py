"""Real detectors, small and random, loaded from folders; boxes against transformers' reading."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    YolosConfig,
    YolosForObjectDetection,
)
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

from models.people import ObjectDetector, choose

LABELS = {0: "N/A", 1: "person", 2: "bicycle"}


def save_rtdetr(folder: Path) -> None:
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        backbone_config=backbone, encoder_in_channels=[8, 8, 16], encoder_hidden_dim=16,
        encoder_ffn_dim=16, encoder_attention_heads=2, d_model=16, num_queries=12,
        decoder_in_channels=[16, 16, 16], decoder_ffn_dim=16, decoder_layers=2,
        decoder_attention_heads=2, num_denoising=0, id2label=LABELS,
    )  # fmt: skip
    RTDetrForObjectDetection(config).save_pretrained(folder)
    RTDetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)


def save_detr(folder: Path) -> None:
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic",
        out_features=["stage2"],
    )  # fmt: skip
    config = DetrConfig(
        use_timm_backbone=False, backbone=None, backbone_config=backbone, d_model=16,
        num_queries=12, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, id2label=LABELS,
        use_pretrained_backbone=False,
    )  # fmt: skip
    DetrForObjectDetection(config).save_pretrained(folder)
    DetrImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}).save_pretrained(folder)


def save_yolos(folder: Path) -> None:
    config = YolosConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=[64, 32], patch_size=8, num_detection_tokens=12, id2label=LABELS,
    )  # fmt: skip
    YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}).save_pretrained(folder)


MAKERS: dict[str, Callable[[Path], None]] = {
    "rtdetr": save_rtdetr,
    "detr": save_detr,
    "yolos": save_yolos,
}


@pytest.fixture(scope="module", params=sorted(MAKERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    MAKERS[request.param](path)
    return path


def pictures(count: int, height: int = 96, width: int = 48) -> list[np.ndarray]:
    rng = np.random.default_rng(height)
    return list(rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def test_boxes_are_those_of_transformers(folder: Path) -> None:
    """The likelihood and the boxes, before doubles are merged."""
    finder = ObjectDetector.from_pretrained(folder)
    shown = pictures(3)
    inputs = finder.processor(shown, input_data_format="channels_last", return_tensors="pt")
    with torch.inference_mode():
        output = finder.model(pixel_values=inputs["pixel_values"])
    # Random networks are sure of nothing: opinions are drawn.
    drawn = torch.randn(output.logits.shape, generator=torch.Generator().manual_seed(0))
    logits = 3 * drawn - 3
    loud = SimpleNamespace(logits=logits, pred_boxes=output.pred_boxes)
    theirs = finder.processor.post_process_object_detection(
        loud, threshold=0.5, target_sizes=[(1, 1)] * 3
    )
    ours = finder.likelihood(logits).numpy()
    total = 0
    for row, answer in enumerate(theirs):
        people = answer["labels"] == 1
        total += int(people.sum())
        found = choose(ours[row], output.pred_boxes[row].numpy(), 0.5, same_person=1.1)
        corners = answer["boxes"][people].clamp(0, 1).numpy()
        mine = np.concatenate(
            [
                found.boxes_P4[:, :2] - found.boxes_P4[:, 2:] / 2,
                found.boxes_P4[:, :2] + found.boxes_P4[:, 2:] / 2,
            ],
            axis=1,
        )
        assert len(mine) == len(corners)
        assert np.allclose(np.sort(mine, axis=0), np.sort(corners, axis=0), atol=1e-5)
        assert np.allclose(np.sort(found.scores_P), np.sort(answer["scores"][people]), atol=1e-5)
    assert total > 0


def test_a_picture_does_not_depend_on_its_neighbours(folder: Path) -> None:
    finder = ObjectDetector.from_pretrained(folder, score=0.01, batch_size=2)
    mixed = [*pictures(3), *pictures(2, 64, 64)]
    together = finder.find(mixed)
    assert len(together) == 5
    assert finder.find([]) == []
    for index, image in enumerate(mixed):
        (alone,) = finder.find([image])
        assert len(alone.boxes_P4) == len(together[index].boxes_P4) > 0
        assert np.allclose(alone.boxes_P4, together[index].boxes_P4, atol=1e-4)
        assert np.allclose(alone.scores_P, together[index].scores_P, atol=1e-4)


def test_a_missing_tensor_is_an_error(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    dropped = sorted(key for key in tensors if "class" in key and key.endswith("weight"))[-1]
    del tensors[dropped]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="missing"):
        ObjectDetector.from_pretrained(tmp_path)


def test_a_detector_without_people_is_refused() -> None:
    model = YolosForObjectDetection(
        YolosConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            image_size=[16, 16], patch_size=8, num_detection_tokens=2, id2label={0: "cat"},
        )
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"cat.*person"):
        ObjectDetector(model, None)


def test_no_such_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"person detector.*remedy"):
        ObjectDetector.from_pretrained(tmp_path / "nothing")


def test_doubles_count_once_and_the_largest_comes_first() -> None:
    boxes = np.array(
        [
            [0.5, 0.5, 0.4, 0.8],  # 0: the person, 0.32
            [0.51, 0.5, 0.4, 0.8],  # 1: again, IoU 0.95
            [0.2, 0.5, 0.2, 0.2],  # 2: small, 0.04
            [0.5, 0.5, 1.4, 1.0],  # 3: unlikely
            [0.95, 0.5, 0.3, 1.0],  # 4: cut at the border: x 0.8 to 1
            [1.4, 0.5, 0.2, 0.2],  # 5: outside
        ],
        np.float32,
    )
    scores = np.array([0.8, 0.9, 0.99, 0.4, 0.6, 0.95], np.float32)
    people = choose(scores, boxes, 0.5)
    assert people.scores_P == pytest.approx([0.9, 0.6, 0.99])
    assert people.boxes_P4[0] == pytest.approx([0.51, 0.5, 0.4, 0.8], abs=1e-6)
    assert people.boxes_P4[1] == pytest.approx([0.9, 0.5, 0.2, 1.0], abs=1e-6)
    assert len(choose(scores, boxes, 0.5, same_person=1.1).scores_P) == 4
    assert choose(scores, boxes, 0.999).boxes_P4.shape == (0, 4)
