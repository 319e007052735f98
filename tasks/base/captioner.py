"""Train the tiny captioner that the repository ships: ``models/tiny/captioner/``.

It stands where BLIP-2 stands in the paper, by BLIP's own class and folder layout, and writes the
plain style of the source captions: gender, hair, hat, upper and lower garment, shoes, bag. It was
shown drawings in the source look and in random looks (``training.json`` beside the weights).

Unusual: BLIP's vision tower takes square pictures by its config, people are not square. Its
position table is read from the front, and nothing checks the shape, so 96 x 48 pixels are 72
tokens of a table made for 9 x 9; the processor resizes to 96 x 48. Only `interpolate_pos_encoding`
would not work, and nothing here asks for it.

    python -m tasks.base.captioner --work /tmp/base --out models/tiny/captioner

Shape legend: B pictures, H x W pixels, L tokens of a caption.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from models.captioner import Decoding, HubCaptioner
from tasks.base.fitting import Plan, command_line, fit, held_out, write_record
from tasks.base.pool import SIZE, Pool, draw_pool, soften
from tasks.world.attributes import BAGS, COLOURS, LOWER_KINDS, UPPER_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def new_tokenizer(captions: Iterable[str], folder: Path) -> BertTokenizer:
    """Build a word-piece vocabulary: the captions' words, and letters for any other word."""
    words = Counter(word for text in captions for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*letters, *(f"##{letter}" for letter in letters), *".,-'!?"]
    vocabulary = list(dict.fromkeys([*MARKS, *sorted(words), *pieces]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return BertTokenizer(str(folder / "vocab.txt"), bos_token="[DEC]")


def new_captioner(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    """Build the network: 72 patch tokens, three vision and two text layers 128 wide."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 72,  # (72 / 8) squared is 81 positions, of which 12 x 6 are used
        "patch_size": 8,
        "initializer_range": 0.02,
    }
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))


def train(
    pool: Pool, tokenizer: BertTokenizer, plan: Plan
) -> tuple[BlipForConditionalGeneration, float]:
    """Train by the next token's cross-entropy; returns averaged weights and the last loss."""
    torch.manual_seed(plan.seed)
    model = new_captioner(tokenizer).train()
    flat = [text for texts in pool.captions for text in texts]
    ids = tokenizer(flat, padding=True, return_tensors="pt").input_ids
    ids[:, 0] = tokenizer.bos_token_id  # generation starts with [DEC], not [CLS]
    ids_NEL = ids.view(len(pool.captions), -1, ids.shape[1])
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]

    def loss_of(
        model: BlipForConditionalGeneration, rows: NDArray[np.int64], generator: torch.Generator
    ) -> Tensor:
        values = torch.from_numpy(np.ascontiguousarray(pool.pixels[rows])).permute(0, 3, 1, 2)
        mirror = torch.rand(len(rows), 1, 1, 1, generator=generator) < 0.5
        values = torch.where(mirror, values.flip(-1), values)
        pixels = (soften(values.float(), generator) / 255 - mean) / std
        which = torch.randint(0, ids_NEL.shape[1], (len(rows),), generator=generator)
        return caption_loss(model, pixels, ids_NEL[torch.from_numpy(rows), which], tokenizer)

    return fit(model, len(pool.pixels), plan, loss_of, "captioner")


def caption_loss(
    model: BlipForConditionalGeneration,
    pixels_B3HW: Tensor,
    ids_BL: Tensor,
    tokenizer: BertTokenizer,
) -> Tensor:
    """Mean cross-entropy of the tokens after the first, padding left out."""
    mask_BL = ids_BL != tokenizer.pad_token_id
    length = int(mask_BL.sum(dim=1).max())
    ids_BL, mask_BL = ids_BL[:, :length], mask_BL[:, :length]
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(
            pixel_values=pixels_B3HW, input_ids=ids_BL, attention_mask=mask_BL.long()
        ).logits
    target = ids_BL.masked_fill(~mask_BL, -100)[:, 1:]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), target.flatten())


def read_caption(text: str) -> dict[str, str]:
    """Read a plain caption's attributes: upper, lower and bag with colours, and the gender.

    For measuring only; it knows the plain style and nothing else.
    """
    read = {"bag": "none", "bag_colour": "none"}
    first = re.match(r"an? (\w+)", text)
    read["gender"] = first.group(1) if first else ""
    for part, kinds in (("upper", UPPER_KINDS), ("lower", LOWER_KINDS), ("bag", BAGS[1:])):
        names = "|".join(sorted(kinds, key=len, reverse=True))
        found = re.search(rf"((?:\w+ ){{1,2}})({names})\b", text)
        if found:
            colours = [word for word in found.group(1).split() if word in COLOURS]
            read["bag" if part == "bag" else f"{part}_kind"] = found.group(2)
            read[f"{part}_colour"] = colours[-1] if colours else ""
    if read.get("upper_kind") == "dress":
        read["lower_kind"], read["lower_colour"] = "dress", read["upper_colour"]
    return read


def accuracy(captioner: HubCaptioner, pool: Pool) -> dict[str, float]:
    """Share of pictures whose caption names an attribute as it is; bags only where they show."""
    texts: list[str] = []
    for start in range(0, len(pool.pixels), 100):
        part = list(pool.pixels[start : start + 100])
        texts += captioner.caption(part, [0] * len(part), Decoding())
    hits: dict[str, list[bool]] = {}
    for text, truth, seen in zip(texts, pool.labels, pool.seen, strict=True):
        read = read_caption(text)
        wanted = dict(truth)
        if "bag" not in seen:
            wanted["bag"] = wanted["bag_colour"] = "none"
        for name in ("gender", "upper_colour", "upper_kind", "lower_colour", "lower_kind", "bag"):
            hits.setdefault(name, []).append(read.get(name) == wanted[name])
        if wanted["bag"] != "none":
            hits.setdefault("bag_colour", []).append(read["bag_colour"] == wanted["bag_colour"])
        hits.setdefault("bag_or_none", []).append(
            (read["bag"] == "none") == (wanted["bag"] == "none")
        )
        length = re.search(r"(long|short) (\w+) hair", text)
        if length and "hair" in seen:
            hits.setdefault("hair_length", []).append(length.group(1) == truth["hair_length"])
            hits.setdefault("hair_colour", []).append(length.group(2) == truth["hair_colour"])
    return {name: round(float(np.mean(values)), 4) for name, values in hits.items()}


def save(out: Path, model: BlipForConditionalGeneration, tokenizer: BertTokenizer) -> None:
    """Write the hub's folder layout, weights in half precision."""
    model.half().save_pretrained(out)
    images = BlipImageProcessorPil(size={"height": SIZE[0], "width": SIZE[1]})
    BlipProcessor(images, tokenizer).save_pretrained(out)


def main(arguments: list[str] | None = None) -> None:
    """Draw, train, save and measure on held-out people."""
    args, plan = command_line("captioner", "captioner", 5_000, arguments)
    pool = draw_pool(plan.images, plan.source_share, plan.seed, args.work)
    tokenizer = new_tokenizer((text for texts in pool.captions for text in texts), args.out)
    model, loss = train(pool, tokenizer, plan)
    save(args.out, model, tokenizer)
    captioner = HubCaptioner.from_pretrained(args.out)
    measured = held_out(partial(accuracy, captioner), args.work)
    write_record(args.out, "captioner", plan, {"next_token_cross_entropy": loss}, measured)


if __name__ == "__main__":
    main()
