"""Grounding DINO behind `models.regions.proposals`: of given phrases, or of whole captions.

Any `GroundingDinoForObjectDetection` of transformers, by hub name or folder. Two ways to ask:

- `propose`: phrases are known (from the parser); the prompt is built from them, the tokens of each
  are remembered, and a box belongs to the phrase whose tokens it fits best.
- `ground`: the paper's way. The caption is the prompt, and a box is named by the words of it that
  fire (`models.regions.prompts.named_span`).

Boxes and scores are those of the library's own post-processing; a test holds them equal. Unusual:
a prompt too long for the model becomes several, asked of the same picture in one batch, instead of
losing its end; a batch holds pictures of one shape, so that no box depends on what stands beside
it; pixels are prepared as `models.regions.batches` says.

Thresholds are the paper's (section 3.2): 0.35 for a box's best token, 0.35 for a phrase's token.

Shapes: B prompts with their pictures, Q queries of the detector, T tokens of the prompt, N boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import numpy as np
import torch

from models.regions.batches import ahead, autocast, cut_batches, normalised, resized
from models.regions.opening import open_detector
from models.regions.prompts import caption_prompts, find_words, named_span, phrase_prompts
from models.regions.proposals import Grounded, Proposals, check_batch, cut_boxes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from models.regions.batches import Precision
    from models.regions.prompts import Prompt
    from models.regions.proposals import Query

Read = TypeVar("Read")


@dataclass(frozen=True)
class Answer:
    """What the network says to one prompt about one picture.

    Attributes:
        probability_QT: How likely each query's box shows what each token says.
        boxes_Q4: (cx, cy, w, h) as fractions of the picture.
        offsets_T2: Where each token stands in the prompt; (0, 0) for special ones.
    """

    probability_QT: NDArray[np.float32]
    boxes_Q4: NDArray[np.float32]
    offsets_T2: NDArray[np.int64]


class NamedBox(NamedTuple):
    """A box (4,), its confidence and its phrase's first and one past its last code point."""

    box_4: NDArray[np.float32]
    score: float
    span: tuple[int, int]


class GroundingDino:
    """Grounding DINO (Liu et al., ECCV 2024).

    Args:
        model: A `GroundingDinoForObjectDetection`.
        processor: Its processor: image processor and tokenizer.
        precision: Arithmetic; weights are as they are.
        box_threshold: A box must exceed this on its best token.
        text_threshold: A phrase owns a box only if one of its tokens exceeds this.
        batch_size: Pictures a forward pass.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        precision: Precision = "fp32",
        box_threshold: float = 0.35,
        text_threshold: float = 0.35,
        batch_size: int = 8,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.device = next(model.parameters()).device
        self.processor, self.precision = processor, precision
        self.max_tokens: int = self.model.config.max_text_len
        self.box_threshold, self.text_threshold = box_threshold, text_threshold
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        precision: Precision = "fp32",
        box_threshold: float = 0.35,
        text_threshold: float = 0.35,
        batch_size: int = 8,
    ) -> Self:
        """Load a detector by hub name or folder; safetensors only.

        Args:
            name: For example ``IDEA-Research/grounding-dino-base``.
            revision: Hub commit.
            device: Where to run.
            precision: See the class.
            box_threshold: See the class.
            text_threshold: See the class.
            batch_size: See the class.

        Raises:
            ValueError: The name holds no whole Grounding DINO with its processor.
        """
        from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

        model, processor = open_detector(
            GroundingDinoForObjectDetection,
            GroundingDinoProcessor,
            name,
            example="IDEA-Research/grounding-dino-base",
            revision=revision,
            device=device,
        )
        return cls(
            model,
            processor,
            precision=precision,
            box_threshold=box_threshold,
            text_threshold=text_threshold,
            batch_size=batch_size,
        )

    def propose(
        self, images: Sequence[NDArray[np.uint8]], queries: Sequence[Sequence[Query]]
    ) -> list[Proposals]:
        """Find regions of given phrases; see `RegionProposer`.

        Raises:
            ValueError: See `check_batch`.
        """
        check_batch(images, queries)
        texts = [[query.text for query in of] for of in queries]
        prompts = phrase_prompts(self.processor.tokenizer, texts, self.max_tokens)
        return [join(of) for of in self._ask(images, prompts, self._assign)]

    def ground(
        self, images: Sequence[NDArray[np.uint8]], captions: Sequence[str]
    ) -> list[Grounded]:
        """Find phrases and regions of captions; see `CaptionGrounder`.

        Raises:
            ValueError: See `check_batch`.
        """
        check_batch(images, captions, "captions")
        prompts = caption_prompts(self.processor.tokenizer, captions, self.max_tokens)
        out = []
        for parts in self._ask(images, prompts, self._name):
            # Stable: equals stay as the network ranked its queries.
            boxes = sorted((box for part in parts for box in part), key=lambda box: -box.score)
            spans = tuple(sorted({box.span for box in boxes}))
            proposals = Proposals(
                np.array([box.box_4 for box in boxes], np.float32).reshape(-1, 4),
                np.array([box.score for box in boxes], np.float32),
                np.array([spans.index(box.span) for box in boxes], np.int64),
            )
            out.append(Grounded(proposals, spans))
        return out

    def _ask(
        self,
        images: Sequence[NDArray[np.uint8]],
        prompts: Sequence[Sequence[Prompt]],
        read: Callable[[Answer, Prompt], Read],
    ) -> list[list[Read]]:
        """Ask every prompt about its picture; gives each picture's answers as `read` reads them."""
        pairs = [(at, prompt) for at, of in enumerate(prompts) for prompt in of]
        if not pairs:
            return [[] for _ in images]
        # Never cut nor filled up by the tokenizer: those are states of it, and threads share it.
        tokens = self.processor.tokenizer(
            [prompt.text for _, prompt in pairs], return_offsets_mapping=True
        )
        ids, offsets = tokens["input_ids"], tokens["offset_mapping"]
        shapes = [images[at].shape for at, _ in pairs]
        batches = cut_batches(shapes, [len(of) for of in ids], self.batch_size)
        filler: int = self.processor.tokenizer.pad_token_id

        def make(batch: list[int]) -> tuple[NDArray[np.int64], Tensor]:
            ids_BT = np.full((len(batch), max(len(ids[n]) for n in batch)), filler, np.int64)
            for row, n in enumerate(batch):
                ids_BT[row, : len(ids[n])] = ids[n]
            of_pictures = [pairs[n][0] for n in batch]
            once = sorted(set(of_pictures))  # a picture with several prompts is prepared once
            pixels = resized(self.processor.image_processor, [images[at] for at in once])
            return ids_BT, pixels[[once.index(at) for at in of_pictures]]

        found: list[Read | None] = [None] * len(pairs)
        for batch, (ids_BT, pixels_B3HW) in ahead(make, batches, self.device):
            counts_B = np.array([len(ids[n]) for n in batch])
            probability_BQT, boxes_BQ4 = self._forward(ids_BT, counts_B, pixels_B3HW)
            for row, n in enumerate(batch):
                answer = Answer(
                    probability_BQT[row, :, : counts_B[row]],
                    boxes_BQ4[row],
                    np.array(offsets[n], np.int64),
                )
                found[n] = read(answer, pairs[n][1])
        out: list[list[Read]] = [[] for _ in images]
        for (at, _), one in zip(pairs, found, strict=True):
            assert one is not None
            out[at].append(one)
        return out

    @torch.inference_mode()
    def _forward(
        self, ids_BT: NDArray[np.int64], counts_B: NDArray[np.int64], pixels_B3HW: Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the network: probabilities (B, Q, T) of tokens, boxes (B, Q, 4)."""
        pixels = normalised(self.processor.image_processor, pixels_B3HW.to(self.device))
        ids = torch.from_numpy(ids_BT).to(self.device)
        real = torch.arange(ids.shape[1]) < torch.from_numpy(counts_B)[:, None]
        with autocast(self.device, self.precision):
            # No pixel mask: no picture is padded. No token types: all are of the first segment.
            output = self.model(
                pixel_values=pixels, input_ids=ids, attention_mask=real.to(self.device, torch.int64)
            )
        # The logits are filled up to the longest prompt that the model could read.
        logits_BQT = output.logits[..., : ids.shape[1]].float()
        return logits_BQT.sigmoid().cpu().numpy(), output.pred_boxes.float().cpu().numpy()

    def _assign(self, answer: Answer, prompt: Prompt) -> Proposals:
        """Give each box that passes the thresholds to the phrase whose tokens it fits best."""
        start_T, end_T = answer.offsets_T2[:, 0], answer.offsets_T2[:, 1]
        bounds_P2 = np.array(prompt.spans)
        # (P, T): token t lies in phrase p. Special tokens have an empty span.
        inside_PT = (
            (start_T[None] >= bounds_P2[:, :1])
            & (end_T[None] <= bounds_P2[:, 1:])
            & (end_T > start_T)[None]
        )
        score_Q = answer.probability_QT.max(axis=1)
        likely = np.flatnonzero(score_Q > self.box_threshold)
        fit_NPT = np.where(inside_PT[None], answer.probability_QT[likely, None], 0.0)
        fit_NP = fit_NPT.max(axis=2)
        likely, fit_NP = (of[fit_NP.max(axis=1) > self.text_threshold] for of in (likely, fit_NP))
        order = np.argsort(-score_Q[likely], kind="stable")
        return Proposals(
            cut_boxes(answer.boxes_Q4[likely[order]]),
            score_Q[likely[order]].astype(np.float32),
            np.array(prompt.owners, np.int64)[fit_NP[order].argmax(axis=1)],
        )

    def _name(self, answer: Answer, prompt: Prompt) -> list[NamedBox]:
        """Name each box that passes the thresholds by its words."""
        words = find_words(prompt, answer.offsets_T2)
        score_Q = answer.probability_QT.max(axis=1)
        boxes_Q4 = cut_boxes(answer.boxes_Q4)
        out = []
        for query in np.flatnonzero(score_Q > self.box_threshold):
            span = named_span(words, answer.probability_QT[query], self.text_threshold)
            if span is not None:
                placed = (prompt.start + span[0], prompt.start + span[1])
                out.append(NamedBox(boxes_Q4[query], float(score_Q[query]), placed))
        return out


def join(parts: Sequence[Proposals]) -> Proposals:
    """Put the boxes of a picture's prompts together, the surest first."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Proposals.none()
    scores = np.concatenate([part.scores_N for part in parts])
    order = np.argsort(-scores, kind="stable")
    boxes = np.concatenate([part.boxes_N4 for part in parts])
    phrases = np.concatenate([part.phrase_N for part in parts])
    return Proposals(boxes[order], scores[order], phrases[order])
