"""Reading captions back, the loss by hand, and what the shipped captioner can do."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from models.captioner import Decoding, HubCaptioner
from tasks.base.captioner import (
    accuracy,
    caption_loss,
    new_captioner,
    new_tokenizer,
    read_caption,
)
from tasks.base.fitting import HELD_OUT_SEED
from tasks.base.pool import Pool, draw_pool
from tasks.world.attributes import COLOURS, UPPER_KINDS

SHIPPED = Path("models/tiny/captioner")


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (
            "a man with short black hair wearing a red striped shirt, blue jeans and black shoes",
            {"gender": "man", "upper_kind": "shirt", "upper_colour": "red", "lower_kind": "jeans",
             "lower_colour": "blue", "bag": "none", "bag_colour": "none"},
        ),
        (
            "a woman wearing a blue cap, a striped pink t-shirt with a logo and a grey skirt "
            "carrying a brown shoulder bag",
            {"gender": "woman", "upper_kind": "t-shirt", "upper_colour": "pink",
             "lower_kind": "skirt", "lower_colour": "grey", "bag": "shoulder bag",
             "bag_colour": "brown"},
        ),
        (
            "a woman walking in a green dress with a red handbag",
            {"gender": "woman", "upper_kind": "dress", "upper_colour": "green",
             "lower_kind": "dress", "lower_colour": "green", "bag": "handbag",
             "bag_colour": "red"},
        ),
        ("", {"gender": "", "bag": "none", "bag_colour": "none"}),
    ],
)  # fmt: skip
def test_captions_read_back(text: str, facts: dict[str, str]) -> None:
    assert read_caption(text) == facts


def test_every_source_caption_reads_back_as_its_person() -> None:
    pool = draw_pool(40, 1.0, 5)
    for texts, labels, seen in zip(pool.captions, pool.labels, pool.seen, strict=True):
        for text in texts:
            read = read_caption(text)
            for name in ("gender", "upper_colour", "upper_kind", "lower_colour", "lower_kind"):
                assert read.get(name) == labels[name], text
            assert read["bag"] == (labels["bag"] if "bag" in seen else "none"), text


def test_unknown_words_are_spelled_not_lost(tmp_path: Path) -> None:
    tokenizer = new_tokenizer(["a man in a t-shirt"], tmp_path)
    assert tokenizer.bos_token == "[DEC]"
    assert tokenizer.unk_token_id not in tokenizer("a zebra's t-shirt!").input_ids


def test_loss_leaves_padding_out(tmp_path: Path) -> None:
    tokenizer = new_tokenizer(["a man in red", "a man"], tmp_path)
    model = new_captioner(tokenizer).eval()
    pixels = torch.randn(2, 3, 96, 48)
    ids = tokenizer(["a man in red", "a man"], padding=True, return_tensors="pt").input_ids
    with torch.no_grad():
        loss = caption_loss(model, pixels, ids, tokenizer)
        each, count = 0.0, 0
        for row, length in enumerate((6, 4)):  # [CLS] words [SEP]
            logits = model(
                pixel_values=pixels[row : row + 1], input_ids=ids[row : row + 1, :length]
            )
            target = ids[row, 1:length]
            each += float(F.cross_entropy(logits.logits[0, :-1], target, reduction="sum"))
            count += length - 1
    assert float(loss) == pytest.approx(each / count, rel=0.02)  # bfloat16 in training


@pytest.fixture(scope="module")
def captioner() -> HubCaptioner:
    return HubCaptioner.from_pretrained(SHIPPED)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return draw_pool(80, 0.0, HELD_OUT_SEED + 1)


def test_the_shipped_captioner_says_what_is_there(captioner: HubCaptioner, pool: Pool) -> None:
    measured = accuracy(captioner, pool)
    chance = {"upper_colour": 1 / len(COLOURS), "upper_kind": 1 / len(UPPER_KINDS)}
    for name, floor in {"upper_colour": 0.8, "lower_colour": 0.8, "gender": 0.7}.items():
        assert measured[name] > max(floor, 3 * chance.get(name, 0)), measured
    assert measured["upper_kind"] > 3 * chance["upper_kind"], measured


def test_the_shipped_captioner_samples_other_sentences(captioner: HubCaptioner, pool: Pool) -> None:
    way = Decoding(temperature=1.0, top_p=0.95)
    images = list(pool.pixels[:8])
    one, two = (
        captioner.caption(images, list(range(8)), way),
        captioner.caption(images, list(range(8, 16)), way),
    )
    assert one != two
    assert one == captioner.caption(images, list(range(8)), way)
    assert all(text.startswith("a ") for text in one + two)


def test_the_shipped_weights_say_how_they_were_made() -> None:
    record = json.loads((SHIPPED / "training.json").read_text())
    assert record["looks"] == ["source", "random"]
    assert re.match(r"python -m tasks\.base\.captioner ", record["command"])
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 2_500_000
