"""Train the tiny CLIP that the repository ships: ``models/tiny/clip/``.

It stands where CLIP ViT-B/16 stands in UniPT (ICCV 2023, sec. 3), by CLIP's own classes and folder
layout: what `caption.method: clip_attributes` asks of a picture in the built-in world. It has seen
drawings in the source look and in random other looks, never the target's cameras or people
(``training.json`` beside the weights records it).

Two losses are softmaxes of scaled cosines. As CLIP is trained: of the batch's captions, which is
this picture's, and the other way round. And as it is used: of the prompts for one attribute, which
is true, for every attribute that can be seen. The prompts are those of ``attributes.yaml`` beside
the weights, which is written by hand and is read here. A third asks the eyes alone, by plain linear
layers that are dropped in the end (`tasks.base.clip_parts`).

The vision tower begins with the captioner's and a class token that knows where to look
(`tasks.base.clip_start`).

Unusual: CLIP's vision tower takes squares and people are not square, so pictures are stretched from
192 x 96 to 96 x 96 pixels and cut into 8 x 8 patches that each see 24 x 12 of the original.

    python -m tasks.base.clip --work /tmp/base

Shape legend: B pictures, H x W = 96 x 96 pixels, P prompts, V values of one attribute, D width of a
vector, C captions.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    BlipForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from models.zeroshot import ZeroShot
from tasks.base.clip_parts import UNSEEN, answer_losses, number_parts
from tasks.base.clip_start import begin_with, look_at_bands
from tasks.base.diffusion import train_tokenizer
from tasks.base.fitting import Plan, command_line, fit, held_out, write_record
from tasks.base.pool import Pool, draw_pool, soften
from tasks.caption.vocabulary import Vocabulary, read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

FULL = (192, 96)
"""Height and width of the world's pictures."""
SIDE = 96
"""Of the square that the model sees."""
WORDS = Path("models/tiny/clip/attributes.yaml")
CAPTIONER = Path("models/tiny/captioner")
"""Whose vision tower training begins with."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
LENGTH = 64
"""Tokens of a text at most."""
STEPS = 9_000
"""As many as made the shipped weights."""
_FRONT = ("front", "front left", "front right")
_SHIFT = 6
"""Pixels that a picture is moved by at most."""
_OTHERS = 0.15
"""Share of the prompts that nobody in a batch shows which are asked nevertheless."""


# ------------------------------------------------------------------ what is true


def true_values(
    labels: Mapping[str, str], seen: Collection[str], action: str, view: str
) -> dict[str, str]:
    """What a drawing shows, in the words of `WORDS`.

    Args:
        labels: Attributes of the person, as `Person.labels` gives them.
        seen: Parts that can be seen.
        action: walking or standing.
        view: From where the person is seen: a print shows from the front alone.

    Returns:
        The name of the value of each attribute that can be seen; a bag or hat that cannot is none.
    """
    pattern = labels["upper_pattern"]
    if pattern == "logo":
        pattern = "printed" if view in _FRONT else "plain"
    upper = (labels["upper_colour"], "" if pattern == "plain" else pattern, labels["upper_kind"])
    found = {
        "age": "adult",
        "gender": labels["gender"],
        "action": action,
        "bag": "no bag",
        "hat": "no hat",
    }
    if "upper" in seen:
        found["upper clothes"] = " ".join(filter(None, upper))
    if "lower" in seen and labels["lower_kind"] != "dress":
        found["lower clothes"] = f"{labels['lower_colour']} {labels['lower_kind']}"
    if "hair" in seen:
        found["hair length"] = f"{labels['hair_length']} {labels['hair_colour']} hair"
    for what in ("bag", "hat"):
        if what in seen and labels[what] != "none":
            found[what] = f"{labels[f'{what}_colour']} {labels[what]}"
    return found


def number_values(truth: Sequence[Mapping[str, str]], words: Vocabulary) -> Tensor:
    """Number what is true of some pictures, (N, attributes) int64; `UNSEEN` where nothing is.

    Raises:
        KeyError: The words lack a value that the world draws.
    """
    numbers = {
        name: {value.name: at for at, value in enumerate(values)}
        for name, values in words.values.items()
    }
    return torch.tensor([
        [numbers[name][each[name]] if name in each else UNSEEN for name in numbers]
        for each in truth
    ])  # fmt: skip


def truth_of(pool: Pool) -> list[dict[str, str]]:
    """What each picture of a pool shows."""
    columns = (pool.labels, pool.seen, pool.actions, pool.views)
    return [true_values(*row) for row in zip(*columns, strict=True)]


def stretch(picture: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    """Stretch a picture to the square that the model sees, as the stage does."""
    image = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image)


# ------------------------------------------------------------------ the model


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Build the network: 64 patches, three vision and two text layers 128 wide."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "image_size": SIDE,
        "patch_size": 12,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))
    # On a CPU the fused attention's backward pass takes half of a step's time.
    model.set_attn_implementation("eager")
    return model


class Learner(nn.Module):
    """The CLIP in training, and the plain questions that it leaves behind."""

    def __init__(self, clip: CLIPModel, answers: int) -> None:
        """Ask for as many values of visible parts, all together, as ``answers``."""
        super().__init__()
        self.clip = clip
        self.parts = nn.Linear(clip.config.vision_config.hidden_size, answers)


def clip_loss(
    model: CLIPModel,
    image_BD: Tensor,
    captions: tuple[Tensor, Tensor],
    prompts: tuple[Tensor, Tensor],
    value_BA: Tensor,
    sizes: Sequence[int],
) -> Tensor:
    """Captions against the batch's others, and true values against the attribute's others.

    Args:
        model: In training.
        image_BD: What it makes of the pictures, of any length.
        captions: Ids and attention mask of every second picture's caption.
        prompts: Ids and attention mask, (P, L) each.
        value_BA: Number of the true value among the prompts of its attribute, `UNSEEN` where there
            is none.
        sizes: How many of the prompts each attribute has.
    """
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [
            model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
            for ids, mask in (captions, prompts)
        ]
    image_BD, caption_CD, prompt_PD = (
        F.normalize(each.float(), dim=-1) for each in (image_BD, *outputs)
    )
    scaled_BD = image_BD * model.logit_scale.clamp(max=math.log(100)).exp()
    logits_CC = scaled_BD[::2] @ caption_CD.T
    own_C = torch.arange(len(caption_CD))
    losses = [(F.cross_entropy(logits_CC, own_C) + F.cross_entropy(logits_CC.T, own_C)) / 2]
    losses += answer_losses(scaled_BD @ prompt_PD.T, value_BA, sizes)
    return torch.stack(losses).sum()


def some_prompts(
    value_BA: Tensor, sizes: Sequence[int], generator: torch.Generator
) -> tuple[Tensor, Tensor, list[int]]:
    """Choose the prompts of a step: those that are true of somebody, and some others.

    Two thirds of all prompts are of upper clothes and say nothing new in most steps.

    Args:
        value_BA: True values, `UNSEEN` where there is none.
        sizes: How many values each attribute has.
        generator: Source of randomness.

    Returns:
        Numbers of the chosen prompts, (P,); the true values numbered among them, as `value_BA`; and
        how many of them each attribute has.
    """
    chosen, renumbered, kept_sizes, start = [], [], [], 0
    for value_B, size in zip(value_BA.T, sizes, strict=True):
        keep_V = torch.rand(size, generator=generator) < (_OTHERS if size > 8 else 1.0)
        keep_V[value_B[value_B != UNSEEN]] = True
        among_V = keep_V.cumsum(0) - 1
        renumbered.append(torch.where(value_B == UNSEEN, UNSEEN, among_V[value_B]))
        chosen.append(start + keep_V.nonzero()[:, 0])
        kept_sizes.append(len(chosen[-1]))
        start += size
    return torch.cat(chosen), torch.stack(renumbered, dim=1), kept_sizes


def train(
    pool: Pool, tokenizer: CLIPTokenizer, words: Vocabulary, plan: Plan
) -> tuple[CLIPModel, float]:
    """Train with pictures mirrored, moved and softened; returns averaged weights, last loss.

    Args:
        pool: Pictures with what is true of them.
        tokenizer: Of the texts.
        words: Attributes with their prompts.
        plan: How.
    """
    torch.manual_seed(plan.seed)
    clip = new_clip(tokenizer)
    begin_with(clip, BlipForConditionalGeneration.from_pretrained(CAPTIONER))
    squares = np.stack([stretch(each) for each in tqdm(pool.pixels, "stretch", mininterval=10)])
    value_NA = number_values(truth_of(pool), words)
    part_NA, part_sizes = number_parts(pool)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    flat = [text for texts in pool.captions for text in texts]
    said = tokenizer(flat, padding=True, return_tensors="pt")
    each = len(flat) // len(pool.captions)
    whole = tokenizer(list(words.prompts), padding=True, return_tensors="pt")
    ids_PL, mask_PL = whole["input_ids"], whole["attention_mask"]
    some = torch.from_numpy(squares[:: max(len(squares) // 200, 1)]).permute(0, 3, 1, 2).float()
    look_at_bands(clip, (some / 255 - mean) / std)

    def loss_of(model: Learner, rows: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        values = torch.from_numpy(squares[rows]).permute(0, 3, 1, 2).float()
        pixels = (soften(_moved(values, generator), generator) / 255 - mean) / std
        # Half of the captions cost a step a tenth less, and all prompts are there to learn from.
        half = torch.from_numpy(rows)[::2]
        at = half * each + torch.randint(each, half.shape, generator=generator)
        mask = said["attention_mask"][at]
        longest = int(mask.sum(1).max())
        captions = (said["input_ids"][at][:, :longest], mask[:, :longest])
        asked, values_BA, sizes = some_prompts(value_NA[rows], words.sizes, generator)
        prompts = (ids_PL[asked], mask_PL[asked])
        with torch.autocast("cpu", torch.bfloat16):
            seen_BD = model.clip.vision_model(pixel_values=pixels).pooler_output
            image_BD, parts_BV = model.clip.visual_projection(seen_BD), model.parts(seen_BD)
        plain = torch.stack(answer_losses(parts_BV.float(), part_NA[rows], part_sizes)).sum()
        return plain + clip_loss(model.clip, image_BD, captions, prompts, values_BA, sizes)

    learner, loss = fit(Learner(clip, sum(part_sizes)).train(), len(squares), plan, loss_of, "clip")
    return learner.clip, loss


def _moved(values_B3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the pictures, and move each a little; its edge fills what comes free."""
    mirror = torch.rand(len(values_B3HW), 1, 1, 1, generator=generator) < 0.5
    values = torch.where(mirror, values_B3HW.flip(-1), values_B3HW)
    padded = F.pad(values, [_SHIFT] * 4, mode="replicate")
    offsets = torch.randint(2 * _SHIFT + 1, (len(values), 2), generator=generator).tolist()
    return torch.stack([
        one[:, y : y + SIDE, x : x + SIDE] for one, (y, x) in zip(padded, offsets, strict=True)
    ])  # fmt: skip


# ------------------------------------------------------------------ measuring and writing


def accuracy(model: ZeroShot, words: Vocabulary, pool: Pool) -> dict[str, float]:
    """Share of the pictures, among those that show it, whose likeliest value is the true one."""
    value_NA = number_values(truth_of(pool), words)
    bank = model.bank(words.prompts, words.sizes)
    best_NA = torch.cat([model.answer(part, bank)[0] for part in _parts(pool.pixels)])
    return {
        name: round(float((best == value)[value != UNSEEN].float().mean()), 4)
        for name, best, value in zip(words.values, best_NA.T, value_NA.T, strict=True)
    }


def _parts(pixels: NDArray[np.uint8], size: int = 100) -> Iterator[Tensor]:
    for start in range(0, len(pixels), size):
        yield torch.from_numpy(np.stack([stretch(p) for p in pixels[start : start + size]]))


def save(out: Path, model: CLIPModel, tokenizer: CLIPTokenizer) -> None:
    """Write the hub's folder layout, weights in half precision."""
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    tokenizer.backend_tokenizer.model.save(str(out))  # vocab.json and merges.txt
    square = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size=square, crop_size=square, do_center_crop=False).save_pretrained(out)


def main(arguments: list[str] | None = None) -> None:
    """Draw, train, save and measure on held-out people."""
    args, plan = command_line("clip", "CLIP", STEPS, arguments)
    plan = dataclasses.replace(plan, source_share=0.2, batch=32)
    words = read_vocabulary(WORDS)
    pool = draw_pool(plan.images, plan.source_share, plan.seed, args.work, FULL)
    tokenizer = train_tokenizer(text for texts in (*pool.captions, words.prompts) for text in texts)
    tokenizer.model_max_length = LENGTH
    model, loss = train(pool, tokenizer, words, plan)
    args.out.mkdir(parents=True, exist_ok=True)
    save(args.out, model, tokenizer)
    seeing = ZeroShot.from_pretrained(args.out)
    measured = held_out(partial(accuracy, seeing, words), args.work, FULL)
    write_record(args.out, "clip", plan, {"sum_of_all": loss}, measured)


if __name__ == "__main__":
    main()
