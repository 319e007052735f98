"""Grounding DINO behind `models.regions.proposals.RegionProposer`.

Any `GroundingDinoForObjectDetection` of transformers, by hub name or folder.

Unusual: the paper lets the detector name its boxes by the tokens that fired. Here the phrases are
known from the parser, so the prompt is built from them, the tokens of each are remembered, and a
box belongs to the phrase whose tokens it fits best: every box has a phrase with a span.

Thresholds are the paper's (section 3.2): 0.35 for a box's best token, 0.35 for a phrase's token.

Shapes: B images, Q queries of the detector, T tokens of the prompt, N boxes.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from models.loading import load_model, load_processor
from models.regions.proposals import Proposals, check_batch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from models.regions.proposals import Query


@dataclass(frozen=True)
class Prompt:
    """The prompt of one image and where its phrases stand in it."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """First and one past the last character of each phrase, in `text`."""


def build_prompt(phrases: Sequence[str]) -> Prompt:
    """Join phrases the way Grounding DINO was trained: lower case, each ended by a full stop.

    Full stops inside a phrase would cut it in two, so they become spaces.
    """
    text, spans = "", []
    for phrase in phrases:
        clean = " ".join(phrase.lower().replace(".", " ").replace("?", " ").split()) or "thing"
        spans.append((len(text), len(text) + len(clean)))
        text += clean + " . "
    return Prompt(text.strip(), tuple(spans))


class GroundingDino:
    """Grounding DINO (Liu et al., ECCV 2024) on known phrases.

    Args:
        model: A `GroundingDinoForObjectDetection`.
        processor: Its processor: image processor and tokenizer.
        box_threshold: A box must reach this on its best token.
        text_threshold: A phrase owns a box only if one of its tokens reaches this.
        batch_size: Images a forward pass.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        processor: Any,
        *,
        box_threshold: float = 0.35,
        text_threshold: float = 0.35,
        batch_size: int = 8,
    ) -> None:
        parameter = next(model.parameters())
        self.model = model.eval().requires_grad_(False)
        self.device, self.dtype = parameter.device, parameter.dtype
        self.processor = processor
        self.max_tokens: int = getattr(model.config, "max_text_len", 256)
        self.box_threshold, self.text_threshold = box_threshold, text_threshold
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        box_threshold: float = 0.35,
        text_threshold: float = 0.35,
        batch_size: int = 8,
    ) -> Self:
        """Load a detector by hub name or folder; safetensors only.

        Args:
            name: For example ``IDEA-Research/grounding-dino-base``.
            revision: Hub commit.
            device: Where to run. On a GPU it runs under bf16 autocast.
            box_threshold: See the class.
            text_threshold: See the class.
            batch_size: Images a forward pass.

        Raises:
            ValueError: The name holds no whole Grounding DINO with its processor.
        """
        from transformers import AutoProcessor, GroundingDinoForObjectDetection

        words: Any = {
            "what": "detector",
            "remedy": "name IDEA-Research/grounding-dino-base or embedded",
            "revision": revision,
        }
        model = load_model(GroundingDinoForObjectDetection, name, **words)
        processor = load_processor(AutoProcessor, name, **words)
        return cls(
            model.to(device),
            processor,
            box_threshold=box_threshold,
            text_threshold=text_threshold,
            batch_size=batch_size,
        )

    def propose(
        self, images: Sequence[NDArray[np.uint8]], queries: Sequence[Sequence[Query]]
    ) -> list[Proposals]:
        """Find regions; see `RegionProposer`.

        Raises:
            ValueError: See `check_batch`.
        """
        check_batch(images, queries)
        out = [Proposals.none() for _ in images]
        asked = [i for i, phrases in enumerate(queries) if phrases]
        # One shape a batch: padding would leak through the backbone's windows and group norms, and
        # a box would depend on the images beside it.
        shapes: dict[tuple[int, ...], list[int]] = {}
        for i in asked:
            shapes.setdefault(images[i].shape, []).append(i)
        size = self.batch_size
        for chunk in (of[k : k + size] for of in shapes.values() for k in range(0, len(of), size)):
            found = self._forward([images[i] for i in chunk], [queries[i] for i in chunk])
            for i, proposals in zip(chunk, found, strict=True):
                out[i] = proposals
        return out

    @torch.inference_mode()
    def _forward(
        self, images: list[NDArray[np.uint8]], queries: list[Sequence[Query]]
    ) -> list[Proposals]:
        prompts = [build_prompt([q.text for q in phrases]) for phrases in queries]
        limit = self.max_tokens
        tokens = self.processor.tokenizer(
            [p.text for p in prompts],
            padding=True,
            truncation=True,
            max_length=limit,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        offsets_BT2 = tokens.pop("offset_mapping").numpy()
        pictures = self.processor.image_processor(list(images), return_tensors="pt")
        inputs = {k: v.to(self.device) for k, v in {**tokens, **pictures}.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(self.dtype)
        autocast = (
            torch.autocast("cuda", torch.bfloat16)
            if self.device.type == "cuda" and self.dtype == torch.float32
            else nullcontext()
        )
        with autocast:
            output = self.model(**inputs)
        probability_BQT = output.logits.float().sigmoid().cpu().numpy()
        boxes_BQ4 = output.pred_boxes.float().cpu().numpy()
        return [
            self._assign(probability_BQT[b], boxes_BQ4[b], offsets_BT2[b], prompts[b].spans)
            for b in range(len(images))
        ]

    def _assign(
        self,
        probability_QT: NDArray[np.float32],
        boxes_Q4: NDArray[np.float32],
        offsets_T2: NDArray[np.int64],
        spans: tuple[tuple[int, int], ...],
    ) -> Proposals:
        """Give each box that passes the thresholds to the phrase whose tokens it fits best."""
        start, end = offsets_T2[:, 0], offsets_T2[:, 1]
        bounds = np.array(spans)
        # (P, T): token t lies in phrase p. Special tokens have an empty span.
        inside_PT = (
            (start[None] >= bounds[:, :1]) & (end[None] <= bounds[:, 1:]) & (end > start)[None]
        )
        tokens = len(start)
        probability_QT = probability_QT[:, :tokens]
        best_QP = np.where(inside_PT[None], probability_QT[:, None], 0.0).max(axis=2)
        score_Q = probability_QT.max(axis=1)
        phrase_Q = best_QP.argmax(axis=1)
        keep = (score_Q > self.box_threshold) & (best_QP.max(axis=1) > self.text_threshold)
        order = np.flatnonzero(keep)[np.argsort(-score_Q[keep], kind="stable")]
        return Proposals(
            np.clip(boxes_Q4[order], 0, 1).astype(np.float32),
            score_Q[order].astype(np.float32),
            phrase_Q[order].astype(np.int64),
        )
