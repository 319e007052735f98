"""What a drawing shows in the words of the file, the losses by hand, how training begins."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BlipForConditionalGeneration, CLIPTokenizer

from models.zeroshot import ZeroShot
from tasks.base.clip import (
    CAPTIONER,
    WORDS,
    accuracy,
    clip_loss,
    new_clip,
    number_values,
    some_prompts,
    stretch,
    true_values,
)
from tasks.base.clip_parts import UNSEEN, answer_losses, number_parts, visible_parts
from tasks.base.clip_start import begin_with, look_at_bands
from tasks.base.fitting import HELD_OUT_SEED
from tasks.base.pool import draw_pool
from tasks.caption.vocabulary import OPTIONAL, REQUIRED, read_vocabulary
from tasks.world.attributes import sample_person

SHIPPED = Path("models/tiny/clip")
PERSON = {
    "gender": "woman", "hair_colour": "blond", "hair_length": "long", "hat": "cap",
    "hat_colour": "red", "upper_kind": "t-shirt", "upper_colour": "blue", "upper_pattern": "logo",
    "lower_kind": "jeans", "lower_colour": "black", "bag": "handbag", "bag_colour": "pink",
}  # fmt: skip
ALL = ("upper", "lower", "hair", "hat", "bag")


@pytest.mark.parametrize(
    ("changes", "seen", "view", "expected"),
    [
        ({}, ALL, "front", {
            "upper clothes": "blue printed t-shirt", "lower clothes": "black jeans",
            "hair length": "long blond hair", "bag": "pink handbag", "hat": "red cap",
        }),
        # A print is on the front; what is hidden is unknown, but a hidden bag is no bag.
        ({}, ("upper",), "back", {
            "upper clothes": "blue t-shirt", "bag": "no bag", "hat": "no hat",
        }),
        ({"upper_kind": "dress", "upper_pattern": "checked", "lower_kind": "dress",
          "bag": "none", "bag_colour": "none"}, ALL, "left", {
            "upper clothes": "blue checked dress", "hair length": "long blond hair",
            "bag": "no bag", "hat": "red cap",
        }),
    ],
)  # fmt: skip
def test_what_a_drawing_shows(
    changes: dict[str, str], seen: tuple[str, ...], view: str, expected: dict[str, str]
) -> None:
    always = {"age": "adult", "gender": "woman", "action": "walking"}
    assert true_values(PERSON | changes, seen, "walking", view) == always | expected


def test_the_words_have_a_name_for_everybody_and_no_more_than_the_world_draws() -> None:
    words = read_vocabulary(WORDS)
    assert set(words.values) == {*REQUIRED, "bag", "hat"} < {*REQUIRED, *OPTIONAL}
    rng = np.random.default_rng(3)
    truth = [
        true_values(sample_person(rng).labels(), ALL, "standing", view)
        for view in ("front", "back")
        for _ in range(4000)
    ]
    numbers = number_values(truth, words)
    for at, (name, values) in enumerate(words.values.items()):
        met = set(numbers[:, at].tolist()) - {UNSEEN}
        if name not in ("age", "action"):
            assert len(met) > 0.97 * len(values), name


def test_the_losses_by_hand() -> None:
    """Unit vectors in the plane, a scale of 2: every logit is 2, 0 or -2."""
    east, north, west = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]

    def features(rows: list[list[float]]) -> Any:
        return SimpleNamespace(pooler_output=torch.tensor(rows))

    texts = {1: [east, north], 2: [east, west, north, north]}
    model: Any = SimpleNamespace(
        logit_scale=torch.tensor(math.log(2.0)),
        get_text_features=lambda input_ids, attention_mask: features(texts[int(input_ids)]),
    )
    # Pictures 0 and 2 have captions. Of the second attribute, nobody shows a value but picture 0.
    values = torch.tensor([[0, 1], [1, UNSEEN], [UNSEEN, UNSEEN]])
    prompts = (torch.tensor(2), torch.tensor(1))
    # Pictures count by their direction alone.
    image = 3 * torch.tensor([east, north, north])
    loss = clip_loss(model, image, (torch.tensor(1),) * 2, prompts, values, [2, 2])
    captions = math.log(1 + math.exp(-2))
    # Picture 0: 2 against -2 and right; picture 1: 0 against 0. The second attribute: 0 against 0.
    first = (math.log(1 + math.exp(-4)) + math.log(2)) / 2
    assert float(loss) == pytest.approx(captions + first + math.log(2), rel=1e-5)


def test_a_step_asks_for_what_is_true_and_some_others() -> None:
    sizes = [2, 40, 9]
    values = torch.tensor([[0, 39, UNSEEN], [1, 7, 8], [0, 7, UNSEEN]])
    generator = torch.Generator().manual_seed(0)
    chosen, renumbered, kept = some_prompts(values, sizes, generator)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert sum(kept) == len(chosen) < sum(sizes)
    assert kept[0] == 2
    starts, begins = [0, 2, 42], [0, kept[0], kept[0] + kept[1]]
    for row, row_new in zip(values.tolist(), renumbered.tolist(), strict=True):
        for at, (value, new) in enumerate(zip(row, row_new, strict=True)):
            assert (value == UNSEEN) == (new == UNSEEN)
            if value != UNSEEN:
                assert chosen[begins[at] + new] == starts[at] + value


def test_training_begins_with_what_the_captioner_sees() -> None:
    captioner = BlipForConditionalGeneration.from_pretrained(CAPTIONER).float().eval()
    torch.manual_seed(0)
    clip = new_clip(CLIPTokenizer.from_pretrained(SHIPPED)).eval()
    begin_with(clip, captioner)
    mine, theirs = clip.vision_model, captioner.vision_model
    # A patch of one colour is the same patch, whatever its size in pixels.
    plain = torch.tensor([0.3, -1.0, 0.7])[None, :, None, None]
    with torch.no_grad():
        large = mine.embeddings.patch_embedding(plain.expand(1, 3, 12, 12)).flatten()
        small = theirs.embeddings.patch_embedding(plain.expand(1, 3, 8, 8)).flatten()
        torch.testing.assert_close(
            large, small - theirs.embeddings.patch_embedding.bias, rtol=1e-3, atol=1e-3
        )
        hidden = torch.randn(2, 5, 128)
        for one, other in zip(mine.encoder.layers, theirs.encoder.layers, strict=True):
            torch.testing.assert_close(
                one(hidden, attention_mask=None), other(hidden, attention_mask=None)
            )
        pool = draw_pool(16, 0.5, 4)
        pixels = torch.from_numpy(np.stack([stretch(each) for each in pool.pixels]))
        pixels = (pixels.permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.27
        look_at_bands(clip, pixels)
        weights = mine(pixel_values=pixels, output_attentions=True).attentions[-1]
    rows = weights[:, :, 0, 1:].mean(0).unflatten(-1, (8, 8)).sum(-1)
    middle = (rows * torch.arange(8)).sum(1) / rows.sum(1)
    assert middle[0] < middle[1] < middle[2] < middle[3]


def test_the_shipped_folder_is_whole_small_and_says_how_it_was_made() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 3_000_000
    record = json.loads((SHIPPED / "training.json").read_text())
    assert record["looks"] == ["source", "random"]
    assert record["command"].startswith("python -m tasks.base.clip ")
    words = read_vocabulary(WORDS)
    model = ZeroShot.from_pretrained(SHIPPED)
    assert model.size == (96, 96)
    pool = draw_pool(100, 0.0, HELD_OUT_SEED + 1, size=(192, 96))
    right = accuracy(model, words, pool)
    # New people in random looks: several times chance, which is 1/33 and 1/176.
    assert right["lower clothes"] > 0.3
    assert right["upper clothes"] > 0.05
    assert right["age"] == 1


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("front", "front"),
        ("left", "side"),
        ("right", "side"),
        ("back left", "back side"),
        ("front right", "front side"),
    ],
)
def test_parts_are_the_same_in_a_mirror_and_only_what_is_seen(view: str, expected: str) -> None:
    labels = PERSON | {"bag": "backpack", "bag_colour": "red", "hat": "cap", "hat_colour": "blue"}
    found = visible_parts(labels, ("person", "upper", "bag"), "walking", view)
    assert found["view"] == expected
    assert (found["bag"], found["bag_colour"]) == ("backpack", "red")
    assert (found["hat"], found["hat_colour"]) == ("none", "none")
    assert "hair_colour" not in found
    assert "lower_kind" not in found
    assert found["upper_kind"] == labels["upper_kind"]


def test_parts_are_numbered_by_name_and_unseen_ones_are_left_out() -> None:
    pool = draw_pool(40, 0.5, 5)
    number_NA, sizes = number_parts(pool)
    assert number_NA.shape == (40, len(sizes))
    for column, size in zip(number_NA.T, sizes, strict=True):
        assert set(column.tolist()) - {UNSEEN} == set(range(size))


def test_answers_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0), 0.0, 0.0, 0.0], [5.0, 5.0, 0.0, 0.0, 0.0]])
    first, second, third = answer_losses(
        logits, torch.tensor([[1, 0, UNSEEN], [UNSEEN, 1, UNSEEN]]), [2, 2, 1]
    )
    assert float(first) == pytest.approx(math.log(4 / 3))
    assert float(second) == pytest.approx(math.log(2))
    assert float(third) == 0
