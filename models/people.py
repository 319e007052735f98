"""Who is in a picture: a person detector behind a Protocol of one method.

`PersonFinder.find` takes pixels and gives, for every picture, the boxes of its people; screening
counts them and hands the largest to the pose model. `ObjectDetector` loads any object detector of
transformers that knows a class "person" (RT-DETR, DETR, YOLOS and their kin) by hub name or
folder.

Unusual: the boxes are read off the network's output here, for a whole batch at once, and only for
the one class that is asked for; a test holds them equal to transformers' own post-processing. A
detector may give one person two boxes (YOLOS and DETR now and then do), so boxes that overlap
much count once: the likelier stays.

    finder = ObjectDetector.from_pretrained("PekingU/rtdetr_r50vd", device="cuda")
    people = finder.find([pixels_HW3])

Shapes: B pictures, Q queries of the network, C classes, P people of a picture, H x W pixels.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch

from models.loading import load_model, load_processor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

SAME_PERSON = 0.7
"""Intersection over union from which two boxes are of one person: what detectors with a
suppression step of their own use for crowds."""
_WORD = "person"


@dataclass(frozen=True)
class People:
    """The people of one picture, the largest box first.

    Attributes:
        boxes_P4: float32, (cx, cy, w, h) as fractions of the picture's width and height.
        scores_P: float32, the detector's confidence.
    """

    boxes_P4: NDArray[np.float32]
    scores_P: NDArray[np.float32]


class PersonFinder(Protocol):
    """Anything that finds the people of a picture."""

    def find(self, images: Sequence[NDArray[np.uint8]]) -> list[People]:
        """Find the people of each picture.

        Args:
            images: (H, W, 3) uint8 RGB, of one size or of several.
        """
        ...


class ObjectDetector:
    """An object detector of transformers, asked for people.

    Args:
        model: Any model whose output has `logits` (B, Q, C or C + 1) and `pred_boxes` (B, Q, 4).
        processor: Its image processor.
        score: Least confidence of a person.
        same_person: See `SAME_PERSON`.
        batch_size: Pictures a forward pass.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        score: float = 0.5,
        same_person: float = SAME_PERSON,
        batch_size: int = 32,
    ) -> None:
        parameter = next(model.parameters())
        self.model = model.eval().requires_grad_(False)
        self.device, self.dtype = parameter.device, parameter.dtype
        self.processor = processor
        self.score, self.same_person, self.batch_size = score, same_person, batch_size
        labels: dict[int, str] = self.model.config.id2label
        names = {int(key): str(word).lower() for key, word in labels.items()}
        found = [key for key, word in names.items() if word == _WORD]
        if not found:
            raise ValueError(
                f"a detector of the classes {sorted(set(names.values()))[:6]}; rule: one of them "
                f"is {_WORD!r}; remedy: a detector trained on COCO or Objects365, such as "
                "PekingU/rtdetr_r50vd"
            )
        self.classes, self.person = len(names), found[0]

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device = "cpu",
        score: float = 0.5,
        batch_size: int = 32,
    ) -> Self:
        """Load a detector by hub name or folder; safetensors only.

        Raises:
            ValueError: The name holds no whole object detector, or none that knows people.
        """
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        words: Any = {"what": "person detector", "remedy": "name PekingU/rtdetr_r50vd or none"}
        model = load_model(AutoModelForObjectDetection, name, dtype=torch.float32, **words)
        processor = load_processor(AutoImageProcessor, name, **words)
        return cls(model.to(device), processor, score=score, batch_size=batch_size)

    def find(self, images: Sequence[NDArray[np.uint8]]) -> list[People]:
        """Find people; see `PersonFinder`."""
        # One shape a batch: padding would leak through the backbone, and a box would depend on
        # the pictures beside it.
        shapes: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            shapes.setdefault(image.shape, []).append(index)
        out: list[People | None] = [None] * len(images)
        size = self.batch_size
        for chunk in (of[k : k + size] for of in shapes.values() for k in range(0, len(of), size)):
            scores_BQ, boxes_BQ4 = self._forward([images[index] for index in chunk])
            for index, scores_Q, boxes_Q4 in zip(chunk, scores_BQ, boxes_BQ4, strict=True):
                out[index] = choose(scores_Q, boxes_Q4, self.score, self.same_person)
        return [people for people in out if people is not None]

    @torch.inference_mode()
    def _forward(
        self, images: list[NDArray[np.uint8]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        inputs = self.processor(images, input_data_format="channels_last", return_tensors="pt")
        autocast = (
            torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        )
        with autocast:
            output = self.model(pixel_values=inputs["pixel_values"].to(self.device, self.dtype))
        scores_BQ = self.likelihood(output.logits.float())
        return scores_BQ.cpu().numpy(), output.pred_boxes.float().cpu().numpy()

    def likelihood(self, logits_BQC: Tensor) -> Tensor:
        """How likely each query is a person: (B, Q).

        A network with one output more than classes tells them and "nothing" apart by a softmax
        (DETR, YOLOS); one without asks for each class on its own (RT-DETR).
        """
        if logits_BQC.shape[-1] > self.classes:
            return logits_BQC.softmax(dim=-1)[..., self.person]
        return logits_BQC.sigmoid()[..., self.person]


def choose(
    scores_Q: NDArray[np.float32],
    boxes_Q4: NDArray[np.float32],
    score: float,
    same_person: float = SAME_PERSON,
) -> People:
    """Keep the likely boxes, one a person, cut at the picture's border, the largest first.

    Args:
        scores_Q: How likely each box holds a person.
        boxes_Q4: (cx, cy, w, h) as fractions of the picture.
        score: Least confidence.
        same_person: Overlap from which two boxes count once.
    """
    likely = np.flatnonzero(scores_Q > score)
    likely = likely[np.argsort(-scores_Q[likely], kind="stable")]
    low = np.clip(boxes_Q4[likely, :2] - boxes_Q4[likely, 2:] / 2, 0, 1)
    high = np.clip(boxes_Q4[likely, :2] + boxes_Q4[likely, 2:] / 2, 0, 1)
    sides = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
    common = np.prod(np.clip(sides, 0, None), axis=-1)
    areas = np.prod(high - low, axis=-1)
    overlap = common / np.maximum(areas[:, None] + areas[None] - common, 1e-9)
    kept: list[int] = []
    for index in range(len(likely)):
        if areas[index] > 0 and not (overlap[index, kept] >= same_person).any():
            kept.append(index)
    kept.sort(key=lambda index: -areas[index])  # stable: the likelier of two alike comes first
    boxes = np.concatenate([(low + high) / 2, high - low], axis=-1)[kept]
    return People(boxes.astype(np.float32).reshape(-1, 4), scores_Q[likely][kept])
