"""Pseudo texts (UniPT): what the grammar can say, how fast it does, and what seeing costs.

    python -m benchmarks.pseudo_texts [attributes.yaml] [--captions 10000] [--pictures 64]
        [--batch 32] [--model models/tiny/clip]

First the words, without any picture: people of random attributes, required ones uniformly, optional
ones as often as LUPerson-T's authors count them, are described; the table says how many templates
there are and were used, the vocabulary, distinct-n, and captions a second on one core. Then the
pictures: random ones as JPEG in a shard, captioned through `caption_table` by the model named, or
by a CLIP ViT-B/16 with random weights; everything but reading the shard is in it. Batches and one
picture at a time take turns, so that what else the machine does slows both alike: trust the ratio.

How well a model sees is measured by `benchmarks.pseudo_accuracy`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import CLIPConfig, CLIPModel

from models.zeroshot import ZeroShot
from tasks.caption.parameters import AttributesParams, CaptionerParams, CaptionParams, StyleParams
from tasks.caption.seeing import AttributeReader, load_reader
from tasks.caption.shard import caption_table
from tasks.caption.shares import LUPERSON_T, LUPERSON_T_TEXTS, TextCounting
from tasks.caption.templates import count, frames
from tasks.caption.vocabulary import SHIPPED, Value, Vocabulary, read_vocabulary
from tasks.caption.writing import Writer
from tasks.images import encode_jpeg
from tasks.runtime import device

LUPERSON = 1_300_000
"""Pictures of LUPerson-T, about."""


def random_people(words: Vocabulary, people: int, seed: int = 0) -> list[list[Value]]:
    """People of random attributes."""
    rng = np.random.default_rng(seed)
    found: list[list[Value]] = [[] for _ in range(people)]
    for name, values in words.values.items():
        said = [value for value in values if not value.absent]
        often = LUPERSON_T[name] / LUPERSON_T_TEXTS if name in LUPERSON_T else 1.0
        there, which = rng.random(people) < often, rng.integers(len(said), size=people)
        for person in np.flatnonzero(there).tolist():
            found[person].append(said[which[person]])
    return found


def write_all(words: Vocabulary, captions: int) -> None:
    """Describe random people, and print what that gives."""
    people = random_people(words, captions)
    writer = Writer(words)
    uids = [f"{at:016x}" for at in range(captions)]
    for uid, kept in zip(uids[:1000], people, strict=False):  # templates are cut once
        writer.write(uid, kept)
    start = time.process_time()
    said = [writer.write(uid, kept)[0] for uid, kept in zip(uids, people, strict=True)]
    seconds = time.process_time() - start
    counted = TextCounting()
    seen = [
        [{"attribute": v.attribute, "value": v.name, "score": 1.0} for v in kept] for kept in people
    ]
    columns = {"captions": [[s.text] for s in said], "templates": [[s.template] for s in said]}
    counted.add(pa.table(columns | {"attributes": seen}))
    found = counted.figures()
    diversity = found.diversity
    for line in (
        f"prompts {len(words.prompts)}",
        f"frames {len(frames())}, templates {count(words)}",
        f"captions {diversity.captions}, by {found.templates} templates",
        f"captions a second on one core {captions / seconds:.0f}",
        f"words a caption {diversity.mean_length:.1f}",
        f"vocabulary {diversity.vocabulary}",
        *(f"distinct-{n} {100 * getattr(diversity, f'distinct_{n}'):.2f} %" for n in (1, 2, 3)),
        f"said before word for word {100 * diversity.repeated:.2f} %",
        f"optional attributes a picture {found.optional:.2f}",
        *(f"  {name}: {100 * s.share:.1f} %, published {100 * s.published:.1f} %"
          for name, s in found.shares.items()),
    ):  # fmt: skip
        print(line)
    for sentence in said[:5]:
        print(f"  {sentence.text}")


def random_reader(words: Vocabulary) -> AttributeReader:
    """A reader with CLIP ViT-B/16's sizes and random weights."""
    config = CLIPConfig(
        text_config={}, projection_dim=512,
        vision_config={"patch_size": 16, "hidden_size": 768, "intermediate_size": 3072},
    )  # fmt: skip
    torch.manual_seed(0)
    where = device()
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    end = config.text_config.eos_token_id

    def spell(texts: list[str], **_: Any) -> dict[str, torch.Tensor]:
        ids = torch.tensor([[ord(letter) for letter in text.ljust(60)[:60]] for text in texts])
        return {"input_ids": torch.cat([ids, torch.full((len(texts), 1), end)], dim=1)}

    model = ZeroShot(
        CLIPModel(config), spell, (224, 224), [0.5] * 3, [0.3] * 3, where, dtype
    )  # fmt: skip
    start = time.perf_counter()
    bank = model.bank(words.prompts, words.sizes)
    print(f"{len(words.prompts)} prompts in {time.perf_counter() - start:.1f} s, once a model")
    return AttributeReader(model, bank, words, Writer(words), 0.9)


def look_at_all(
    words: Vocabulary, file: Path, pictures: int, batch: int, model: str | None, rounds: int = 4
) -> None:
    """Caption random pictures in batches and one at a time, by turns, and print the rates."""
    rng = np.random.default_rng(0)
    jpegs = [encode_jpeg(rng.integers(0, 256, (256, 128, 3), dtype=np.uint8)) for _ in range(64)]
    table = pa.table({
        "uid": [f"{at:016x}" for at in range(pictures)],
        "image": pa.array([jpegs[at % 64] for at in range(pictures)], pa.binary()),
        "captions": pa.array([[]] * pictures, pa.list_(pa.string())),
        "status": ["ok"] * pictures,
        "error": pa.nulls(pictures, pa.string()),
    })  # fmt: skip
    sections = {size: section_of(model or "", file, size) for size in (batch, 1)}
    if model:
        reader = load_reader(sections[batch].clip_attributes, device())
    else:
        reader = random_reader(words)
    spent, looked = dict.fromkeys(sections, 0.0), dict.fromkeys(sections, 0)
    each = max(pictures // rounds, 1)
    for turn in range(-1, rounds):
        for size, section in sections.items():
            # Few are enough one by one; and of the first turn, which warms up, nothing is counted.
            count = each if size > 1 else max(each // 4, 1)
            part = table.slice(max(turn, 0) * each, count if turn >= 0 else size)
            start = time.perf_counter()
            caption_table(part, reader, section)
            if turn >= 0:
                spent[size] += time.perf_counter() - start
                looked[size] += part.num_rows
    rates = {size: looked[size] / spent[size] for size in sections}
    for size, rate in rates.items():
        print(f"batch {size}: {rate:.1f} pictures a second on {reader.model.device}")
    print(f"ratio {rates[batch] / rates[1]:.1f}")
    print(f"1.3 million pictures: {LUPERSON / rates[batch] / 3600:.1f} hours")


def section_of(model: str, file: Path, batch: int) -> CaptionParams:
    """Section ``caption`` for a batch size."""
    return CaptionParams(
        method="clip_attributes", captions=1, seed=0,
        captioner=CaptionerParams(
            model="", max_new_tokens=1, repetition_penalty=1.0, batch=1,
            styles={"": StyleParams(prompt="", beams=1, temperature=0.0, top_p=1.0)},
        ),
        clip_attributes=AttributesParams(
            model=model, attributes=str(file), threshold=0.9, batch=batch
        ),
    )  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=Path(SHIPPED))
    parser.add_argument("--captions", type=int, default=10_000)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model", help="hub name or folder; random weights of ViT-B/16 without")
    args = parser.parse_args()
    words = read_vocabulary(args.file)
    write_all(words, args.captions)
    if args.pictures:
        look_at_all(words, args.file, args.pictures, args.batch, args.model)


if __name__ == "__main__":
    main()
