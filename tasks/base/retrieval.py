"""Train the starting weights of the tiny retrieval model: ``models/tiny/swin`` and ``bert``.

They stand where ImageNet's Swin-B and bert-base-uncased stand in the full profile, in the same
layouts of transformers. What they know is meant to be as general: the Swin has sorted drawings by
*coarse* attributes (colour families of the two garments, their kinds, man or woman) and has
never been asked for a bag, a hat or a shoe; the BERT has filled gaps in captions of both styles
about people drawn for the purpose. What either was shown is in ``training.json`` beside its
weights: drawings in the source look and in random looks, none by a target camera or of its people.

    python -m tasks.base.retrieval text --out models/tiny/bert
    python -m tasks.base.retrieval vision --work /tmp/base --out models/tiny/swin

Shape legend: B pictures or captions, H x W = 96 x 48 pixels, L word pieces, P tokens, D width.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import string
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    SwinConfig,
    SwinModel,
)

from tasks.augment import DRAWS, Recipe, augment, plain
from tasks.base.pool import PEOPLE, SIZE, Pool, draw_pool
from tasks.eda import STOP_WORDS, table_words
from tasks.tokens import IGNORED, Masking, Words
from tasks.world.attributes import sample_resident
from tasks.world.captions import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch.optim.lr_scheduler import LRScheduler

log = logging.getLogger(__name__)

HELD_OUT_SEED = 1_000_003
LENGTH = 48
"""Word pieces of a caption at most, [CLS] and [SEP] included."""

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
AFFIXES = (
    "s", "es", "ed", "er", "est", "ing", "ly", "y", "ish", "en", "less", "ness", "ful", "able",
    "like", "wear",
)  # fmt: skip
"""Ends of English words, so that a word the captions never used is not spelt letter by letter."""

COLOUR_FAMILIES = {
    "black": 0, "white": 1, "grey": 2, "red": 3, "pink": 3, "orange": 4, "brown": 4, "yellow": 5,
    "green": 6, "blue": 7, "purple": 7,
}  # fmt: skip
KINDS = {
    "upper_kind": ("t-shirt", "shirt", "sweater", "hoodie", "jacket", "coat", "tank top", "dress"),
    "lower_kind": ("trousers", "jeans", "shorts", "skirt", "dress"),
    "gender": ("man", "woman"),
}
CLASSES = {
    "upper_colour": 8,
    "lower_colour": 8,
    **{name: len(values) for name, values in KINDS.items()},
}
ROWS = 6
"""Bands of the picture, from head to foot, that the throw-away heads see apart."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a model is trained; recorded in training.json."""

    seed: int
    items: int
    """Pictures or captions."""
    source_share: float
    """Share in the source look or style."""
    steps: int
    batch: int
    rate: float


# ------------------------------------------------------------------ text


def draw_captions(count: int, source_share: float, seed: int) -> list[str]:
    """Write captions, each about a new person who does not live in the target."""
    rng = np.random.default_rng(seed)
    captions = []
    for _ in range(count):
        person = sample_resident(rng, target=False)
        style = "source" if rng.random() < source_share else "target"
        captions.append(describe(person, style, rng))  # type: ignore[arg-type]  # one of the two
    return captions


def new_tokenizer(captions: Iterable[str], folder: Path) -> BertTokenizerFast:
    """Build a word-piece vocabulary that spells any English text.

    Whole words of the captions (at least five times; rarer ones are slips of the pen), of this
    project's synonyms and stop words; then ends of words; then letters, digits and punctuation.
    """
    counts = Counter(word for text in captions for word in re.findall(r"[a-z]+", text.lower()))
    words = {word for word, times in counts.items() if times >= 5} | STOP_WORDS | table_words()
    letters = string.ascii_lowercase + string.digits
    pieces = [*letters, *(f"##{each}" for each in [*letters, *AFFIXES]), *string.punctuation]
    vocabulary = list(dict.fromkeys([*SPECIAL, *pieces, *sorted(words)]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast.from_pretrained(str(folder), do_lower_case=True)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def new_bert(vocabulary: int) -> BertForMaskedLM:
    """Build the network: 4 layers 128 wide."""
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=64,
            type_vocab_size=2,
        )
    )


def masked_batch(
    captions: list[str], words: Words, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mask captions for language modelling: ids, attention mask and labels, each (B, L)."""
    ids, mask = words.encode(captions)
    longest = int(mask.sum(1).max())
    masked = [words.mask(each, rng, Masking()) for each in ids]
    return (
        torch.from_numpy(np.stack([m[0] for m in masked]))[:, :longest],
        torch.from_numpy(mask)[:, :longest],
        torch.from_numpy(np.stack([m[1] for m in masked]))[:, :longest],
    )


def train_text(plan: Plan, out: Path) -> dict[str, float]:
    """Train the BERT and write it; returns losses on training and on held-out captions."""
    captions = draw_captions(plan.items, plan.source_share, plan.seed)
    words = Words(new_tokenizer(captions, out), LENGTH)
    torch.manual_seed(plan.seed)
    model = new_bert(len(words.continues))

    def loss_of(texts: list[str], rng: np.random.Generator) -> Tensor:
        ids, mask, labels = masked_batch(texts, words, rng)
        hidden = model.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        chosen = labels != IGNORED
        return F.cross_entropy(model.cls(hidden[chosen]), labels[chosen])

    def step(number: int) -> Tensor:
        rng = np.random.default_rng([plan.seed, number])
        return loss_of([captions[i] for i in rng.integers(len(captions), size=plan.batch)], rng)

    loss = _train(model, step, plan)
    held_out = draw_captions(1000, plan.source_share, HELD_OUT_SEED)
    model.eval()
    with torch.inference_mode():
        rng = np.random.default_rng(HELD_OUT_SEED)
        unseen = float(np.mean([loss_of(held_out[i : i + 100], rng) for i in range(0, 1000, 100)]))
    model.half().save_pretrained(out)
    return {"masked_token": loss, "masked_token_held_out": unseen}


# ------------------------------------------------------------------ vision


def new_swin() -> SwinModel:
    """Build the network: 24 x 12 tokens 48 wide, then 12 x 6 tokens 96 wide; windows of 6."""
    return SwinModel(
        SwinConfig(
            image_size=list(SIZE),
            patch_size=4,
            embed_dim=48,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=6,
            drop_path_rate=0.0,
            # At these widths the usual 0.02 leaves the blocks all but idle for hundreds of steps.
            initializer_range=0.1,
        ),
        add_pooling_layer=False,
    )


class CoarseClassifier(nn.Module):
    """The Swin and one linear head for each coarse attribute; the heads are thrown away.

    A head reads the means of `ROWS` bands, not of the whole: a mean over the picture learns the
    colour of a garment ten times slower, for most of the picture is not the garment.
    """

    def __init__(self, swin: SwinModel) -> None:
        """Wrap a Swin."""
        super().__init__()
        self.swin = swin
        width = ROWS * swin.config.hidden_size
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in CLASSES.items()})

    def forward(self, image_B3HW: Tensor) -> dict[str, Tensor]:
        """Logits (B, classes) of each attribute."""
        tokens_BPD = self.swin(image_B3HW).last_hidden_state
        bands_BD = tokens_BPD.unflatten(1, (ROWS, -1)).mean(2).flatten(1)
        return {name: head(bands_BD) for name, head in self.heads.items()}


def coarse_labels(pool: Pool) -> dict[str, Tensor]:
    """Class of every picture for each coarse attribute, (N,) int64."""
    labels = {
        name: torch.tensor([values.index(person[name]) for person in pool.labels])
        for name, values in KINDS.items()
    }
    for name in ("upper_colour", "lower_colour"):
        colours = [COLOUR_FAMILIES[person[name]] for person in pool.labels]
        labels[name] = torch.tensor(colours)
    return labels


def train_vision(plan: Plan, out: Path, work: Path | None) -> dict[str, float]:
    """Train the Swin and write it; returns the loss and held-out accuracies."""
    pool = draw_pool(plan.items, plan.source_share, plan.seed, work)
    labels = coarse_labels(pool)
    torch.manual_seed(plan.seed)
    model = CoarseClassifier(new_swin())
    recipe = Recipe(size=SIZE, stride=8, crop=True, padding=6, flip=0.5)

    def step(number: int) -> Tensor:
        rng = np.random.default_rng([plan.seed, number])
        rows = rng.integers(len(pool.pixels), size=plan.batch)
        # The middle stays in the crop; how much of the rest does is up to the draw.
        centre = np.tile(np.array([0.5, 0.5, 0.85, 0.9]), (plan.batch, 1))
        image, _ = augment(
            [pool.pixels[row] for row in rows], centre, rng.random((plan.batch, DRAWS)), recipe
        )
        logits = model(image)
        losses = [F.cross_entropy(logits[name], labels[name][rows]) for name in CLASSES]
        return torch.stack(losses).mean()

    measured = {"coarse_attributes": _train(model, step, plan)}
    model.eval()
    for look, share in (("source", 1.0), ("random", 0.0)):
        unseen = draw_pool(600, share, HELD_OUT_SEED, work)
        truth = coarse_labels(unseen)
        with torch.inference_mode():
            parts = [model(plain(list(part), SIZE)) for part in np.array_split(unseen.pixels, 6)]
        for name in CLASSES:
            guess = torch.cat([part[name] for part in parts]).argmax(1)
            measured[f"accuracy_{name}_{look}"] = float((guess == truth[name]).float().mean())
    model.swin.half().save_pretrained(out)
    return measured


# ------------------------------------------------------------------ both


def _train(model: nn.Module, step: Callable[[int], Tensor], plan: Plan) -> float:
    """Run AdamW with warm-up and cosine decay; returns the mean loss of the last 100 steps."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain_ones = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain_ones, "weight_decay": 0.0}],
        lr=plan.rate,
    )
    schedule: LRScheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.rate, total_steps=plan.steps, pct_start=0.1
    )
    model.train()
    losses = []
    with tqdm(range(plan.steps), mininterval=10) as bar:
        for number in bar:
            loss = step(number)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    return float(np.mean(losses[-100:]))


def main(arguments: list[str] | None = None) -> None:
    """Draw, train, save and measure on held-out people."""
    parser = argparse.ArgumentParser(description="train the shipped tiny retrieval base")
    parser.add_argument("what", choices=["vision", "text"])
    parser.add_argument("--work", type=Path, help="where the pool of pictures is kept")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    vision = args.what == "vision"
    plan = Plan(
        seed=args.seed,
        items=args.items,
        source_share=0.35 if vision else 0.5,
        steps=args.steps,
        batch=64,
        rate=2e-3,
    )
    started = time.perf_counter()
    losses = train_vision(plan, args.out, args.work) if vision else train_text(plan, args.out)
    log.info("%.0f s: %s", time.perf_counter() - started, json.dumps(losses))
    record = {
        "command": f"python -m tasks.base.retrieval {args.what} --seed {plan.seed} "
        f"--items {plan.items} --steps {plan.steps} --out {args.out.as_posix()}",
        "seed": plan.seed,
        "looks": ["source", "random"] if vision else [],
        "images": plan.items if vision else 0,
        "captions": 0 if vision else plan.items,
        "people": PEOPLE,
        "plan": asdict(plan),
        "losses": {name: round(value, 4) for name, value in losses.items()},
    }
    (args.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
