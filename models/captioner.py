"""Describe a person crop in words: BLIP-2, chat models and their kin behind one method.

`Captioner.caption` takes pixels and gives a sentence each. `HubCaptioner` loads any
image-text-to-text model of transformers that has a processor, by hub name or folder: BLIP-2 as the
paper does (sec. 3.2), BLIP, GIT, Florence-2, a chat model such as Qwen2-VL or LLaVA, or the
shipped tiny `BlipForConditionalGeneration`.

Unusual, two things. How a sentence is asked for and read off (`Decoding`) is given with every
call, so one loaded model writes in many styles. And sampling is a function of the image's own
seed: transformers draws from one global generator for the whole batch, so a caption would depend on
its neighbours and on the batch size. Here a token is drawn by adding Gumbel noise to the filtered
logits and taking the largest (Gumbel-max), and the noise is a hash of (seed, number of the token in
the sentence, token): whole batches at once, the same on every device.

    captioner = HubCaptioner.from_pretrained("Salesforce/blip2-opt-2.7b", device="cuda")
    sentences = captioner.caption([pixels_HW3], [0], Decoding(prompt="Describe the image"))

Shapes: B images, H x W pixels, V tokens in the vocabulary, L tokens of a sentence.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from models.loading import check_tokenizer, load_model, load_processor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a sentence is asked for and read off the model."""

    prompt: str = ""
    """Instruction or first words; never part of the caption that comes out. A chat model gets it
    as a user's message after the picture, any other model as it stands."""
    max_new_tokens: int = 40
    """Longest caption, tokens."""
    beams: int = 1
    """Width of the beam search; 1 decodes greedily or samples."""
    temperature: float = 0.0
    """0 takes the likeliest token; above, logits are divided by it and a token is drawn."""
    top_p: float = 1.0
    """Share of probability that sampling draws from."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that stand already become less likely."""

    def __post_init__(self) -> None:
        """Check what cannot work together."""
        if self.beams > 1 and self.temperature > 0:
            raise ValueError(
                f"beams is {self.beams} and temperature {self.temperature}; rule: a beam search "
                "keeps the likeliest sentences and draws nothing; remedy: beams 1 or temperature 0"
            )


class Captioner(Protocol):
    """Anything that describes person crops."""

    def caption(
        self, images: Sequence[np.ndarray], seeds: Sequence[int], way: Decoding
    ) -> list[str]:
        """Describe each image in a sentence.

        Args:
            images: (H, W, 3) uint8 RGB, of one size or of several.
            seeds: One a image; what sampling draws from, ignored by greedy and beam search.
            way: How; the same for all of them.

        Returns:
            One caption an image, without line breaks; empty where the model said nothing.
        """
        ...


class HubCaptioner:
    """An image-text-to-text model of transformers with its processor.

    Args:
        model: A generating model that takes `pixel_values`, such as
            `BlipForConditionalGeneration`, `Blip2ForConditionalGeneration` or
            `LlavaForConditionalGeneration`.
        processor: Its processor: images, text, and the chat template of a chat model.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        tokenizer = processor.tokenizer
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        # A sentence goes on where its prompt ends: padding stands before it.
        tokenizer.padding_side = "left"
        # Chat models bring a sampler's settings; sampling is done here, and transformers would
        # warn of them in every batch.
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
            setattr(self.model.generation_config, name, None)
        # What a finished sentence is filled up with, so that decoding leaves it out.
        self.model.generation_config.pad_token_id = tokenizer.pad_token_id
        self._takes = frozenset(inspect.signature(self.model.forward).parameters)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load a captioner by hub name or local folder.

        Raises:
            ValueError: The name holds no whole image-text-to-text model in safetensors with its
                processor.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        what, remedy = "captioner", "name Salesforce/blip2-opt-2.7b or models/tiny/captioner"
        model = load_model(AutoModelForImageTextToText, name, what=what, remedy=remedy, dtype=dtype)
        processor = load_processor(AutoProcessor, name, what=what, remedy=remedy)
        if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
            raise ValueError(
                f"{str(name)!r} holds a {type(processor).__name__} only; rule: a captioner's "
                "folder has the files of an image processor and of a tokenizer; remedy: save the "
                "whole processor into it"
            )
        read = model.get_input_embeddings().num_embeddings
        check_tokenizer(processor.tokenizer, read, name, what=what, remedy=remedy)
        return cls(model.to(device), processor)

    @torch.inference_mode()
    def caption(
        self, images: Sequence[np.ndarray], seeds: Sequence[int], way: Decoding
    ) -> list[str]:
        """Describe each image in a sentence. See `Captioner.caption`."""
        if len(images) != len(seeds):
            raise ValueError(
                f"{len(images)} images and {len(seeds)} seeds; rule: one seed an image; remedy: "
                "tasks.shards.item_seed of its uid"
            )
        if not images:
            return []
        inputs = self._inputs([Image.fromarray(image) for image in images], way.prompt)
        options: dict[str, Any] = {}
        if way.temperature > 0:
            options["logits_processor"] = LogitsProcessorList(
                [GumbelDraw(seeds, way.temperature, way.top_p)]
            )
        tokens_BL = self.model.generate(
            **inputs,
            max_new_tokens=way.max_new_tokens,
            num_beams=way.beams,
            do_sample=False,
            repetition_penalty=way.repetition_penalty,
            **options,
        )
        given_BL = inputs.get("input_ids")
        if given_BL is not None and torch.equal(tokens_BL[:, : given_BL.shape[1]], given_BL):
            # A chat model returns the whole conversation.
            tokens_BL = tokens_BL[:, given_BL.shape[1] :]
        texts = self.processor.tokenizer.batch_decode(tokens_BL, skip_special_tokens=True)
        # The last token of a sentence that came to its end is the end mark, or padding after it.
        marks = torch.tensor(self.processor.tokenizer.all_special_ids, device=tokens_BL.device)
        ended = torch.isin(tokens_BL[:, -1:], marks).any(dim=1).tolist()
        lines = [tidy(text, way.prompt) for text in texts]
        return [
            line if end else whole_sentences(line) for line, end in zip(lines, ended, strict=True)
        ]

    def _inputs(self, pictures: list[Image.Image], prompt: str) -> Any:
        """What the model is given for a batch: pictures, and the prompt in the model's own form."""
        if getattr(self.processor, "chat_template", None):
            asked = [{"type": "text", "text": prompt}] if prompt else []
            inputs = self.processor.apply_chat_template(
                [
                    [{"role": "user", "content": [{"type": "image", "image": picture}, *asked]}]
                    for picture in pictures
                ],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            )
        elif prompt:
            inputs = self.processor(
                images=pictures, text=[prompt] * len(pictures), padding=True, return_tensors="pt"
            )
        else:
            inputs = self.processor.image_processor(pictures, return_tensors="pt")
        if "token_type_ids" not in self._takes:
            inputs.pop("token_type_ids", None)
        return inputs.to(self.model.device, self.model.dtype)


class GumbelDraw(LogitsProcessor):
    """Turn the greedy choice into a draw that depends on each row's own seed only.

    Args:
        seeds: One a row of the batch.
        temperature: Divides the logits.
        top_p: The likeliest tokens that together reach this probability stay.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        # Seeds have 63 bits; the mask admits any Python integer.
        self._seeds_B = torch.tensor([seed & (2**63 - 1) for seed in seeds], dtype=torch.int64)
        self._temperature, self._top_p = temperature, top_p
        self._given: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Give (B, V) logits whose largest entry is the drawn token."""
        scores_BV = scores.float() / self._temperature
        if self._top_p < 1:
            ordered_BV, order_BV = scores_BV.sort(dim=-1, descending=True)
            probability_BV = ordered_BV.softmax(dim=-1)
            # What stands before a token, so the likeliest one always stays.
            drop_BV = probability_BV.cumsum(dim=-1) - probability_BV >= self._top_p
            scores_BV = scores_BV.masked_fill(
                torch.zeros_like(drop_BV).scatter(1, order_BV, drop_BV), -torch.inf
            )
        if self._given is None:
            # Tokens of the prompt, padding with them: they are not the sentence's own.
            self._given = input_ids.shape[1]
        seeds_B = self._seeds_B.to(scores.device)
        position = input_ids.shape[1] - self._given
        return scores_BV + gumbel_noise(seeds_B, position, scores.shape[1])


_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: SplitMix64's increment


def gumbel_noise(seeds_B: Tensor, position: int, count: int) -> Tensor:
    """Standard Gumbel noise as a hash of seed, position and token.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) as a counter: the state of a token's draw is
    its row's hashed seed plus its number, and each state is mixed on its own.

    Args:
        seeds_B: int64.
        position: Length of the sentence so far, tokens.
        count: Number V of tokens.

    Returns:
        (B, V) float32, the same values on every device.
    """
    row_B = _mix(_mix(seeds_B) + _as_int64(position * _GOLDEN % 2**64))
    token_V = torch.arange(1, count + 1, device=seeds_B.device) * _as_int64(_GOLDEN)
    bits_BV = _mix(row_B[:, None] + token_V[None])
    # 53 bits plus a half: strictly between 0 and 1, so that both logarithms are finite.
    uniform_BV = (_shift(bits_BV, 11).double() + 0.5) / 2**53
    return -(-uniform_BV.log()).log().float()


def _as_int64(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _shift(values: Tensor, by: int) -> Tensor:
    """Logical right shift; torch's shift of int64 copies the sign."""
    return (values >> by) & ((1 << (64 - by)) - 1)


def _mix(values: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, whose products wrap modulo 2**64."""
    values = (values ^ _shift(values, 30)) * _as_int64(0xBF58476D1CE4E5B9)
    values = (values ^ _shift(values, 27)) * _as_int64(0x94D049BB133111EB)
    return values ^ _shift(values, 31)


def tidy(text: str, prompt: str = "") -> str:
    """Make one clean line of a model's output.

    Decoder-only models repeat the prompt: it goes. Word-piece tokenizers part hyphenated words
    and punctuation: they are joined again.
    """
    line = " ".join(text.split())
    start = " ".join(prompt.split())
    if start and line.lower().startswith(start.lower()):
        line = line[len(start) :].lstrip(" :,")
    line = re.sub(r"(?<=\w) ?- ?(?=\w)", "-", line)
    return re.sub(r" +([.,;:!?])", r"\1", line).strip()


def whole_sentences(line: str) -> str:
    """What stands before a sentence that was cut short; all of it where there is no other.

    A chat model does not stop at the longest caption: it is stopped, in the middle of a word.
    """
    found = re.match(r".*[.!?](?= )", line)
    return found.group() if found else line
