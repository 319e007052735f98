"""What a picture shows, by a model of pictures and texts and nothing but prompts.

Each attribute of a person has a few possible values, each value a prompt; the likeliest value is
the prompt that the picture is most like (UniPT, sec. 3). `ZeroShot` loads any CLIP-like
model of transformers with two towers, CLIP and SigLIP among them, by hub name or folder, keeps the
vectors of all prompts, and answers for whole batches: one matrix product, one softmax.

Three things are decided here. Probabilities are those of a softmax over the values of one attribute
with the model's own logit scale; SigLIP's bias is the same for every prompt and so falls out of it,
and its sigmoid, which asks of each prompt alone whether it fits, is not used: values exclude one
another. Pictures are stretched to the model's square, never cropped to it: a person crop would lose
head and feet. And vectors are compared in float32, in whatever precision the towers run: the
differences that decide are small.

    model = ZeroShot.from_pretrained("openai/clip-vit-base-patch16", "cuda", torch.bfloat16)
    bank = model.bank(prompts, sizes)             # once
    best_BA, probability_BA = model.answer(pixels_BHW3, bank)

Shapes: B pictures, P prompts, A attributes, V values of the attribute that has most, D width of a
vector, L tokens, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from models.loading import load_model, load_processor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_WORDS: Any = {
    "what": "model of pictures and texts",
    "remedy": "name openai/clip-vit-base-patch16 or google/siglip-base-patch16-224",
}
_MAX_LENGTH_PADDED = frozenset({"siglip"})
"""Kinds that are used as they were trained, with every text padded to the longest. (A CLIP reads no
further than the end mark, so that padding changes nothing.)"""


@dataclass(frozen=True)
class PromptBank:
    """Prompts as a model sees them, and which of them exclude one another."""

    text_PD: Tensor
    """float32, each row of length one."""
    place_AV: Tensor
    """int64: which prompt is each value of each attribute; P where an attribute has fewer."""


def places(sizes: Sequence[int]) -> Tensor:
    """Number the values of attributes that stand one after another.

    Args:
        sizes: How many values each attribute has, one or more.

    Returns:
        ``place_AV`` of `PromptBank`, filled up with the number of all values.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(
            f"attributes of {list(sizes)} values; rule: one attribute or more, each with a value "
            "or more; remedy: leave out an attribute that has none"
        )
    total = sum(sizes)
    starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    number_AV = starts[:, None] + torch.arange(max(sizes))
    there_AV = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    return number_AV.where(there_AV, torch.tensor(total))


def choose(logits_BP: Tensor, place_AV: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest value of every attribute.

    Args:
        logits_BP: Scaled similarities.
        place_AV: From `places`.

    Returns:
        ``best_BA``, the number of the value within its attribute, the first of several that are
        alike; and ``probability_BA``, its softmax probability in the attribute, float32.
    """
    padded_BP = F.pad(logits_BP.float(), (0, 1), value=-torch.inf)
    logits_BAV = padded_BP[:, place_AV]
    best_BA = logits_BAV.argmax(dim=2)
    probability_BAV = logits_BAV.softmax(dim=2)
    return best_BA, probability_BAV.gather(2, best_BA[..., None])[..., 0]


class ZeroShot:
    """A model of two towers, frozen, with its tokenizer and what its pictures look like.

    Args:
        model: Has ``get_image_features``, ``get_text_features`` and ``logit_scale``.
        tokenizer: Of its texts.
        size: Height and width of its pictures, pixels.
        mean: Normalisation, per channel, of values in [0, 1].
        std: Normalisation, per channel, of values in [0, 1].
        device: Where it runs.
        dtype: What it runs in.

    Raises:
        ValueError: The model lacks one of these.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        needed = ("get_image_features", "get_text_features", "logit_scale")
        missing = [name for name in needed if not hasattr(model, name)]
        if missing:
            raise ValueError(
                f"a {type(model).__name__} without {', '.join(missing)}; rule: a {_WORDS['what']} "
                f"has two towers and a scale of their similarities; remedy: {_WORDS['remedy']}"
            )
        # Before the weights change their precision: bfloat16 makes 99 of CLIP's 100.
        self.scale = model.logit_scale.detach().float().exp().item()
        self.model = model.to(device, dtype).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.size = size
        self.device, self.dtype = torch.device(device), dtype
        self._mean_3 = torch.tensor(mean, device=self.device)
        self._std_3 = torch.tensor(std, device=self.device)
        self._pad = model.config.model_type in _MAX_LENGTH_PADDED
        self._longest = int(model.config.text_config.max_position_embeddings)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load a model with its tokenizer and image processor; safetensors only.

        Raises:
            ValueError: The name holds no whole model of pictures and texts.
        """
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        model = load_model(AutoModel, name, dtype=torch.float32, **_WORDS)
        tokenizer = load_processor(AutoTokenizer, name, **_WORDS)
        processor = load_processor(AutoImageProcessor, name, **_WORDS)
        return cls(
            model, tokenizer, _input_size(processor), processor.image_mean, processor.image_std,
            device, dtype,
        )  # fmt: skip

    def bank(
        self, prompts: Sequence[str], sizes: Sequence[int], batch_size: int = 256
    ) -> PromptBank:
        """Look at all prompts, once for all pictures.

        Args:
            prompts: Attribute after attribute.
            sizes: How many of them each attribute has.
            batch_size: Prompts a forward pass.

        Raises:
            ValueError: The sizes do not add up, or a prompt is longer than the model reads.
        """
        if sum(sizes) != len(prompts):
            raise ValueError(
                f"{len(prompts)} prompts for attributes of {list(sizes)} values; rule: a prompt a "
                "value; remedy: pass the sizes of these prompts"
            )
        parts = [
            self._texts(list(prompts[start : start + batch_size]))
            for start in range(0, len(prompts), batch_size)
        ]
        return PromptBank(torch.cat(parts), places(sizes).to(self.device))

    def answer(self, pixels_BHW3: Tensor, bank: PromptBank) -> tuple[Tensor, Tensor]:
        """The likeliest value of every attribute in every picture, with its probability.

        Args:
            pixels_BHW3: uint8 RGB at the model's size.
            bank: Of this model.

        Returns:
            ``best_BA`` and ``probability_BA`` of `choose`, on the CPU.
        """
        best_BA, probability_BA = choose(self.logits(pixels_BHW3, bank), bank.place_AV)
        return best_BA.cpu(), probability_BA.cpu()

    @torch.inference_mode()
    def logits(self, pixels_BHW3: Tensor, bank: PromptBank) -> Tensor:
        """Cosines of pictures with all prompts times the model's scale, (B, P) float32."""
        image_BD = self._images(pixels_BHW3)
        return self.scale * image_BD @ bank.text_PD.T

    def _images(self, pixels_BHW3: Tensor) -> Tensor:
        if tuple(pixels_BHW3.shape[1:]) != (*self.size, 3):
            raise ValueError(
                f"pictures of {tuple(pixels_BHW3.shape[1:])}; rule: this model takes "
                f"{(*self.size, 3)}; remedy: resize them to `size`"
            )
        moved = pixels_BHW3.to(self.device, non_blocking=True)
        values = (moved.float() / 255 - self._mean_3) / self._std_3
        pixels_B3HW = values.permute(0, 3, 1, 2).to(
            self.dtype, memory_format=torch.contiguous_format
        )
        return _unit(self.model.get_image_features(pixel_values=pixels_B3HW))

    @torch.inference_mode()
    def _texts(self, prompts: list[str]) -> Tensor:
        inputs = self.tokenizer(
            prompts,
            padding="max_length" if self._pad else True,
            max_length=self._longest if self._pad else None,
            return_tensors="pt",
        )
        length = inputs["input_ids"].shape[1]
        if length > self._longest:
            longest = max(prompts, key=len)
            raise ValueError(
                f"a prompt of {length} tokens (the longest text is {longest!r}); rule: the model "
                f"reads {self._longest}, and what is cut off would decide nothing; remedy: "
                "shorten it"
            )
        # Padded to the longest, a text was trained on without a mask.
        mask = None if self._pad else inputs.get("attention_mask")
        return _unit(
            self.model.get_text_features(
                input_ids=inputs["input_ids"].to(self.device),
                attention_mask=None if mask is None else mask.to(self.device),
            )
        )


def _unit(found: Any) -> Tensor:
    """Vectors of length one; transformers gives them bare or as an output's pooled part."""
    vectors = found if isinstance(found, Tensor) else found.pooler_output
    return F.normalize(vectors.float(), dim=-1)


def _input_size(processor: Any) -> tuple[int, int]:
    asked = getattr(processor, "crop_size", None) or processor.size
    size = dict(asked)
    height = size.get("height", size.get("shortest_edge"))
    width = size.get("width", size.get("shortest_edge"))
    if height is None or width is None:
        raise ValueError(
            f"an image processor of size {size}; rule: it states height and width, or the shortest "
            f"edge; remedy: {_WORDS['remedy']}"
        )
    return int(height), int(width)
