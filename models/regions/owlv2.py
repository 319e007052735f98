"""OWLv2 and OWL-ViT behind `models.regions.proposals.RegionProposer`.

Any `Owlv2ForObjectDetection` or `OwlViTForObjectDetection` of transformers, by hub name or folder.
Each phrase is a text query of its own, scored by itself: there is no prompt to run out of, and no
sentence to ground (`CaptionGrounder`), for nothing tells which words of a text a box answers to.

Unusual, against the library's forward pass, with the same numbers (tests hold both equal):

- A phrase is encoded once a call, however many pictures ask for it.
- OWLv2 sees the picture padded to a square, right and below, and its boxes are fractions of that
  square. They become fractions of the picture here; what lies in the padding is nothing.
- Pictures with fewer phrases than others of their batch are filled up with nothing: the library's
  processor fills up with the text " ", its mask does not know it, and boxes go to it.
- Boxes and scores are computed in float32 in any case: rounded to bf16, a box could only stand on
  a grid of four pixels.

A query's confidence is much lower than Grounding DINO's: 0.1 to 0.3 is a usual threshold.

Shapes: B images, P phrases of the image with most, Q cells of the picture that may be boxes, D
distinct phrases, E numbers of a phrase, N boxes.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch.nn import functional as F

from models.regions.batches import ahead, autocast, normalised, resized, to_square
from models.regions.opening import open_detector
from models.regions.proposals import Proposals, check_batch, cut_boxes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from models.regions.batches import Precision
    from models.regions.proposals import Query

_TEXTS = 256
"""Phrases encoded at once."""


class Owl:
    """OWLv2 (Minderer et al., NeurIPS 2023) or OWL-ViT (Minderer et al., ECCV 2022).

    Args:
        model: An `Owlv2ForObjectDetection` or `OwlViTForObjectDetection`.
        processor: Its processor: image processor and tokenizer.
        precision: Arithmetic of the two towers; weights are as they are.
        box_threshold: A box must exceed this.
        batch_size: Pictures a forward pass.

    Raises:
        ValueError: The processor leaves out a step that the model was trained with.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        precision: Precision = "fp32",
        box_threshold: float = 0.35,
        batch_size: int = 8,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.device = next(model.parameters()).device
        self.processor, self.precision = processor, precision
        self.squared = model.config.model_type == "owlv2"
        images = processor.image_processor
        steps = ["do_resize", "do_rescale", "do_normalize", *(["do_pad"] if self.squared else [])]
        if missing := [step for step in steps if not getattr(images, step)]:
            raise ValueError(
                f"the detector's image processor has {', '.join(missing)} off; rule: a picture is "
                "resized, scaled and normalised (and padded to a square for OWLv2); remedy: take "
                "the preprocessor_config.json that the model was published with"
            )
        self.box_threshold, self.batch_size = box_threshold, batch_size

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        kind: str = "owlv2",
        revision: str | None = None,
        device: str | torch.device = "cpu",
        precision: Precision = "fp32",
        box_threshold: float = 0.35,
        batch_size: int = 8,
    ) -> Self:
        """Load a detector by hub name or folder; safetensors only.

        Args:
            name: For example ``google/owlv2-base-patch16-ensemble``.
            kind: Its model type, ``owlv2`` or ``owlvit``.
            revision: Hub commit.
            device: Where to run.
            precision: See the class.
            box_threshold: See the class.
            batch_size: See the class.

        Raises:
            ValueError: The name holds no whole model of that kind with its processor.
        """
        import transformers

        classes = {
            "owlv2": (transformers.Owlv2ForObjectDetection, transformers.Owlv2Processor),
            "owlvit": (transformers.OwlViTForObjectDetection, transformers.OwlViTProcessor),
        }
        model, processor = open_detector(
            *classes[kind],
            name,
            example="google/owlv2-base-patch16-ensemble",
            revision=revision,
            device=device,
        )
        return cls(
            model,
            processor,
            precision=precision,
            box_threshold=box_threshold,
            batch_size=batch_size,
        )

    def propose(
        self, images: Sequence[NDArray[np.uint8]], queries: Sequence[Sequence[Query]]
    ) -> list[Proposals]:
        """Find regions; see `RegionProposer`.

        Each cell of the picture offers one box, for the phrase that it fits best.

        Raises:
            ValueError: See `check_batch`.
        """
        check_batch(images, queries)
        out = [Proposals.none() for _ in images]
        # The tokenizer sees neither case nor blanks. The same words twice in a picture are asked
        # once, for the phrase that comes first: rounding would decide between the two.
        asked_for = [
            {" ".join(of[at].text.lower().split()): at for at in reversed(range(len(of)))}
            for of in queries
        ]
        texts = {
            text: at
            for at, text in enumerate(dict.fromkeys(text for of in asked_for for text in of))
        }
        if not texts:
            return out
        texts_DE = self._encode(list(texts))
        # Every picture becomes the same square, so pictures of any shape share a batch. Those of
        # one shape stand together, to be prepared together.
        asked = sorted((at for at, of in enumerate(queries) if of), key=lambda at: images[at].shape)
        size = self.batch_size
        batches = [asked[at : at + size] for at in range(0, len(asked), size)]

        def make(batch: list[int]) -> list[Tensor]:
            by_shape = groupby((images[at] for at in batch), key=lambda image: image.shape)
            return [self._prepare(list(same)) for _, same in by_shape]

        for batch, pixels in ahead(make, batches, self.device):
            wanted = [[texts[text] for text in asked_for[at]] for at in batch]
            score_BQ, phrase_BQ, boxes_BQ4 = self._forward(pixels, wanted, texts_DE)
            for row, at in enumerate(batch):
                height, width = images[at].shape[:2]
                owners = np.array(list(asked_for[at].values()), np.int64)
                phrase_Q = owners[phrase_BQ[row]]
                out[at] = self._read(score_BQ[row], phrase_Q, boxes_BQ4[row], height, width)
        return out

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str]) -> Tensor:
        """Encode phrases: (D, E), each of length one; too long a text loses its end."""
        longest = self.model.config.text_config.max_position_embeddings
        found = []
        for at in range(0, len(texts), _TEXTS):
            tokens = self.processor.tokenizer(
                list(texts[at : at + _TEXTS]),
                padding="max_length",
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            ).to(self.device)
            with autocast(self.device, self.precision):
                output = self.model.base_model.get_text_features(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                )
            found.append(F.normalize(output.pooler_output.float(), dim=-1))
        return torch.cat(found)

    def _prepare(self, images: list[NDArray[np.uint8]]) -> Tensor:
        """The CPU's share of the pixels of pictures of one shape: uint8 (B, 3, H, W)."""
        if self.squared:
            return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return resized(self.processor.image_processor, images)

    def _pixels(self, prepared_B3HW: Tensor) -> Tensor:
        """The device's share: float32, normalised, of the model's size."""
        images = self.processor.image_processor
        pixels = prepared_B3HW.to(self.device)
        if not self.squared:
            return normalised(images, pixels)
        size = images.size
        # The padding is black: zeros before the statistics are taken off.
        return normalised(images, to_square(pixels.float(), size["height"], size["width"]))

    @torch.inference_mode()
    def _forward(
        self, prepared: list[Tensor], wanted: list[list[int]], texts_DE: Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Run the network: scores (B, Q), the best phrase (B, Q), boxes (B, Q, 4) as it gives them.

        Args:
            prepared: From `_prepare`, in the order of the pictures.
            wanted: Which texts each picture asks for.
            texts_DE: From `_encode`.
        """
        pixels_B3HW = torch.cat([self._pixels(of_shape) for of_shape in prepared])
        most = max(len(of) for of in wanted)
        index_BP = torch.tensor([[*of, *[0] * (most - len(of))] for of in wanted])
        mask_BP = torch.arange(most) < torch.tensor([len(of) for of in wanted])[:, None]
        with autocast(self.device, self.precision):
            cells_BHWC = self.model.image_embedder(pixel_values=pixels_B3HW)[0].float()
        cells_BQC = cells_BHWC.flatten(1, 2)
        logits_BQP, _ = self.model.class_predictor(
            cells_BQC, texts_DE[index_BP.to(self.device)], mask_BP.to(self.device)
        )
        boxes_BQ4 = self.model.box_predictor(cells_BQC, cells_BHWC)
        best = logits_BQP.max(dim=-1)
        return (
            best.values.sigmoid().cpu().numpy(),
            best.indices.cpu().numpy(),
            boxes_BQ4.cpu().numpy(),
        )

    def _read(
        self,
        score_Q: NDArray[np.float32],
        phrase_Q: NDArray[np.int64],
        boxes_Q4: NDArray[np.float32],
        height: int,
        width: int,
    ) -> Proposals:
        """Keep the likely boxes that show some of the picture, the surest first."""
        if self.squared:
            side = max(height, width)
            boxes_Q4 = boxes_Q4 * np.array([side / width, side / height] * 2, np.float32)
        boxes_Q4 = cut_boxes(boxes_Q4)
        likely = np.flatnonzero((score_Q > self.box_threshold) & (boxes_Q4[:, 2:] > 0).all(axis=1))
        order = likely[np.argsort(-score_Q[likely], kind="stable")]
        return Proposals(boxes_Q4[order], score_Q[order], phrase_Q[order])
